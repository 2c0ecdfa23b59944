"""Group commits: order, answers, and a database that refuses for a while."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from rowmill.domain.errors import FencedError, StoreError
from rowmill.domain.events import Event
from rowmill.engine.recorder import LARGEST_COMMIT, Recorder
from rowmill.ports.store import AttemptKey, Lose, Record
from rowmill.testing.clock import QuickClock


class Disk:
    """A store of which only `write` is used; refuses as told."""

    def __init__(self, *troubles: StoreError) -> None:
        self.troubles = list(troubles)
        self.commits: list[list[Record]] = []
        self.open = threading.Event()
        self.open.set()

    def write(self, records: Sequence[Record], fence: int) -> list[bool]:
        assert self.open.wait(5)
        assert fence == 7
        if self.troubles:
            raise self.troubles.pop(0)
        self.commits.append(list(records))
        return [record.key.position % 2 == 0 for record in records]


def record(position: int) -> Lose:
    return Lose(AttemptKey("b", position, 1), "cut")


def make(disk: Disk) -> tuple[Recorder, list[Event]]:
    events: list[Event] = []
    return Recorder(disk, 7, QuickClock(200), events.append), events  # type: ignore[arg-type]


async def test_what_comes_during_a_commit_goes_into_the_next() -> None:
    disk = Disk()
    disk.open.clear()
    recorder, _ = make(disk)
    first = recorder.put(record(0))
    await asyncio.sleep(0.02)
    others = [recorder.put(record(i)) for i in range(1, 6)]
    disk.open.set()
    assert await first is True
    assert await asyncio.gather(*others) == [False, True, False, True, False]
    assert [len(group) for group in disk.commits] == [1, 5]
    await recorder.close()


async def test_a_commit_has_a_bound() -> None:
    disk = Disk()
    recorder, _ = make(disk)
    await asyncio.gather(*(recorder.put(record(i)) for i in range(LARGEST_COMMIT + 10)))
    assert max(len(group) for group in disk.commits) == LARGEST_COMMIT
    assert [r.key.position for group in disk.commits for r in group] == list(range(LARGEST_COMMIT + 10))
    await recorder.close()


async def test_close_commits_what_is_waiting() -> None:
    disk = Disk()
    recorder, _ = make(disk)
    waiting = [recorder.put(record(i)) for i in range(4)]
    await recorder.close()
    assert all(future.done() for future in waiting)
    assert sum(len(group) for group in disk.commits) == 4


@pytest.mark.parametrize("code", ["store_full", "store_locked", "store_io", "store_readonly"])
async def test_a_database_that_refuses_is_waited_for(code: str) -> None:
    disk = Disk(StoreError(code), StoreError(code), StoreError(code))
    recorder, events = make(disk)
    assert await recorder.put(record(2)) is True
    assert [event.fact.value for event in events] == ["store_trouble", "store_well"]
    assert events[0].params == {"code": code}
    await recorder.close()


@pytest.mark.parametrize("error", [FencedError("fenced", fence=7, newest=8), StoreError("store_damaged")])
async def test_some_errors_are_the_end(error: StoreError) -> None:
    recorder, _ = make(Disk(error))
    lost = [recorder.put(record(i)) for i in range(3)]
    for future in lost:
        with pytest.raises(StoreError) as raised:
            await future
        assert raised.value.code == error.code
    with pytest.raises(StoreError):
        recorder.put(record(9))
    await recorder.close()


async def test_nobody_waits_any_more() -> None:
    """A worker that was cancelled leaves its future behind; the commit takes place all the same."""
    disk = Disk()
    disk.open.clear()
    recorder, _ = make(disk)
    first = recorder.put(record(0))
    second = recorder.put(record(1))
    second.cancel()
    disk.open.set()
    await first
    await recorder.close()
    assert sum(len(group) for group in disk.commits) == 2


async def test_giving_up_ends_the_waiting() -> None:
    disk = Disk(*(StoreError("store_full") for _ in range(1000)))
    recorder, _ = make(disk)
    future = recorder.put(record(0))
    await asyncio.sleep(0.02)
    recorder.give_up()
    with pytest.raises(StoreError):
        await asyncio.wait_for(future, 5)
    await asyncio.wait_for(recorder.close(), 5)


async def test_any_other_error_frees_all_who_wait() -> None:
    recorder, _ = make(Disk(ZeroDivisionError()))  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        await recorder.put(record(0))
    with pytest.raises(ZeroDivisionError):
        recorder.put(record(1))
    await recorder.close()
