"""csv and tsv: values stay the text that stands in the file."""

from __future__ import annotations

import csv
import io
import re
from itertools import islice
from typing import TYPE_CHECKING, TextIO

from rowmill.domain.errors import SheetError
from rowmill.ports.sheets import SheetHead, SheetRow
from rowmill.sheets.encoding import find_encoding
from rowmill.sheets.kinds import unreadable
from rowmill.sheets.table import (
    find_header,
    headers_of,
    in_lists,
    is_blank,
    rows_to_keep,
    table_width,
    used_width,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rowmill.domain.cell import Cell
    from rowmill.sheets.limits import Limits

SEPARATORS = (",", ";", "\t", "|")
NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SEP_LINE = re.compile(r"\ufeff?\"?sep=(\\t|[^\w\"\r\n])\"?[,;\t|]*\r?\n?", re.IGNORECASE)
SEP_CHARS = 64
SNIFF_CHARS = 1 << 18
SNIFF_RECORDS = 50


class OpenText:
    """A csv file; opened anew for each pass, so nothing is held between them."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        *,
        encoding: str | None = None,
        separator: str | None = None,
        header_row: int | None = None,
    ) -> None:
        # A setting of the whole process: only ever raised, our own limit is checked per cell.
        csv.field_size_limit(max(csv.field_size_limit(), limits.text_cell_chars))
        self._path = path
        self._limits = limits
        self._encoding = find_encoding(path, encoding)
        self._told = self._first_line_tells()
        self._separator = self._told or separator or self._find_separator()
        self._number, header = find_header(self._records(), header_row)
        if used_width(header) > limits.max_columns:
            raise SheetError("sheet_too_many_columns", found=used_width(header), limit=limits.max_columns)
        width = table_width(header, islice(self._records(), self._number, None))
        notes = (("encoding", self._encoding), ("separator", NAMES.get(self._separator, self._separator)))
        self._head = SheetHead(path.stem, headers_of(header, width), notes=notes)

    @property
    def head(self) -> SheetHead:
        return self._head

    def rows(self) -> Iterator[list[SheetRow]]:
        width = len(self._head.headers)
        return in_lists(rows_to_keep(self._weighed(width), width), self._number + 1)

    def close(self) -> None:
        """Nothing stays open: each pass closes its file when it ends or is dropped."""

    def _weighed(self, width: int) -> Iterator[tuple[int, list[Cell]]]:
        for number, record in enumerate(self._records(), start=1):
            if number <= self._number:
                continue
            if len(record) > width and used_width(record) > width:
                raise SheetError("csv_row_too_wide", row=number, found=used_width(record), headers=width)
            yield sum(map(len, record)), [text or None for text in record]

    def _records(self) -> Iterator[list[str]]:
        try:
            with self._path.open(encoding=self._encoding, newline="") as file:
                if self._told:
                    file.readline()
                yield from _Records(file, self._separator, self._limits)
        except UnicodeError as error:
            raise SheetError("csv_encoding_wrong", encoding=self._encoding) from error
        except OSError as error:
            raise unreadable(self._path, error) from error

    def _first_line_tells(self) -> str | None:
        """Excel's own first line `sep=;`. Excel does not show it: the line under it is row 1."""
        with self._path.open(encoding=self._encoding, newline="") as file:
            match = SEP_LINE.fullmatch(file.readline(SEP_CHARS))
        return match[1].replace("\\t", "\t") if match else None

    def _find_separator(self) -> str:
        with self._path.open(encoding=self._encoding, newline="") as file:
            start = file.read(SNIFF_CHARS)
        return find_separator(start, whole=len(start) < SNIFF_CHARS)


class _Records:
    """csv.reader with the checks that it lacks, each naming the row as a spreadsheet would show it."""

    def __init__(self, file: TextIO, separator: str, limits: Limits) -> None:
        self.file = file
        self.separator = separator
        self.limits = limits
        self.row = 1
        self.at_end = False

    def __iter__(self) -> Iterator[list[str]]:
        reader = csv.reader(self._lines(), delimiter=self.separator)
        while (record := self._next(reader)) is not None:
            yield record
            self.row += 1

    def _next(self, reader: Iterator[list[str]]) -> list[str] | None:
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise self._too_long() from error
        # A record that ends because the file does is one whose quote was never closed.
        if record is not None and self.at_end:
            raise SheetError("csv_quote_open", row=self.row)
        self._check(record or [])
        return record

    def _lines(self) -> Iterator[str]:
        longest = self.limits.line_chars
        while line := self.file.readline(longest):
            if "\0" in line:
                raise SheetError("csv_nul", row=self.row)
            if len(line) == longest:
                raise self._too_long()
            yield line
        self.at_end = True

    def _check(self, record: list[str]) -> None:
        if self.row > self.limits.max_rows:
            raise SheetError("sheet_too_many_rows", found=self.row, limit=self.limits.max_rows)
        if record and max(map(len, record)) > self.limits.text_cell_chars:
            raise self._too_long()

    def _too_long(self) -> SheetError:
        return SheetError("csv_field_too_long", row=self.row, limit=self.limits.text_cell_chars)


def find_separator(start: str, *, whole: bool) -> str:
    """The one by which the first records fall into the same number of columns; a comma if none does."""
    lines = io.StringIO(start, newline="").readlines()
    if not whole:
        del lines[-1:]
    best = max(SEPARATORS, key=lambda separator: _fit(lines, separator))
    return best if _fit(lines, best)[0] else ","


def _fit(lines: list[str], separator: str) -> tuple[bool, bool, float, int]:
    """How well a separator fits: it splits the header, no record is wider than the header, how many are as wide."""
    records = _first_records(lines, separator)
    if not records:
        return (False, False, 0, 0)
    width = used_width(records[0])
    widths = [used_width(record) for record in records]
    share = sum(1 for record in records if len(record) == len(records[0])) / len(records)
    return (width > 1, max(widths) <= width, share, width)


def _first_records(lines: list[str], separator: str) -> list[list[str]]:
    records: list[list[str]] = []
    try:
        for record in csv.reader(lines, delimiter=separator):
            if not is_blank(record):
                records.append(record)
            if len(records) == SNIFF_RECORDS:
                break
    except csv.Error:
        return records
    return records
