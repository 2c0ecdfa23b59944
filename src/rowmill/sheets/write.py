"""Results files. Text is only ever written as text, never as a formula, and never cut without saying where it goes on.

Raises SheetError: results_ending(ending)  results_too_many_columns(found, limit)

In a cell of either kind a lone surrogate, which no file can hold, becomes U+FFFD. In csv a NUL, which many programs
take for the end of the file, becomes its symbol ␀ (U+2400); xlsx keeps it, as Excel's own escape.
"""

from __future__ import annotations

import csv
from contextlib import suppress
from typing import TYPE_CHECKING

from rowmill.domain.cell import as_text
from rowmill.domain.errors import SheetError
from rowmill.ports.sheets import Words
from rowmill.sheets.draft import Draft
from rowmill.sheets.excel import clean
from rowmill.sheets.guard import guarded
from rowmill.sheets.write_xlsx import XlsxWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rowmill.domain.cell import Cell
    from rowmill.ports.sheets import ResultWriter


def open_writer(
    path: Path,
    headers: Sequence[str],
    *,
    sheet_name: str = "Results",
    words: Words | None = None,
    guard_formulas: bool = True,
) -> ResultWriter:
    """By the ending of `path`: .xlsx or .csv. `guard_formulas` is about csv: xlsx needs no guard."""
    ending = path.suffix.lower()
    if ending == ".xlsx":
        return XlsxWriter(path, headers, sheet_name=sheet_name, words=words or Words())
    if ending == ".csv":
        return CsvWriter(path, headers, guard_formulas=guard_formulas)
    raise SheetError("results_ending", ending=ending)


class CsvWriter:
    """UTF-8 with the mark that makes Excel see it, CRLF, quotes only where needed."""

    def __init__(self, path: Path, headers: Sequence[str], *, guard_formulas: bool = True) -> None:
        self._draft = Draft(path)
        self._guard = guard_formulas
        self._file = self._draft.path.open("w", encoding="utf-8-sig", newline="")
        self._csv = csv.writer(self._file, lineterminator="\r\n")
        self.write(headers)

    def write(self, cells: Iterable[Cell]) -> None:
        self._csv.writerow([self._text(cell) for cell in cells])

    def finish(self) -> None:
        self._file.close()
        self._draft.finish()

    def abandon(self) -> None:
        with suppress(OSError):  # a full disk refuses what is still in the buffer
            self._file.close()
        self._draft.abandon()

    def _text(self, cell: Cell) -> str:
        text = clean(as_text(cell)).replace("\0", "␀")
        if self._guard and not isinstance(cell, int | float):
            return guarded(text)
        return text


class JsonLinesWriter:
    """Lines that the caller has already encoded."""

    def __init__(self, path: Path) -> None:
        self._draft = Draft(path)
        self._file = self._draft.path.open("wb")

    def write_raw(self, line: bytes) -> None:
        """`line` without its line end."""
        self._file.writelines((line, b"\n"))

    def finish(self) -> None:
        self._file.close()
        self._draft.finish()

    def abandon(self) -> None:
        with suppress(OSError):  # a full disk refuses what is still in the buffer
            self._file.close()
        self._draft.abandon()
