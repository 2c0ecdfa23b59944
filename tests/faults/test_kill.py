"""kill -9 in the middle costs nothing: `rowmill run` of 300 rows, killed at 20 random moments and resumed."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from rowmill.testing.fake_dify import FakeDify, serve
from tests.faults.processes import answer, batches, lines, paid_twice, rowmill, write_sheet

pytestmark = pytest.mark.slow

ROWS = 300
KILLS = 20


def wait_for_runs(fake: FakeDify, more: int, process: subprocess.Popen[str]) -> None:
    """Until the fake has started so many runs more, or the process has ended."""
    goal, tick = len(fake.ledger.runs) + more, threading.Event()
    while len(fake.ledger.runs) < goal and process.poll() is None:
        tick.wait(0.002)


@pytest.mark.parametrize(("profile", "hold"), [("1.14", 1000), ("1.11", 2)], ids=["1.14", "1.11"])
def test_kill_and_resume(tmp_path: Path, profile: str, hold: int) -> None:
    chance = random.Random(20261124)
    sheet, data, target = tmp_path / "rows.csv", tmp_path / "data", tmp_path / "results.jsonl"
    write_sheet(sheet, ROWS)
    fake = FakeDify(profile, latency_ms=30, jitter_ms=120, hold_ms=hold, celery_slots=0)
    with serve(fake) as server:
        first = ["run", sheet, "--base-url", server.url, "-o", target, "--data-dir", data, "--yes", "--json", "-c", 8]
        process, batch = rowmill(*first, cwd=tmp_path, ROWMILL_LOST_WINDOW="3"), ""
        for _ in range(KILLS):
            wait_for_runs(fake, chance.randint(1, 2 * ROWS // KILLS), process)
            if process.poll() is not None:
                break
            threading.Event().wait(chance.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if not batch:
                batch = batches(data, tmp_path)[0]["id"]
            resume = ["run", "--resume", batch, "-o", target, "--data-dir", data, "--json", "-c", 8]
            process = rowmill(*resume, cwd=tmp_path)
        result = answer(process)
    assert result["total"] == ROWS
    states = [result[name] for name in ("succeeded", "partial", "failed", "unknown", "stopped")]
    assert sum(states) == ROWS
    assert result["pending"] == result["running"] == result["waiting"] == 0
    assert paid_twice(fake.ledger.runs) == {}
    rows = lines(target)
    assert [row["row"] for row in rows] == list(range(2, ROWS + 2))
    answered = {row["inputs"]["query"] for row in rows if row["status"] == "succeeded"}
    paid = {run.inputs["query"] for run in fake.ledger.runs if run.status == "succeeded"}
    assert paid == answered, "a paid result was lost"
    assert all(row["outputs"]["query"] == row["inputs"]["query"] for row in rows if row["status"] == "succeeded")
    assert len(answered) + result["unknown"] == ROWS


def test_kill_in_the_middle_of_conversations(tmp_path: Path) -> None:
    """Which turn comes next, in which conversation of which user, is known from the rows alone."""
    chance = random.Random(20261125)
    talks, turns = 30, 4
    sheet, data, target = tmp_path / "rows.csv", tmp_path / "data", tmp_path / "results.jsonl"
    rows = [(talk, turn) for turn in range(turns) for talk in range(talks)]
    sheet.write_text("conversation,query\n" + "".join(f"c{talk},{talk}:{turn}\n" for talk, turn in rows), "utf-8")
    fake = FakeDify("1.14", latency_ms=30, jitter_ms=60, hold_ms=2, celery_slots=0)
    with serve(fake) as server:
        first = ["run", sheet, "--base-url", server.url, "-o", target, "--data-dir", data, "--yes", "--json", "-c", 6]
        process, batch = rowmill(*first, cwd=tmp_path, key="app-chatflow", ROWMILL_LOST_WINDOW="3"), ""
        for _ in range(6):
            wait_for_runs(fake, chance.randint(5, 20), process)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            batch = batch or batches(data, tmp_path)[0]["id"]
            resume = ["run", "--resume", batch, "-o", target, "--data-dir", data, "--json", "-c", 6]
            process = rowmill(*resume, cwd=tmp_path, key="app-chatflow")
        result = answer(process)
    assert (result["total"], result["succeeded"]) == (talks * turns, talks * turns)
    asked: dict[str | None, list[str]] = {}
    for run in fake.ledger.runs:
        asked.setdefault(run.conversation_id, []).append(run.query)
    assert sorted(asked.values()) == sorted([[f"{talk}:{turn}" for turn in range(turns)] for talk in range(talks)])
    assert all(row["outputs"]["answer"] == f"echo: {row['inputs']['sys.query']} name=" for row in lines(target))
