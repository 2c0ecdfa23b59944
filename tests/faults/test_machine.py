"""A Hypothesis state machine over store and engine: starts, wishes, crashes, second runners and old copies in any
order, with the promises checked after every step, and the books of both sides compared at the end."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rowmill.domain.batch import BatchMove, BatchState, RowState
from rowmill.domain.errors import FencedError, IllegalMoveError, StoreError
from rowmill.engine.runner import HELD
from rowmill.ports.store import Again
from tests.faults import audit
from tests.faults.audit import Tally, size
from tests.faults.world import B, Runner, World

pytestmark = pytest.mark.slow

# How long a fault is waited for: mostly not so long that the batch is over.
SPANS = st.sampled_from([0.002, 0.02, 0.1, 0.3, 0.3, 1.0, 1.0, 3.0, 3.0, 10.0, 10.0, 40.0, 400.0])
MOSTLY = st.sampled_from([True, True, True, True, False])
tried = Tally()
exercised: Counter[str] = Counter()
"""what really happened before the end of the examples: a machine that tries nothing breaks nothing"""


class Batches(RuleBasedStateMachine):
    """One batch, and all that people and machines do to it."""

    world: World | None = None

    @initialize(seed=st.integers(0, 10**6), starts=MOSTLY, seconds=st.sampled_from([0.5, 1.0, 3.0, 10.0, 0.02]))
    def begin(self, seed: int, starts: bool, seconds: float) -> None:
        self.world = World(seed, look_every=0.5, rows=(6, 40))
        self.copy: tuple[dict[str, Any], float] | None = None
        self.asleep: list[Runner] = []
        self.was_stopped = False
        self.retried_at: dict[int, float] = {}
        self.lost_since: set[int] = set()
        """rows whose results may stand in Dify's log alone: retried by hand since a copy that was put back, or done
        while the log could not tell"""
        if starts:
            self.world.start()
            self._pass(seconds)

    # ── time, processes ─────────────────────────────────────────────────────────────────────────────────────────

    @rule(seconds=SPANS)
    def time_passes(self, seconds: float) -> None:
        self._pass(seconds)

    @precondition(lambda self: self.world.runner is None)
    @rule(seconds=SPANS)
    def start(self, seconds: float) -> None:
        """Also: restart after a crash, resume."""
        if self._state() is not BatchState.COMPLETED:
            self.world.start()
            self._pass(seconds)

    @precondition(lambda self: self.world.runner is not None)
    @rule(seconds=SPANS, again=MOSTLY)
    def crash(self, seconds: float, again: bool) -> None:
        self._pass(seconds)
        reboot = self.world.chance.random() < 0.3
        self._count("reboots" if reboot else "crashes")
        runner = self.world.runner
        if runner is not None:
            self.world.kill(runner, reboot=reboot)
            if again:
                self.world.start()

    @precondition(lambda self: self.world.runner is not None)
    @rule()
    def drain(self) -> None:
        self._count("drains")
        if self.world.runner is not None:
            self.world.runner.engine.drain()

    @precondition(lambda self: self.world.runner is not None and self._state() is not BatchState.COMPLETED)
    @rule(seconds=SPANS)
    def second_runner(self, seconds: float) -> None:
        """The first is suspended, and the second takes over."""
        self._count("second runners")
        sleeper = self.world.runner
        if sleeper is None or self._state() is BatchState.COMPLETED:
            return
        self.world.faults += 1
        self.world.loop.freeze(sleeper.number)
        self.asleep.append(sleeper)
        self.world.start()
        self._pass(seconds)

    @precondition(lambda self: self.asleep)
    @rule()
    def wake(self) -> None:
        self._count("sleepers woken")
        self.world.loop.thaw(self.asleep.pop().number)

    # ── wishes ──────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(hold=st.booleans())
    def pause(self, hold: bool) -> None:
        self._count("holds" if hold else "pauses")
        self._move(BatchMove.PAUSE, HELD if hold else "asked")

    @rule()
    def go_on(self) -> None:
        """The wish alone: whoever runs the batch obeys it."""
        if self.world.runner is not None:
            self._move(BatchMove.START, None)

    @rule()
    def stop(self) -> None:
        self._count("stops")
        self.was_stopped = True
        self._move(BatchMove.STOP, "asked")

    @rule(which=st.integers(0, 5))
    def retry(self, which: int) -> None:
        """All that failed, or one of the causes that there are."""
        causes = [None, *(cause for cause, state, _ in self.world.store.causes(B) if state.is_done)]
        cause = causes[which % len(causes)]
        before = self._states()
        with suppress(IllegalMoveError):
            self.world.store.retry(B, Again(cause), self.world.clock.wall())
        put_back = [row for row, state in self._states().items() if state is not before[row]]
        self.world.forget_final(put_back)
        exercised["rows retried by hand"] += len(put_back)
        for row in put_back:
            self.world.meant[row].append(self.world.loop.time())
            self.retried_at[row] = self.world.loop.time()

    # ── a copy of the folder ────────────────────────────────────────────────────────────────────────────────────

    @rule(seconds=SPANS)
    def back_up(self, seconds: float) -> None:
        self.copy = (_copy_of(self.world.store), self.world.loop.time())
        self._pass(seconds)

    @precondition(lambda self: self.world.runner is not None and self._state() is not BatchState.COMPLETED)
    @rule(since=SPANS, seconds=SPANS)
    def copied_and_put_back(self, since: float, seconds: float) -> None:
        self._count("copies")
        self.back_up(since)
        self.restore(seconds)

    @precondition(lambda self: self.copy is not None)
    @rule(seconds=SPANS)
    def restore(self, seconds: float) -> None:
        """An old copy takes the folder's place. What was done since then is found in Dify's log, and not paid for
        again: but for runs that wait in Dify's queue, and where the log does not answer."""
        world = self.world
        for runner in world.runners:
            if runner.alive:
                world.kill(runner)
        self.asleep.clear()
        kept, since = self.copy
        world.store.__dict__.update(_copy_of_dict(kept))
        world.marks, world.former_marks = None, None
        newer = [run for run in world.server.runs if run.asked >= since]
        exercised["old copies put back"] += 1
        exercised["… with runs since"] += bool(newer)
        now, deaf = world.loop.time(), world.server.odds.get("look_up_fails", 0.0) > 0
        for run in newer:
            if deaf or not run.begun(now):
                world.meant[run.row].append(now)
                self.lost_since.add(run.row)
        self.lost_since |= {row for row, moment in self.retried_at.items() if moment >= since}
        world.forget_final(range(world.rows))
        world.posted.clear()
        posts = len(world.server.runs)
        if self._state() is not BatchState.COMPLETED:
            world.start()
            self._pass(seconds)
            exercised["… after which nothing was sent"] += bool(newer) and len(world.server.runs) == posts

    # ── promises ────────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def promises_hold(self) -> None:
        world = self.world
        if world is None:
            return
        world.check_rows()
        counted = world.tally()
        assert counted.double == 0, "paid twice"
        for runner in world.runners:
            if runner.alive and runner.task.done() and not runner.task.cancelled():
                error = runner.task.exception()
                # Somebody else may have brought the batch to its end while this one was only about to start.
                fine = (FencedError, StoreError, IllegalMoveError)
                assert error is None or isinstance(error, fine), error

    def teardown(self) -> None:
        world = self.world
        if world is None:
            return
        try:
            exercised["examples"] += 1
            exercised["… with runs"] += bool(world.server.runs)
            exercised["runs"] += len(world.server.runs)
            self._to_the_end()
            counted = world.tally()
            counted.lost_paid -= len(self.lost_since & world.lost_paid_rows())
            counted.check(unknown=None, blind=self.was_stopped or bool(self.lost_since))
            tried.add(counted)
        finally:
            world.close()

    def _to_the_end(self) -> None:
        """No more faults, and somebody who starts it until it is over."""
        world = self.world
        world.server.odds, world.server.down_until = {}, -1.0
        for sleeper in self.asleep:
            world.loop.thaw(sleeper.number)
        for _ in range(30):
            if self._state() is BatchState.COMPLETED and world.runner is None:
                return
            runner = world.runner or world.start()
            with suppress(IllegalMoveError):
                world.store.move_batch(B, BatchMove.START)
            world.loop.run_until_complete(asyncio.wait((runner.task,), timeout=4000))
        raise AssertionError(f"it never ends: {world.store.batch(B)}")

    # ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _pass(self, seconds: float) -> None:
        self.world.loop.run_until_complete(asyncio.sleep(seconds))

    def _count(self, what: str) -> None:
        """A fault, or a wish, that strikes: mostly not before runs are under way, if they will be soon."""
        if self.world.chance.random() < 0.7:
            for _ in range(20):
                if self.world.runner is None or self._under_way():
                    break
                self._pass(0.2)
        exercised[f"{what} with runs in flight"] += self.world.runner is not None and self._under_way()

    def _under_way(self) -> bool:
        now = self.world.loop.time()
        return any(not run.ended(now) and not run.for_ever for run in self.world.server.runs)

    def _state(self) -> BatchState:
        return self.world.store.batch(B).state

    def _states(self) -> dict[int, RowState]:
        return {row.position: row.state for row in self.world.store.results(B)}

    def _move(self, move: BatchMove, reason: str | None) -> None:
        with suppress(IllegalMoveError):
            self.world.store.move_batch(B, move, reason=reason, at=self.world.clock.wall())


def _copy_of(store: Any) -> dict[str, Any]:
    return _copy_of_dict({name: value for name, value in store.__dict__.items() if name != "_lock"})


def _copy_of_dict(kept: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(kept)


# So often at least in the short form: about a third of what it did when this was written.
FLOORS = {
    "… with runs": 50,
    "runs": 300,
    "crashes with runs in flight": 7,
    "reboots with runs in flight": 3,
    "drains with runs in flight": 30,
    "second runners with runs in flight": 15,
    "sleepers woken with runs in flight": 4,
    "pauses with runs in flight": 10,
    "holds with runs in flight": 5,
    "stops with runs in flight": 10,
    "rows retried by hand": 10,
    "… with runs since": 10,
    "… after which nothing was sent": 10,
}


def test_G1_wishes_crashes_second_runners_old_copies() -> None:
    examples = size(70, 2000)
    run_state_machine_as_test(
        Batches,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
        ),
    )
    empty = {what: (exercised[what], floor) for what, floor in FLOORS.items() if exercised[what] < floor}
    assert not empty, f"(seen, floor) {empty} of {dict(exercised)}"
    tried.own = {"invariant breaks": 0, **exercised}
    audit.note("G1", "state machine: wishes, crashes, second runners, old copies", "virtual time", tried)
