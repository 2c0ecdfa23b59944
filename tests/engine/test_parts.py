"""Small parts of the engine by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from rowmill.domain.pace import FixedPace
from rowmill.engine.clock import SystemClock
from rowmill.engine.intake import Intake
from rowmill.engine.permits import Permits
from rowmill.engine.reconcile import same_inputs
from rowmill.engine.runner import Slots
from rowmill.ports.store import RowJob
from rowmill.testing.clock import QuickClock

SAME = [
    ({"a": "x", "n": 3}, {"a": "x", "n": 3, "sys.user_id": "u"}, True),
    ({"n": 3}, {"n": 3.0}, True),
    ({"n": "12345678901234567890"}, {"n": 12345678901234567890}, True),
    ({"a": "x"}, {"a": "y"}, False),
    ({"n": 3}, {"n": "three"}, False),
    ({"a": "x"}, {}, True),
    ({"f": {"url": "u"}}, {"f": {"filename": "other"}}, True),
    ({"b": True}, {"b": False}, False),
    ({"n": 1}, {"n": None}, False),
]


@pytest.mark.parametrize(("sent", "seen", "same"), SAME)
def test_same_inputs(sent: dict, seen: dict, same: bool) -> None:
    assert same_inputs(sent, seen) is same


def test_slots_leave_busy_ones_out() -> None:
    slots = Slots(busy={0, 2})
    assert [slots.take(), slots.take()] == [1, 3]
    slots.give(1)
    assert [slots.take(), slots.take()] == [1, 4]


async def test_system_clock() -> None:
    clock = SystemClock()
    sign, rung = asyncio.Event(), asyncio.Event()
    assert 0 <= clock.chance() < 1
    assert clock.wall() > 1.7e9
    start = clock.monotonic()
    await clock.sleep(-5)
    clock.call_later(0, rung.set)
    await rung.wait()
    await clock.sleep_or(0.001, sign)
    sign.set()
    await clock.sleep_or(100, sign)
    assert clock.monotonic() - start < 50


def permits(limit: int, *, proven: bool = True) -> Permits:
    pace = FixedPace(limit)
    pace.proven = proven
    return Permits(pace, QuickClock(), lambda _: None)


async def test_reservations_beyond_the_limit_only_for_short_runs() -> None:
    long, short = permits(50), permits(50)
    long.run_time, short.run_time = 20.0, 0.05
    assert long.ahead == 0
    assert short.ahead > 5
    assert permits(50, proven=False).ahead == 0


async def test_places_are_given_one_by_one() -> None:
    gates = permits(2)
    quit_ = asyncio.Event()
    for _ in range(2):
        assert await gates.reserve(quit_)
        assert await gates.send(1, quit_, 0.0)
    waiting = asyncio.create_task(gates.reserve(quit_))
    await asyncio.sleep(0)
    assert not waiting.done()
    gates.release(0.1)
    assert await waiting
    assert await gates.send(1, quit_, 0.0)
    assert gates.in_flight == 2


async def test_patience_ends() -> None:
    gates = permits(1)
    quit_ = asyncio.Event()
    gates.run_time, gates.preparation = 0.001, 1.0
    assert await gates.reserve(quit_)
    assert await gates.send(1, quit_, 0.0)
    assert await gates.reserve(quit_)
    assert await gates.send(0.5, quit_, 0.0) is False
    assert gates.in_flight == 1


async def test_quitting_lets_reservers_go() -> None:
    gates = permits(1)
    quit_ = asyncio.Event()
    assert await gates.reserve(quit_)
    waiting = asyncio.create_task(gates.reserve(quit_))
    await asyncio.sleep(0)
    quit_.set()
    gates.wake()
    assert await waiting is False
    assert await gates.reserve(quit_) is False


async def test_one_who_has_left_is_not_woken_instead() -> None:
    """A sender whose patience ended must not swallow the wake-up that a reserver needs."""
    gates = permits(1)
    quit_ = asyncio.Event()
    gates.run_time, gates.preparation = 0.001, 1.0
    assert await gates.reserve(quit_)
    assert await gates.send(1, quit_, 1.0)
    assert await gates.reserve(quit_)
    assert await gates.send(0.5, quit_, 0.0) is False
    gates.preparation = 0.0
    waiting = asyncio.create_task(gates.reserve(quit_))
    await asyncio.sleep(0)
    assert not waiting.done()
    gates.release(6.0)
    assert await asyncio.wait_for(waiting, 5)


class Pages:
    """A store that has these rows to start, one list for each reading; `meanwhile` happens while it is read."""

    def __init__(self, *pages: list[int]) -> None:
        self.pages = list(pages)
        self.asked: list[int] = []
        self.meanwhile: list[Callable[[], None]] = []

    def startable(self, batch_id: str, now: float, after: int, limit: int, until: int | None) -> list[RowJob]:
        self.asked.append(after)
        if self.meanwhile:
            self.meanwhile.pop()()
        return [RowJob(position, {}) for position in self.pages.pop(0)] if self.pages else []

    def next_due(self, batch_id: str, until: int | None) -> None:
        return None


async def all_rows(intake: Intake) -> list[int]:
    jobs = []
    while (job := await intake.next()) is not None:
        jobs.append(job.position)
        intake.settled()
    return jobs


async def test_rows_that_come_free_are_read_though_the_last_was_reached() -> None:
    store = Pages([5, 9], [2, 9])
    intake = Intake(store, "b", QuickClock())  # type: ignore[arg-type]
    assert await all_rows(intake) == [5, 9]
    intake.renew()
    assert await all_rows(intake) == [2, 9]
    assert store.asked == [-1, -1]


async def test_rows_that_come_free_while_others_are_read_are_not_passed_by() -> None:
    store = Pages([5, 9], [2, 9])
    intake = Intake(store, "b", QuickClock())  # type: ignore[arg-type]
    store.meanwhile = [intake.renew]
    assert await all_rows(intake) == [5, 9, 2, 9]
    assert store.asked == [-1, -1]


async def test_what_lies_behind_the_last_row_is_looked_at_once() -> None:
    store = Pages([5], [3], [4])
    intake = Intake(store, "b", QuickClock())  # type: ignore[arg-type]
    assert await all_rows(intake) == [5]
    for due in (3, 4):
        intake.wait_until(0.0)
        assert await all_rows(intake) == [due]
    assert store.asked[0] == -1
    assert min(store.asked[1:]) > 10**9
