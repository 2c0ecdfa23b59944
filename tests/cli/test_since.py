"""Re-running only what changed, from the command line; the fake's ledger tells what was really run."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from rowmill.testing.fake_dify import FakeDify, Fault, Serving, serve
from tests.cli.calling import Called, Caller
from tests.cli.test_run import cells, lines

FIRST = {"a": "one", "b": "two", "c": "three", "d": "four"}
CHANGED = {"x": "new", "a": "one", "b": "two!", "d": "four"}


def sheet(rows: dict[str, str], path: str = "rows.csv") -> Path:
    file = Path(path)
    file.write_text("id,query\n" + "".join(f"{name},{text}\n" for name, text in rows.items()), "utf-8")
    return file


def ran(dify: Serving, since: int = 0) -> list[str]:
    return sorted(run.inputs["query"] for run in dify.fake.ledger.runs[since:])


def run(rowmill: Caller, dify: Serving, rows: dict[str, str], *more: object, **environ: str) -> Called:
    return rowmill("run", sheet(rows), "--base-url", dify.url, "-o", "o.jsonl", "--json", "--new", *more, **environ)


@pytest.fixture
def first(rowmill: Caller, dify: Serving, folder: Path) -> str:
    """The id of a batch of four rows that succeeded."""
    called = run(rowmill, dify, FIRST)
    assert called.code == 0
    return called.json["batch"]


def test_only_what_changed_is_run(rowmill: Caller, dify: Serving, first: str) -> None:
    then = {row["inputs"]["query"]: row for row in lines("o.jsonl")}
    called = run(rowmill, dify, CHANGED, "--since", first[:5], "--key", "id")
    assert (called.code, called.json["succeeded"], called.json["reused"], called.json["held"]) == (0, 4, 2, 0)
    found = {"reused": 2, "again": 0, "changed": 1, "new": 1, "gone": 1}
    assert called.json["since"] == {"batch": first, **found}
    assert ran(dify, 4) == ["new", "two!"]
    rows = lines("o.jsonl")
    assert [row["reused"] for row in rows] == [None, {"batch": first, "row": 2}, None, {"batch": first, "row": 5}]
    assert [row["attempts"] for row in rows] == [1, 0, 1, 0]
    assert rows[1]["outputs"] == then["one"]["outputs"]
    assert rows[1]["run_id"] == then["one"]["run_id"]
    shown = rowmill("show", called.json["batch"])
    assert f"2 of these rows took the result of batch {first}" in shown.out


def test_what_is_reused_is_told_before_the_start(rowmill: Caller, dify: Serving, first: str) -> None:
    called = rowmill("run", sheet(CHANGED), "--base-url", dify.url, "-o", "o.xlsx", "--since", first)
    assert called.code == 0
    assert "2 rows are the same and take their results from it, 0 are the same but without a result" in called.err
    assert "2 are new or changed" in called.err
    assert "2 rows are to be run" in called.err
    assert f"2 rows took their results from batch {first}" in called.err
    head, *rows = cells("o.xlsx")
    assert [row[head.index("reused")] for row in rows] == [None, f"{first}:2", None, f"{first}:5"]


def test_the_key_and_the_inputs_must_be_the_same(rowmill: Caller, dify: Serving, first: str) -> None:
    called = run(rowmill, dify, {"b": "one", "a": "two", "c": "three"}, "--since", first, "--key", "id")
    assert (called.json["since"]["changed"], called.json["reused"]) == (2, 1)
    assert ran(dify, 4) == ["one", "two"]


def test_a_key_is_the_same_as_text_and_as_number(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = run(rowmill, dify, {"7": "one", "8": "two"}).json["batch"]
    book = openpyxl.Workbook()
    for line in (["query", "id"], ["two", 8], ["one", 7], ["else", 9]):
        book.active.append(line)
    book.save("in.xlsx")
    args = ["--base-url", dify.url, "-o", "o.jsonl", "--json", "--since", batch, "--key", "id"]
    assert rowmill("run", "in.xlsx", *args).json["reused"] == 2
    assert ran(dify, 2) == ["else"]


def test_rows_that_failed_are_run_again(rowmill: Caller, dify: Serving, folder: Path) -> None:
    dify.fake.faults.add(Fault("run_failed", match="two", params={"message": "node_broke"}))
    batch = run(rowmill, dify, FIRST).json["batch"]
    called = run(rowmill, dify, FIRST, "--since", batch)
    assert (called.code, called.json["since"]["again"], called.json["reused"]) == (0, 1, 3)
    assert ran(dify, 4) == ["two"]


def test_nothing_of_another_version_is_reused(rowmill: Caller, dify: Serving, first: str) -> None:
    dify.fake.apps["app-echo"].republish()
    called = rowmill("run", sheet(CHANGED), "--base-url", dify.url, "-o", "o.jsonl", "--since", first)
    assert called.code == 0
    assert f"published again since batch {first}: 2 rows are run instead" in called.err
    assert ran(dify, 4) == sorted(CHANGED.values())
    assert all(row["reused"] is None for row in lines("o.jsonl"))


def test_an_unchanged_sheet_costs_one_run_to_learn_the_version(rowmill: Caller, dify: Serving, first: str) -> None:
    called = rowmill("run", sheet(FIRST), "--base-url", dify.url, "-o", "o.jsonl", "--since", first)
    assert called.code == 0
    assert "No row has to be run; one is run all the same" in called.err
    assert ran(dify, 4) == ["one"]
    dify.fake.apps["app-echo"].republish()
    again = run(rowmill, dify, FIRST, "--since", first)
    assert (again.json["reused"], again.json["succeeded"]) == (0, 4)
    assert ran(dify, 5) == sorted(FIRST.values())


def test_any_version_on_purpose(rowmill: Caller, dify: Serving, first: str) -> None:
    dify.fake.apps["app-echo"].republish()
    called = run(rowmill, dify, FIRST, "--since", first, "--reuse-any-version")
    assert (called.code, called.json["reused"], called.json["state"]) == (0, 4, "completed")
    assert ran(dify, 4) == []
    assert called.json["tokens"] == 0


def test_a_pinned_version_needs_no_run_to_be_known(rowmill: Caller, dify: Serving, first: str) -> None:
    old = dify.fake.apps["app-echo"].workflow_id
    dify.fake.apps["app-echo"].republish()
    called = run(rowmill, dify, CHANGED, "--since", first, "--pin", old)
    assert (called.code, called.json["reused"]) == (0, 2)
    assert ran(dify, 4) == ["new", "two!"]
    new = dify.fake.apps["app-echo"].workflow_id
    other = run(rowmill, dify, CHANGED, "--since", first, "--pin", new)
    assert (other.json["reused"], other.json["since"]["again"], other.json["succeeded"]) == (0, 2, 4)


def test_another_form_reuses_nothing(rowmill: Caller, dify: Serving, first: str) -> None:
    dify.fake.apps["app-echo"].form[1]["paragraph"]["max_length"] = 20
    called = rowmill("run", sheet(FIRST), "--base-url", dify.url, "-o", "o.jsonl", "--since", first)
    assert called.code == 0
    assert "form has changed" in called.err
    assert ran(dify, 4) == sorted(FIRST.values())
    assert run(rowmill, dify, FIRST, "--since", first, "--reuse-any-version").json["reused"] == 4


def test_an_app_without_versions_goes_by_its_form(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = run(rowmill, dify, FIRST, ROWMILL_API_KEY="app-chat").json["batch"]
    called = run(rowmill, dify, CHANGED, "--since", batch, ROWMILL_API_KEY="app-chat")
    assert (called.code, called.json["reused"], called.json["succeeded"]) == (0, 2, 4)
    assert len(dify.fake.ledger.runs) == 6


def test_rows_that_wait_for_a_version_that_no_run_tells(rowmill: Caller, dify: Serving, first: str) -> None:
    """The only row that must be run is refused: another one is run, to learn the version."""
    refused = {"code": 400, "dify_code": "invalid_param", "message": "query in input form must be something"}
    dify.fake.faults.add(Fault("status", match="bad", times=-1, params=refused))
    called = run(rowmill, dify, {**FIRST, "e": "bad"}, "--since", first)
    assert (called.code, called.json["succeeded"], called.json["failed"], called.json["reused"]) == (1, 4, 1, 3)
    assert ran(dify, 4) == ["one"]


def test_a_sample_and_its_resume_reuse_too(rowmill: Caller, dify: Serving, first: str) -> None:
    more = {f"n{i}": f"new {i}" for i in range(6)}
    called = run(rowmill, dify, {**FIRST, **more}, "--since", first, "--sample", "2")
    assert (called.json["reason"], called.json["succeeded"], called.json["reused"]) == ("sample", 6, 4)
    resumed = rowmill("run", "--resume", called.json["batch"], "-o", "o.jsonl", "--json")
    assert (resumed.json["succeeded"], ran(dify, 4)) == (10, sorted(more.values()))


def test_since_and_sharing_together(rowmill: Caller, dify: Serving, first: str) -> None:
    rows = {**FIRST, "e": "one", "f": "same", "g": "same"}
    called = run(rowmill, dify, rows, "--since", first, "--share-duplicates")
    assert (called.code, called.json["succeeded"], called.json["reused"], called.json["shared"]) == (0, 7, 5, 1)
    assert ran(dify, 4) == ["same"]
    dify.fake.apps["app-echo"].republish()
    called = run(rowmill, dify, rows, "--since", first, "--share-duplicates", "-c", "1")
    assert (called.code, called.json["succeeded"], called.json["reused"], called.json["shared"]) == (0, 7, 0, 2)
    assert ran(dify, 5) == sorted([*FIRST.values(), "same"])


def test_a_new_key_of_the_same_app_is_the_same_app(rowmill: Caller, dify: Serving, first: str) -> None:
    dify.fake.apps["app-other-key"] = dify.fake.apps["app-echo"]
    assert run(rowmill, dify, CHANGED, "--since", first, ROWMILL_API_KEY="app-other-key").json["reused"] == 2


@pytest.mark.parametrize(
    ("args", "key", "code"),
    [
        (["--since", "none"], "app-echo", "batch_unknown"),
        (["--since", "FIRST", "--key", "nothing"], "app-echo", "column_unknown"),
        (["--since", "FIRST", "--key", "extra"], "app-echo", "since_without_key"),
        (["--since", "FIRST"], "app-deadend", "since_other_app"),
        (["--key", "id"], "app-echo", "since_missing"),
        (["--reuse-any-version"], "app-echo", "since_missing"),
        (["--resume", "FIRST", "--since", "FIRST"], "app-echo", "since_resumed"),
        (["--resume", "FIRST", "--share-duplicates"], "app-echo", "since_resumed"),
    ],
)
def test_what_cannot_be_asked(rowmill: Caller, dify: Serving, first: str, args: list[str], key: str, code: str) -> None:
    file = Path("more.csv")
    file.write_text("id,query,extra,delay_ms\na,one,z,1\n", "utf-8")
    asked = [first if arg == "FIRST" else arg for arg in args]
    called = rowmill("run", file, "--base-url", dify.url, "-o", "o.jsonl", "--json", *asked, ROWMILL_API_KEY=key)
    assert (called.code, called.json["error"]["code"]) == (2, code)
    assert len(dify.fake.ledger.runs) == 4
    assert len(rowmill("batches", "--json").json) == 1


def test_what_was_reused_is_reused_again(rowmill: Caller, folder: Path) -> None:
    """… from the batch that took it."""
    with serve(FakeDify("1.11", hold_ms=0)) as dify:
        first = run(rowmill, dify, FIRST).json["batch"]
        second = run(rowmill, dify, {**FIRST, "e": "five"}, "--since", first).json["batch"]
        third = run(rowmill, dify, {**FIRST, "e": "five", "f": "six"}, "--since", second).json
        assert (third["reused"], ran(dify, 4)) == (5, ["five", "six"])
