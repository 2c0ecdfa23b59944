"""Odd outputs on their way from Dify's socket to the user's file."""

from __future__ import annotations

import csv
import datetime as dt
import json
from pathlib import Path

import openpyxl
import pytest

from rowmill.testing.fake_dify import Fault, Serving
from tests.cli.calling import Caller

RAW = {
    "nothing": "{}",
    "null": "null",
    "big integer": '{"id":123456789012345678901234567890}',
    "trailing zero": '{"price":1.50,"small":1e-7}',
    "line separators": '{"t":"a\u2028b\u0085c\\u000bd"}',
    "escaped surrogate": '{"t":"\\ud83d\\ude00 \\ud800"}',
    "emoji": '{"t":"😀 你好"}',
    "NUL": '{"t":"a\\u0000b"}',
    "key order and doubles": '{"b":1,"a":2,"b":3}',
    "not an object": '["x","y"]',
    "formula": '{"t":"=1+1","u":"@SUM(A1)","v":"+49"}',
}


def run_one(rowmill: Caller, dify: Serving, raw: str, target: str, text: str = "hello") -> int:
    Path("one.csv").write_text(f"query\n{text}\n", "utf-8")
    dify.fake.faults.add(Fault("outputs", params={"value": raw}))
    return rowmill("run", "one.csv", "--base-url", dify.url, "-o", target).code


@pytest.mark.parametrize("name", RAW)
def test_outputs_are_untouched_in_jsonl(name: str, rowmill: Caller, dify: Serving, folder: Path) -> None:
    raw = RAW[name]
    assert run_one(rowmill, dify, raw, "out.jsonl") == 0
    content = Path("out.jsonl").read_bytes()
    expected = "{}" if raw == "null" else raw
    assert b'"outputs":' + expected.encode() + b',"error"' in content
    assert content.count(b"\n") == 1


@pytest.mark.parametrize("name", RAW)
def test_outputs_reach_a_workbook(name: str, rowmill: Caller, dify: Serving, folder: Path) -> None:
    assert run_one(rowmill, dify, RAW[name], "out.xlsx") == 0
    sheet = openpyxl.load_workbook("out.xlsx").worksheets[0]
    assert [cell for row in sheet.iter_rows() for cell in row if cell.data_type == "f"] == []
    values = [str(cell.value) for cell in sheet[2]]
    if name == "big integer":
        assert "123456789012345678901234567890" in values
    if name == "formula":
        assert {"=1+1", "@SUM(A1)", "+49"} <= set(values)


def test_csv_marks_formulas(rowmill: Caller, dify: Serving, folder: Path) -> None:
    assert run_one(rowmill, dify, RAW["formula"], "out.csv") == 0
    assert "'=1+1,'@SUM(A1),+49," in Path("out.csv").read_text("utf-8-sig")
    batch = rowmill("batches", "--json").json[0]["id"]
    assert rowmill("export", batch, "-o", "raw.csv", "--raw").code == 0
    assert ",=1+1,@SUM(A1),+49," in Path("raw.csv").read_text("utf-8-sig")


def test_long_text_is_not_cut(rowmill: Caller, dify: Serving, folder: Path) -> None:
    long = "".join(chr(97 + i % 26) for i in range(100_000))
    assert run_one(rowmill, dify, json.dumps({"t": long}), "out.xlsx") == 0
    book = openpyxl.load_workbook("out.xlsx")
    assert "Long texts" in book.sheetnames
    pieces = [str(row[3]) for row in book["Long texts"].iter_rows(min_row=2, values_only=True)]
    assert "".join(pieces) == long or long in "".join(str(c) for row in book["Long texts"].values for c in row)


def test_data_used_as_keys(rowmill: Caller, dify: Serving, folder: Path) -> None:
    """More different keys than columns make sense: the rest stands together in one JSON column."""
    many = {f"key{i}": i for i in range(1500)}
    assert run_one(rowmill, dify, json.dumps(many), "out.xlsx") == 0
    sheet = openpyxl.load_workbook("out.xlsx").worksheets[0]
    head, row = [cell.value for cell in sheet[1]], [cell.value for cell in sheet[2]]
    found = dict(zip(head, row, strict=True))
    rest = json.loads(found.pop("more_outputs"))
    assert {**{k: v for k, v in found.items() if str(k).startswith("key")}, **rest} == many


def test_files_are_links(rowmill: Caller, dify: Serving, folder: Path) -> None:
    file = {"dify_model_identity": "__dify__file__", "url": "http://files/a.pdf?sign=1", "filename": "a.pdf"}
    assert run_one(rowmill, dify, json.dumps({"doc": file, "docs": [file, file]}), "out.xlsx") == 0
    values = [cell.value for cell in openpyxl.load_workbook("out.xlsx").worksheets[0][2]]
    assert "http://files/a.pdf?sign=1" in values
    assert "http://files/a.pdf?sign=1\nhttp://files/a.pdf?sign=1" in values


def test_export_while_running(rowmill: Caller, dify: Serving, folder: Path) -> None:
    Path("many.csv").write_text("query\n" + "".join(f"row {i}\n" for i in range(20)), "utf-8")
    first = rowmill("run", "many.csv", "--base-url", dify.url, "-o", "a.jsonl", "--sample", "5", "--json").json
    called = rowmill("export", first["batch"], "-o", "b.xlsx", "--json")
    assert called.json["rows"] == 20
    sheet = openpyxl.load_workbook("b.xlsx").worksheets[0]
    column = [cell.value for cell in sheet[1]].index("status")
    states = [row[column] for row in sheet.iter_rows(min_row=2, values_only=True)]
    assert states == ["succeeded"] * 5 + ["pending"] * 15


def test_own_columns_in_jsonl(rowmill: Caller, dify: Serving, folder: Path) -> None:
    """All of them, in their order, under names that stand once."""
    book = openpyxl.Workbook()
    for row in (["id", "query", "d", "d", None], ["007", "a", dt.date(2026, 1, 2), 1.5, "x"], [None] * 5, ["8", "b"]):
        book.active.append(row)
    book.save("in.xlsx")
    called = rowmill("run", "in.xlsx", "--base-url", dify.url, "-o", "out.jsonl", "--json")
    assert called.code == 0, called.text
    first, second = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert list(first["cells"].items()) == [
        ("id", "007"), ("query", "a"), ("d (C)", "2026-01-02"), ("d (D)", 1.5), ("E", "x"),
    ]  # fmt: skip
    assert second["cells"] == {"id": "8", "query": "b", "d (C)": None, "d (D)": None, "E": None}


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_blank_rows_in_csv_and_jsonl(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    Path("in.csv").write_text("id,query\n1,a\n,\n3,b\n", "utf-8")
    batch = rowmill("run", "in.csv", "--base-url", dify.url, "-o", "out.csv", "--json").json["batch"]
    widths = {len(row) for row in csv.reader(Path("out.csv").read_text("utf-8-sig").splitlines())}
    assert len(widths) == 1
    told = rowmill("export", batch, "-o", "o.jsonl", "--lang", lang).out
    assert ("2 rows written to o.jsonl, 1 blank one left out" if lang == "en" else "略去 1 个空行") in told
    assert rowmill("export", batch, "-o", "o.jsonl", "--json").json["blank_left_out"] == 1


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_export_of_an_unfinished_batch_says_so(rowmill: Caller, dify: Serving, folder: Path, lang: str) -> None:
    Path("in.csv").write_text("query\na\nb\nc\n", "utf-8")
    args = ["in.csv", "--base-url", dify.url, "-o", "out.csv", "--sample", "1", "--json"]
    batch = rowmill("run", *args).json["batch"]
    told = rowmill("export", batch, "-o", "o.jsonl", "--lang", lang).out
    assert ("1 of 3 rows done" if lang == "en" else "3 行中已完成 1 行") in told


def test_long_texts_are_explained_in_chinese(rowmill: Caller, dify: Serving, folder: Path) -> None:
    dify.fake.faults.add(Fault("outputs", params={"value": json.dumps({"t": "x" * 40_000})}))
    Path("one.csv").write_text("query\na\n", "utf-8")
    assert rowmill("run", "one.csv", "--base-url", dify.url, "-o", "out.xlsx", "--lang", "zh").code == 0
    book = openpyxl.load_workbook("out.xlsx")
    assert book.sheetnames == ["结果", "长文本"]
    assert "后文见工作表“长文本”第 2–3 行" in str([cell.value for cell in book["结果"][2]])
