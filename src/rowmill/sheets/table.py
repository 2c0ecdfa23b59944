"""What all kinds of table have in common once they are lists of cells: header, width, blanks, lists of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rowmill.domain.cell import as_text, is_empty
from rowmill.domain.errors import SheetError
from rowmill.ports.sheets import SheetRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rowmill.domain.cell import Cell

LIST_ROWS = 500
# A list of rows also ends here, so that rows of long texts do not add up.
LIST_CHARS = 4_000_000

Record = TypeVar("Record", bound="Sequence[Cell]")


def header_text(cell: Cell) -> str:
    """A header as it is compared and shown: one line, no space around it."""
    return as_text(cell).replace("\r\n", " ").replace("\r", " ").replace("\n", " ").strip()


def is_blank(record: Sequence[Cell]) -> bool:
    return all(map(is_empty, record))


def find_header(records: Iterator[Record], wanted: int | None = None) -> tuple[int, Record]:
    """The first row that holds anything, or the wanted one, and its number, the first row of the sheet being 1."""
    for number, record in enumerate(records, start=1):
        if number == wanted if wanted is not None else not is_blank(record):
            if is_blank(record):
                break
            return number, record
    if wanted is not None:
        raise SheetError("header_row_empty", row=wanted)
    raise SheetError("sheet_empty")


def used_width(record: Sequence[Cell]) -> int:
    """How many columns remain without the empty ones at the end."""
    width = len(record)
    while width and is_empty(record[width - 1]):
        width -= 1
    return width


def table_width(header: Sequence[Cell], records: Iterable[Sequence[Cell]]) -> int:
    """Columns with a header or, anywhere under it, data. Reads the records only if the last header is empty."""
    named = used_width(header)
    if named == len(header):
        return named
    return max(named, min(len(header), max(map(used_width, records), default=0)))


def headers_of(header: Sequence[Cell], width: int) -> tuple[str, ...]:
    return tuple(header_text(cell) for cell in header[:width])


def rows_to_keep(weighed: Iterable[tuple[int, list[Cell]]], width: int) -> Iterator[tuple[int, tuple[Cell, ...]]]:
    """Records with their size, made `width` long: blanks at the end are left out, blanks in the middle stay."""
    blanks = 0
    nothing: tuple[Cell, ...] = (None,) * width
    for weight, record in weighed:
        if is_blank(record):
            blanks += 1
            continue
        for _ in range(blanks):
            yield 0, nothing
        blanks = 0
        yield weight, (*record[:width], *nothing[len(record) :])


def in_lists(weighed: Iterable[tuple[int, tuple[Cell, ...]]], first: int) -> Iterator[list[SheetRow]]:
    """Rows numbered from `first`, in lists of a bounded size. None at all is an error: there is nothing to run."""
    rows: list[SheetRow] = []
    size = 0
    number = first
    for number, (weight, cells) in enumerate(weighed, start=first + 1):
        rows.append(SheetRow(number - 1, cells))
        size += weight
        if len(rows) == LIST_ROWS or size > LIST_CHARS:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows
    if number == first:
        raise SheetError("sheet_no_rows")
