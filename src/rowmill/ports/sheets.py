"""What the workbench needs of tables on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rowmill.domain.cell import Cell
    from rowmill.domain.form import Form


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a template made by Rowmill carries: the form that it was made from, and which header is which field."""

    form_digest: str
    columns: dict[str, str]
    """header text -> variable"""


@dataclass(frozen=True, slots=True)
class SheetHead:
    """The top of a table. `headers` has one entry per column, '' where the header cell is empty."""

    sheet_name: str
    headers: tuple[str, ...]
    other_sheets: tuple[str, ...] = ()
    stamp: Stamp | None = None
    notes: tuple[tuple[str, str], ...] = ()
    """facts worth telling, as (code, detail): the encoding and separator that were found, hidden_rows, …"""


@dataclass(frozen=True, slots=True)
class SheetRow:
    """`number` as Excel counts: the header is 1. `cells` is as long as the headers; None = empty."""

    number: int
    cells: tuple[Cell, ...]


class OpenSheet(Protocol):
    """A table that is being read. Closing ends whatever reads it (a child process, a file)."""

    @property
    def head(self) -> SheetHead: ...

    def rows(self) -> Iterator[list[SheetRow]]:
        """The rows under the header in order, in lists of at most 500; blank rows in the middle keep their place as
        rows of None, blank rows at the end are left out. Raises SheetError if the file turns out to be unreadable
        half way. Can be called once."""
        ...

    def close(self) -> None: ...


class SheetReader(Protocol):
    def open(self, path: Path, sheet_name: str | None = None, *, header_row: int | None = None) -> OpenSheet:
        """`header_row`: the row with the headers, 1 being the first; None: the first one that holds anything. Raises
        SheetError with a code that says why, whatever bytes the file holds."""
        ...


@dataclass(frozen=True, slots=True)
class Words:
    """Texts that go into a template, already in the reader's language."""

    say: dict[str, str] = field(default_factory=dict)


class ResultWriter(Protocol):
    """One results file. Rows are written once, in order; nothing stands under the final name until `finish`."""

    def write(self, cells: Iterable[Cell]) -> None: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


class TemplateWriter(Protocol):
    def __call__(self, form: Form, path: Path, words: Words, *, app_name: str) -> None: ...
