"""Sheets as people keep them: a title above the headers, several sheets, hidden rows."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from rowmill.testing.fake_dify import Serving
from tests.cli.calling import Caller
from tests.cli.test_run import lines

TITLED = [["Products of 2026", None], ["query", "note"], ["a", "x"], ["b", "y"]]


def book_of(rows: list[list[str | None]], path: str = "in.xlsx", hidden: tuple[int, ...] = ()) -> str:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for number in hidden:
        book.active.row_dimensions[number].hidden = True
    book.save(path)
    return path


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("ending", ["xlsx", "csv"])
def test_title_above_the_headers(rowmill: Caller, dify: Serving, folder: Path, ending: str, lang: str) -> None:
    if ending == "xlsx":
        book_of(TITLED)
    else:
        Path("in.csv").write_text("".join(",".join(c or "" for c in row) + "\n" for row in TITLED), "utf-8")
    args = ["run", f"in.{ending}", "--base-url", dify.url, "-o", "o.jsonl", "--lang", lang]
    called = rowmill(*args)
    assert called.code == 2
    assert ("try --header-row 2" if lang == "en" else "请试试 --header-row 2") in called.err
    assert rowmill(*args, "--header-row", "2").code == 0
    assert [(line["row"], line["cells"]) for line in lines("o.jsonl")] == [
        (3, {"query": "a", "note": "x"}),
        (4, {"query": "b", "note": "y"}),
    ]


def test_no_hint_where_no_row_fits(rowmill: Caller, dify: Serving, folder: Path) -> None:
    book_of([["title"], ["x"], ["y"]])
    assert "--header-row" not in rowmill("run", "in.xlsx", "--base-url", dify.url).err


@pytest.mark.parametrize("row", ["1", "9"])
@pytest.mark.parametrize("ending", ["xlsx", "csv"])
def test_header_row_that_is_empty(rowmill: Caller, dify: Serving, folder: Path, ending: str, row: str) -> None:
    book_of([[None, None], ["query", "note"], ["a", "x"]])
    Path("in.csv").write_text(",\nquery,note\na,x\n", "utf-8")
    called = rowmill("run", f"in.{ending}", "--base-url", dify.url, "--header-row", row, "--json")
    assert (called.code, called.json["error"]["code"]) == (2, "header_row_empty")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_wrong_one_of_several_sheets(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    book.active.append(["remark"])
    book.active.append(["x"])
    for row in (["query"], ["a"]):
        if "Rows" not in book.sheetnames:
            book.create_sheet("Rows")
        book["Rows"].append(row)
    book.save("in.xlsx")
    called = rowmill("run", "in.xlsx", "--base-url", dify.url, "-o", "o.jsonl", "--lang", lang)
    assert called.code == 2
    assert ("“Notes” was read; there are also: Rows." if lang == "en" else "“Notes”；此外还有：Rows") in called.err
    assert "--sheet" in called.err
    assert rowmill("run", "in.xlsx", "--base-url", dify.url, "-o", "o.jsonl", "--sheet", "Rows").code == 0


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_hidden_rows_are_told(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    book_of([["query"], *([f"row {n}"] for n in range(6))], hidden=(3, 5))
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--new"]
    called = rowmill("run", "in.xlsx", *args, "--lang", lang)
    assert called.code == 0
    assert ("2 rows of the sheet are hidden" if lang == "en" else "有 2 个隐藏行") in called.err
    book_of([["query"], ["a"]], "plain.xlsx", hidden=(1, 9))
    assert "hidden" not in rowmill("run", "plain.xlsx", *args).err
