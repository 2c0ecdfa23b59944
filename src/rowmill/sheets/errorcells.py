"""Where a workbook's error values (#N/A …) are: calamine gives them as '', the same as an empty cell.

Runs in the child process only: the XML that is parsed here is a stranger's. A sheet without error cells costs one
search for two short strings (0.14 s per million cells); XML is parsed only where they occur.
"""

from __future__ import annotations

import re
import zipfile
from typing import TYPE_CHECKING, BinaryIO
from xml.parsers import expat

from rowmill.domain.errors import SheetError
from rowmill.sheets.kinds import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# row -> column -> text, both from 0
ErrorCells = dict[int, dict[int, str]]

XLSX_MARKS = (b't="e"', b"t='e'")
ODS_MARKS = (b'value-type="error"', b"value-type='error'")
# An error cell is a formula (8,192 characters at most, five bytes each when escaped) and a short word.
LONGEST_CELL = 1 << 16
XLSX_CELL = re.compile(rb"""<(?:\w+:)?c\s([^<>]*?\bt=["']e["'][^<>]*)(?<!/)>(.*?)</(?:\w+:)?c>""", re.DOTALL)
PLACE = re.compile(rb"""(?:^|\s)r=["']([A-Z]{1,3})(\d{1,7})["']""")
VALUE = re.compile(rb"<(?:\w+:)?v>([^<]*)</")
MOST_ERRORS = 2_000_000


class _NoPlaceError(Exception):
    """A cell without its address: legal, and then only counting tells where it is."""


def find_error_cells(path: Path, kind: str, sheet_index: int, sheet_name: str) -> ErrorCells:
    with zipfile.ZipFile(path) as archive:
        if kind == "ods":
            return _in_ods(archive, sheet_name)
        return _in_xlsx(archive, _sheet_part(archive, sheet_index))


def _in_ods(archive: zipfile.ZipFile, sheet_name: str) -> ErrorCells:
    part = _entry(archive, "content.xml")
    with archive.open(part) as file:
        if not any(True for _ in _windows_with(file, ODS_MARKS)):  # type: ignore[arg-type]
            return {}
    return _walk(archive, part, OdsWalk(sheet_name))


def _in_xlsx(archive: zipfile.ZipFile, part: str) -> ErrorCells:
    found: ErrorCells = {}
    try:
        with archive.open(part) as file:
            for window in _windows_with(file, XLSX_MARKS):  # type: ignore[arg-type]
                _collect(window, found)
    except _NoPlaceError:
        return _walk(archive, part, XlsxWalk())
    return found


def _windows_with(file: BinaryIO, marks: tuple[bytes, bytes]) -> Iterator[bytes]:
    """Pieces of the file that hold one of the marks; pieces overlap so that no cell is seen only in halves."""
    tail = b""
    for block in blocks(file):
        window = tail + block
        if marks[0] in window or marks[1] in window:
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


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number - 1


def _note(found: ErrorCells, row: int, column: int, text: str) -> None:
    found.setdefault(row, {})[column] = text.strip()


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
        self.is_error = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        match _local(name):
            case "row":
                self.row = int(attributes.get("r", self.row + 2)) - 1
                self.column = -1
            case "c":
                place = re.match(r"[A-Z]+", attributes.get("r", ""))
                self.column = _column(place[0].encode()) if place else self.column + 1
                self.is_error = attributes.get("t") == "e"
            case "v" if self.is_error:
                self.text = []

    def end(self, name: str) -> None:
        if self.text is not None and _local(name) == "v":
            _note(self.found, self.row, self.column, "".join(self.text))
            self.text = None


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
