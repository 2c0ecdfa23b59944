"""Family A of the fault matrix: processes that die, are stopped, or meet another one."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from rowmill.testing.fake_dify import Fault
from tests.faults import audit
from tests.faults.audit import Tally, size
from tests.faults.house import House, house, make_fake
from tests.faults.processes import KEY, ROOT, Proc, clean_environment, lines, rowmill, spawn, until
from tests.faults.tracer import Rule
from tests.faults.writing import check_acknowledged

pytestmark = pytest.mark.slow

# profile -> (kills, rows, whether a lost reply can always be found)
KILLED = {"1.14": (size(20, 200), size(300, 10_000)), "1.11": (size(8, 50), size(100, 2_000))}
BLIND = (size(5, 40), size(60, 1_000))


@pytest.mark.parametrize("profile", KILLED)
def test_A1_kill_at_random_times(tmp_path: Path, profile: str) -> None:
    kills, rows = KILLED[profile]
    fake = make_fake(profile, hold_ms=1000 if profile == "1.14" else 2)
    counted = _kill_again_and_again(tmp_path, fake, kills, rows)
    counted.own = {"Dify": profile, "kills": counted.tried}
    audit.note("A1", "kill -9 at random times", "processes", counted)


def test_A1_kill_below_dify_1_11(tmp_path: Path) -> None:
    """No log to ask: a row may have to be called unknown, but none is paid twice, and none is silent."""
    counted = _kill_again_and_again(tmp_path, make_fake("1.10"), *BLIND, blind=True)
    assert counted.unknown <= 2 * 8 * counted.tried
    counted.own = {"Dify": "1.10", "kills": counted.tried}
    audit.note("A1", "kill -9 at random times, no log to ask", "processes", counted)


def _kill_again_and_again(folder: Path, fake, kills: int, rows: int, *, blind: bool = False) -> Tally:
    chance, done, recovery = random.Random(20261124), 0, []
    with house(folder, rows, fake=fake) as place:
        proc = place.begin()
        while done < kills and place.wait_for_runs(chance.randint(1, max(1, 2 * rows // kills - 8)), proc):
            threading.Event().wait(chance.uniform(0, 0.05))
            if not proc.running:
                break
            place.killed(proc)
            done += 1
            since = time.monotonic()
            proc = place.resume()
            recovery.append(place.recovery(proc, since))
        counted = place.end(proc, tried=done, unknown=None, blind=blind)
    assert done >= kills * 0.7, "the batch ended before the kills did"
    counted.recovery = recovery
    return counted


def test_A1_first_run_after_a_restart_of_a_large_batch(tmp_path: Path) -> None:
    rows = size(20_000, 1_000_000)
    with house(tmp_path, rows, fake=make_fake(latency_ms=20, jitter_ms=0)) as place:
        proc = place.begin()
        until(lambda: place.posts >= 40, proc, timeout=1200)
        place.killed(proc)
        since = time.monotonic()
        proc = place.resume()
        seconds = place.recovery(proc, since)
        proc.send(signal.SIGTERM)
        proc.wait()
        counted = audit.tally(place.fake.ledger.runs, [], tried=1)
    assert seconds <= 10
    assert counted.double == 0
    own = {"rows of the batch": rows, "seconds to the first run": round(seconds, 2)}
    audit.note("A1", "restart of a large batch", "processes", Tally(tried=1, rows=rows, recovery=[seconds], own=own))


# ── A2 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _seen(report: Path) -> int:
    return int(audit.json.loads(report.read_text())["seen"])


@pytest.mark.parametrize("deed", ["kill", "torn"])
def test_A2_kill_at_every_write_of_the_store(tmp_path: Path, deed: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    assert spawn("tests.faults.writing:make_store", base, 40, cwd=base).wait() == 0
    counted, k, writes = Tally(), 0, 1
    while k < writes:
        k += 1
        folder = tmp_path / str(k)
        shutil.copytree(base, folder)
        report = tmp_path / f"{k}.json"
        proc = spawn(
            "tests.faults.writing:write_groups", folder, 0, size(3, 12), 3, cwd=folder,
            rule=Rule(deed, first=k, last=k, report=str(report)),
        )  # fmt: skip
        died = proc.wait() == -signal.SIGKILL
        writes = k + 1 if died else k
        counted.tried += died
        counted.rows += check_acknowledged(folder, proc.out)
        shutil.rmtree(folder)
    assert counted.tried > 30
    counted.own = {"writes at which it died": counted.tried, "acknowledged and lost": 0, "integrity failures": 0}
    audit.note("A2", f"kill -9 at every write ({deed})", "system calls", counted)


@pytest.mark.skipif(not (audit.LONG and shutil.which("strace")), reason="part of `make faults`, where strace is there")
def test_A2_the_same_by_strace(tmp_path: Path) -> None:
    """Our own tracer is not the only one that says so."""
    base = tmp_path / "base"
    base.mkdir()
    assert spawn("tests.faults.writing:make_store", base, 40, cwd=base).wait() == 0
    counted = Tally()
    for k in range(1, 61):
        folder = tmp_path / str(k)
        shutil.copytree(base, folder)
        code = f"from tests.faults.writing import write_groups; write_groups({str(folder)!r}, 0, 6, 3)"
        inject = ["-e", "trace=pwrite64", "-e", f"inject=pwrite64:signal=KILL:when={k}"]
        paths = [part for name in ("", "-wal", "-shm") for part in ("-P", str(folder / f"rowmill.db{name}"))]
        command = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, *paths, sys.executable, "-c", code]
        ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)
        counted.tried += ended.returncode != 0
        whole = ended.stdout.rpartition("\n")[0]
        counted.rows += check_acknowledged(folder, whole)
    assert counted.tried > 30
    counted.own = {"writes at which it died": counted.tried, "acknowledged and lost": 0}
    audit.note("A2", "kill -9 at every write, by strace", "strace", counted)


def test_A2_kill_a_whole_run_at_its_writes(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with house(tmp_path / "count", 12) as place:
        rule = Rule("count", path="/data/", report=str(report))
        place.end(place.begin(rule=rule), tried=0)
    writes = _seen(report)
    picked = range(1, writes + 1) if audit.LONG else random.Random(3).sample(range(1, writes + 1), 10)
    counted = Tally(own={"writes of a run": writes})
    for k in picked:
        with house(tmp_path / str(k), 12) as place:
            proc = place.begin(rule=Rule("kill", path="/data/", first=k, last=k))
            if proc.wait() == -signal.SIGKILL:
                counted.tried += 1
                proc = place.go_on()
            counted.add(place.end(proc, tried=0, unknown=None))
    audit.note("A2", "kill -9 at the writes of a whole run", "system calls", counted)


# ── A3 … A7 ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("number", "latency"), [(signal.SIGINT, 100), (signal.SIGTERM, 100), (signal.SIGTERM, 12_000)])
def test_A3_asked_to_end(tmp_path: Path, number: int, latency: int) -> None:
    """Short runs are waited for; long ones are left to Dify in time for a container's ten seconds."""
    with house(tmp_path, 40, fake=make_fake(latency_ms=latency, jitter_ms=0)) as place:
        proc = place.begin()
        place.wait_for_runs(8, proc)
        asked = time.monotonic()
        proc.send(number)
        assert proc.wait(20) == 130
        seconds = time.monotonic() - asked
        rows = lines(place.target)
        assert len(rows) == 40, "what there is was written, the rest is pending"
        running = sum(row["status"] == "running" for row in rows)
        assert running == (0 if latency < 1000 else 8)
        _end_all_runs(place.fake)
        since = time.monotonic()
        proc = place.resume()
        recovery = place.recovery(proc, since)
        counted = place.end(proc, tried=1)
    assert seconds <= 10
    counted.recovery, counted.own = [recovery], {"seconds to the exit": round(seconds, 2)}
    audit.note("A3", "SIGTERM or Ctrl-C", "processes", counted)


def _end_all_runs(fake) -> None:
    """Dify's time passes: what runs there comes to its end."""
    fake.execution.latency = 0.02
    for run in fake.execution._runs.values():
        run.doing.delay = 0.0


def test_A4_the_reader_of_a_workbook_is_killed(tmp_path: Path) -> None:
    """As the kernel does when memory runs out: the file is refused, and nothing was sent."""
    with house(tmp_path, 1) as place:
        sheet = tmp_path / "rows.xlsx"
        _write_workbook(sheet, 30_000)
        proc = rowmill(
            "run", sheet, "--base-url", place.url, "--data-dir", place.data, "--json", "--yes", cwd=tmp_path,
        )  # fmt: skip
        reader: list[int] = []
        until(lambda: reader.extend(_children(proc.pid)) or reader, proc, every=0.0005)
        for pid in reader:
            audit.os.kill(pid, signal.SIGKILL)
        assert proc.wait() == 2, proc.err
        assert proc.answer()["error"]["code"].startswith("sheet_"), proc.out
        assert place.posts == 0
        audit.no_secret(KEY, proc.out, proc.err, folder=place.data)
    audit.note(
        "A4", "the parser child is killed", "processes", Tally(tried=1, own={"the runner's exit": "2, in words"})
    )


def _write_workbook(path: Path, rows: int) -> None:
    book = xlsxwriter.Workbook(path, {"constant_memory": True})
    sheet = book.add_worksheet()
    sheet.write_row(0, 0, ["query"])
    for row in range(1, rows + 1):
        sheet.write_string(row, 0, f"row {row}")
    book.close()


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def test_A4_the_runner_gets_no_more_memory(tmp_path: Path) -> None:
    fake = make_fake(latency_ms=100, jitter_ms=0)
    with house(tmp_path, 60, fake=fake) as place:
        proc = place.begin()
        place.wait_for_runs(12, proc)
        held = _address_space(proc.pid)
        resource.prlimit(proc.pid, resource.RLIMIT_AS, (held + 24 * 2**20, resource.RLIM_INFINITY))
        fake.faults.add(Fault("big_output", times=8, params={"bytes": 12_000_000}))
        code = proc.wait(60)
        place.said += [proc.out, proc.err]
        counted = place.end(place.resume(), tried=1, unknown=None)
    counted.own = {"the runner's exit": code}
    audit.note("A4", "the runner gets no more memory", "processes", counted)


def _address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def test_A5_killed_before_the_run_id_is_known(tmp_path: Path) -> None:
    hold = size(2, 30)
    fake = make_fake()
    fake.faults.add(Fault("hold_started", times=8, after=4, params={"seconds": hold}))
    with house(tmp_path, 40, fake=fake) as place:
        place.env["ROWMILL_LOST_WINDOW"] = str(3 * hold)
        proc = place.begin()
        until(lambda: place.fake.requests >= 14, proc)
        threading.Event().wait(0.3)
        place.killed(proc)
        since = time.monotonic()
        proc = place.resume()
        counted = place.end(proc, tried=1)
        seconds = time.monotonic() - since
    assert seconds <= 3 * hold + 15
    counted.recovery, counted.own = [seconds], {"rows without an id at the kill": "≤ 8", "queue wait, s": hold}
    audit.note("A5", "kill -9 between the request and its run id", "processes", counted)


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_A6_killed_with_a_result_in_hand(tmp_path: Path, moment: str) -> None:
    chance, recovery, tried = random.Random(6), [], 0
    with house(tmp_path, size(60, 600)) as place:
        proc = place.begin(failpoint=f"{moment}:Finish:2")
        while proc.wait() == -signal.SIGKILL and tried < size(8, 100):
            tried += 1
            since = time.monotonic()
            proc = place.resume(failpoint=f"{moment}:Finish:{chance.randint(1, 5)}")
            recovery.append(place.recovery(proc, since))
        counted = place.end(proc if proc.wait() >= 0 else place.resume(), tried=tried, unknown=None)
    assert tried >= size(5, 60)
    counted.recovery = recovery
    audit.note("A6", f"kill -9 {moment.replace('_', ' the ')} of a result", "failpoint", counted)


@pytest.mark.parametrize(("failpoint", "state"), [("poison", "failed"), ("poison_answer", "unknown")])
def test_A7_a_row_that_kills_its_process(tmp_path: Path, failpoint: str, state: str) -> None:
    """Before it is sent, or with its paid answer; then nobody asks what would end the next process too."""
    texts = [f"good {i}" for i in range(1, 8)] + ["poison"] + [f"good {i}" for i in range(8, 16)]
    with house(tmp_path, texts) as place:
        proc = place.begin(failpoint=f"{failpoint}:poison")
        deaths = 0
        while proc.wait() == -signal.SIGKILL and deaths < 5:
            place.said += [proc.out, proc.err]
            deaths += 1
            proc = place.resume(failpoint=f"{failpoint}:poison")
        assert deaths == 3
        assert proc.wait() == 1, "the batch never ends"
        rows = {row["inputs"]["query"]: row for row in lines(place.target)}
        poison = rows.pop("poison")
        assert (poison["status"], poison["cause"]) == (state, "kills_process")
        assert {row["status"] for row in rows.values()} == {"succeeded"}
        # By itself it is never tried again; by hand it is, and has as many lives as any other.
        paid = place.posts
        proc = place.resume(failpoint=f"{failpoint}:poison")
        assert proc.wait() == 1
        assert place.posts == paid
        counted = audit.tally(place.fake.ledger.runs, lines(place.target), tried=deaths)
        counted.check(unknown=None, blind=True)
        proc = _retry(place, failpoint=f"{failpoint}:poison")
        assert proc.wait() == -signal.SIGKILL
        proc = place.resume()
        assert proc.answer()["succeeded"] == 16
    counted.own = {"deaths until it is left alone": deaths, "the row": state}
    audit.note("A7", f"a row that kills its process ({failpoint})", "failpoint", counted)


def _retry(place: House, **how: Any) -> Proc:
    args = ("retry", place.batch, "--cause", "kills_process", "-o", place.target, "--data-dir", place.data, "--json")
    return rowmill(*args, cwd=place.folder, **{**place.env, **how})


def test_A7_rows_that_were_only_in_flight(tmp_path: Path) -> None:
    """The same rows are under way each time that somebody kills the process: none of them is to blame."""
    with house(tmp_path, 8, fake=make_fake(latency_ms=0, jitter_ms=0)) as place:
        place.fake.faults.add(Fault("hold_started", times=8, params={"seconds": 4}))
        place.env["ROWMILL_LOST_WINDOW"] = "60"
        proc = place.begin()
        place.wait_for_runs(1, proc)
        for _ in range(5):
            threading.Event().wait(0.3)
            place.killed(proc)
            proc = place.resume()
        counted = place.end(proc, tried=5)
    audit.note("A7", "rows that were only in flight at five deaths", "processes", counted)


# ── A8 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_A8_a_second_runner_is_refused(tmp_path: Path) -> None:
    with house(tmp_path, 60) as place:
        first = place.begin()
        place.wait_for_runs(8, first)
        first.send(signal.SIGSTOP)
        second = place.resume()
        assert second.wait() == 2
        assert second.answer()["error"]["code"] == "store_in_use"
        place.said += [second.out, second.err]
        threading.Event().wait(0.5)
        first.send(signal.SIGCONT)
        counted = place.end(first, tried=1)
    audit.note("A8", "a second runner while the first is stopped", "processes", counted)


@pytest.mark.parametrize("seed", range(size(4, 40)))
def test_A8_a_runner_that_wakes_up_is_fenced(tmp_path: Path, seed: int) -> None:
    """The lock is lost (a copied folder, a file system without locks): the fence holds alone."""
    chance = random.Random(seed)
    with house(tmp_path, 80, fake=make_fake(latency_ms=20, jitter_ms=30)) as place:
        first = place.begin()
        place.wait_for_runs(chance.randint(6, 30), first)
        threading.Event().wait(chance.uniform(0, 0.03))
        _stop_between_commits(first, place.data / "rowmill.db")
        (place.data / "rowmill.lock").unlink()
        second = place.resume()
        place.wait_for_runs(8, second)
        first.send(signal.SIGCONT)
        assert first.wait(60) not in (0, 1), "the first runner must notice, and stop"
        assert "fenced" in first.out + first.err
        place.said += [first.out, first.err]
        counted = place.end(second, tried=1, unknown=None)
    counted.own = {"stale runners stopped": 1}
    audit.note("A8", "a stopped runner wakes up after another took over", "processes", counted)


def _stop_between_commits(proc: Proc, database: Path) -> None:
    """SIGSTOP, but not while it holds the database: then nobody could take over, and nothing would be tried."""
    for _ in range(1000):
        proc.send(signal.SIGSTOP)
        with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as raw, suppress(sqlite3.Error):
            raw.execute("BEGIN IMMEDIATE")
            return
        proc.send(signal.SIGCONT)
        threading.Event().wait(0.001)
    raise AssertionError("it never lets the database go")
