"""Files that runs have put out, beside the results that tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowmill.domain.errors import UsageError
from rowmill.domain.filenames import distinct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rowmill.ports.files import Shelf
    from rowmill.ports.store import RowResult
    from rowmill.ports.store_again import AppendedSheet


def folder_of(results: Path) -> Path:
    """`out.xlsx` -> `out-files`."""
    return results.with_name(f"{results.stem}-files")


class Beside:
    """Copies into `<results>-files/<row>/<name>`, for rows of appended sheets `<results>-files/<sheet>-<row>/<name>`
    with 2 for the first of those. Names were made harmless when the files were fetched."""

    def __init__(self, shelf: Shelf, results: Path, appended: Sequence[AppendedSheet] = ()) -> None:
        self._shelf = shelf
        self._appended = appended
        self._folder = folder_of(results)

    def put(self, row: RowResult) -> dict[str, str]:
        """Place in the outputs -> path relative to the results, for the files that there are. Raises UsageError."""
        paths, place = {}, self._place(row)
        for file, name in zip(row.files, distinct([file.name for file in row.files]), strict=True):
            if file.sha256 is not None and self._copy(file.sha256, self._folder / place / name):
                paths[file.place] = f"{self._folder.name}/{place}/{name}"
        return paths

    def _place(self, row: RowResult) -> str:
        before = sum(sheet.first <= row.position for sheet in self._appended)
        return f"{before + 1}-{row.number}" if before else str(row.number)

    def _copy(self, sha256: str, target: Path) -> bool:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return self._shelf.copy(sha256, target)
        except OSError as error:
            raise UsageError("output_files_unwritable", path=str(target), detail=error.strerror or "") from error


def listed(row: RowResult, paths: dict[str, str]) -> dict[str, str | None]:
    """Name -> path; None for a file that could not be fetched."""
    names = distinct([file.name for file in row.files])
    return {name: paths.get(file.place) for file, name in zip(row.files, names, strict=True)}
