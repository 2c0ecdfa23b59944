"""Ctrl-C and SIGTERM on a real process: nothing is lost, and it says how to go on."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from rowmill.testing.fake_dify import FakeDify, serve
from tests.faults.processes import answer, batches, finish, lines, paid_twice, rowmill, write_sheet

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_interrupt_and_resume(tmp_path: Path, number: int) -> None:
    sheet, data, target = tmp_path / "rows.csv", tmp_path / "data", tmp_path / "out.jsonl"
    write_sheet(sheet, 60)
    fake = FakeDify(latency_ms=100, hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        process = rowmill("run", sheet, "--base-url", server.url, "-o", target, "--data-dir", data, cwd=tmp_path)
        tick = threading.Event()
        while len(fake.ledger.runs) < 10:
            tick.wait(0.01)
            assert process.poll() is None, process.communicate()
        process.send_signal(number)
        code, out, err = finish(process, 30)
        assert code == 130
        (batch,) = batches(data, tmp_path)
        assert f"--resume {batch['id']}" in out
        assert "waiting for those that run" in err
        assert batch["state"] == "paused"
        rows = lines(target)
        assert len(rows) == 60, "what there is was written, the rest is pending"
        done = [row for row in rows if row["status"] == "succeeded"]
        assert len(done) == len(fake.ledger.runs) == batch["succeeded"]
        resume = ["run", "--resume", batch["id"], "-o", target, "--data-dir", data, "--json"]
        result = answer(rowmill(*resume, cwd=tmp_path))
    assert result["succeeded"] == 60
    assert paid_twice(fake.ledger.runs) == {}


def test_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    sheet, data, target = tmp_path / "rows.csv", tmp_path / "data", tmp_path / "out.jsonl"
    write_sheet(sheet, 20)
    fake = FakeDify(latency_ms=4000, hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        command = ["run", sheet, "--base-url", server.url, "-o", target, "--data-dir", data, "-c", "4"]
        process = rowmill(*command, cwd=tmp_path)
        tick = threading.Event()
        while len(fake.ledger.runs) < 4:
            tick.wait(0.01)
        process.send_signal(signal.SIGINT)
        tick.wait(0.3)
        process.send_signal(signal.SIGINT)
        code, _, _ = finish(process, 30)
        assert code == 130
        fake.execution.latency = 0.05
        (batch,) = batches(data, tmp_path)
        assert batch["running"] == 4, "left as they are, to be found again"
        resume = ["run", "--resume", batch["id"], "-o", target, "--data-dir", data, "--json"]
        result = answer(rowmill(*resume, cwd=tmp_path))
    assert result["succeeded"] == 20
    assert paid_twice(fake.ledger.runs) == {}
