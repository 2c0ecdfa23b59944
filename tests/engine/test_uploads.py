"""Files that rows name, through every way in which their upload can go wrong: what becomes of the row, and what it
cost."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from rowmill.domain.batch import BatchMove, BatchState, RowState
from rowmill.domain.files import KEPT
from rowmill.engine import uploads
from rowmill.ports.store import Again
from rowmill.testing.fake_dify import FakeDify, Fault
from tests.engine.filing import Bench, bench

OK, FAILED, PENDING, UNKNOWN = RowState.SUCCEEDED, RowState.FAILED, RowState.PENDING, RowState.UNKNOWN
a_bench = contextmanager(bench)


@pytest.fixture
def desk(tmp_path: Path):
    yield from bench(tmp_path)


def fault(text: str, **more: int) -> Fault:
    kind, *pairs = text.split()
    return Fault(kind, params=dict(pair.split("=", 1) for pair in pairs), **more)


# what the first uploads of a sheet of one file meet -> the row's state, its cause, uploads that arrived, runs
CASES = {
    "upload_reset": (1, OK, None, 1, 1),
    "upload_cut": (1, OK, None, 2, 1),
    "upload_status code=500": (1, OK, None, 1, 1),
    "upload_status code=502 body=html": (2, OK, None, 1, 1),
    "upload_status code=503 dify_code=busy": (1, OK, None, 1, 1),
    "upload_status code=429 dify_code=too_many_requests": (1, OK, None, 1, 1),
    "upload_slow seconds=0.6": (1, OK, None, 1, 1),
    "upload_status code=500 x=always": (-1, FAILED, "upload_failed", 0, 0),
    "upload_reset x=always": (-1, FAILED, "upload_failed", 0, 0),
    "upload_status code=413 dify_code=file_too_large": (-1, FAILED, "too_large", 0, 0),
    "upload_status code=413 body=html": (-1, FAILED, "too_large", 0, 0),
    "upload_status code=415 dify_code=unsupported_file_type": (-1, FAILED, "bad_file", 0, 0),
    "upload_status code=400 dify_code=invalid_param message=File_extension_blocked": (-1, FAILED, "bad_file", 0, 0),
}


@pytest.mark.parametrize("text", CASES)
async def test_an_upload_meets_a_fault(desk: Bench, text: str) -> None:
    times, state, cause, arrived, runs = CASES[text]
    desk.fake.faults.add(fault(text, times=times))
    desk.fill([{"doc": desk.named("a.txt")}])
    ended, _ = await desk.run(answer=0.3)
    (row,) = desk.rows
    assert (ended, row.state, row.cause) == (BatchState.COMPLETED, state, cause)
    # One that was too slow for us may arrive after all.
    assert arrived <= len(desk.fake.ledger.uploads) <= arrived + ("slow" in text)
    assert len(desk.fake.ledger.runs) == runs
    assert row.attempts == runs, "what was never sent is no attempt"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("upload_status code=401 dify_code=unauthorized", "bad_key"),
        ("upload_status code=403 dify_code=forbidden", "app_forbidden"),
        ("upload_status code=200 body=html", "not_dify"),
    ],
)
async def test_what_every_upload_would_meet_pauses_the_batch(desk: Bench, text: str, cause: str) -> None:
    desk.fake.faults.add(fault(text, times=-1))
    desk.fill([{"doc": desk.named("a.txt")}] * 5)
    ended, ending = await desk.run()
    assert (ended, ending.cause) == (BatchState.PAUSED, cause)
    assert {row.state for row in desk.rows} == {PENDING}
    assert desk.fake.requests == 1
    assert desk.fake.ledger.runs == []


async def test_one_bad_file_does_not_hold_up_the_others(desk: Bench) -> None:
    desk.fill([{"doc": desk.named(f"{i}.txt")} for i in range(8)])
    desk.fake.faults.add(fault("upload_status code=413 dify_code=file_too_large", after=3))
    await desk.run()
    states = [row.state for row in desk.rows]
    assert (states.count(OK), states.count(FAILED)) == (7, 1)


async def test_the_network_goes_and_comes_back(desk: Bench) -> None:
    desk.fill([{"doc": desk.named("a.txt")}] * 3)
    desk.serving.stop()
    back = threading.Timer(0.3, desk.serving.start_again)
    back.start()
    ended, _ = await desk.run()
    back.join()
    assert (ended, {row.state for row in desk.rows}) == (BatchState.COMPLETED, {OK})
    assert [row.attempts for row in desk.rows] == [1, 1, 1]
    assert len(desk.fake.ledger.runs) == 3


async def test_once_for_each_file_name_and_user(desk: Bench) -> None:
    one, same = desk.named("a.txt", b"same"), desk.named("b.txt", b"same")
    desk.fill([{"doc": one, "docs": [one, same], "query": f"q{i}"} for i in range(10)])
    await desk.run()
    assert {row.state for row in desk.rows} == {OK}
    sent = [(upload.user, upload.name) for upload in desk.fake.ledger.uploads]
    assert len(sent) == len(set(sent))
    users = {run.user for run in desk.fake.ledger.runs}
    assert set(sent) == {(user, name) for user in users for name in ("a.txt", "b.txt")}
    for run in desk.fake.ledger.runs:
        ids = [file["upload_file_id"] for file in (run.inputs["doc"], *run.inputs["docs"])]
        assert ids[0] == ids[1] != ids[2]


# While streaming: 1.11 refuses with 400, 1.16 with an event; 1.13 to 1.14 are silent, so the row cannot be sent again.
@pytest.mark.parametrize("profile", ["1.11", "1.16"])
async def test_an_upload_that_the_server_has_lost_is_made_again(tmp_path: Path, profile: str) -> None:
    with a_bench(tmp_path, fake=FakeDify(profile, hold_ms=0, celery_slots=0)) as desk:
        desk.fill([{"doc": desk.named("a.txt"), "query": f"q{i}"} for i in range(3)])
        await desk.run(until=1)
        desk.fake.files.clear()
        ended, _ = await desk.run()
        assert (ended, {row.state for row in desk.rows}) == (BatchState.COMPLETED, {OK})
        assert [run.inputs["query"] for run in desk.fake.ledger.runs].count("q1") == 1
        assert [row.attempts for row in desk.rows] == [1, 1, 1]


async def test_an_upload_that_is_lost_for_good_fails_its_row(tmp_path: Path) -> None:
    class Forgetful(dict):
        def get(self, *_: object) -> None:
            return None

    fake = FakeDify("1.11", hold_ms=0)
    fake.files = Forgetful()
    with a_bench(tmp_path, fake=fake) as desk:
        desk.fill([{"doc": desk.named("a.txt")}])
        await desk.run()
        (row,) = desk.rows
        assert (row.state, row.cause, len(fake.ledger.uploads)) == (FAILED, "bad_file", 1)


async def test_silence_may_mean_a_lost_upload_and_is_not_trusted_again(tmp_path: Path) -> None:
    fake = FakeDify("1.14", hold_ms=0, celery_slots=0, queue_idle_s=0.05)
    with a_bench(tmp_path, fake=fake) as desk:
        file = desk.named("a.txt")
        desk.fill([{"doc": file, "query": f"q{i}"} for i in range(2)])
        await desk.run(until=1)
        fake.files.clear()
        await desk.run(until=2)
        assert desk.rows[1].state is UNKNOWN, "nobody can tell that no run was started"
        assert desk.upload("rowmill-abcdefgh-s0", file) is None
        desk.store.move_batch("abcdefgh", BatchMove.RETRY)
        desk.store.retry("abcdefgh", Again("run_not_started"))
        await desk.run()
        assert [row.state for row in desk.rows] == [OK, OK]


async def test_an_old_upload_is_not_trusted(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.fill([{"doc": desk.named("a.txt"), "query": f"q{i}"} for i in range(2)], concurrency=1)
    await desk.run(until=1)
    monkeypatch.setattr(uploads, "TRUSTED", -1e9)
    await desk.run()
    assert len(desk.fake.ledger.uploads) == 2


async def test_a_copy_that_is_gone(desk: Bench) -> None:
    file = desk.named("a.txt")
    desk.shelf.remove(file[KEPT])
    desk.fill([{"doc": file}, {"doc": {**file, KEPT: "../rowmill.db"}}, {"doc": desk.named("b.txt")}])
    await desk.run()
    assert [(row.state, row.cause) for row in desk.rows] == [(FAILED, "file_gone")] * 2 + [(OK, None)]


async def test_time_to_quit_does_not_wait_for_an_upload(desk: Bench) -> None:
    desk.fake.faults.add(fault("upload_slow seconds=20", times=-1))
    desk.fill([{"doc": desk.named("a.txt")}] * 2)
    running = asyncio.create_task(desk.run(answer=30.0))
    while desk.fake.requests == 0:
        await asyncio.sleep(0.005)
    assert desk.engine is not None
    desk.engine.drain()
    ended, ending = await asyncio.wait_for(running, 5)
    assert (ended, ending.asked) == (BatchState.PAUSED, True)
    assert {row.state for row in desk.rows} == {PENDING}
    assert desk.fake.ledger.runs == []


async def test_a_row_that_waits_is_brought_by_one_worker(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays due in the store while its file is on the way: other workers read it again, and leave it alone."""
    monkeypatch.setattr(uploads, "TRUSTED", -1e9)
    desk.fake.faults.add(Fault("run_failed", match="again"), fault("upload_slow seconds=0.4", after=1))
    desk.fill([{"doc": desk.named("a.txt"), "query": "again"}])
    await desk.run()
    assert (desk.rows[0].state, desk.rows[0].attempts) == (OK, 2)
    assert [upload.name for upload in desk.fake.ledger.uploads] == ["a.txt", "a.txt"]
    assert len(desk.fake.ledger.runs) == 2


async def test_large_files_are_not_read_into_memory(desk: Bench) -> None:
    import tracemalloc

    file = desk.named("big.mp4", bytes(40 * 1024 * 1024))
    desk.fake.apps["app-files"].form[0]["file"]["allowed_file_types"] = ["video"]
    desk.fill([{"doc": {**file, "type": "video"}}])
    # The fake, in the same process, holds the file whole: it is not what is measured.
    desk.fake.faults.add(fault("upload_status code=413 dify_code=file_too_large"))
    tracemalloc.start()
    try:
        await desk.run(answer=20.0)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert desk.rows[0].cause == "too_large"
    assert most < 20 * 1024 * 1024
