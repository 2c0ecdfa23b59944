from __future__ import annotations

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowmill.domain.form import QUERY, Field, FieldKind, Form
from rowmill.ports.sheets import Words
from rowmill.sheets import template
from rowmill.sheets.read import Sheets
from rowmill.sheets.template import template_headers, write_template

from .conftest import read, refusal

MANY = tuple(f"option number {number}" for number in range(40))
FORM = Form(
    (
        Field("name", FieldKind.TEXT, "Name", required=True, max_length=48, hint="Whose?"),
        Field("story", FieldKind.PARAGRAPH, "story", max_length=100_000),
        Field("size", FieldKind.SELECT, "Size", options=("S", "M", "L"), default="M"),
        Field("place", FieldKind.SELECT, "Place", options=("Paris, France", "Rome")),
        Field("many", FieldKind.SELECT, "Many", required=True, options=MANY),
        Field("amount", FieldKind.NUMBER, "Amount", default=3),
        Field("ok", FieldKind.CHECKBOX, "OK?", required=True),
        Field("doc", FieldKind.FILE, "Doc", file_types=("document",), file_extensions=(".pdf",)),
        Field("docs", FieldKind.FILE_LIST, "Docs", max_length=3),
        Field("extra", FieldKind.JSON, "=1+1"),
        Field(QUERY, FieldKind.PARAGRAPH, "Question", required=True),
    ),
)


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "template.xlsx"
    write_template(FORM, path, Words(), app_name="Report <&> writer")
    assert list(tmp_path.iterdir()) == [path]
    return path


@pytest.fixture
def opened(made):
    workbook = openpyxl.load_workbook(made)
    yield workbook
    workbook.close()


def test_headers(made):
    assert Sheets().open(made).head.headers == (
        "Name * (name)",
        "story",
        "Size (size)",
        "Place (place)",
        "Many * (many)",
        "Amount (amount)",
        "OK? * (ok)",
        "Doc (doc)",
        "Docs (docs)",
        "=1+1 (extra)",
        "Question * (sys.query)",
    )


def test_an_empty_template_has_no_rows(made):
    assert refusal(made)[0] == "sheet_no_rows"


def test_the_stamp(made):
    stamp = Sheets().open(made).head.stamp
    assert stamp.form_digest == FORM.digest
    assert stamp.columns == template_headers(FORM)
    assert list(stamp.columns.values()) == [field.variable for field in FORM.fields]


def test_filled_in_and_read_back(opened, made):
    row = ["007", "two\nlines", "M", "Paris, France", MANY[39], 3.5, True, "http://x/y.pdf", None, '{"a": 1}', "Why?"]
    for column, value in enumerate(row, start=1):
        opened["Rows"].cell(2, column, value)
    opened.save(made)
    head, rows = read(made)
    assert (head.sheet_name, head.other_sheets) == ("Rows", ())
    assert head.stamp.columns["Name * (name)"] == "name"
    assert [list(row.cells) for row in rows] == [row]


def test_the_other_sheets_are_never_the_rows(opened, made):
    opened.move_sheet("Fields", -1)
    sheet = opened.create_sheet("Mine")
    sheet["A1"] = "x"
    opened["Rows"].title = "Renamed"
    opened.save(made)
    head = Sheets().open(made).head
    assert (head.sheet_name, head.other_sheets) == ("Renamed", ("Mine",))
    assert head.stamp.form_digest == FORM.digest


def test_sheets_and_their_visibility(opened):
    assert [(sheet.title, sheet.sheet_state) for sheet in opened] == [
        ("Rows", "visible"),
        ("Fields", "visible"),
        ("_rowmill", "veryHidden"),
        ("_rowmill_options", "veryHidden"),
    ]


def test_no_formula_anywhere(opened):
    assert {cell.data_type for sheet in opened for row in sheet for cell in row} <= {"s", "n"}
    assert opened["Rows"]["J1"].value == "=1+1 (extra)"


def test_the_header_stays_and_text_stays_text(opened):
    sheet = opened["Rows"]
    assert sheet.freeze_panes == "A2"
    formats = {letter: sheet.column_dimensions[letter].number_format for letter in "ABCF"}
    assert formats == {"A": "@", "B": "@", "C": "@", "F": "General"}
    assert all(10 < sheet.column_dimensions[letter].width < 70 for letter in "ABCDEFGHIJK")


def _rules(opened) -> dict:
    return {str(rule.sqref).split(":")[0]: rule for rule in opened["Rows"].data_validations.dataValidation}


def test_rules(opened):
    rules = _rules(opened)
    assert {str(rule.sqref)[1:] for rule in rules.values()} == {f"2:{letter}1048576" for letter in "ABCDEFGHIJK"}
    assert (rules["C2"].type, rules["C2"].formula1) == ("list", '"S,M,L"')
    assert rules["D2"].formula1 == "'_rowmill_options'!$D$1:$D$2"
    assert rules["E2"].formula1 == "'_rowmill_options'!$E$1:$E$40"
    assert (rules["F2"].type, rules["F2"].operator) == ("decimal", None)
    assert rules["G2"].formula1 == '"TRUE,FALSE"'
    assert (rules["A2"].type, rules["A2"].formula1, rules["A2"].errorStyle) == ("textLength", "48", "warning")
    assert rules["B2"].type is None
    assert rules["C2"].allowBlank
    assert not rules["E2"].allowBlank


def test_the_hidden_lists(opened):
    sheet = opened["_rowmill_options"]
    assert [sheet[place].value for place in ("D1", "D2", "E1", "E40")] == ["Paris, France", "Rome", MANY[0], MANY[39]]


def test_messages(opened):
    rules = _rules(opened)
    assert rules["A2"].promptTitle == "Name"
    assert "at most 48 characters" in rules["A2"].prompt
    assert "Whose?" in rules["A2"].prompt


def test_the_explaining_sheet(opened):
    rows = [[cell.value for cell in row] for row in opened["Fields"]]
    assert "Report <&> writer" in rows[0][0]
    table = {row[1]: dict(zip(rows[2], row, strict=True)) for row in rows[3:]}
    assert list(table) == [field.variable for field in FORM.fields]
    assert table["name"]["Limits"] == "at most 48 characters"
    assert table["name"]["Required"] == "yes"
    assert table["size"]["Options"] == "S\nM\nL"
    assert (table["size"]["Default"], table["amount"]["Default"]) == ("M", "3")
    assert table["size"]["Example"] == "S"
    assert table["docs"]["Limits"] == "at most 3 files"
    assert table["doc"]["Limits"] == "file types: document, .pdf"
    assert table[QUERY]["Kind"] == "question"
    assert all(row["Example"] for row in table.values())
    assert all(row["How to fill it in"] for row in table.values())


def test_words_in_chinese(tmp_path):
    words = Words({"template.sheet": "数据", "template.fields": "字段说明", "kind.number": "数字"})
    write_template(FORM, tmp_path / "a.xlsx", words, app_name="应用")
    workbook = openpyxl.load_workbook(tmp_path / "a.xlsx")
    assert workbook.sheetnames[:2] == ["数据", "字段说明"]
    assert workbook["字段说明"]["D9"].value == "数字"
    workbook.close()


def test_both_sheets_of_one_name(tmp_path):
    words = Words({"template.sheet": "Same", "template.fields": "same"})
    write_template(FORM, tmp_path / "a.xlsx", words, app_name="x")
    assert Sheets().open(tmp_path / "a.xlsx").head.other_sheets == ()


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"before")
    monkeypatch.setattr(template, "imprint_lines", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_template(FORM, path, Words(), app_name="x")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"before"


def test_headers_are_unique():
    form = Form(
        (
            Field("a", FieldKind.TEXT, "x (b)"),
            Field("b (a)", FieldKind.TEXT, "b (a)"),
            Field("x (b) (a)", FieldKind.TEXT),
            Field("b", FieldKind.TEXT, "x"),
        ),
    )
    assert list(template_headers(form).values()) == [field.variable for field in form.fields]


anything = st.text(max_size=300)
kinds = st.sampled_from(list(FieldKind))
fields = st.builds(
    Field,
    variable=st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
    kind=kinds,
    label=anything,
    required=st.booleans(),
    max_length=st.none() | st.integers(0, 10**6),
    options=st.lists(anything, max_size=12).map(tuple),
    default=st.none() | anything | st.integers(),
    hint=anything,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(fields, min_size=1, max_size=5, unique_by=lambda field: field.variable), anything)
def test_any_form_makes_a_template_that_is_known_again(tmp_path, items, app_name):
    form = Form(tuple(items))
    path = tmp_path / "a.xlsx"
    write_template(form, path, Words(), app_name=app_name)
    head = Sheets().open(path).head
    assert head.headers == tuple(template_headers(form))
    assert head.stamp.columns == template_headers(form)
    openpyxl.load_workbook(path).close()
