# ruff: noqa: E501 - cells of a sheet have no time zone; markup is easier to read in one line
from __future__ import annotations

import datetime as dt
import gc
import math
import re
import string
import zipfile

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowmill.domain.cell import CellError, JsonCell, as_text, is_empty
from rowmill.domain.errors import SheetError
from rowmill.ports.sheets import Words
from rowmill.sheets import write_xlsx
from rowmill.sheets.guard import guarded
from rowmill.sheets.write import CsvWriter, JsonLinesWriter, open_writer

from .conftest import read, values

LONG = "".join(f"{number} 中文 " for number in range(12_000))


def write(path, headers, rows, **options):
    writer = open_writer(path, headers, **options)
    for row in rows:
        writer.write(row)
    writer.finish()
    return path


def test_every_kind_of_cell_in_xlsx(tmp_path):
    moment = dt.datetime(2024, 1, 2, 3, 4, 5)
    row = ["007", 3, -2.5, True, False, moment, dt.date(2024, 1, 2), dt.time(3, 4), dt.timedelta(hours=30), None, "x"]
    path = write(tmp_path / "a.xlsx", [f"h{n}" for n in range(len(row))], [row])
    found = values(path)[0]
    assert list(found) == row
    assert [type(cell) for cell in found] == [type(cell) for cell in row]


@pytest.mark.parametrize(
    "cell",
    [
        10**15, -(10**18), 10**400, math.inf, math.nan, CellError("#N/A"), JsonCell({"a": ["中"]}), dt.date(1850, 1, 1),
        dt.datetime(2024, 1, 2, tzinfo=dt.UTC), dt.time(1, tzinfo=dt.UTC), -dt.timedelta(hours=1), dt.datetime(1900, 1, 5, 1),
    ],
)  # fmt: skip
def test_what_excel_cannot_hold_becomes_text(tmp_path, cell):
    assert values(write(tmp_path / "a.xlsx", ["h"], [[cell]])) == [(as_text(cell),)]


HOSTILE = ["=1+1", "+1", "@SUM(A1)", "{=1}", "http://example.com", "mailto:a@b.c", "internal:A1", "<r>x</r>", "<r><t>a</t></r>",
           "a\x00b\x1f", "_x0041_", "a\rb\r\nc\n", " x ", "<&>\"'", "a\x85\u2028"]  # fmt: skip


def test_hostile_text_in_xlsx_is_text(tmp_path):
    path = write(tmp_path / "a.xlsx", HOSTILE, [HOSTILE])
    assert list(values(path)[0]) == HOSTILE
    workbook = openpyxl.load_workbook(path)
    cells = [cell for row in workbook.active for cell in row]
    assert {cell.data_type for cell in cells} == {"s"}
    assert not any(cell.hyperlink for cell in cells)
    workbook.close()


def test_lone_surrogates_are_replaced(tmp_path):
    assert values(write(tmp_path / "a.xlsx", ["\udc00h"], [["a\ud800b"]])) == [("a\ufffdb",)]
    assert values(write(tmp_path / "a.csv", ["h"], [["a\ud800b"]])) == [("a\ufffdb",)]


@pytest.mark.parametrize("text", [LONG, "😀" * 20_000, "x" * 32_768, "中" * 70_000 + "😀"])
def test_long_texts_go_on_in_their_own_sheet(tmp_path, text):
    path = write(tmp_path / "a.xlsx", ["id", "answer"], [[1, "short"], [2, text], [3, "x" * 32_767], [4, text]])
    rows = values(path)
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    assert rows[0][1] == "short"
    assert rows[2][1] == "x" * 32_767
    assert text.startswith(rows[1][1][:16_000])
    parts = values(path, "Long texts")
    assert "".join(row[3] for row in parts if row[0] == "Results!3") == text
    assert {row[1] for row in parts} == {"answer"}
    first, last = re.search(r"“Long texts”, rows (\d+) to (\d+)]$", rows[3][1]).groups()
    assert "".join(row[3] for row in parts[int(first) - 2 : int(last) - 1]) == text
    assert [row[2] for row in parts if row[0] == "Results!5"] == list(range(1, len(parts) // 2 + 1))


def test_nothing_in_a_workbook_is_longer_than_excel_allows(tmp_path):
    path = write(tmp_path / "a.xlsx", ["h"], [["😀" * 40_000], [LONG]])
    workbook = openpyxl.load_workbook(path)
    lengths = [
        len(str(cell.value or "").encode("utf-16-le")) // 2 for sheet in workbook for row in sheet for cell in row
    ]
    workbook.close()
    assert 30_000 < max(lengths) <= 32_767


def test_the_words_can_be_chinese(tmp_path):
    words = Words({"results.long_sheet": "长文本", "results.long_mark": "……见“{sheet}”第 {first}–{last} 行"})
    path = write(tmp_path / "a.xlsx", ["h"], [[LONG]], sheet_name="结果", words=words)
    head, rows = read(path)
    assert (head.sheet_name, head.other_sheets) == ("结果", ("长文本",))
    assert rows[0].cells[0].endswith(f"……见“长文本”第 2–{len(values(path, '长文本')) + 1} 行")


@pytest.mark.parametrize(
    "name", ["a[b]:c*?/\\d", "", "'", "History", "x" * 40, "😀" * 20, "Long texts", "a\x00b\ud800"]
)
def test_any_sheet_name(tmp_path, name):
    assert len(values(write(tmp_path / "a.xlsx", ["h"], [[LONG]], sheet_name=name))) == 1


def test_a_full_sheet_goes_on_in_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(write_xlsx, "MAX_ROWS", 4)
    text = "x" * 40_000
    path = write(tmp_path / "a.xlsx", ["n", "t"], [[number, text] for number in range(8)])
    assert [row[0] for row in values(path)] == [0, 1, 2]
    assert [row[0] for row in values(path, "Results 2")] == [3, 4, 5]
    assert [row[0] for row in values(path, "Results 3")] == [6, 7]
    for number in range(8):
        ending = f" {number + 1}" if number else ""
        assert [row[2] for row in values(path, f"Long texts{ending}")] == [1, 2]
        result = values(path, f"Results {number // 3 + 1}".removesuffix(" 1"))[number % 3]
        assert result[1].endswith(f"“Long texts{ending}”, rows 2 to 3]")


def test_too_many_columns(tmp_path):
    with pytest.raises(SheetError) as caught:
        open_writer(tmp_path / "a.xlsx", ["h"] * 16_385)
    assert caught.value.params == {"found": 16_385, "limit": 16_384}
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_ending(tmp_path):
    with pytest.raises(SheetError) as caught:
        open_writer(tmp_path / "a.pdf", ["h"])
    assert (caught.value.code, caught.value.params) == ("results_ending", {"ending": ".pdf"})


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv", "a.jsonl"])
def test_nothing_under_the_name_until_finished(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"before")
    for ending in ("abandon", "finish"):
        writer = JsonLinesWriter(path) if name == "a.jsonl" else open_writer(path, ["h"])
        for _ in range(3):
            writer.write_raw(b'{"h": 1}') if name == "a.jsonl" else writer.write([LONG])
        assert path.read_bytes() == b"before"
        getattr(writer, ending)()
        del writer
        gc.collect()
        assert list(tmp_path.iterdir()) == [path]
    assert len(read(path)[1]) == 3


def test_the_bytes_of_csv(tmp_path):
    path = write(tmp_path / "a.csv", ["名", "b"], [["x", 1], ['"', None], ["a\nb", 2.5]])
    assert path.read_bytes() == '\ufeff名,b\r\nx,1\r\n"""",\r\n"a\nb",2.5\r\n'.encode()


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+x",
        "-x",
        "@x",
        "\tx",
        "\rx",
        "\nx",
        "＝1",
        "＋1",
        "－1",
        "＠x",
        "-1+1",
        "+-1",
        "=",
        "-1a",
        "+A1",
        "- x",
    ],
)
def test_formulas_in_csv_are_guarded(tmp_path, text):
    path = write(tmp_path / "a.csv", ["=h", "x"], [[text, "x"]])
    assert values(path) == [(f"'{text}", "x")]
    assert read(path)[0].headers == ("'=h", "x")
    assert values(write(tmp_path / "b.csv", ["h", "x"], [[text, "x"]], guard_formulas=False)) == [(text, "x")]


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "+1.5",
        "-1e-5",
        "x=1",
        "a-b",
        "1-2",
        "",
        "+49 170 1234",
        "+1 (555) 010-99",
        "+(49) 30/12",
        "-",
        "---",
        "-1 ",
    ],
)
def test_plain_numbers_and_other_text_are_not(text):
    assert guarded(text) == text


def test_numbers_in_csv_are_never_guarded(tmp_path):
    path = write(tmp_path / "a.csv", ["a", "b"], [[-3, -math.inf]])
    assert values(path) == [("-3", "-inf")]


def test_a_span_below_zero_is_guarded_or_plain(tmp_path):
    ((found,),) = values(write(tmp_path / "a.csv", ["a"], [[-dt.timedelta(hours=1)]]))
    assert found.startswith("'-")


def test_a_nul_in_csv_becomes_its_symbol(tmp_path):
    assert values(write(tmp_path / "a.csv", ["h"], [["a\0b"]])) == [("a␀b",)]


def test_json_lines_are_written_as_they_are(tmp_path):
    writer = JsonLinesWriter(tmp_path / "a.jsonl")
    writer.write_raw(b'{"a":1}')
    writer.write_raw('{"a":"中"}'.encode())
    writer.finish()
    assert (tmp_path / "a.jsonl").read_bytes() == '{"a":1}\n{"a":"中"}\n'.encode()


def test_a_failing_finish_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_bytes(b"before")
    writer = CsvWriter(path, ["h"])
    monkeypatch.setattr("rowmill.sheets.draft.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        writer.finish()
    writer.abandon()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_bytes() == b"before"


def test_the_workbook_is_whole(tmp_path):
    path = write(tmp_path / "a.xlsx", ["h"], [[text] for text in HOSTILE])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


# calamine leaves Excel's escape of the two non-characters as it is.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff"), max_size=30)
tricky = st.sampled_from([*HOSTILE, "#N/A", "TRUE", "1e5", "", "  ", "_x000", "'x", "0x41_"])
numbers = st.integers(-(10**15) + 1, 10**15 - 1) | st.floats(-1e9, 1e9).map(lambda number: float(f"{number:.12g}"))
moments = st.datetimes(dt.datetime(1901, 1, 1), dt.datetime(2200, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0)
)
cells = st.one_of(st.none(), texts, tricky, st.booleans(), numbers, moments, moments.map(lambda moment: moment.date()))
tables = st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=8)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _expected(cell):
    if isinstance(cell, dt.datetime) and cell.time() == dt.time():
        return cell.date()
    return None if cell == "" else cell


@quick
@given(tables)
def test_xlsx_round_trip(tmp_path, table):
    path = write(tmp_path / "a.xlsx", ["a", "b", "c"], [*table, ["end", "end", "end"]])
    found = values(path)[:-1]
    for row, cells in zip(table, found, strict=True):
        # A row of nothing but space counts as blank.
        assert cells == (tuple(map(_expected, row)) if not all(map(is_empty, row)) else (None,) * 3)


@quick
@given(tables)
def test_csv_round_trip(tmp_path, table):
    path = write(tmp_path / "a.csv", ["a", "b", "c"], [*table, ["end", "end", "end"]])
    for row, cells in zip(table, values(path)[:-1], strict=True):
        texts = [as_text(cell).replace("\0", "␀") for cell in row]
        kept = [text if isinstance(cell, int | float) else guarded(text) for text, cell in zip(texts, row, strict=True)]
        assert cells == (tuple(text or None for text in kept) if not all(map(is_empty, kept)) else (None,) * 3)


@quick
@given(st.text(string.printable, max_size=20))
def test_guarded_text_never_starts_a_formula(text):
    assert guarded(text)[:1] not in set("=@\t\r\n") or text == ""


def test_columns_are_as_wide_as_their_texts(tmp_path):
    rows = [
        ["x", "y" * 500, "中文" * 10, "a\nlonger line of text"],
        ["z" * 20, None, None, None],
        *[["w"]] * 100,
        ["v" * 50],
    ]
    path = write(tmp_path / "a.xlsx", ["a", "b", "c", "d"], rows)
    sheet = openpyxl.load_workbook(path).worksheets[0]
    widths = [round(sheet.column_dimensions[letter].width) for letter in "ABCD"]
    assert widths == [22, 61, 42, 21], "the first hundred rows tell"
