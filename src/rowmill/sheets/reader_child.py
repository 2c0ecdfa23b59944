"""The process that parses workbooks: `python -m rowmill.sheets.reader_child <request as JSON>`.

Its own process because a workbook of 2 KB can make the parser abort, and one of 1 MB can take 4 GB. It writes one
JSON object per line: {"head": …}, then {"rows": […]} with at most 500 rows each, then {"end": true}; or, at any point,
{"error": code, "params": {…}}.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import python_calamine as calamine

from rowmill.domain.cell import CellError, to_json
from rowmill.domain.errors import SheetError
from rowmill.sheets.errorcells import find_error_cells
from rowmill.sheets.stamp import OPTIONS_SHEET, STAMP_SHEET, Imprint, read_imprint
from rowmill.sheets.table import find_header, headers_of, in_lists, rows_to_keep, table_width

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rowmill.domain.cell import Cell

# JSON numbers beyond this would need more than 64 bits: they travel as floats and become int at the other end.
WIRE_INT = 2.0**63
ODS_SPAN = re.compile(r"PT(\d+)H(\d+)M(\d+(?:\.\d+)?)S")
MIDNIGHT = dt.datetime(2000, 1, 1)  # noqa: DTZ001 - only its time of day is used
ONE_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    kind: str
    sheet_name: str | None
    header_row: int | None
    max_columns: int
    max_rows: int
    cell_chars: int
    memory_bytes: int
    cpu_seconds: int


def main() -> None:
    request = Request(**json.loads(sys.argv[1]))
    confine(request)
    for message in answers(request):
        sys.stdout.buffer.write(message + b"\n")
        sys.stdout.buffer.flush()


def confine(request: Request) -> None:
    """From here on this process can neither take the machine's memory and time nor write a file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (request.memory_bytes, request.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (request.cpu_seconds, request.cpu_seconds + 1))


def answers(request: Request) -> Iterator[bytes]:
    """All lines for the parent. Whatever the file does to the parser ends as an error line, if Python survives it."""
    try:
        yield from _table(request)
        yield orjson.dumps({"end": True})
    except SheetError as error:
        yield _refusal(error.code, **error.params)
    except MemoryError:
        yield _refusal("sheet_too_big_to_read", detail="memory")
    except calamine.PasswordError:
        yield _refusal("sheet_encrypted")
    except Exception as error:  # noqa: BLE001 - the parser's panics and every kind of broken XML end here
        yield _refusal("sheet_damaged", detail=str(error)[:200])


def _refusal(code: str, **params: Any) -> bytes:
    return orjson.dumps({"error": code, "params": params})


def _table(request: Request) -> Iterator[bytes]:
    book = _load(request)
    imprint = _imprint(book)
    names = _offered(book, imprint)
    name = _chosen(book, names, request.sheet_name)
    grid = Grid(book, name, request)
    number, header = find_header(grid.records(), request.header_row)
    width = table_width(header, grid.records(after=number))
    hidden = sum(number <= row < grid.rows for row in grid.hidden)
    others = [other for other in names if other != name]
    stamp = {"form_digest": imprint.stamp.form_digest, "columns": imprint.stamp.columns} if imprint else None
    yield orjson.dumps(
        {
            "head": {
                "sheet": name,
                "headers": headers_of(header, width),
                "others": others,
                "stamp": stamp,
                "hidden": hidden,
            }
        }
    )
    weighed = ((_text_size(record), record) for record in grid.records(after=number))
    for rows in in_lists(rows_to_keep(weighed, width), number + 1):
        cells = [[_wire(cell) for cell in row.cells] for row in rows]
        yield orjson.dumps({"first": rows[0].number, "rows": cells})


def _load(request: Request) -> calamine.CalamineWorkbook:
    """calamine goes by the ending of a path, and by the content of an open file (which it then holds in memory)."""
    path = Path(request.path)
    if path.suffix.lower() == f".{request.kind}":
        return calamine.CalamineWorkbook.from_path(path)
    with path.open("rb") as file:
        return calamine.CalamineWorkbook.from_filelike(file)


def _imprint(book: calamine.CalamineWorkbook) -> Imprint | None:
    if STAMP_SHEET not in book.sheet_names:
        return None
    rows = book.get_sheet_by_name(STAMP_SHEET).iter_rows()
    texts = ([str(cell) for cell in [*row, "", "", ""][:3]] for row in rows)
    return read_imprint((key, value, more) for key, value, more in texts)


def _offered(book: calamine.CalamineWorkbook, imprint: Imprint | None) -> list[str]:
    """The sheets that a person can mean: visible, with cells, and not those that explain a template."""
    ours = {STAMP_SHEET, OPTIONS_SHEET, imprint.fields_sheet if imprint else ""}
    return [
        sheet.name
        for sheet in book.sheets_metadata
        if sheet.visible == calamine.SheetVisibleEnum.Visible
        and sheet.typ == calamine.SheetTypeEnum.WorkSheet
        and sheet.name not in ours
    ]


def _chosen(book: calamine.CalamineWorkbook, offered: list[str], wanted: str | None) -> str:
    if wanted is None:
        if not offered:
            raise SheetError("sheet_empty")
        return offered[0]
    if wanted in book.sheet_names:
        return wanted
    alike = [name for name in offered if _loosely(name) == _loosely(wanted)]
    if not alike:
        raise SheetError("sheet_name_unknown", name=wanted, available=tuple(offered))
    return alike[0]


def _loosely(name: str) -> str:
    return "".join(name.split()).casefold()


class Grid:
    """One sheet's cells at their true places: calamine starts its columns at the first one in use."""

    def __init__(self, book: calamine.CalamineWorkbook, name: str, request: Request) -> None:
        self.sheet = book.get_sheet_by_name(name)
        self.cell_chars = request.cell_chars
        start, end = self.sheet.start, self.sheet.end
        if start is None or end is None:
            raise SheetError("sheet_empty")
        _check_size(end, request)
        self.before: list[Cell] = [None] * start[1]
        self.rows, self.width = end[0] + 1, end[1] + 1
        path = Path(request.path)
        self.errors, self.hidden = find_error_cells(path, request.kind, book.sheet_names.index(name), name)
        if max(self.errors, default=0) >= request.max_rows:
            raise SheetError("sheet_too_many_rows", found=max(self.errors) + 1, limit=request.max_rows)
        self.to_cell = _ods_cell if request.kind == "ods" else _cell

    def records(self, after: int = 0) -> Iterator[list[Cell]]:
        """All rows below the one with number `after`."""
        to_cell = self.to_cell
        index = -1
        for index, values in enumerate(self.sheet.iter_rows()):
            if index >= after:
                yield self._marked(index, self.before + [to_cell(value) for value in values])
        # calamine ends where the last value is: below it there can be formulas without one.
        for below in range(index + 1, max(self.errors, default=-1) + 1):
            if below >= after:
                yield self._marked(below, [None] * self.width)

    def _marked(self, index: int, record: list[Cell]) -> list[Cell]:
        for column, cell in self.errors.get(index, {}).items():
            if column < len(record):
                record[column] = cell
        self._check_cells(index, record)
        return record

    def _check_cells(self, index: int, record: list[Cell]) -> None:
        if _text_size(record) <= self.cell_chars:
            return
        for column, cell in enumerate(record, start=1):
            if isinstance(cell, str) and len(cell) > self.cell_chars:
                raise SheetError("cell_too_long", row=index + 1, column=column, limit=self.cell_chars)


def _check_size(end: tuple[int, int], request: Request) -> None:
    if end[1] >= request.max_columns:
        raise SheetError("sheet_too_many_columns", found=end[1] + 1, limit=request.max_columns)
    if end[0] >= request.max_rows:
        raise SheetError("sheet_too_many_rows", found=end[0] + 1, limit=request.max_rows)


def _text_size(record: list[Cell]) -> int:
    return sum(len(cell) for cell in record if type(cell) is str)


def _cell(value: Any) -> Cell:
    if type(value) is float:
        return _number(value)
    return None if value == "" else value


def _ods_cell(value: Any) -> Cell:
    """calamine gives the durations of an ods file as ISO text, those of xlsx as times."""
    span = ODS_SPAN.fullmatch(value) if type(value) is str else None
    if not span:
        return _cell(value)
    length = dt.timedelta(hours=int(span[1]), minutes=int(span[2]), seconds=float(span[3]))
    return (MIDNIGHT + length).time() if length < ONE_DAY else length


def _number(value: float) -> Cell:
    if value.is_integer():
        return int(value)
    return value if math.isfinite(value) else CellError("#NUM!")


def _wire(cell: Cell) -> Any:
    if type(cell) is int and abs(cell) >= WIRE_INT:
        return float(cell)
    return cell if type(cell) in (str, int, float, bool) else to_json(cell)


if __name__ == "__main__":
    main()
