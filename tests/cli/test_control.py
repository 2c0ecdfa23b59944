"""pause, stop, resume, delete and retry of chosen rows, from the command line."""

from __future__ import annotations

from pathlib import Path

from rowmill.domain.batch import BatchMove
from rowmill.store.sql import open_store
from rowmill.testing.fake_dify import FakeDify, Fault, Serving, serve
from tests.cli.calling import Caller
from tests.cli.test_run import lines, sheet_of


def sampled(rowmill: Caller, dify: Serving, rows: int = 6) -> str:
    """A batch of which two rows are done."""
    called = rowmill(
        "run", sheet_of(rows), "--base-url", dify.url, "-o", "out.jsonl", "--json", "--sample", "2", "--new"
    )
    assert called.json["state"] == "paused"
    return called.json["batch"]


def left_running(rowmill: Caller, batch: str) -> None:
    """As a killed process leaves it."""
    store = open_store(rowmill.data)
    store.move_batch(batch, BatchMove.START)
    store.close()


def test_pause_and_stop_where_no_process_runs_the_batch(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = sampled(rowmill, dify)
    left_running(rowmill, batch)
    called = rowmill("pause", batch, "--json")
    assert (called.code, called.json["state"], called.json["reason"]) == (0, "paused", "asked")
    left_running(rowmill, batch)
    called = rowmill("stop", batch, "--json")
    assert (called.code, called.json["state"], called.json["succeeded"]) == (0, "stopped", 2)
    assert len(dify.fake.ledger.runs) == 2


def test_stop_settles_what_a_killed_process_left(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = sampled(rowmill, dify)
    left_running(rowmill, batch)
    assert rowmill("stop", batch).code == 0
    assert "stopped" in rowmill("show", batch).out
    called = rowmill("resume", batch, "--json")
    assert (called.code, called.json[0]["state"], called.json[0]["succeeded"]) == (0, "completed", 6)


def test_resume_several_batches_at_once(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batches = {sampled(rowmill, dify), sampled(rowmill, dify, 9)}
    called = rowmill("resume", "--all", "--json")
    assert called.code == 0
    assert {b["id"]: b["state"] for b in called.json} == dict.fromkeys(batches, "completed")
    assert len(dify.fake.ledger.runs) == 15
    assert rowmill("resume").code == 2
    assert rowmill("resume", "--all", "--json").json == []


def test_delete(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = sampled(rowmill, dify)
    assert rowmill("delete", batch).code == 2
    assert rowmill("delete", batch, "--yes", "--json").json == {"deleted": batch, "rows": 6}
    assert rowmill("batches", "--json").json == []
    assert rowmill("delete", batch, "--yes").code == 2


def test_a_batch_that_runs_is_not_deleted(rowmill: Caller, dify: Serving, folder: Path) -> None:
    batch = sampled(rowmill, dify)
    left_running(rowmill, batch)
    called = rowmill("delete", batch, "--yes", "--lang", "zh")
    assert (called.code, batch in called.text) == (2, True)
    assert rowmill("batches", "--json").json[0]["total"] == 6


def test_retry_of_rows_by_number_and_of_one_with_other_inputs(rowmill: Caller, folder: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    fake.faults.add(*(Fault("run_failed", match=f"row {i}") for i in (1, 3, 4)))
    with serve(fake) as serving:
        called = rowmill("run", sheet_of(6), "--base-url", serving.url, "-o", "out.jsonl", "--json", "--retries", "0")
        assert (called.code, called.json["failed"]) == (1, 3)
        batch = called.json["batch"]
        again = rowmill("retry", batch, "--row", "3", "--row", "5-5", "-o", "out.jsonl", "--json")
        assert (again.json["failed"], again.json["succeeded"]) == (1, 5)
        edited = rowmill("retry", batch, "--row", "6", "--set", "query=better", "-o", "out.jsonl", "--json")
        assert edited.json["succeeded"] == 6
    assert lines("out.jsonl")[4]["inputs"]["query"] == "better"
    assert sorted(str(run.inputs["query"]) for run in fake.ledger.runs).count("row 1") == 2
    for bad in (["--row", "99"], ["--row", "x"], ["--set", "query=a"], ["--row", "6", "--set", f"query={'a' * 99}"]):
        refused = rowmill("retry", batch, *bad, "--json")
        assert (refused.code, "error" in refused.json) == (2, True)


def test_limits_pause_and_say_why(rowmill: Caller, dify: Serving, folder: Path) -> None:
    command = ["run", sheet_of(9), "--base-url", dify.url, "-o", "out.jsonl", "--max-rows", "4"]
    called = rowmill(*command, "--json")
    assert (called.code, called.json["state"], called.json["reason"], called.json["done"]) == (
        1,
        "paused",
        "row_budget",
        4,
    )
    shown = rowmill("show", called.json["batch"], "--lang", "zh").out
    assert "行数额度" in shown
    resumed = rowmill("resume", called.json["batch"], "--json").json[0]
    assert (resumed["state"], resumed["done"]) == ("paused", 8)
    for bad in (["--max-price", "x"], ["--max-price", "-1"], ["--max-failures", "2"], ["--response-mode", "x"]):
        assert rowmill(*command, *bad).code == 2
