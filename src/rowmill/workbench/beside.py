"""Files that runs have put out, beside the results that tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowmill.domain.errors import UsageError
from rowmill.domain.filenames import distinct

if TYPE_CHECKING:
    from pathlib import Path

    from rowmill.ports.files import Shelf
    from rowmill.ports.store import RowResult


def folder_of(results: Path) -> Path:
    """`out.xlsx` -> `out-files`."""
    return results.with_name(f"{results.stem}-files")


class Beside:
    """Copies into `<results>-files/<row>/<name>`. Names were made harmless when the files were fetched."""

    def __init__(self, shelf: Shelf, results: Path) -> None:
        self._shelf = shelf
        self._folder = folder_of(results)

    def put(self, row: RowResult) -> dict[str, str]:
        """Place in the outputs -> path relative to the results, for the files that there are. Raises UsageError."""
        paths = {}
        for file, name in zip(row.files, distinct([file.name for file in row.files]), strict=True):
            if file.sha256 is not None and self._copy(file.sha256, self._folder / str(row.number) / name):
                paths[file.place] = f"{self._folder.name}/{row.number}/{name}"
        return paths

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
