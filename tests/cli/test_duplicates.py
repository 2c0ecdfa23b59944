"""Rows with the same inputs, from the command line: run once and shared, or only counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import openpyxl

from rowmill.testing.fake_dify import Fault, Serving
from tests.cli.calling import Caller
from tests.cli.test_run import cells, lines

TEXTS = ["a", "b", "a", "c", "b", "a", "d"]


def sheet(texts: list[str] = TEXTS, path: str = "same.csv") -> Path:
    file = Path(path)
    file.write_text("id,query\n" + "".join(f"{i},{text}\n" for i, text in enumerate(texts)), "utf-8")
    return file


def queries(dify: Serving) -> list[str]:
    return sorted(run.inputs["query"] for run in dify.fake.ledger.runs)


def test_identical_rows_are_told_and_all_run_by_default(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("run", sheet(), "--base-url", dify.url, "-o", "o.jsonl")
    assert called.code == 0
    assert "3 of 7 rows are identical to another: --share-duplicates would save them" in called.err
    assert queries(dify) == sorted(TEXTS)
    assert all("shared_with" not in row for row in lines("o.jsonl"))
    again = rowmill("run", sheet(["a", "b"], "two.csv"), "--base-url", dify.url, "-o", "o.jsonl")
    assert "identical" not in again.err


def test_identical_rows_are_run_once_and_shared(rowmill: Caller, dify: Serving, folder: Path) -> None:
    args = ["--base-url", dify.url, "--share-duplicates"]
    called = rowmill("run", sheet(), *args, "-o", "o.jsonl", "--json")
    assert (called.code, called.json["total"], called.json["succeeded"]) == (0, 7, 7)
    assert (called.json["identical"], called.json["shared"]) == (3, 3)
    assert queries(dify) == ["a", "b", "c", "d"]
    rows = lines("o.jsonl")
    assert [row["shared_with"] for row in rows] == [None, None, 2, None, 3, 2, None]
    assert [row["outputs"]["query"] for row in rows] == TEXTS
    assert [row["attempts"] for row in rows] == [1, 1, 0, 1, 0, 0, 1]
    assert rows[2]["run_id"] == rows[0]["run_id"]
    shown = rowmill("show", called.json["batch"])
    assert "3 of these rows take the result of another" in shown.out


def test_the_results_workbook_names_the_other_row(rowmill: Caller, dify: Serving, folder: Path) -> None:
    book = openpyxl.Workbook()
    for line in (["query"], ["a"], [None], ["a"]):
        book.active.append(line)
    book.save("in.xlsx")
    called = rowmill("run", "in.xlsx", "--base-url", dify.url, "-o", "o.xlsx", "--share-duplicates")
    assert called.code == 0
    assert "1 of 2 rows is identical to another and takes its result." in called.err
    head, first, blank, last = cells("o.xlsx")
    column = head.index("shared_with")
    assert (first[column], last[column]) == (None, 2)
    assert blank == (None,) * len(head)


def test_failed_rows_fail_together_and_are_retried_once(rowmill: Caller, dify: Serving, folder: Path) -> None:
    dify.fake.faults.add(Fault("run_failed", match="'a'", params={"message": "node_broke"}))
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--json", "--share-duplicates"]
    called = rowmill("run", sheet(), *args)
    assert (called.code, called.json["failed"], called.json["succeeded"]) == (1, 3, 4)
    assert Counter(row["cause"] for row in lines("o.jsonl")) == {None: 4, "run_failed": 3}
    again = rowmill("retry", called.json["batch"], "-o", "o.jsonl", "--json")
    assert (again.code, again.json["succeeded"]) == (0, 7)
    assert queries(dify) == ["a", "a", "b", "c", "d"]


def test_a_sample_counts_rows_that_are_run(rowmill: Caller, dify: Serving, folder: Path) -> None:
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--json", "--share-duplicates", "--sample", "2"]
    called = rowmill("run", sheet(), *args)
    assert (called.code, called.json["succeeded"], called.json["reason"]) == (0, 5, "sample")
    assert queries(dify) == ["a", "b"]
    rest = rowmill("run", "--resume", called.json["batch"], "-o", "o.jsonl", "--json")
    assert (rest.code, rest.json["succeeded"], queries(dify)) == (0, 7, ["a", "b", "c", "d"])


def test_told_in_chinese(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("run", sheet(), "--base-url", dify.url, "-o", "o.xlsx", "--share-duplicates", "--lang", "zh")
    assert "将运行 4 行" in called.err
    assert "共用结果的行" in cells("o.xlsx")[0]
