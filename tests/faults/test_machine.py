"""A Hypothesis state machine over store and engine: starts, wishes, crashes, second runners and old copies in any
order, with the promises checked after every step, and the books of both sides compared at the end."""

from __future__ import annotations

import asyncio
import copy
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

SPANS = st.sampled_from([0.002, 0.02, 0.3, 3.0, 40.0, 400.0])
CAUSES = st.sampled_from([None, "reply_lost", "run_failed", "model_rate_limit", "stopped", "not_found"])
tried = Tally()


class Batches(RuleBasedStateMachine):
    """One batch, and all that people and machines do to it."""

    world: World | None = None

    @initialize(seed=st.integers(0, 10**6))
    def begin(self, seed: int) -> None:
        self.world = World(seed, look_every=0.5)
        self.copy: tuple[dict[str, Any], float] | None = None
        self.asleep: list[Runner] = []
        self.was_stopped = False

    # ── time, processes ─────────────────────────────────────────────────────────────────────────────────────────

    @rule(seconds=SPANS)
    def time_passes(self, seconds: float) -> None:
        self.world.loop.run_until_complete(asyncio.sleep(seconds))

    @precondition(lambda self: self.world.runner is None)
    @rule()
    def start(self) -> None:
        """Also: restart after a crash, resume."""
        if self._state() is not BatchState.COMPLETED:
            self.world.start()

    @precondition(lambda self: self.world.runner is not None)
    @rule(reboot=st.booleans())
    def crash(self, reboot: bool) -> None:
        self.world.kill(self.world.runner, reboot=reboot)

    @precondition(lambda self: self.world.runner is not None)
    @rule()
    def drain(self) -> None:
        self.world.runner.engine.drain()

    @precondition(lambda self: self.world.runner is not None and self._state() is not BatchState.COMPLETED)
    @rule()
    def second_runner(self) -> None:
        """The first is suspended, and the second takes over."""
        sleeper = self.world.runner
        self.world.faults += 1
        self.world.loop.freeze(sleeper.number)
        self.asleep.append(sleeper)
        self.world.start()

    @precondition(lambda self: self.asleep)
    @rule()
    def wake(self) -> None:
        self.world.loop.thaw(self.asleep.pop().number)

    # ── wishes ──────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(hold=st.booleans())
    def pause(self, hold: bool) -> None:
        self._move(BatchMove.PAUSE, HELD if hold else "asked")

    @rule()
    def go_on(self) -> None:
        """The wish alone: whoever runs the batch obeys it."""
        if self.world.runner is not None:
            self._move(BatchMove.START, None)

    @rule()
    def stop(self) -> None:
        self.was_stopped = True
        self._move(BatchMove.STOP, "asked")

    @rule(cause=CAUSES)
    def retry(self, cause: str | None) -> None:
        before = self._states()
        with suppress(IllegalMoveError):
            self.world.store.retry(B, Again(cause), self.world.clock.wall())
        put_back = [row for row, state in self._states().items() if state is not before[row]]
        self.world.forget_final(put_back)
        for row in put_back:
            self.world.meant[row] += 1

    # ── a copy of the folder ────────────────────────────────────────────────────────────────────────────────────

    @rule()
    def back_up(self) -> None:
        self.copy = (_copy_of(self.world.store), self.world.loop.time())

    @precondition(lambda self: self.copy is not None)
    @rule()
    def restore(self) -> None:
        """An old copy takes the folder's place. What was begun since then is not in it: those rows may be paid for
        once more (G5 is to ask before), and nothing else may."""
        world = self.world
        if world.runner is not None:
            world.kill(world.runner)
        for sleeper in self.asleep:
            world.kill(sleeper)
        self.asleep.clear()
        kept, since = self.copy
        world.store.__dict__.update(_copy_of_dict(kept))
        world.marks, world.former_marks = None, None
        for row in {run.row for run in world.server.runs if run.asked >= since}:
            world.meant[row] += sum(run.row == row and run.asked >= since for run in world.server.runs)
        world.forget_final(range(world.rows))
        world.posted.clear()

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
            self._to_the_end()
            counted = world.tally()
            counted.check(unknown=None, blind=self.was_stopped)
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


def test_G1_wishes_crashes_second_runners_old_copies() -> None:
    examples = size(60, 2000)
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
    tried.own = {"examples": examples, "invariant breaks": 0}
    audit.note("G1", "state machine: wishes, crashes, second runners, old copies", "virtual time", tried)
