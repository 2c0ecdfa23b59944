"""kill -9 in the middle of conversations: which turn comes next, in which conversation of which user, is known from the
rows alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from rowmill.testing.fake_dify import FakeDify, serve
from tests.faults.processes import batches, lines, rowmill, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

TALKS, TURNS, KILLS = 30, 4, 6


def test_kill_in_the_middle_of_conversations(tmp_path: Path) -> None:
    chance = random.Random(20261125)
    sheet, data, target = tmp_path / "rows.csv", tmp_path / "data", tmp_path / "results.jsonl"
    rows = [(talk, turn) for turn in range(TURNS) for talk in range(TALKS)]
    sheet.write_text("conversation,query\n" + "".join(f"c{talk},{talk}:{turn}\n" for talk, turn in rows), "utf-8")
    fake = FakeDify("1.14", latency_ms=30, jitter_ms=60, hold_ms=2, celery_slots=0)
    how = {"cwd": tmp_path, "key": "app-chatflow", "ROWMILL_LOST_WINDOW": "3"}
    tail = ["-o", target, "--data-dir", data, "--yes", "--json", "-c", 6]
    with serve(fake) as server:
        proc, batch = rowmill("run", sheet, "--base-url", server.url, *tail, **how), ""
        for _ in range(KILLS):
            goal = len(fake.ledger.runs) + chance.randint(5, 20)
            if not until(lambda goal=goal: len(fake.ledger.runs) >= goal, proc):
                break
            proc.kill()
            batch = batch or batches(data, tmp_path)[0]["id"]
            proc = rowmill("run", "--resume", batch, *tail, **how)
        result = proc.answer()
    assert result["pending"] == result["running"] == result["waiting"] == 0
    answered = [row for row in lines(target) if row["status"] == "succeeded"]
    assert all(row["outputs"]["answer"] == f"echo: {row['inputs']['sys.query']} name=" for row in answered)
    # A request may have been cut off on its way: then it is unknown, and what comes behind it is not sent.
    others = [row for row in lines(target) if row["status"] != "succeeded"]
    assert all(row["status"] == "unknown" or row["cause"] == "conversation_broken" for row in others)
    assert len(others) <= TURNS * sum(row["status"] == "unknown" for row in others)
    paid = [run.query for run in fake.ledger.runs]
    assert sorted(paid) == sorted(row["inputs"]["sys.query"] for row in answered), "paid twice, or lost"
    asked: dict[str | None, list[str]] = {}
    for run in fake.ledger.runs:
        asked.setdefault(run.conversation_id, []).append(run.query)
    for queries in asked.values():
        talk = queries[0].split(":")[0]
        assert queries == [f"{talk}:{turn}" for turn in range(len(queries))]
