"""Family E of the fault matrix: clocks that jump, and machines that sleep."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rowmill.domain.batch import RowState
from rowmill.ports.store import Finish, Intend, Record
from tests.faults import audit
from tests.faults.audit import Tally, size
from tests.faults.house import house, make_fake
from tests.faults.world import B, Runner, World

JUMPS = [-3600.0, -7200.0, 3600.0, 86_400.0]


def _play(world: World, jumps: dict[float, float]) -> Tally:
    """One runner to its end, with the wall clock set at these moments."""

    async def story() -> None:
        runner = world.start()
        for moment, jump in sorted(jumps.items()):
            await asyncio.sleep(max(0.0, moment - world.loop.time()))
            world.clock.shift += jump
            world.faults += 1
        await asyncio.wait((runner.task,), timeout=5000)
        assert runner.task.done(), "a timer was missed"

    try:
        world.loop.run_until_complete(story())
        return world.tally()
    finally:
        world.close()


class Waits:
    """How long rows waited for their next try, and how long they were to wait, in seconds of the steady clock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._write = world.store.write
        self._since: dict[int, tuple[float, float]] = {}
        self.late: list[float] = []
        world.store.write = self.write  # type: ignore[method-assign]

    def write(self, records: Sequence[Record], fence: int) -> list[bool]:
        now = self._world.loop.time()
        for record in records:
            place = record.key.position
            if isinstance(record, Finish) and record.due_at is not None:
                self._since[place] = (now, record.due_at - self._world.clock.wall())
            elif isinstance(record, Intend) and place in self._since:
                since, planned = self._since.pop(place)
                self.late.append(now - since - planned)
        return self._write(records, fence)


@pytest.mark.parametrize("jump", JUMPS)
def test_E1_the_wall_clock_is_set(jump: float) -> None:
    """Gates and deadlines run on the other clock; a row that waits for its next try is not forgotten for an hour."""
    counted, late = Tally(), []
    for seed in range(size(20, 500)):
        world = World(seed)
        world.server.odds, world.server.slowest = {"fails_passing": 0.4, "cut": 0.3}, 5.0
        waits = Waits(world)
        chance = world.chance
        counted.add(_play(world, {chance.uniform(0.5, 20): jump, chance.uniform(20, 60): -jump / 2}))
        late += waits.late
    counted.check()
    missed = [seconds for seconds in late if seconds > 60]
    early = [seconds for seconds in late if seconds < -0.1]
    assert missed == []
    # Set forward, or back by more than the longest wait: what waits starts at once. Early, and never twice.
    assert len(early) <= 0.2 * len(late)
    counted.own = {"waits": len(late), "missed": 0, "ended early": len(early), "s late at most": round(max(late), 1)}
    audit.note("E1", f"the wall clock is set by {jump / 3600:+.0f} h", "virtual time", counted)


@pytest.mark.parametrize("kills", [0, 1, 3])
def test_E1_a_clock_set_forward_does_not_close_the_window(kills: int) -> None:
    """A queued run whose reply was lost begins minutes later; meanwhile the clock is set forward, and the process
    killed, or killed again while it looks: its run is found all the same."""
    counted = Tally()
    for seed in range(size(10, 300)):
        world = World(seed)
        world.server.odds, world.server.longest_queue = {"lost_after": 1.0}, 240.0

        async def story(world: World = world) -> None:
            runner = world.start()
            for _ in range(kills):
                await asyncio.sleep(world.chance.uniform(1, 40))
                if not runner.task.done():
                    world.kill(runner)
                    world.clock.shift += 3600
                    runner = world.start()
            await asyncio.sleep(world.chance.uniform(0.1, 10))
            world.clock.shift += 3600
            world.faults += 1
            await asyncio.wait((runner.task,), timeout=20_000)

        try:
            world.loop.run_until_complete(story())
            counted.add(world.tally())
        finally:
            world.close()
    counted.check(unknown=None)
    audit.note("E1", f"the clock is set forward while replies are looked for, {kills} kills", "virtual time", counted)


@pytest.mark.parametrize("slept", [3600.0])
def test_E2_the_machine_sleeps(slept: float) -> None:
    """All connections are dead when it wakes up, and Dify went on without us."""
    counted = Tally()
    for seed in range(size(30, 1000)):
        world = World(seed)
        world.server.odds = {"stalls": 0.1}

        async def story(world: World = world) -> Runner:
            runner = world.start()
            await asyncio.sleep(world.chance.uniform(0.1, 60))
            if not runner.task.done():
                world.faults += 1
                world.loop.freeze(runner.number)
                await asyncio.sleep(slept)
                world.server.down_until = world.loop.time() + 0.05  # whatever was open is broken
                world.loop.thaw(runner.number)
            await asyncio.wait((runner.task,), timeout=5000)
            return runner

        try:
            runner = world.loop.run_until_complete(story())
            assert runner.task.done()
            each = world.tally()
            done = sum(row.state is not RowState.PENDING for row in world.store.results(B))
            assert done == world.rows
        finally:
            world.close()
        each.check()
        counted.add(each)
    audit.note("E2", f"sleep for {slept:.0f} s", "virtual time", counted)


@pytest.mark.slow
def test_E2_a_process_is_stopped_for_a_while(tmp_path: Path) -> None:
    """SIGSTOP on the real process; what was in flight has ended when it goes on."""
    stopped = size(4, 120)
    with house(tmp_path, 120, fake=make_fake(latency_ms=200, jitter_ms=200)) as place:
        proc = place.begin()
        place.wait_for_runs(20, proc)
        proc.send(signal.SIGSTOP)
        threading.Event().wait(stopped)
        proc.send(signal.SIGCONT)
        since = time.monotonic()
        recovery = place.recovery(proc, since)
        counted = place.end(proc, tried=1)
    counted.recovery, counted.own = [recovery], {"seconds stopped": stopped}
    audit.note("E2", "SIGSTOP of the process", "processes", counted)
