from __future__ import annotations

import datetime as dt
import gc
import os
import re
import shutil
import signal
import weakref
import zipfile
from pathlib import Path

import openpyxl
import pytest
import xlsxwriter

from rowmill.domain.cell import CellError, FormulaCell
from rowmill.domain.errors import SheetError
from rowmill.sheets.limits import Limits
from rowmill.sheets.read import Sheets

from .conftest import read, refusal, values


def test_every_kind_of_cell(book):
    moment = dt.datetime(2024, 1, 2, 3, 4, 5)
    cells = [3.0, 3.5, 0, -7, True, False, "007", "NA", "None", " a ", moment, dt.time(3, 4, 5), dt.timedelta(hours=30)]
    path = book({"A1": "h"} | {f"A{row}": cell for row, cell in enumerate(cells, start=2)})
    found = [row[0] for row in values(path)]
    assert found == cells
    assert [type(cell) for cell in found] == [int, *map(type, cells[1:])]


def test_dates_at_midnight_are_dates(book):
    assert values(book({"A1": "h", "A2": dt.date(2024, 1, 2)})) == [(dt.date(2024, 1, 2),)]


@pytest.mark.parametrize("number", [10**14, 10**15, 123456789012345678, 10**18, 10**20])
def test_integral_numbers_of_any_size_become_int(book, number):
    ((found,),) = values(book({"A1": "h", "A2": number}))
    assert type(found) is int
    assert found == pytest.approx(number)


def test_error_cells_are_not_empty_cells(book):
    path = book({"A1": "a", "B1": "b", "A2": "#N/A", "B2": "x", "A3": "#DIV/0!", "A4": "x", "A5": "x", "B5": "#VALUE!"})
    assert values(path) == [
        (CellError("#N/A"), "x"),
        (CellError("#DIV/0!"), None),
        ("x", None),
        ("x", CellError("#VALUE!")),
    ]


def test_text_that_looks_like_an_error_stays_text(book, tmp_path):
    path = book({"A1": "h", "A2": 't="e"', "A3": '<c r="A9" t="e"><v>#N/A</v></c>'})
    assert values(path) == [('t="e"',), ('<c r="A9" t="e"><v>#N/A</v></c>',)]


def _edit(path: Path, part: str, change) -> Path:
    """The same workbook with one part changed."""
    target = path.with_name("edited.xlsx")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name == part else content)
    return target


def test_error_cells_without_addresses_are_counted(book):
    path = book({"A1": "a", "B1": "b", "A2": 1, "B2": "#N/A", "A3": "#REF!", "B3": 2})

    def without_addresses(xml: bytes) -> bytes:
        for place in (b"A1", b"B1", b"A2", b"B2", b"A3", b"B3"):
            xml = xml.replace(b' r="' + place + b'"', b"")
        return xml

    edited = _edit(path, "xl/worksheets/sheet1.xml", without_addresses)
    assert values(edited) == [(1, CellError("#N/A")), (CellError("#REF!"), 2)]


def test_an_error_cell_without_value_takes_nothing_from_its_neighbour(book):
    path = book({"A1": "a", "B1": "b", "A2": "#N/A", "B2": 5})
    edited = _edit(path, "xl/worksheets/sheet1.xml", lambda xml: xml.replace(b"<v>#N/A</v></c>", b"</c>"))
    assert values(edited) == [(None, 5)]


def test_error_cells_far_into_a_long_sheet(tmp_path):
    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet()
    sheet.append(["n", "text", "x"])
    for number in range(30_000):
        sheet.append([number, f"text {number} " + "y" * (number % 50), "#N/A" if number % 1000 == 999 else "x"])
    workbook.save(tmp_path / "long.xlsx")
    found = values(tmp_path / "long.xlsx")
    assert len(found) == 30_000
    assert [row[0] for row in found if row[2] == CellError("#N/A")] == list(range(999, 30_000, 1000))


def test_merged_cells_have_their_value_in_the_first(tmp_path):
    workbook = openpyxl.Workbook()
    for place, value in {"A1": "a", "B1": "b", "A2": "both", "A3": "x", "B3": "y"}.items():
        workbook.active[place] = value
    workbook.active.merge_cells("A2:B2")
    workbook.save(tmp_path / "merged.xlsx")
    assert values(tmp_path / "merged.xlsx") == [("both", None), ("x", "y")]


def test_true_places_when_the_table_starts_late(book):
    head, rows = read(book({"C4": "c", "E4": "e", "C6": 1, "D6": 2}))
    assert head.headers == ("", "", "c", "", "e")
    assert [(row.number, row.cells) for row in rows] == [
        (5, (None,) * 5),
        (6, (None, None, 1, 2, None)),
    ]


def test_blanks_in_the_middle_stay_and_at_the_end_go(book):
    _, rows = read(book({"A1": "a", "A2": 1, "A5": 2, "A8": "  ", "A9": ""}))
    assert [(row.number, row.cells[0]) for row in rows] == [(2, 1), (3, None), (4, None), (5, 2)]


def test_empty_columns_at_the_end_go_but_not_those_with_data(book):
    assert read(book({"A1": "a", "B1": " ", "C1": "", "D3": " ", "A2": 1}))[0].headers == ("a",)
    assert read(book({"A1": "a", "C3": 5, "D1": " "}))[0].headers == ("a", "", "")


def test_headers_are_text_on_one_line(book):
    head, _ = read(book({"A1": " two\nlines ", "B1": 3.0, "C1": True, "D1": "#N/A", "A2": 1}))
    assert head.headers == ("two lines", "3", "TRUE", "#N/A")


def _three_sheets(tmp_path: Path) -> Path:
    workbook = openpyxl.Workbook()
    workbook.active.title = "Hidden"
    workbook.active.sheet_state = "hidden"
    for number, name in enumerate(("Sales 2024", "表二")):
        sheet = workbook.create_sheet(name)
        sheet.append(["h"])
        sheet.append([number])
    workbook["Hidden"].append(["h"])
    workbook["Hidden"].append(["secret"])
    workbook.active = 1
    workbook.save(tmp_path / "three.xlsx")
    return tmp_path / "three.xlsx"


def test_the_first_visible_sheet_is_read(tmp_path):
    head, rows = read(_three_sheets(tmp_path))
    assert (head.sheet_name, head.other_sheets) == ("Sales 2024", ("表二",))
    assert rows[0].cells == (0,)


def test_a_sheet_by_name(tmp_path):
    path = _three_sheets(tmp_path)
    assert values(path, "表二") == [(1,)]
    assert values(path, "sales2024 ") == [(0,)]
    assert values(path, "Hidden") == [("secret",)]
    assert refusal(path, "x") == ("sheet_name_unknown", {"name": "x", "available": ("Sales 2024", "表二")})


def test_nothing_in_it(book):
    assert refusal(book({})) == ("sheet_empty", {})
    assert refusal(book({"A1": " "})) == ("sheet_empty", {})


def test_a_header_alone_opens_and_then_has_no_rows(book):
    path = book({"A1": "a", "B1": "b"})
    opened = Sheets().open(path)
    assert opened.head.headers == ("a", "b")
    with pytest.raises(SheetError) as caught:
        list(opened.rows())
    assert caught.value.code == "sheet_no_rows"


def test_names_with_spaces_and_chinese(book, tmp_path):
    folder = tmp_path / "我的 文件夹 'x'"
    folder.mkdir()
    path = shutil.move(book({"A1": "a", "A2": 1}), folder / "表 格.xlsx")
    assert values(path) == [(1,)]


def test_a_relative_path(book, monkeypatch):
    path = book({"A1": "a", "A2": 1})
    monkeypatch.chdir(path.parent)
    assert values(Path(path.name)) == [(1,)]


def test_content_counts_more_than_the_ending(book):
    assert values(book({"A1": "a", "A2": 1}, "wrong.csv")) == [(1,)]


def test_the_file_is_not_touched(book):
    path = book({"A1": "a", "A2": 1})
    path.chmod(0o400)
    before = path.read_bytes(), path.stat().st_mtime_ns
    read(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_rows_come_in_lists_of_at_most_500(tmp_path):
    workbook = openpyxl.Workbook()
    for number in range(1202):
        workbook.active.append([number])
    workbook.save(tmp_path / "n.xlsx")
    lists = list(Sheets().open(tmp_path / "n.xlsx").rows())
    assert [len(rows) for rows in lists] == [500, 500, 201]
    assert [row.number for rows in lists for row in rows] == list(range(2, 1203))


def test_too_many_columns_or_rows(book):
    path = book({"A1": "a", "C5": 1})
    assert refusal(path, limits=Limits(max_columns=2)) == ("sheet_too_many_columns", {"found": 3, "limit": 2})
    assert refusal(path, limits=Limits(max_rows=4)) == ("sheet_too_many_rows", {"found": 5, "limit": 4})


def test_a_cell_too_long(book):
    path = book({"A1": "a", "B3": "x" * 101})
    found = refusal(path, limits=Limits(cell_chars=100))
    assert found == ("cell_too_long", {"row": 3, "column": 2, "limit": 100})


def _far_corner(book) -> Path:
    return book({"A1": "a", "A2": 1, "XFD1048576": "x"})


def test_a_cell_in_the_far_corner_does_not_kill_us(book):
    path = _far_corner(book)
    assert path.stat().st_size < 10_000
    code, params = refusal(path)
    assert (code, params["detail"]) == ("sheet_too_big_to_read", "memory")
    assert values(book({"A1": "a", "A2": 1})) == [(1,)]


def test_a_parser_that_takes_too_long(book, tmp_path):
    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet()
    for number in range(60_000):
        sheet.append([number, "some text", number * 1.5, "more text", "x"])
    workbook.save(tmp_path / "slow.xlsx")
    assert refusal(tmp_path / "slow.xlsx", limits=Limits(wall_seconds=0.01))[1] == {"detail": "time"}


@pytest.mark.parametrize(
    ("signal_number", "detail"),
    [(signal.SIGXCPU, "time"), (signal.SIGKILL, "memory"), (signal.SIGABRT, "memory"), (signal.SIGSEGV, "crash")],
)
def test_a_parser_that_dies_half_way(many_rows, signal_number, detail):
    opened = Sheets().open(many_rows)
    os.kill(opened._child.process.pid, signal_number)
    with pytest.raises(SheetError) as caught:
        list(opened.rows())
    assert (caught.value.code, caught.value.params) == ("sheet_too_big_to_read", {"detail": detail})


def test_the_parser_is_limited(many_rows):
    opened = Sheets(Limits(cpu_seconds=7, memory_bytes=1 << 30)).open(many_rows)
    lines = Path(f"/proc/{opened._child.process.pid}/limits").read_text().splitlines()
    opened.close()
    limits = {line[:26].strip(): line[26:].split()[0] for line in lines}
    assert limits["Max cpu time"] == "7"
    assert limits["Max address space"] == str(1 << 30)
    assert limits["Max core file size"] == "0"
    assert limits["Max file size"] == "0"


def test_too_little_memory(book):
    """Ten million cells, nearly all of them empty: 240 MB for the parser."""
    path = book({"A1": "a", "J1048576": 1})
    assert refusal(path, limits=Limits(memory_bytes=1 << 27)) == ("sheet_too_big_to_read", {"detail": "memory"})


def _children() -> set[str]:
    pids = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {pid for pid in pids if _parent(pid) == os.getpid()}


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


@pytest.fixture
def many_rows(tmp_path) -> Path:
    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet()
    for number in range(20_000):
        sheet.append([number, "some text"])
    workbook.save(tmp_path / "many.xlsx")
    return tmp_path / "many.xlsx"


def test_the_child_ends_on_close(many_rows):
    before = _children()
    opened = Sheets().open(many_rows)
    rows = opened.rows()
    next(rows)
    assert len(_children() - before) == 1
    opened.close()
    opened.close()
    assert _children() == before


def test_the_child_ends_when_nobody_holds_the_sheet(many_rows):
    before = _children()
    opened = Sheets().open(many_rows)
    gone = weakref.ref(opened)
    del opened
    gc.collect()
    assert gone() is None
    assert _children() == before


def test_the_child_ends_with_the_rows_and_with_an_error(many_rows, book):
    before = _children()
    read(many_rows)
    refusal(_far_corner(book))
    refusal(book({}))
    assert _children() == before


def test_the_child_sees_no_secrets(many_rows, monkeypatch):
    monkeypatch.setenv("ROWMILL_SECRET", "app-123")
    opened = Sheets().open(many_rows)
    pid = opened._child.process.pid
    environment = Path(f"/proc/{pid}/environ").read_text()
    opened.close()
    assert "app-123" not in environment
    assert "PYTHONPATH" in environment


def test_formulas_that_nobody_has_calculated(book):
    path = book({"A1": "query", "B1": "n", "A2": '="a"&"<b>"', "B2": 1, "A3": "x", "B3": "=1+1", "A5": "=B5"})
    assert values(path) == [
        (FormulaCell('="a"&"<b>"'), 1),
        ("x", FormulaCell("=1+1")),
        (None, None),
        (FormulaCell("=B5"), None),
    ]


def test_calculated_formulas_are_their_values(tmp_path):
    path = tmp_path / "calculated.xlsx"
    with xlsxwriter.Workbook(path) as made:
        sheet = made.add_worksheet()
        for column, (formula, value) in enumerate([("=1+1", 2), ('="a"', "a"), ("=1=1", True)]):
            sheet.write(0, column, f"h{column}")
            sheet.write_formula(1, column, formula, None, value)
    assert values(path) == [(2, "a", True)]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('<c r="B2"><f t="shared" si="0"/></c>', FormulaCell("=…")),
        ('<c r="B2"><f>A1</f><v></v></c>', FormulaCell("=A1")),
        ('<c r="B2" s="1"><f ca="1">A1</f></c>', FormulaCell("=A1")),
        ('<c r="B2" t="str"><f>A1</f><v></v></c>', None),
        ('<c r="B2"><f>A1</f><v>7</v></c>', 7),
        ("<c><f>A1</f></c>", FormulaCell("=A1")),
        ('<c t="str"><f>A1</f><v></v></c>', None),
    ],
)
def test_forms_of_formulas(book, cell, expected):
    path = book({"A1": "a", "B1": "b", "A2": "x", "B2": "MARK"})

    def put(xml: bytes) -> bytes:
        xml = re.sub(rb'<c r="B2".*?</c>', cell.encode(), xml)
        return xml if "r=" in cell else re.sub(rb' r="[AB]\d"', b"", xml)

    edited = _edit(path, "xl/worksheets/sheet1.xml", put)
    assert values(edited) == [("x", expected)]
