"""kill -9 while writing: whatever was said to be written is there."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.ports.building import B, fill

from rowmill.domain.batch import RowState
from rowmill.store.sql import open_store

ROOT = Path(__file__).parents[2]
KILLS = 20


@pytest.mark.slow
def test_what_was_acknowledged_survives_kills(tmp_path):
    store = open_store(tmp_path)
    fill(store, 40_000)
    store.close()
    chance = random.Random(7)
    intended, finished, start = set(), set(), 0
    for _ in range(KILLS):
        said = _write_and_kill(tmp_path, start, chance.uniform(0.0, 0.15))
        intended |= {int(line.split()[1]) for line in said if line.startswith("intended")}
        finished |= {int(line.split()[1]) for line in said if line.startswith("finished")}
        start = max(intended, default=0) + 100
        with sqlite3.connect(tmp_path / "rowmill.db") as raw:
            assert raw.execute("PRAGMA quick_check").fetchone() == ("ok",)
        raw.close()
    assert len(finished) > KILLS
    store = open_store(tmp_path)
    states = {row.position: row.state for row in store.results(B)}
    assert all(states[position] is RowState.SUCCEEDED for position in finished)
    assert all(states[position] in (RowState.RUNNING, RowState.SUCCEEDED) for position in intended)
    assert {a.key.position for a in store.open_attempts(B)} >= intended - finished - {
        position for position, state in states.items() if state is RowState.SUCCEEDED
    }
    store.close()


def _write_and_kill(folder: Path, start: int, seconds: float) -> list[str]:
    command = [sys.executable, "-m", "tests.store.writing_child", str(folder), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        first = child.stdout.readline()
        time.sleep(seconds)
        child.kill()
        rest = child.stdout.read()
    # The last line may be cut by the kill; a line is whole only with its end.
    return [line for line in (first + rest).decode().split("\n")[:-1] if line]
