"""Where a workbook's error values (#N/A …) are, and formulas without a value, as programs write them that cannot
calculate: calamine gives both as '', the same as an empty cell.

Runs in the child process only: the XML that is parsed here is a stranger's. A sheet without such cells costs one
search for a few short strings (0.14 s per million cells); XML is parsed only where they occur.
"""

from __future__ import annotations

import html
import re
import zipfile
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO
from xml.parsers import expat

from rowmill.domain.cell import CellError, FormulaCell
from rowmill.domain.errors import SheetError
from rowmill.sheets.kinds import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# row -> column -> cell, both from 0
ErrorCells = dict[int, dict[int, CellError | FormulaCell]]

XLSX_MARKS = (b't="e"', b"t='e'")
ODS_MARKS = (b'value-type="error"', b"value-type='error'")
# An error cell is a formula (8,192 characters at most, five bytes each when escaped) and a short word.
LONGEST_CELL = 1 << 16
XLSX_CELL = re.compile(rb"""<(?:\w+:)?c\s([^<>]*?\bt=["']e["'][^<>]*)(?<!/)>(.*?)</(?:\w+:)?c>""", re.DOTALL)
PLACE = re.compile(rb"""(?:^|\s)r=["']([A-Z]{1,3})(\d{1,7})["']""")
VALUE = re.compile(rb"<(?:\w+:)?v>([^<]*)</")
HIDDEN_ROW = re.compile(rb"""<(?:\w+:)?row\s[^<>]*\bhidden=["'](?:1|true)["'][^<>]*>""")
ROW_NUMBER = re.compile(rb"""\sr=["'](\d{1,7})["']""")
MOST_ERRORS = 2_000_000
# The end of a formula cell without a value: <f>…</f></c>, <f>…</f><v/></c>, <f>…</f><v></v></c>, or <f …/> for one
# whose text stands in another cell.
# (Patterns that begin with a fixed text are found many times faster.)
FORMULA_ENDS = tuple(
    re.compile(start + rb"\s*(?:<(?:\w+:)?v\s*(?:/>|>\s*</(?:\w+:)?v>)\s*)?</(?:\w+:)?c>") for start in (rb"f>", rb"/>")
)
FORMULA_CELL = re.compile(rb"""<(?:\w+:)?c(\s[^<>]*)?>\s*<(?:\w+:)?f(?:\s[^<>]*)?(?:/>|>([^<]*)</)""")
CELL_START = re.compile(rb"<(?:\w+:)?c[\s>]")
# Its empty value is one: the formula gives an empty text.
TEXT_RESULT = re.compile(rb"""\bt=["']str["']""")


class _NoPlaceError(Exception):
    """A cell without its address: legal, and then only counting tells where it is."""


def find_error_cells(path: Path, kind: str, sheet_index: int, sheet_name: str) -> tuple[ErrorCells, set[int]]:
    """The cells, and which rows (from 0) are hidden: by hand or by a filter. Of ods no hidden rows are found."""
    with zipfile.ZipFile(path) as archive:
        if kind == "ods":
            return _in_ods(archive, sheet_name), set()
        return _in_xlsx(archive, _sheet_part(archive, sheet_index))


def _in_ods(archive: zipfile.ZipFile, sheet_name: str) -> ErrorCells:
    part = _entry(archive, "content.xml")
    with archive.open(part) as file:
        if not any(True for _ in _windows_with(file, ODS_MARKS)):  # type: ignore[arg-type]
            return {}
    return _walk(archive, part, OdsWalk(sheet_name))


def _in_xlsx(archive: zipfile.ZipFile, part: str) -> tuple[ErrorCells, set[int]]:
    found: ErrorCells = {}
    hidden: set[int] = set()
    try:
        with archive.open(part) as file:
            for window in _windows(file):  # type: ignore[arg-type]
                if b"hidden=" in window:
                    hidden.update(int(row[1]) - 1 for row in map(ROW_NUMBER.search, HIDDEN_ROW.findall(window)) if row)
                if XLSX_MARKS[0] in window or XLSX_MARKS[1] in window:
                    _collect(window, found)
                if b"f>" in window or b"<f" in window:
                    _collect_formulas(window, found)
    except _NoPlaceError:
        return _walk(archive, part, XlsxWalk()), hidden
    return found, hidden


def _windows_with(file: BinaryIO, marks: tuple[bytes, bytes]) -> Iterator[bytes]:
    return (window for window in _windows(file) if marks[0] in window or marks[1] in window)


def _windows(file: BinaryIO) -> Iterator[bytes]:
    """Pieces of the file that overlap, so that no cell is seen only in halves."""
    tail = b""
    for block in blocks(file):
        window = tail + block
        yield window
        tail = window[-LONGEST_CELL:]


def _collect(window: bytes, found: ErrorCells) -> None:
    for cell in XLSX_CELL.finditer(window):
        place = PLACE.search(cell[1])
        if not place:
            raise _NoPlaceError
        value = VALUE.search(cell[2])
        if value:
            _note(found, int(place[2]) - 1, _column(place[1]), value[1].decode("utf-8", "replace"))


def _collect_formulas(window: bytes, found: ErrorCells) -> None:
    for end in chain.from_iterable(pattern.finditer(window) for pattern in FORMULA_ENDS):
        start = _last(CELL_START, window, max(0, end.start() - LONGEST_CELL), end.start())
        cell = FORMULA_CELL.match(window, start, end.end()) if start is not None else None
        # Without a match its beginning lies before this window: the window before has seen it whole.
        if cell is None or TEXT_RESULT.search(cell[1] or b""):
            continue
        place = PLACE.search(cell[1] or b"")
        if not place:
            raise _NoPlaceError
        text = html.unescape((cell[2] or b"").decode("utf-8", "replace"))
        found.setdefault(int(place[2]) - 1, {})[_column(place[1])] = _formula(text)


def _last(pattern: re.Pattern[bytes], window: bytes, start: int, end: int) -> int | None:
    """Where the last match before `end` begins; a cell is short, so it is looked for from behind."""
    for reach in (200, 2_000, end - start):
        found = None
        for match in pattern.finditer(window, max(start, end - reach), end):
            found = match.start()
        if found is not None:
            return found
    return None


def _formula(text: str) -> FormulaCell:
    """A formula that shares its text with another cell is shown as `=…`."""
    return FormulaCell(f"={text.strip() or '…'}")


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number - 1


def _note(found: ErrorCells, row: int, column: int, text: str) -> None:
    found.setdefault(row, {})[column] = CellError(text.strip())


def _entry(archive: zipfile.ZipFile, wanted: str) -> str:
    """Some writers spell the names of parts with other case or backslashes; readers forgive that."""
    for name in archive.namelist():
        if name.replace("\\", "/").lower() == wanted.lower():
            return name
    raise SheetError("sheet_damaged", detail=wanted)


def _sheet_part(archive: zipfile.ZipFile, index: int) -> str:
    ids: list[str] = []
    targets: dict[str, str] = {}

    def sheet(name: str, attributes: dict[str, str]) -> None:
        if _local(name) == "sheet":
            ids.extend(value for key, value in attributes.items() if key.endswith(":id"))

    def relation(_: str, attributes: dict[str, str]) -> None:
        targets[attributes.get("Id", "")] = attributes.get("Target", "")

    _parse(archive, _entry(archive, "xl/workbook.xml"), sheet)
    _parse(archive, _entry(archive, "xl/_rels/workbook.xml.rels"), relation)
    target = targets.get(ids[index], "") if index < len(ids) else ""
    return _entry(archive, target[1:] if target.startswith("/") else f"xl/{target}")


def _parse(archive: zipfile.ZipFile, part: str, start: Callable[[str, dict[str, str]], None]) -> None:
    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    with archive.open(part) as file:
        parser.ParseFile(file)


def _local(name: str) -> str:
    return name.rsplit(":", maxsplit=1)[-1]


class _Walk:
    """Counts rows and cells through a sheet's XML."""

    def __init__(self) -> None:
        self.found: ErrorCells = {}
        self.text: list[str] | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        raise NotImplementedError

    def end(self, name: str) -> None:
        raise NotImplementedError

    def data(self, text: str) -> None:
        if self.text is not None:
            self.text.append(text)


class XlsxWalk(_Walk):
    def __init__(self) -> None:
        super().__init__()
        self.row = self.column = -1
        self.is_error = self.is_text = False
        self.formula: str | None = None
        self.value = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        match _local(name):
            case "row":
                self.row = int(attributes.get("r", self.row + 2)) - 1
                self.column = -1
            case "c":
                place = re.match(r"[A-Z]+", attributes.get("r", ""))
                self.column = _column(place[0].encode()) if place else self.column + 1
                self.is_error = attributes.get("t") == "e"
                self.is_text = attributes.get("t") == "str"
                self.formula, self.value = None, ""
            case "v" | "f":
                self.text = []

    def end(self, name: str) -> None:
        match _local(name):
            case "v":
                self.value = self._taken()
            case "f":
                self.formula = self._taken()
            case "c" if self.is_error and self.value:
                _note(self.found, self.row, self.column, self.value)
            case "c" if self.formula is not None and not self.value and not self.is_text:
                self.found.setdefault(self.row, {})[self.column] = _formula(self.formula)

    def _taken(self) -> str:
        text, self.text = "".join(self.text or []), None
        return text


class OdsWalk(_Walk):
    def __init__(self, sheet_name: str) -> None:
        super().__init__()
        self.sheet_name = sheet_name
        self.inside = False
        self.row = self.column = 0
        self.rows = self.columns = 1

    def start(self, name: str, attributes: dict[str, str]) -> None:
        match name:
            case "table:table":
                self.inside = attributes.get("table:name") == self.sheet_name
            case "table:table-row" if self.inside:
                self.rows = int(attributes.get("table:number-rows-repeated", 1))
                self.column = 0
            case "table:table-cell" | "table:covered-table-cell" if self.inside:
                self.columns = int(attributes.get("table:number-columns-repeated", 1))
                self.text = [] if attributes.get("calcext:value-type") == "error" else None

    def end(self, name: str) -> None:
        match name:
            case "table:table-row" if self.inside:
                self.row += self.rows
            case "table:table-cell" | "table:covered-table-cell" if self.inside:
                self._end_cell()
                self.column += self.columns
            case "table:table":
                self.inside = False

    def _end_cell(self) -> None:
        if self.text is None:
            return
        if self.rows * self.columns > MOST_ERRORS:
            raise SheetError("sheet_too_big_to_read", detail="memory")
        for row in range(self.row, self.row + self.rows):
            for column in range(self.column, self.column + self.columns):
                _note(self.found, row, column, "".join(self.text))
        self.text = None


def _walk(archive: zipfile.ZipFile, part: str, walk: _Walk) -> ErrorCells:
    parser = expat.ParserCreate()
    parser.StartElementHandler = walk.start
    parser.EndElementHandler = walk.end
    parser.CharacterDataHandler = walk.data
    with archive.open(part) as file:
        parser.ParseFile(file)
    return walk.found
