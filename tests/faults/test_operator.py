"""Family G of the fault matrix: what people do, and how much of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rowmill.domain.batch import BatchMove, BatchState
from rowmill.domain.errors import IllegalMoveError
from rowmill.store.sql import open_store
from tests.faults import audit
from tests.faults.audit import Tally, size
from tests.faults.house import House, house, make_fake
from tests.faults.processes import Proc, rowmill, until

pytestmark = pytest.mark.slow


def ask(place: House, *args: object) -> Proc:
    return rowmill(*args, "--data-dir", place.data, "--json", cwd=place.folder)


def test_G1_a_storm_of_wishes(tmp_path: Path) -> None:
    """A hundred calls at once from as many hands: the last wish wins, and nothing is paid twice."""
    calls = size(100, 1000)
    with house(tmp_path, size(200, 2000)) as place:
        proc = place.begin()
        place.wait_for_runs(12, proc)
        batch = place.find_batch()
        store = open_store(place.data)
        moves = [BatchMove.PAUSE, BatchMove.START, BatchMove.PAUSE, BatchMove.START]

        def wish(number: int) -> bool:
            try:
                store.move_batch(batch, moves[number % 4], reason="asked", at=time.time())
            except IllegalMoveError:
                return False
            return True

        with ThreadPoolExecutor(20) as hands:
            obeyed = sum(hands.map(wish, range(calls)))
        while proc.running:
            # The last wish is to go on; a runner that had laid the batch down already is started again below.
            if store.batch(batch).state in (BatchState.PAUSING, BatchState.PAUSED):
                wish(1)
            threading.Event().wait(0.05)
        store.close()
        place.said += [proc.out, proc.err]
        counted = place.end(place.resume(), tried=obeyed)
    counted.own = {"calls at once": calls}
    audit.note("G1", "pause and resume, a hundred at once", "processes", counted)


def test_G1_double_clicks(tmp_path: Path) -> None:
    """The same wish from two processes, and its opposite before it is done."""
    with house(tmp_path, 120, fake=make_fake(latency_ms=150)) as place:
        proc = place.begin()
        place.wait_for_runs(8, proc)
        batch = place.find_batch()
        for wish in ("pause", "resume", "stop"):
            both = [ask(place, wish, batch) for _ in range(2)]
            for each in both:
                each.wait()
                place.said += [each.out, each.err]
        proc.wait()
        place.said += [proc.out, proc.err]
        counted = _finish_after_stop(place)
    audit.note("G1", "every wish twice", "processes", counted)


def _finish_after_stop(place: House) -> Tally:
    """Resume, then run again what was stopped: those runs were meant to be paid for once more."""
    stopped = sum(run.status == "stopped" for run in place.fake.ledger.runs)
    ask(place, "resume", place.batch).wait()
    ended = ask(place, "retry", place.batch, "-o", place.target)
    assert ended.wait() in (0, 1, 2), ended.err
    ended = place.resume()
    rows = ended.answer()
    assert rows["succeeded"] == rows["total"] == place.rows, rows
    counted = audit.tally(place.fake.ledger.runs, audit_lines(place), tried=6)
    assert counted.double <= stopped
    counted.double = 0
    counted.check()
    return counted


def audit_lines(place: House) -> list[dict]:
    return [json.loads(line) for line in place.target.read_text("utf-8").splitlines()]


def test_G2_the_app_changes_while_a_batch_runs(tmp_path: Path) -> None:
    """Another version, another name: the batch keeps the form and the mapping that it was checked with."""
    with house(tmp_path, 120) as place:
        proc = place.begin()
        place.wait_for_runs(20, proc)
        store = open_store(place.data)
        batch = store.batch(place.find_batch())
        store.save_app(replace(batch.app, name="renamed", version="1.16.1"))
        after = store.batch(batch.id)
        assert (after.form, after.mapping, after.settings) == (batch.form, batch.mapping, batch.settings)
        store.close()
        counted = place.end(proc, tried=1)
    audit.note("G2", "the app's record changes while a batch runs", "processes", counted)


def test_G3_deleted_while_it_runs(tmp_path: Path) -> None:
    with house(tmp_path, 120) as place:
        proc = place.begin()
        place.wait_for_runs(20, proc)
        refused = ask(place, "delete", place.find_batch(), "--yes")
        code = refused.wait()
        if code == 0:  # drained, then deleted
            proc.wait()
            orphans = sum(run.status == "running" for run in place.fake.ledger.runs)
            counted = Tally(tried=1, rows=place.rows)
        else:
            counted, orphans = place.end(proc, tried=1), 0
    assert orphans == 0
    counted.own = {"orphan runs": orphans, "what happened": "refused" if code else "drained, then deleted"}
    audit.note("G3", "a batch is deleted while it runs", "processes", counted)


def _older(database: Path, revision: str, undo: list[str]) -> None:
    with closing(sqlite3.connect(database)) as raw, raw:
        for statement in undo:
            raw.execute(statement)
        raw.execute("UPDATE alembic_version SET version_num = ?", (revision,))


@pytest.mark.parametrize("what", ["folder", "database"])
@pytest.mark.parametrize("since", ["all of it", "some of it"])
def test_G5_an_old_copy_is_restored(tmp_path: Path, what: str, since: str) -> None:
    """The whole folder, or the database alone beside marks of later rows; the batch was over by then, or was not."""
    with house(tmp_path, size(80, 1000)) as place:
        proc = place.begin()
        place.wait_for_runs(20, proc)
        place.killed(proc)
        copy = tmp_path / "copy"
        shutil.copytree(place.data, copy)
        proc = place.resume()
        if since == "some of it":
            place.wait_for_runs(30, proc)
            place.killed(proc)
        else:
            assert proc.wait() == 0
        paid = place.posts
        _put_back(copy, place.data, what)
        proc = place.resume()
        assert proc.wait() in (0, 1)
        assert place.posts == paid, "rows were sent before anybody was asked"
        place.said += [proc.out, proc.err]
        first = proc.answer()
        assert since == "all of it" or (first["state"], first["reason"]) == ("paused", "restored")
        counted = place.end(place.resume(), tried=1)
    adopted = first["succeeded"]
    counted.own = {"sent before somebody was asked": 0, "runs the copy had not heard of": paid - 20, "rows": adopted}
    audit.note("G5", f"an old copy of the {what} is put back", "processes", counted)


def _put_back(copy: Path, data: Path, what: str) -> None:
    if what == "folder":
        shutil.rmtree(data)
        shutil.copytree(copy, data)
        return
    for name in ("rowmill.db-wal", "rowmill.db-shm"):
        (data / name).unlink(missing_ok=True)
    for path in copy.glob("rowmill.db*"):
        shutil.copy2(path, data / path.name)


@pytest.mark.parametrize("profile", ["1.14", "1.11"])
def test_G5_no_copy_and_no_alarm(tmp_path: Path, profile: str) -> None:
    """Killed, stopped, sampled, retried: the log never knows more than the data folder."""
    with house(tmp_path, 80, fake=make_fake(profile)) as place:
        proc = place.begin(ROWMILL_LOST_WINDOW="3")
        for _ in range(4):
            place.wait_for_runs(6, proc)
            place.killed(proc)
            proc = place.resume()
        place.wait_for_runs(6, proc)
        ask(place, "stop", place.batch).wait()
        proc.wait()
        ask(place, "retry", place.batch, "-o", place.target).wait()
        for _ in range(3):
            place.said += [proc.out, proc.err]
            proc = place.resume()
            assert proc.wait() in (0, 1)
        ended = proc.answer()
        assert (ended["state"], ended["reason"]) == ("completed", None), ended
        assert ended["pending"] == ended["running"] == 0
    audit.note("G5", "no copy, and no alarm", "processes", Tally(tried=6, rows=place.rows))


def test_G6_many_rows(tmp_path: Path) -> None:
    """Memory does not grow with the batch, and looking at it stays quick."""
    rows = size(50_000, 1_000_000)
    with house(tmp_path, rows, fake=make_fake(latency_ms=5, jitter_ms=0), width=20) as place:
        proc, peak = place.begin(), [0.0]
        watch = lambda: peak.append(max(peak[-1], proc.peak_memory()))  # noqa: E731
        until(lambda: watch() or place.posts >= 500, proc, timeout=1500, every=0.05)
        store, waits = open_store(place.data), []
        batch = place.find_batch()
        for _ in range(40):
            start = time.monotonic()
            assert store.counts(batch).total == rows
            waits.append(time.monotonic() - start)
            watch()
        store.close()
        ask(place, "pause", batch).wait()
        proc.wait()
        counted = audit.tally(place.fake.ledger.runs, [], tried=0)
    slow = sorted(waits)[int(len(waits) * 0.95)]
    assert counted.double == 0
    assert peak[-1] <= 500
    assert slow <= 0.3
    own = {"rows": rows, "peak memory, MB": round(peak[-1]), "p95 of the counts, ms": round(slow * 1000, 1)}
    audit.note("G6", "many rows", "processes", Tally(rows=rows, own=own))
