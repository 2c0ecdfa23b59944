"""Rows that are not new, in apps with prices, conversations, files and runs that wait for a person."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from rowmill.testing.fake_dify import Fault, Serving
from tests.cli.calling import Caller
from tests.cli.test_modes import lines, write

CHATFLOW = {"ROWMILL_API_KEY": "app-chatflow"}
DEMO = {"ROWMILL_API_KEY": "app-demo"}


def asked(dify: Serving) -> list[str]:
    return [run.query for run in dify.fake.ledger.runs]


def test_what_is_shared_or_reused_was_paid_for_once(rowmill: Caller, dify: Serving, folder: Path) -> None:
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--json"]
    sheet = write("product\nlamp\nchair\nlamp\nlamp\n")
    first = rowmill("run", sheet, *args, "--share-duplicates", **DEMO).json
    rows = lines("o.jsonl")
    assert [row["price"] is None for row in rows] == [False, False, True, True]
    cost = {"USD": str(Decimal(rows[0]["price"]) + Decimal(rows[1]["price"]))}
    assert (first["price"], len(dify.fake.ledger.runs)) == (cost, 2)
    assert first["tokens"] == rows[0]["tokens"] + rows[1]["tokens"]
    shown = rowmill("show", first["batch"], "--json").json
    assert (shown["price"], shown["tokens"]) == (cost, first["tokens"])
    sheet.write_text("product\nlamp\nchair\ntable\n", "utf-8")
    then = rowmill("run", sheet, *args, "--since", first["batch"], **DEMO).json
    (paid,) = [row["price"] for row in lines("o.jsonl") if row["price"] is not None]
    assert (then["reused"], then["price"], len(dify.fake.ledger.runs)) == (2, {"USD": paid}, 3)


def test_limits_count_what_was_paid_for(rowmill: Caller, dify: Serving, folder: Path) -> None:
    sheet = write("query\na\na\nb\na\nc\n")
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--json", "--share-duplicates", "--max-rows", "2"]
    called = rowmill("run", sheet, *args)
    assert (called.json["state"], called.json["reason"], called.json["succeeded"]) == ("paused", "row_budget", 4)
    assert sorted(run.inputs["query"] for run in dify.fake.ledger.runs) == ["a", "b"]


def test_one_person_is_asked_for_all_rows_that_are_the_same(rowmill: Caller, dify: Serving, folder: Path) -> None:
    dify.fake.faults.add(Fault("run_paused", match="'a'"))
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--json", "--share-duplicates"]
    called = rowmill("run", write("query\na\nb\na\na\n"), *args).json
    assert (called["state"], called["asking"], called["succeeded"]) == ("completed", 3, 1)
    assert [row["status"] for row in lines("o.jsonl")] == ["waiting", "succeeded", "waiting", "waiting"]
    assert [row["attempts"] for row in lines("o.jsonl")] == [1, 1, 0, 0]
    shown = rowmill("show", called["batch"]).out
    assert (shown.count("waits at “Approval”"), "Row 2 waits" in shown) == (1, True)
    assert dify.fake.execution.answer_form(f"form-{lines('o.jsonl')[0]['run_id']}", "yes")
    done = rowmill("check", called["batch"], "-o", "o.jsonl", "--json")
    assert (done.code, done.json["succeeded"], done.json["asking"]) == (0, 4, 0)
    assert [row["shared_with"] for row in lines("o.jsonl")] == [None, None, 2, 2]
    assert len(dify.fake.ledger.runs) == 2


def test_turns_of_a_conversation_are_run_each_time(rowmill: Caller, dify: Serving, folder: Path) -> None:
    sheet = write("conversation,query\nann,yes\nann,yes\n,yes\n,yes\n")
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--json"]
    called = rowmill("run", sheet, *args, "--share-duplicates", **CHATFLOW)
    assert (called.code, called.json["identical"], called.json["shared"]) == (0, 1, 1)
    rows = lines("o.jsonl")
    assert [row["shared_with"] for row in rows] == [None, None, None, 4]
    assert rows[3]["conversation_id"] == rows[2]["conversation_id"] != rows[0]["conversation_id"]
    again = rowmill("run", sheet, *args, "--since", called.json["batch"], **CHATFLOW)
    assert again.json["since"] == {
        "batch": called.json["batch"], "reused": 2, "again": 2, "changed": 0, "new": 0, "gone": 0,
    }  # fmt: skip
    assert (again.code, asked(dify)) == (0, ["yes"] * 5)


def test_appended_turns_go_on_with_a_conversation(rowmill: Caller, dify: Serving, folder: Path) -> None:
    sheet = write("conversation,query\nann,a1\nbob,b1\n")
    called = rowmill("run", sheet, "--base-url", dify.url, "-o", "o.jsonl", "--json", **CHATFLOW)
    batch = called.json["batch"]
    appended = rowmill("append", batch, write("query,conversation\na2,ann\nc1,cid\na3,ann\n", "more.csv"))
    assert appended.code == 0
    assert rowmill("run", "--resume", batch, "-o", "o.jsonl", **CHATFLOW).code == 0
    ids = [row["conversation_id"] for row in lines("o.jsonl")]
    assert ids[0] == ids[2] == ids[4]
    assert len(set(ids)) == 3
    assert [query for query in asked(dify) if query[0] == "a"] == ["a1", "a2", "a3"]


def test_appended_rows_bring_their_files(rowmill: Caller, dify: Serving, folder: Path) -> None:
    Path("in").mkdir()
    for name in ("one", "two"):
        Path("in", f"{name}.txt").write_text(name, "utf-8")
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--json", "--files", "in", "--share-duplicates"]
    environ = {"ROWMILL_API_KEY": "app-files"}
    called = rowmill("run", write("query,doc\nx,one.txt\n"), *args, **environ)
    assert called.code == 0, called.err
    appended = rowmill(
        "append", called.json["batch"], write("query,doc\ny,two.txt\nx,one.txt\n", "more.csv"), "--files", "in"
    )
    assert appended.code == 0, appended.err
    for file in Path("in").iterdir():
        file.unlink()
    done = rowmill("run", "--resume", called.json["batch"], "-o", "o.jsonl", "--json", **environ)
    assert (done.code, done.json["succeeded"], done.json["shared"]) == (0, 3, 1)
    assert sorted(upload.name for upload in dify.fake.ledger.uploads) == ["one.txt", "two.txt"]


def test_a_title_may_stand_above_the_headers_of_what_is_appended(rowmill: Caller, dify: Serving, folder: Path) -> None:
    called = rowmill("run", write("query\na\n"), "--base-url", dify.url, "-o", "o.jsonl", "--json")
    sheet = write("Second delivery\nquery\nb\n", "more.csv")
    assert rowmill("append", called.json["batch"], sheet, "--header-row", "2").code == 0
    told = rowmill("append", called.json["batch"], sheet, "--header-row", "2")
    assert (told.code, "--twice" in told.err) == (2, True)
    assert rowmill("run", "--resume", called.json["batch"], "-o", "o.jsonl").code == 0
    assert [row["inputs"] for row in lines("o.jsonl")] == [{"query": "a"}, {"query": "b"}]


@pytest.mark.parametrize("republished", [False, True])
def test_limits_hold_while_rows_wait_for_an_earlier_result(
    rowmill: Caller, dify: Serving, folder: Path, republished: bool
) -> None:
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--json"]
    first = rowmill("run", write("query\n" + "".join(f"{i}\n" for i in range(6))), *args).json["batch"]
    if republished:
        dify.fake.apps["app-echo"].republish()
    sheet = write("query\nnew\n" + "".join(f"{i}\n" for i in range(6)) + "newer\nnewest\n")
    called = rowmill("run", sheet, *args, "--since", first, "--max-rows", "2").json
    assert (called["state"], called["reason"], len(dify.fake.ledger.runs)) == ("paused", "row_budget", 8)
    assert (called["reused"], called["held"], called["pending"]) == ((0, 0, 7) if republished else (6, 0, 1))
