"""The mark of the row that is being worked on, and what a process that dies leaves of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from rowmill.engine.handling import handled
from rowmill.ports.store import AttemptKey
from rowmill.store.sent import SentFile


class Seen:
    """Which row is marked, as the work itself sees it."""

    def __init__(self) -> None:
        self.now: int | None = None

    def handle(self, position: int | None) -> None:
        self.now = position


async def test_marked_in_each_step_and_never_between() -> None:
    seen, inside, waiting = Seen(), [], []

    async def work() -> str:
        for _ in range(3):
            inside.append(seen.now)
            asyncio.get_running_loop().call_soon(lambda: waiting.append(seen.now))
            await asyncio.sleep(0)
        return "done"

    assert await handled(seen, 7, work()) == "done"
    assert (inside, waiting, seen.now) == ([7] * 3, [None] * 3, None)


async def test_errors_and_cancelling_go_both_ways() -> None:
    seen = Seen()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("row")

    async def is_cancelled() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert seen.now == 3
            return "tidied up"
        raise AssertionError

    with pytest.raises(KeyError):
        await handled(seen, 1, fails())
    task = asyncio.ensure_future(_await(handled(seen, 3, is_cancelled())))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "tidied up"
    assert seen.now is None


async def _await(work: object) -> object:
    return await work  # type: ignore[misc]


def _die_at(path: Path, position: int | None) -> None:
    """A process that opens the marks and is killed while it handles a row, or none."""
    pid = os.fork()
    if pid == 0:
        marks = SentFile(path)
        marks.begin()
        marks.handle(5)
        marks.handle(position)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_deaths_are_counted_by_row(tmp_path: Path) -> None:
    path = tmp_path / "sent.marks"
    for position in (0, 2, None, 2, 2, 2**40):
        _die_at(path, position)
    marks = SentFile(path)
    assert marks.deaths() == {0: 1, 2: 3, 2**40: 1}
    marks.close()
    again = SentFile(path)
    assert again.deaths() == marks.deaths(), "a death is counted once, whoever opens"
    again.begin()
    again.mark(0, AttemptKey("batch", 0, 1), 7.5)
    again.forget(2)
    again.handle(4)
    again.close()
    last = SentFile(path)
    assert last.deaths() == {0: 1, 2**40: 1}, "who closes in order has not died"
    assert last.was_sent(0, AttemptKey("batch", 0, 1)) is True


def test_the_moment_of_a_lost_attempt_is_kept(tmp_path: Path) -> None:
    path, lost, other = tmp_path / "sent.marks", AttemptKey("batch", 0, 1), AttemptKey("batch", 9, 1)
    first = SentFile(path)
    first.begin()
    first.mark(0, lost, 7.5)
    first.mark(3, other, 8.5)
    assert (first.sent_at(0, lost), first.sent_at(3, lost), first.sent_at(4, lost)) == (7.5, None, None)
    for _ in range(3):
        again = SentFile(path)
        again.begin([(0, lost), (5, other)])
        assert (again.sent_at(0, lost), again.sent_at(3, other), again.sent_at(5, other)) == (7.5, None, None)


def test_more_deaths_than_there_is_room_for(tmp_path: Path) -> None:
    path = tmp_path / "sent.marks"
    marks = SentFile(path)
    marks.begin()
    marks._deaths = {position: 1 + position % 3 for position in range(1000)}
    marks.forget(999)
    marks.close()
    kept = SentFile(path).deaths()
    assert len(kept) > 200
    assert set(kept.values()) == {3}


def test_deaths_on_a_copied_folder_are_forgotten(tmp_path: Path) -> None:
    _die_at(tmp_path / "sent.marks", 1)
    (tmp_path / "copy").write_bytes((tmp_path / "sent.marks").read_bytes())
    assert SentFile(tmp_path / "copy").deaths() == {}
