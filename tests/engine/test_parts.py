"""Small parts of the engine by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from rowmill.domain.pace import Kind, Pace, PaceLimits, ResponseMode, Sample
from rowmill.engine.clock import SystemClock
from rowmill.engine.intake import Intake
from rowmill.engine.lookup import same_inputs
from rowmill.engine.permits import Permits, Share
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


def test_a_slot_that_is_settled_before_its_turn_serves_once() -> None:
    """Two rows on one slot user cannot be told apart in Dify's log: that paid a row twice."""
    slots = Slots(busy={1, 3})
    first = slots.take()
    slots.give(3)
    slots.give(1)
    taken = [first, *(slots.take() for _ in range(5))]
    assert sorted(taken) == [0, 1, 2, 3, 4, 5]


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


STREAMING = ResponseMode.STREAMING


def permits(limit: int) -> Permits:
    """Of an app that is known to be there."""
    made = Permits(Pace(PaceLimits(fixed=limit)), QuickClock())
    made.pace.proven = True
    return made


def share(of: Permits, weight: float = 1.0, most: int = 100) -> Share:
    return of.join(weight, most, lambda _: None)


async def start(one: Share):
    """A row takes a place in flight, as soon as it may."""
    quit_ = asyncio.Event()
    assert await one.reserve(quit_)
    return await one.send(1, quit_, 0.0, STREAMING)


async def test_reservations_beyond_the_limit_only_for_short_runs() -> None:
    long, short, new = permits(50), permits(50), permits(50)
    long.run_time, short.run_time, new.run_time = 20.0, 0.05, 0.05
    new.pace.proven = False
    assert long.ahead == 0
    assert short.ahead > 5
    assert new.ahead == 0


async def test_places_are_given_one_by_one() -> None:
    gates = permits(2)
    one, quit_ = share(gates), asyncio.Event()
    first, _ = await start(one), await start(one)
    waiting = asyncio.create_task(one.reserve(quit_))
    await asyncio.sleep(0)
    assert not waiting.done()
    one.ended(first, Sample(Kind.OK), 0.1)
    assert await waiting
    assert await one.send(1, quit_, 0.0, STREAMING)
    assert gates.pace.in_flight == 2


async def test_patience_ends() -> None:
    gates = permits(1)
    one, quit_ = share(gates), asyncio.Event()
    gates.run_time, gates.preparation = 0.001, 1.0
    await start(one)
    assert await one.reserve(quit_)
    assert await one.send(0.5, quit_, 0.0, STREAMING) is None
    assert gates.pace.in_flight == 1


async def test_quitting_lets_reservers_go() -> None:
    one, quit_ = share(permits(1)), asyncio.Event()
    assert await one.reserve(quit_)
    waiting = asyncio.create_task(one.reserve(quit_))
    await asyncio.sleep(0)
    quit_.set()
    one.wake()
    assert await waiting is False
    assert await one.reserve(quit_) is False


async def test_one_who_has_left_is_not_woken_instead() -> None:
    """A sender whose patience ended must not swallow the wake-up that a reserver needs."""
    gates = permits(1)
    one, quit_ = share(gates), asyncio.Event()
    gates.run_time, gates.preparation = 0.001, 1.0
    first = await start(one)
    assert await one.reserve(quit_)
    assert await one.send(0.5, quit_, 0.0, STREAMING) is None
    gates.preparation = 0.0
    waiting = asyncio.create_task(one.reserve(quit_))
    await asyncio.sleep(0)
    assert not waiting.done()
    one.ended(first, Sample(Kind.OK), 6.0)
    assert await asyncio.wait_for(waiting, 5)


async def places(gates: Permits, shares: dict[str, Share], turns: int) -> dict[str, int]:
    """How many places each share has after so many were given back and taken again, when all want more than there
    are."""
    loop, taken = asyncio.get_running_loop(), {name: [] for name in shares}

    async def want(name: str) -> None:
        while True:
            taken[name].append(await start(shares[name]))

    tasks = [loop.create_task(want(name)) for name in shares for _ in range(3)]
    for _ in range(turns):
        for _ in range(6):
            await asyncio.sleep(0)
        fullest = max(taken, key=lambda name: len(taken[name]) / shares[name]._weight)
        if taken[fullest]:
            shares[fullest].ended(taken[fullest].pop(0), Sample(Kind.OK), 0.1)
    for _ in range(6):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {name: len(starts) for name, starts in taken.items()}


async def test_a_huge_batch_does_not_starve_a_small_one() -> None:
    gates = permits(2)
    gates.run_time = 20.0
    huge, small = share(gates), share(gates)
    first, _ = await start(huge), await start(huge)
    waiting = {name: asyncio.create_task(start(one)) for name, one in [("huge", huge), ("small", small)]}
    await asyncio.sleep(0)
    huge.ended(first, Sample(Kind.OK), 20.0)
    assert await asyncio.wait_for(waiting["small"], 5)
    assert not waiting["huge"].done()
    waiting["huge"].cancel()


async def test_places_go_by_weight() -> None:
    gates = permits(6)
    gates.run_time = 20.0
    shares = {"light": share(gates, 1.0), "heavy": share(gates, 2.0)}
    assert await places(gates, shares, 40) == {"light": 2, "heavy": 4}


async def test_a_batch_keeps_to_its_own_number() -> None:
    gates = permits(6)
    gates.run_time = 20.0
    shares = {"modest": share(gates, 1.0, most=1), "other": share(gates)}
    assert await places(gates, shares, 20) == {"modest": 1, "other": 5}


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
        intake.release(job)
        intake.settled()
    return jobs


async def no_record(_: object) -> bool:
    return False


async def test_rows_that_come_free_are_read_though_the_last_was_reached() -> None:
    store = Pages([5, 9], [2, 9])
    intake = Intake(store, "b", QuickClock(), None, no_record)  # type: ignore[arg-type]
    assert await all_rows(intake) == [5, 9]
    intake.look_again()
    assert await all_rows(intake) == [2, 9]
    assert store.asked == [-1, -1]


async def test_rows_that_come_free_while_others_are_read_are_not_passed_by() -> None:
    store = Pages([5, 9], [2, 9])
    intake = Intake(store, "b", QuickClock(), None, no_record)  # type: ignore[arg-type]
    store.meanwhile = [intake.look_again]
    assert await all_rows(intake) == [5, 9, 2, 9]
    assert store.asked == [-1, -1]


async def test_what_lies_behind_the_last_row_is_looked_at_once() -> None:
    store = Pages([5], [3], [4])
    intake = Intake(store, "b", QuickClock(), None, no_record)  # type: ignore[arg-type]
    assert await all_rows(intake) == [5]
    for due in (3, 4):
        intake.wait_until(0.0)
        assert await all_rows(intake) == [due]
    assert store.asked[0] == -1
    assert min(store.asked[1:]) > 10**9
