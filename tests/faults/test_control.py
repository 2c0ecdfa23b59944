"""Wishes from another process: they reach the one that runs the batch, and its rows in flight."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.faults.house import house, make_fake
from tests.faults.processes import Proc, rowmill, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

# More than a slow machine gets done while the next process starts.
ROWS = 1200


def test_pause_stop_and_resume_from_other_processes(tmp_path: Path) -> None:
    fake = make_fake(latency_ms=150, jitter_ms=0)
    with house(tmp_path, ROWS, fake=fake, width=4) as place:

        def ask(*args: object) -> Proc:
            return rowmill(*args, "--data-dir", place.data, "--json", cwd=tmp_path)

        first = place.begin()
        until(lambda: place.posts >= 20, first)
        batch = place.find_batch()
        paused = ask("pause", batch).answer()
        ended = first.answer()
        assert (paused["state"], ended["state"], ended["reason"]) == ("paused", "paused", "asked")
        assert ended["succeeded"] == place.posts < ROWS

        second = ask("resume", batch)
        until(lambda: place.posts >= ended["succeeded"] + 8, second)
        stopped = ask("stop", batch).answer()
        assert stopped["state"] == "stopped"
        second.wait()
        assert stopped["succeeded"] + stopped["stopped"] == place.posts
        assert {run.status for run in fake.ledger.runs} <= {"succeeded", "stopped"}

        fake.execution.latency = 0.0
        resumed = ask("resume", batch)
        assert json.loads(resumed.out if resumed.wait() >= 0 else "")[0]["state"] == "completed"
        assert resumed.code == (1 if stopped["stopped"] else 0)
        again = ask("retry", batch, "-o", "out.jsonl").answer()
        assert again["succeeded"] == ROWS
        runs = [run.inputs["query"] for run in fake.ledger.runs]
    assert len(runs) - len(set(runs)) == stopped["stopped"]  # only what was stopped was paid for again
