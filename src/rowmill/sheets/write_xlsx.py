"""Results as a workbook, row by row in constant memory."""

from __future__ import annotations

import datetime as dt
import math
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from rowmill.domain.cell import EXCEL_EXACT, as_text
from rowmill.domain.errors import SheetError
from rowmill.sheets.draft import Draft
from rowmill.sheets.excel import (
    FIRST_SAFE_DATE,
    MAX_COLUMNS,
    MAX_ROWS,
    MAX_UNITS,
    PIECE_UNITS,
    clean,
    close_workbook,
    drop_workbook,
    new_sheet,
    new_workbook,
    numbered,
    sheet_title,
    units,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from rowmill.domain.cell import Cell
    from rowmill.ports.sheets import Words

DATE_FORMATS = {
    dt.datetime: "yyyy-mm-dd hh:mm:ss",
    dt.date: "yyyy-mm-dd",
    dt.time: "hh:mm:ss",
    dt.timedelta: "[h]:mm:ss",
}
ENGLISH = {
    "results.long_sheet": "Long texts",
    "results.long_row": "Row",
    "results.long_column": "Column",
    "results.long_part": "Part",
    "results.long_text": "Text",
    "results.long_mark": "… [too long for one cell: the whole text is in sheet “{sheet}”, rows {first} to {last}]",
}


# Widths of columns, in characters, by the first rows.
NARROWEST, WIDEST = 10, 60
MEASURED_ROWS = 100
RESULT_TEXTS = tuple(ENGLISH)


class XlsxWriter:
    """Continues in further sheets when one is full; texts too long for a cell go to a sheet of their own."""

    def __init__(self, path: Path, headers: Sequence[str], *, sheet_name: str, words: Words) -> None:
        if len(headers) > MAX_COLUMNS:
            raise SheetError("results_too_many_columns", found=len(headers), limit=MAX_COLUMNS)
        self._headers = tuple(headers)
        self._draft = Draft(path)
        self._book = new_workbook(self._draft)
        self._formats = {kind: self._book.add_format({"num_format": text}) for kind, text in DATE_FORMATS.items()}
        self._bold = self._book.add_format({"bold": True})
        say = {**ENGLISH, **words.say}
        self._name = sheet_title(sheet_name, "Results")
        long_name = sheet_title(say["results.long_sheet"], "Long texts")
        self._long = _LongTexts(self._draft.folder, long_name, say, taken=self._name)
        self._sheets = 0
        self._widths = [_width(header) for header in self._headers]
        self._measured = 0
        self._start_sheet()

    def write(self, cells: Iterable[Cell]) -> None:
        if self._row == MAX_ROWS:
            self._start_sheet()
        measuring = self._measured < MEASURED_ROWS
        for column, cell in enumerate(cells):
            if cell is not None:
                self._put(column, cell)
                if measuring and column < len(self._widths):
                    self._widths[column] = max(self._widths[column], _width(as_text(cell)))
        self._measured += measuring
        self._row += 1

    def finish(self) -> None:
        for sheet in self._book.worksheets():
            for column, width in enumerate(self._widths):
                sheet.set_column(column, column, max(NARROWEST, min(WIDEST, width + 1)))
        self._long.add_to(self._book, self._bold)
        close_workbook(self._book)
        self._draft.finish()

    def abandon(self) -> None:
        with suppress(OSError):
            self._long.close()
        drop_workbook(self._book)
        self._draft.abandon()

    def _start_sheet(self) -> None:
        self._sheets += 1
        self._sheet = new_sheet(self._book, numbered(self._name, self._sheets))
        self._sheet.freeze_panes(1, 0)
        for column, header in enumerate(self._headers):
            self._sheet.write_string(0, column, clean(header)[:PIECE_UNITS], self._bold)
        self._row = 1

    def _put(self, column: int, cell: Cell) -> None:
        match cell:
            case str():
                self._put_text(column, cell)
            case bool():
                self._sheet.write_boolean(self._row, column, cell)
            case int() | float() if _is_exact(cell):
                self._sheet.write_number(self._row, column, cell)
            case dt.datetime() | dt.date() | dt.time() | dt.timedelta() if _is_date(cell):
                self._sheet.write_datetime(self._row, column, cell, self._formats[type(cell)])
            case _:
                self._put_text(column, as_text(cell))

    def _put_text(self, column: int, text: str) -> None:
        if not text:
            return
        text = clean(text)
        if units(text) > MAX_UNITS:
            text = self._long.take(text, row=self._row + 1, sheet=self._sheet.name, header=self._header(column))
        self._sheet.write_string(self._row, column, text)

    def _header(self, column: int) -> str:
        return self._headers[column] if column < len(self._headers) else ""


class _LongTexts:
    """Keeps long texts in a file until the results are written: in constant memory a sheet is written in one go."""

    def __init__(self, folder: Path, name: str, say: dict[str, str], *, taken: str) -> None:
        self._name = name if name.casefold() != taken.casefold() else f"{name[:-2]} 0"
        self._say = say
        self._path = folder / "long.jsonl"
        self._file = self._path.open("wb")
        # Sheet number and row, where the header is row 0.
        self._next = (1, 1)

    def take(self, text: str, *, row: int, sheet: str, header: str) -> str:
        """Stores the text and returns what stands in its place."""
        pieces = list(_pieces(text))
        number, first = self._place_for(len(pieces))
        for part, piece in enumerate(pieces, start=1):
            self._file.write(orjson.dumps([f"{sheet}!{row}", header, part, piece, number, first + part - 1]) + b"\n")
        self._next = number, first + len(pieces)
        where = {"sheet": numbered(self._name, number), "first": first + 1, "last": first + len(pieces)}
        return pieces[0] + self._say["results.long_mark"].format(**where)

    def _place_for(self, count: int) -> tuple[int, int]:
        """The sheet and row to start at: one text is never split between two sheets."""
        number, row = self._next
        return (number, row) if row + count <= MAX_ROWS else (number + 1, 1)

    def add_to(self, book: Any, bold: Any) -> None:
        self.close()
        sheets: list[Any] = []
        with self._path.open("rb") as lines:
            for line in lines:
                place, header, part, piece, number, row = orjson.loads(line)
                if number > len(sheets):
                    sheets.append(self._start_sheet(book, number, bold))
                sheet = sheets[-1]
                sheet.write_string(row, 0, place)
                sheet.write_string(row, 1, clean(header)[:PIECE_UNITS])
                sheet.write_number(row, 2, part)
                sheet.write_string(row, 3, piece)

    def close(self) -> None:
        self._file.close()

    def _start_sheet(self, book: Any, number: int, bold: Any) -> Any:
        sheet = new_sheet(book, numbered(self._name, number))
        for column, key in enumerate(("row", "column", "part", "text")):
            sheet.write_string(0, column, self._say[f"results.long_{key}"], bold)
        return sheet


def _width(text: str) -> int:
    """Of the longest line, in characters; Chinese ones are twice as wide. Beyond the widest column nobody looks."""
    lines = text[:2000].splitlines()
    return max((len(line) if line.isascii() else sum(map(_cell_width, line[:WIDEST])) for line in lines), default=0)


def _cell_width(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _pieces(text: str) -> Iterator[str]:
    size = PIECE_UNITS if units(text) == len(text) else PIECE_UNITS // 2
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _is_exact(number: float) -> bool:
    """Excel keeps 15 digits of a number: a longer integer would be another one."""
    return abs(number) < EXCEL_EXACT if type(number) is int else math.isfinite(number)


def _is_date(moment: dt.datetime | dt.date | dt.time | dt.timedelta) -> bool:
    """Excel has no time zones, no days before 1900, no negative spans."""
    match moment:
        case dt.datetime():
            return moment.tzinfo is None and moment.date() >= FIRST_SAFE_DATE
        case dt.date():
            return moment >= FIRST_SAFE_DATE
        case dt.time():
            return moment.tzinfo is None
    return moment >= dt.timedelta()
