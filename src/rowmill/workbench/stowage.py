"""Copies of the files that rows name, made while the sheet is checked: a batch does not depend on a folder that may be
moved, and uploads what was checked."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from rowmill.domain.files import KEPT, placeholders, replaced
from rowmill.domain.values import Finding

if TYPE_CHECKING:
    from rowmill.ports.files import FileSource, Kept, Shelf
    from rowmill.ports.store import Store

_BLOCK = 1024 * 1024


class Stowage:
    """Puts each file on the shelf once, however many rows name it."""

    def __init__(self, source: FileSource | None, shelf: Shelf) -> None:
        self._source = source
        self._shelf = shelf
        self._kept: dict[str, Kept] = {}

    @property
    def files(self) -> set[str]:
        """Hashes of all that was kept."""
        return {kept.sha256 for kept in self._kept.values()}

    def stow(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, Finding]]]:
        """The inputs with the hash of each named file; and what could not be read, as (variable, finding)."""
        troubles: list[tuple[str, Finding]] = []
        if self._source is None:
            return inputs, troubles
        for variable, value in inputs.items():
            for file in placeholders({variable: value}):
                trouble = self._keep(file["name"], self._source)
                if trouble is not None:
                    troubles.append((variable, trouble))
        return (inputs if troubles else replaced(inputs, self._named)), troubles

    def _named(self, file: dict[str, Any]) -> dict[str, Any]:
        return {**file, KEPT: self._kept[file["name"]].sha256}

    def _keep(self, name: str, source: FileSource) -> Finding | None:
        if name in self._kept:
            return None
        if name not in source.sizes:  # a JSON object that looks like one of ours
            return Finding("file_missing", {"found": name[-120:], "place": source.place})
        draft = self._shelf.draft()
        try:
            with closing(source.open(name)) as file:
                while block := file.read(_BLOCK):
                    draft.write(block)
            if draft.size != source.sizes[name]:
                raise OSError(0, "it changed meanwhile")  # noqa: TRY301
            self._kept[name] = draft.keep()
        except OSError as error:
            draft.abandon()
            return Finding("file_unreadable", {"found": name[-120:], "detail": error.strerror or str(error)})
        except BaseException:
            draft.abandon()
            raise
        return None

    def undo(self, store: Store) -> None:
        """Take away what was put there for nothing."""
        new = {kept.sha256 for kept in self._kept.values() if kept.new}
        for sha256 in new - store.needed_files() if new else ():
            self._shelf.remove(sha256)
