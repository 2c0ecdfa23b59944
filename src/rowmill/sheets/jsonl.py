"""jsonl: one object per line, its keys are the columns. Numbers keep all their digits."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from rowmill.domain.cell import JsonCell
from rowmill.domain.errors import SheetError
from rowmill.ports.sheets import SheetHead, SheetRow
from rowmill.sheets.kinds import unreadable
from rowmill.sheets.table import in_lists, rows_to_keep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rowmill.domain.cell import Cell
    from rowmill.sheets.limits import Limits

# From here on an integer may not fit 64 bits, and orjson would make a float of it.
MANY_DIGITS = re.compile(rb"\d{19}")
# The header of other kinds of table is row 1: line 1 is row 2, so that all of them count alike.
FIRST_ROW = 2


class OpenJsonLines:
    """Read twice: once for the keys, once for the rows."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        keys: dict[str, None] = {}
        for _, _, item in self._items():
            keys.update(dict.fromkeys(item))
            if len(keys) > limits.max_columns:
                raise SheetError("sheet_too_many_columns", found=len(keys), limit=limits.max_columns)
        if not keys:
            raise SheetError("sheet_empty")
        self._head = SheetHead(path.stem, tuple(keys))

    @property
    def head(self) -> SheetHead:
        return self._head

    def rows(self) -> Iterator[list[SheetRow]]:
        return in_lists(rows_to_keep(self._weighed(), len(self._head.headers)), FIRST_ROW)

    def close(self) -> None:
        """Nothing stays open: each pass closes its file when it ends or is dropped."""

    def _weighed(self) -> Iterator[tuple[int, list[Cell]]]:
        headers = self._head.headers
        for row, size, item in self._items():
            cells = [_cell(item.get(key)) for key in headers]
            self._check(row, cells)
            yield size, cells

    def _check(self, row: int, cells: list[Cell]) -> None:
        limit = self._limits.text_cell_chars
        for column, cell in enumerate(cells, start=1):
            if isinstance(cell, str) and len(cell) > limit:
                raise SheetError("cell_too_long", row=row, column=column, limit=limit)

    def _items(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        try:
            yield from self._numbered_items()
        except OSError as error:
            raise unreadable(self._path, error) from error

    def _numbered_items(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        for row, line in self._lines():
            if row > self._limits.max_rows:
                raise SheetError("sheet_too_many_rows", found=row, limit=self._limits.max_rows)
            yield row, len(line), _item(row, line) if line.strip() else {}

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        longest = self._limits.line_chars
        with self._path.open("rb") as file:
            row = FIRST_ROW
            while line := file.readline(longest):
                if len(line) == longest:
                    raise SheetError("jsonl_line_too_long", line=_line(row), limit=longest)
                yield row, line.removeprefix(codecs.BOM_UTF8) if row == FIRST_ROW else line
                row += 1


def _item(row: int, line: bytes) -> dict[str, Any]:
    try:
        item = json.loads(line, parse_constant=_refuse) if MANY_DIGITS.search(line) else orjson.loads(line)
    except (ValueError, RecursionError) as error:
        raise SheetError("jsonl_bad_line", line=_line(row), detail=_detail(error)) from error
    if not isinstance(item, dict):
        raise SheetError("jsonl_bad_line", line=_line(row), detail="not_an_object")
    return item


def _line(row: int) -> int:
    """As an editor counts: people look for what is wrong in the file, not in a table."""
    return row - FIRST_ROW + 1


def _detail(error: ValueError | RecursionError) -> str:
    """The parser's words; it counts lines within the one line that it was given."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} ({error.colno})"
    return "too_deep" if isinstance(error, RecursionError) else str(error)[:200]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _cell(value: Any) -> Cell:
    return JsonCell(value) if isinstance(value, dict | list) else value
