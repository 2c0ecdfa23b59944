"""Wishes from another process: they reach the one that runs the batch, and its rows in flight."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from rowmill.testing.fake_dify import FakeDify, serve
from tests.faults.processes import answer, batches, finish, paid_twice, rowmill, write_sheet

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

# More than a slow machine gets done while the next process starts.
ROWS = 1200


def wait_for(fake: FakeDify, runs: int) -> None:
    deadline = time.monotonic() + 60
    while len(fake.ledger.runs) < runs:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_pause_stop_and_resume_from_other_processes(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=150)
    sheet, data = tmp_path / "rows.csv", tmp_path / "data"
    write_sheet(sheet, ROWS)
    with serve(fake) as serving:
        command = ["run", sheet, "--base-url", serving.url, "-o", "out.jsonl", "--data-dir", data, "--json", "-c", 4]
        first = rowmill(*command, cwd=tmp_path)
        wait_for(fake, 20)
        (batch,) = batches(data, tmp_path)
        paused = answer(rowmill("pause", batch["id"], "--data-dir", data, "--json", cwd=tmp_path))
        ended = answer(first)
        assert (paused["state"], ended["state"], ended["reason"]) == ("paused", "paused", "asked")
        assert ended["succeeded"] == len(fake.ledger.runs) < ROWS

        second = rowmill("resume", batch["id"], "--data-dir", data, "--json", cwd=tmp_path)
        wait_for(fake, ended["succeeded"] + 8)
        stopped = answer(rowmill("stop", batch["id"], "--data-dir", data, "--json", cwd=tmp_path))
        assert stopped["state"] == "stopped"
        finish(second)
        assert stopped["succeeded"] + stopped["stopped"] == len(fake.ledger.runs)
        assert {run.status for run in fake.ledger.runs} <= {"succeeded", "stopped"}

        fake.execution.latency = 0.0
        code, out, _ = finish(rowmill("resume", batch["id"], "--data-dir", data, "--json", cwd=tmp_path))
        again = answer(rowmill("retry", batch["id"], "--data-dir", data, "--json", "-o", "out.jsonl", cwd=tmp_path))
    assert (json.loads(out)[0]["state"], again["succeeded"]) == ("completed", ROWS)
    assert code == (1 if stopped["stopped"] else 0)
    twice = paid_twice(fake.ledger.runs)
    assert sum(twice.values()) - len(twice) == stopped["stopped"]  # only what was stopped was paid for again
