"""Family B of the fault matrix: disks that are full, read-only, slow to let go, broken, or suddenly without power."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from rowmill.domain.batch import RowState
from rowmill.store.sql import open_store
from tests.faults import audit
from tests.faults.audit import Tally, size
from tests.faults.house import House, house, make_fake
from tests.faults.processes import KEY, rowmill, spawn
from tests.faults.tracer import Rule
from tests.faults.writing import check_acknowledged
from tests.ports.building import B, finish, intend

pytestmark = pytest.mark.slow

BROKEN_FOR = size(3, 60)


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def ride_out(place: House, flag: Path, **how) -> tuple[Tally, dict]:
    """A batch whose disk refuses while `flag` is there: no run is started meanwhile, and it goes on by itself."""
    proc = place.begin(**how)
    place.wait_for_runs(12, proc)
    flag.touch()
    wait(1.0)
    before = place.posts
    wait(BROKEN_FOR)
    while_broken = place.posts - before
    assert proc.running
    flag.unlink()
    since = time.monotonic()
    recovery = place.recovery(proc, since)
    counted = place.end(proc, tried=1)
    assert while_broken == 0
    assert recovery <= 20
    counted.recovery = [recovery]
    counted.own = {"seconds broken": BROKEN_FOR + 1, "runs started after the first second": while_broken}
    return counted, place.posts


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EIO"])
def test_B1_B2_disk_refuses_for_a_while(tmp_path: Path, name: str) -> None:
    flag = tmp_path / "flag"
    with house(tmp_path, 120) as place:
        rule = Rule(name, calls=("pwrite64", "ftruncate"), path="/data/", meanwhile=str(flag))
        counted, _ = ride_out(place, flag, rule=rule)
    row = {"EROFS": "B2", "EIO": "B3"}.get(name, "B1")
    audit.note(row, f"{name} at every write for a while", "system calls", counted)


@pytest.mark.skipif(not audit.LONG, reason="part of `make faults`: not every machine lets us mount")
def test_B1_a_small_disk_runs_full(tmp_path: Path) -> None:
    """A tmpfs of 12 MB that somebody else fills up."""
    fake = make_fake()
    with house(tmp_path, 400, fake=fake) as place:
        place.data.mkdir()
        proc = place.begin(tmpfs={"path": str(place.data), "size": 12 * 2**20})
        place.wait_for_runs(12, proc)
        filler = Path(f"/proc/{proc.pid}/root{place.data}/filler")
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(b"x" * 13 * 2**20)
        wait(8)
        before = place.posts
        wait(BROKEN_FOR)
        while_full = place.posts - before
        filler.unlink()
        since = time.monotonic()
        recovery = place.recovery(proc, since)
        counted = place.end(proc, tried=1)
    assert while_full == 0
    counted.recovery, counted.own = [recovery], {"runs started while full": while_full}
    audit.note("B1", "a tmpfs of 12 MB runs full", "processes", counted)


@pytest.mark.parametrize("name", ["ENOSPC", "EROFS"])
def test_B1_B2_nothing_begins_on_a_disk_that_refuses(tmp_path: Path, name: str) -> None:
    with house(tmp_path, 5) as place:
        proc = place.begin(rule=Rule(name, calls=("pwrite64", "ftruncate"), path="/data/"))
        assert proc.wait() == 2, proc.err
        assert json.loads(proc.out)["error"]["code"].startswith("store_")
        assert place.posts == 0
        audit.no_secret(KEY, proc.out, proc.err, folder=tmp_path)
        counted = place.end(place.begin(), tried=1)
    audit.note("B1" if name == "ENOSPC" else "B2", f"{name} from the start", "system calls", counted)


def test_B2_folder_that_may_not_be_written(tmp_path: Path) -> None:
    with house(tmp_path, 40) as place:
        proc = place.begin()
        place.wait_for_runs(8, proc)
        place.killed(proc)
        proc = place.resume()
        place.wait_for_runs(4, proc)
        place.killed(proc)
        files = [path for path in place.data.iterdir() if path.is_file()]
        for path in files:
            path.chmod(0o400)
        place.data.chmod(0o500)
        before = place.posts
        refused = place.resume(bound_by_modes=True)
        assert refused.wait() == 2, refused.err
        assert json.loads(refused.out)["error"]["code"] == "store_readonly", refused.out
        assert place.posts == before
        place.data.chmod(0o700)
        for path in files:
            path.chmod(0o600)
        counted = place.end(place.resume(), tried=1, unknown=None)
    counted.own = {"runs started": 0}
    audit.note("B2", "a folder that may not be written", "processes", counted)


# ── B3, B5: what was acknowledged is there, at every system call ────────────────────────────────────────────────────


def sweep(folder: Path, rule: Rule, groups: int) -> Tally:
    """The rule at call 1, 2, 3 … of a process that writes and says what is durable, until it is not met any more."""
    base = folder / "base"
    base.mkdir()
    assert spawn("tests.faults.writing:make_store", base, 3 * groups + 1, cwd=base).wait() == 0
    counted, k = Tally(), 0
    while True:
        k += 1
        work, report = folder / str(k), folder / f"{k}.json"
        shutil.copytree(base, work)
        at_k = Rule(**{**rule.to_json(), "first": k, "last": k, "seed": k, "report": str(report)})
        proc = spawn("tests.faults.writing:write_groups", work, 0, groups, 3, cwd=work, rule=at_k)
        proc.wait()
        if json.loads(report.read_text())["struck"] == 0:
            break
        counted.tried += 1
        counted.rows += check_acknowledged(work, proc.out)
        shutil.rmtree(work)
    counted.own = {"calls at which it struck": counted.tried, "acknowledged and lost": 0, "integrity failures": 0}
    return counted


def test_B3_sync_fails_at_every_place(tmp_path: Path) -> None:
    counted = sweep(tmp_path, Rule("EIO", calls=("fsync", "fdatasync")), size(6, 40))
    assert counted.tried >= 10
    audit.note("B3", "EIO at every sync", "system calls", counted)


def test_B3_sync_fails_under_a_whole_run(tmp_path: Path) -> None:
    counted, stopped = Tally(), 0
    for first in random.Random(1).sample(range(1, 60), size(5, 50)):
        with house(tmp_path / str(first), 30) as place:
            proc = place.begin(rule=Rule("EIO", calls=("fsync", "fdatasync"), path="/data/", first=first, last=first))
            code = proc.wait()
            if code != 0:
                stopped += 1
                place.said += [proc.out, proc.err]
                proc = place.go_on()
            counted.add(place.end(proc, tried=1))
    counted.own = {"runs that needed a resume": stopped}
    audit.note("B3", "EIO at one sync of a whole run", "system calls", counted)


@pytest.mark.parametrize("survive", [0.0, 0.5])
def test_B5_power_cut_at_every_place(tmp_path: Path, survive: float) -> None:
    """All that was not synced is gone, or half of it: what was acknowledged is there."""
    rule = Rule("power", calls=("pwrite64", "fdatasync", "fsync"), survive=survive)
    counted = sweep(tmp_path, rule, size(4, 30))
    assert counted.tried > 40
    audit.note("B5", f"power cut, {survive:.0%} of what was not synced survives", "system calls", counted)


def test_B5_power_cut_under_a_whole_run(tmp_path: Path) -> None:
    counted, cuts = Tally(), size(5, 60)
    for seed, k in enumerate(random.Random(5).sample(range(60, 260), cuts)):
        with house(tmp_path / str(k), 40) as place:
            rule = Rule("power", calls=("pwrite64", "fdatasync"), first=k, last=k, survive=seed % 3 / 2, seed=seed)
            proc = place.begin(rule=rule)
            if proc.wait() == -signal.SIGKILL:
                counted.tried += 1
                place.said += [proc.out, proc.err]
                proc = place.go_on()
            counted.add(place.end(proc, tried=0, unknown=None))
    assert counted.tried >= cuts // 2
    audit.note("B5", "power cut under a whole run", "system calls", counted)


# ── B4 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_B4_another_program_holds_the_database(tmp_path: Path) -> None:
    hold = size(7, 60)
    with house(tmp_path, 120) as place:
        proc = place.begin()
        place.wait_for_runs(12, proc)
        reader = open_store(place.data)
        with closing(sqlite3.connect(place.data / "rowmill.db", isolation_level=None, timeout=20)) as other:
            other.execute("BEGIN IMMEDIATE")
            waits = _reads(reader, place.find_batch(), hold)
            other.execute("COMMIT")
        since = time.monotonic()
        recovery = place.recovery(proc, since)
        counted = place.end(proc, tried=1)
        reader.close()
    slow = sorted(waits)[int(len(waits) * 0.95)]
    assert slow <= 1
    counted.recovery, counted.own = [recovery], {"seconds held": hold, "p95 of reads, s": round(slow, 4)}
    audit.note("B4", "another program holds the write lock", "processes", counted)


def _reads(store, batch: str, seconds: float) -> list[float]:
    end, waits = time.monotonic() + seconds, []
    while time.monotonic() < end:
        start = time.monotonic()
        assert store.counts(batch).total == 120
        waits.append(time.monotonic() - start)
        wait(0.02)
    return waits


# ── B6, B8 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stopped_batch(place: House) -> None:
    """A batch in the middle; its log is not folded into the database."""
    proc = place.begin()
    place.wait_for_runs(20, proc)
    place.killed(proc)


def _flip(path: Path, places: range) -> None:
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 0xFF
    path.write_bytes(content)


def test_B6_damaged_database(tmp_path: Path) -> None:
    with house(tmp_path, 400) as place:
        _stopped_batch(place)
        with closing(sqlite3.connect(place.data / "rowmill.db")) as raw:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        backup = tmp_path / "backup.db"
        shutil.copy(place.data / "rowmill.db", backup)
        place.find_batch()
        tried = 0
        for page in random.Random(6).sample(range(backup.stat().st_size // 4096), size(6, 20)):
            _flip(place.data / "rowmill.db", range(page * 4096, page * 4096 + 64))
            before = place.posts
            proc = place.resume()
            assert proc.wait() == 2, (page, proc.err)
            error = json.loads(proc.out)["error"]
            assert error["code"] == "store_damaged", (page, error)
            assert str(place.data) in error["message"]
            assert place.posts == before
            tried += 1
            for path in place.data.glob("rowmill.db*"):
                path.unlink()
            shutil.copy(backup, place.data / "rowmill.db")
        counted = place.end(place.resume(), tried=tried, unknown=None)
    counted.own = {"silent starts": 0}
    audit.note("B6", "bytes of the database flipped", "processes", counted)


def test_B6_damaged_log(tmp_path: Path) -> None:
    """SQLite ends a log silently at a frame whose sum is wrong, and forgets the commits behind it: paid results, and
    intents that would be sent again."""
    with house(tmp_path, 60) as place:
        _stopped_batch(place)
        log = place.data / "rowmill.db-wal"
        assert log.stat().st_size > 20 * 4120
        saved = tmp_path / "saved"
        shutil.copytree(place.data, saved)
        frames = (log.stat().st_size - 32) // 4120
        for frame in (1, frames // 3, frames // 2):
            _flip(log, range(32 + frame * 4120 + 100, 32 + frame * 4120 + 110))
            before = place.posts
            proc = rowmill("batches", "--data-dir", place.data, "--json", cwd=tmp_path)
            assert proc.wait() == 2, "a silent start on a log that lost commits"
            assert json.loads(proc.out)["error"]["code"] == "store_damaged"
            assert place.posts == before
            shutil.rmtree(place.data)
            shutil.copytree(saved, place.data)
        counted = place.end(place.resume(), tried=3, unknown=None)
    counted.own = {"silent starts": 0}
    audit.note("B6", "bytes of the write-ahead log flipped", "processes", counted)


@pytest.mark.parametrize("deed", ["kill", "torn", "power"])
def test_B8_killed_while_the_tables_are_made(tmp_path: Path, deed: str) -> None:
    tried, k = 0, 0
    while True:
        k += size(3, 1)
        folder = tmp_path / str(k)
        folder.mkdir()
        calls = ("pwrite64", "fdatasync") if deed == "power" else ("pwrite64",)
        proc = spawn("tests.faults.writing:make_store", folder, 3, cwd=folder, rule=Rule(deed, calls, first=k, last=k))
        if proc.wait() == 0:
            break
        tried += 1
        again = spawn("tests.faults.writing:make_store", folder, 3, cwd=folder)
        code = again.wait()
        assert code == 0 or "store_conflict" in again.err or "batch-one" in again.err, again.err
        store = open_store(folder)
        assert store.counts(B).total in (0, 3)
        store.close()
        shutil.rmtree(folder)
    assert tried > 10
    audit.note("B8", f"{deed} at every write while the tables are made", "system calls", Tally(tried=tried))


def test_B8_an_older_rowmill_refuses_a_newer_database(tmp_path: Path) -> None:
    with house(tmp_path, 40) as place:
        _stopped_batch(place)
        place.find_batch()
        with closing(sqlite3.connect(place.data / "rowmill.db")) as raw, raw:
            (known,) = raw.execute("SELECT version_num FROM alembic_version").fetchone()
            raw.execute("UPDATE alembic_version SET version_num = 'r9999'")
        before = place.posts
        proc = place.resume()
        assert proc.wait() == 2
        assert json.loads(proc.out)["error"]["code"] == "store_too_new"
        assert place.posts == before
        with closing(sqlite3.connect(place.data / "rowmill.db")) as raw, raw:
            raw.execute("UPDATE alembic_version SET version_num = ?", (known,))
        counted = place.end(place.resume(), tried=1, unknown=None)
    audit.note("B8", "an older Rowmill on a newer database", "processes", counted)


# ── B9 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_B9_the_log_under_a_long_reader(tmp_path: Path) -> None:
    """While somebody reads, nothing can be folded in: the log grows by what is written. It shrinks when he has gone."""
    rows = size(3_000, 60_000)
    assert spawn("tests.faults.writing:make_store", tmp_path, rows, cwd=tmp_path).wait() == 0
    store = open_store(tmp_path)
    fence, log = store.take_over("tests"), tmp_path / "rowmill.db-wal"
    with store.snapshot(B) as seen:
        next(iter(seen))
        for start in range(0, rows - 100, 100):
            places = range(start, start + 100)
            store.write([intend(place, slot=place) for place in places], fence)
            store.write([finish(place, outputs='{"a":"' + "x" * 1500 + '"}') for place in places], fence)
        grown = log.stat().st_size
    with store.snapshot(B) as seen:
        assert sum(row.state is RowState.SUCCEEDED for row in seen) == (rows - 100) // 100 * 100
    for start in range(rows - 100, rows):
        store.write([intend(start, slot=start)], fence)
    shrunk = log.stat().st_size
    store.close()
    megabytes = {"log under the reader, MB": round(grown / 2**20, 1), "log after it, MB": round(shrunk / 2**20, 1)}
    assert shrunk <= 64 * 2**20 + 2**20
    assert grown <= 256 * 2**20, megabytes
    audit.note(
        "B9", f"a reader stays while {rows:,} rows are written", "store", Tally(tried=1, rows=rows, own=megabytes)
    )
