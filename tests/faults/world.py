"""Rowmill's engine in virtual time: runners that are killed, suspended and fenced, a disk that refuses, clocks that
jump, and a Dify that does all it can; with what must hold checked at every step.

`python -m tests.faults.world SEED` plays one seed again and prints what happened.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rowmill.domain.batch import BatchMove, BatchState, RowState, RunStatus, Settings
from rowmill.domain.errors import FencedError, StoreError
from rowmill.domain.form import Field, FieldKind, Form, Mode
from rowmill.domain.mapping import Mapping
from rowmill.engine import batches as engine_batches
from rowmill.engine.batches import Engine
from rowmill.ports.dify import Recovery, RunRequest
from rowmill.ports.store import AppRecord, AttemptKey, BatchRecord, NewRow, Record
from rowmill.store.memory import MemoryStore
from tests.faults.audit import Tally
from tests.faults.loop import StuckError, VirtualClock, VirtualLoop
from tests.faults.scripted import FATES, ScriptedApp, Server, SimRun

B = "simulated"
FORM = Form((Field("query", FieldKind.NUMBER, required=True),))
FULL = Recovery(by_run_id=True, by_user=True, from_start=True)
LOST_WINDOW = 300.0
# Looks at wishes: nobody wishes anything in a seed's story, and thousands of looks would be most of its steps.
LOOK_EVERY = 20.0
# Restarts before a batch counts as one that never ends.
MOST_RUNNERS = 200
FINAL = frozenset({RowState.SUCCEEDED, RowState.PARTIAL, RowState.FAILED, RowState.STOPPED})


class BrokenPromiseError(AssertionError):
    """One of the invariants does not hold."""


@dataclass
class Marks:
    """What a runner marked as sent: a file that survives its process, as rowmill.store.sent keeps it."""

    world: World
    runner: Runner
    former: dict[int, tuple[AttemptKey, float]] | None = None
    own: dict[int, tuple[AttemptKey, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        world = self.world
        if world.marks is not None:
            world.former_marks, world.marks = world.marks.own, None
        self.former = world.former_marks

    def begin(self, kept: Iterable[tuple[int, AttemptKey]] = ()) -> None:
        self.runner.must_live()
        self.own = {slot: (self.former or {})[slot] for slot, key in kept if self.was_sent(slot, key)}
        self.world.marks, self.world.former_marks = self, {}

    def mark(self, slot: int, key: AttemptKey, at: float) -> None:
        self.runner.must_live()
        self.own[slot] = (key, at)
        if self.world.marks is not self:
            raise FencedError("fenced", fence=None, newest=None)

    def was_sent(self, slot: int, key: AttemptKey) -> bool | None:
        return None if self.former is None else self.former.get(slot, (None, 0.0))[0] == key

    def sent_at(self, slot: int, key: AttemptKey) -> float | None:
        marked, at = self.own.get(slot, (None, 0.0))
        return at if marked == key else None

    def handle(self, position: int | None) -> None:
        """Processes are killed between two steps here: no row is to blame (test_process.py, A7)."""

    def deaths(self) -> dict[int, int]:
        return {}

    def forget(self, position: int) -> None:
        """There is nothing to forget."""

    def close(self) -> None:
        """Nothing to let go of."""


class DiskOf:
    """The store as one process sees it: it refuses a process that is dead, and everybody while the disk is broken."""

    def __init__(self, world: World, runner: Runner) -> None:
        self._world = world
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        self._runner.must_live()
        return getattr(self._world.store, name)

    def close_batch(self, *args: Any, **how: Any) -> Any:
        """What the store does not do yet (test_simulation.py, test_a_runner_that_was_fenced_closes_nothing): without
        this most stories with a suspended process would end there."""
        self._runner.must_live()
        if self._world.closing_is_fenced and self._runner is not self._world.runners[-1]:
            raise FencedError("fenced", fence=self._runner.fence, newest=self._world.runners[-1].fence)
        return self._world.store.close_batch(*args, **how)

    def write(self, records: Sequence[Record], fence: int) -> list[bool]:
        self._runner.must_live()
        world = self._world
        refused = world.disk_refuses()
        if refused == "store_full":
            raise StoreError("store_full", path="disk")
        answers = world.store.write(records, fence)
        world.check_write(self._runner, fence, records)
        if refused is not None:
            # It landed, and the disk said that it did not.
            raise StoreError(refused, path="disk")
        return answers


class Runner:
    """One process that runs the batch."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.alive = True
        self.fence = world.store.take_over(f"process {number}")
        self.disk = DiskOf(world, self)
        self.engine = Engine(self.disk, self._open_marks, self.fence, world.clock)  # type: ignore[arg-type]
        app = ScriptedApp(world.server, world.clock, self._arrived)
        batch = world.store.batch(B)
        assert batch is not None
        running = self.engine.run(batch, app, FULL, lambda _: None)
        self.task: asyncio.Task[Any] = world.loop.start_process(number, running)

    def _open_marks(self, _: str) -> Marks:
        return Marks(self.world, self)

    def _arrived(self, request: RunRequest) -> None:
        self.must_live()
        self.world.check_request(self, request)

    def must_live(self) -> None:
        if not self.alive:
            raise FencedError("fenced", fence=self.fence, newest=None)


class World:
    """One batch, its Dify, its disk, and the processes that came and went. Seeded."""

    def __init__(self, seed: int, *, look_every: float = LOOK_EVERY, rows: tuple[int, int] = (1, 24)) -> None:
        engine_batches.LOOK_EVERY = look_every
        self.loop = VirtualLoop(seed)
        self.chance = chance = self.loop.chance
        self.clock = VirtualClock(self.loop)
        odds = {fate: chance.choice([0.0, 0.0, most / 3, most]) for fate, most in FATES.items()}
        self.server = Server(
            self.loop, chance, odds, chance.choice([2.0, 20.0, 120.0]), chance.choice([1.0, 60.0, 240.0])
        )
        self.store = MemoryStore()
        self.rows = chance.randint(*rows)
        self.marks: Marks | None = None
        self.former_marks: dict[int, tuple[AttemptKey, float]] | None = None
        self.runners: list[Runner] = []
        self.closing_is_fenced = True
        self.on_write: Callable[[], None] | None = None
        self.disk_broken_until = -1.0
        self.landed = 0.0
        self.trace: list[tuple[Any, ...]] = []
        self.faults = 0
        self.stale_writes = 0
        self.meant: dict[int, list[float]] = defaultdict(list)
        """when a row was to be run, and paid for, once more: with all that it then needs"""
        self.recovery: list[float] = []
        self.posted: set[tuple[int, str]] = set()
        """(row, user) of requests whose bytes left"""
        self._final: dict[int, tuple[Any, ...]] = {}
        self._fill()

    def _fill(self) -> None:
        chance = self.chance
        app = self.store.save_app(AppRecord("app", "http://dify", "sim", Mode.WORKFLOW, "1.14.2", b"", ""))
        settings = Settings(
            concurrency=chance.randint(1, 6), retries=chance.randint(0, 2), row_timeout=600.0, lost_window=LOST_WINDOW
        )
        draft = BatchState.DRAFT
        self.store.add_batch(BatchRecord(B, app, FORM, Mapping(()), settings, draft, "s", "s", "d", ("query",), 0.0))
        self.store.add_rows(B, [NewRow(i, i + 2, (i,), {"query": i}) for i in range(self.rows)])
        self.store.move_batch(B, BatchMove.CHECKED)

    def say(self, *what: Any) -> None:
        self.trace.append((round(self.loop.time(), 4), *what))

    # ── processes ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def runner(self) -> Runner | None:
        """The newest one, while it runs."""
        newest = self.runners[-1] if self.runners else None
        return newest if newest is not None and newest.alive and not newest.task.done() else None

    def start(self) -> Runner:
        """A new process takes the batch over."""
        if len(self.runners) >= MOST_RUNNERS:
            raise BrokenPromiseError("the batch never ends")
        self.say("start", len(self.runners) + 1)
        self.runners.append(Runner(self, len(self.runners) + 1))
        return self.runners[-1]

    def kill(self, runner: Runner, *, reboot: bool = False) -> None:
        """kill -9: not one more step. After a reboot its marks prove nothing."""
        self.say("reboot" if reboot else "kill", runner.number)
        self.faults += 1
        runner.alive = False
        self.loop.freeze(runner.number)
        if reboot:
            self.marks, self.former_marks = None, None

    def disk_refuses(self) -> str | None:
        if self.loop.time() >= self.disk_broken_until:
            return None
        return "store_io" if self.chance.random() < self.landed else "store_full"

    async def bury(self) -> None:
        """Let all that is left of dead processes unwind; whatever they still try is refused."""
        for runner in self.runners:
            runner.alive = False
            self.loop.thaw(runner.number)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────

    def check_request(self, runner: Runner, request: RunRequest) -> None:
        """Bytes leave: there is a committed intent for them, and nobody else's run can be taken for this one's."""
        row = int(request.inputs["query"])
        self.say("post", runner.number, row, request.user)
        open_ = self.store.open_attempts(B)
        if not any(a.job.position == row and a.user == request.user and a.run_id is None for a in open_):
            raise BrokenPromiseError(f"row {row} was sent without a committed intent")
        others = [a.job.position for a in open_ if a.user == request.user and a.job.position != row]
        if any((other, request.user) in self.posted for other in others):
            raise BrokenPromiseError(f"{request.user} has attempts that are not settled: {row} and {others}")
        self.posted.add((row, request.user))

    def check_write(self, runner: Runner, fence: int, records: Sequence[Record]) -> None:
        self.say("write", runner.number, *[f"{type(r).__name__} {r.key.position}.{r.key.number}" for r in records])
        if runner is not self.runners[-1] or fence != runner.fence:
            raise BrokenPromiseError("a runner that was fenced has written")
        self.check_rows()
        if self.on_write is not None:
            self.on_write()

    def check_rows(self) -> None:
        rows = list(self.store.results(B))
        if sum(self.store.counts(B).by_state.values()) != self.rows or len(rows) != self.rows:
            raise BrokenPromiseError("the states do not add up")
        for row in rows:
            seen = (row.state, row.outputs, row.run_id)
            if self._final.get(row.position, seen) != seen:
                raise BrokenPromiseError(f"row {row.position} was done: {self._final[row.position]}, now {seen}")
            if row.state in FINAL:
                self._final[row.position] = seen

    def forget_final(self, rows: Sequence[int]) -> None:
        """A person asked for these to be run again."""
        for row in rows:
            self._final.pop(row, None)

    def tally(self) -> Tally:
        """The four zeros, from both sides' books."""
        rows = {row.position: row for row in self.store.results(B)}
        counted = Tally(tried=self.faults, rows=self.rows, recovery=self.recovery)
        counted.lost = sum(not row.state.is_done for row in rows.values())
        counted.unknown = sum(row.state is RowState.UNKNOWN for row in rows.values())
        by_row: dict[int, list[SimRun]] = defaultdict(list)
        for run in self.server.runs:
            by_row[run.row].append(run)
        for place, runs in by_row.items():
            counted.double += self._doubles(runs, self.meant[place])
            paid = [run for run in runs if run.status is RunStatus.SUCCEEDED and not run.for_ever]
            if rows[place].state is RowState.UNKNOWN:
                counted.paid_unknown += any(self._could_be_found(run) for run in paid)
        counted.lost_paid = len(self.lost_paid_rows())
        return counted

    def lost_paid_rows(self) -> set[int]:
        """Rows with a run that succeeded and stands in no result; unknown ones are not among them."""
        rows = {row.position: row for row in self.store.results(B)}
        paid = [run for run in self.server.runs if run.status is RunStatus.SUCCEEDED and not run.for_ever]
        ids = {place: {run.run_id for run in paid if run.row == place} for place in {run.row for run in paid}}
        settled = {place: row for place, row in rows.items() if row.state is not RowState.UNKNOWN and place in ids}
        return {
            place
            for place, row in settled.items()
            if row.state is not RowState.SUCCEEDED or row.run_id not in ids[place]
        }

    @staticmethod
    def _doubles(runs: list[SimRun], meant: list[float]) -> int:
        """Runs that were begun although an earlier one had not failed, since the row was last meant to run. What left
        before a person decided, and arrived after it, is the attempt that the person decided about."""
        count = 0
        for since, until in itertools.pairwise([-1.0, *sorted(meant), math.inf]):
            own = [run for run in runs if since < run.left <= until]
            count += sum(
                any(r.status is not RunStatus.FAILED or r.for_ever for r in own[:i]) for i in range(1, len(own))
            )
        return count

    def _could_be_found(self, run: SimRun) -> bool:
        """It began soon enough after its request."""
        return run.begins - run.left < LOST_WINDOW - 1

    def close(self) -> None:
        self.loop.most_steps = self.loop.steps + 1_000_000
        with suppress(StuckError):
            self.loop.run_until_complete(self.bury())
        self.loop.close()


# ── a seed's own story ──────────────────────────────────────────────────────────────────────────────────────────────


async def _supervise(world: World) -> None:
    """Somebody starts the next process whenever there is none, until the batch is over."""
    while True:
        runner = world.runner or world.start()
        while runner.alive and not runner.task.done() and runner is world.runners[-1]:
            await asyncio.wait((runner.task,), timeout=1.0)
        if runner.task.done():
            _raise_promises(runner.task)
        batch = world.store.batch(B)
        if batch is not None and batch.state is BatchState.COMPLETED and world.runner is None:
            return
        if world.runner is None:
            await asyncio.sleep(world.chance.uniform(0, 5))


def _raise_promises(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, FencedError | StoreError):
        raise error


async def _suspend(world: World) -> None:
    """SIGSTOP; another process takes over meanwhile, or does not; then it wakes up."""
    runner = world.runner
    if runner is None:
        return
    world.say("suspend", runner.number)
    world.loop.freeze(runner.number)
    if world.chance.random() < 0.7:
        world.start()
    await asyncio.sleep(world.chance.choice([0.5, 30.0, 3600.0]))
    if runner.alive:
        world.say("wake", runner.number)
        world.loop.thaw(runner.number)


async def _strike(world: World, deed: str) -> None:
    chance, runner = world.chance, world.runner
    world.say(deed)
    world.faults += 1
    match deed:
        case "kill" | "reboot" if runner is not None:
            world.kill(runner, reboot=deed == "reboot")
        case "drain" if runner is not None:
            runner.engine.drain()
        case "abandon" if runner is not None:
            runner.engine.abandon()
        case "suspend":
            await _suspend(world)
        case "disk":
            world.disk_broken_until = world.loop.time() + chance.uniform(0, 60)
        case "down":
            world.server.down_until = world.loop.time() + chance.uniform(0, 120)
        case "clock":
            world.clock.shift += chance.choice([-3600.0, -40.0, 5.0, 3600.0])


DEEDS = ("kill", "kill", "kill", "reboot", "drain", "abandon", "suspend", "disk", "down", "clock")


async def _chaos(world: World) -> None:
    chance = world.chance
    deeds = chance.sample(DEEDS, chance.randint(1, len(DEEDS)))
    for _ in range(chance.randint(0, 12)):
        await asyncio.sleep(chance.choice([0.01, 0.3, 3.0, 60.0]) * chance.random())
        await _strike(world, chance.choice(deeds))


async def _story(world: World) -> None:
    chaos = world.loop.create_task(_chaos(world))
    supervising = world.loop.create_task(_supervise(world))
    await asyncio.wait((supervising,))
    chaos.cancel()
    await asyncio.wait((chaos,))
    supervising.result()
    with suppress(asyncio.CancelledError):
        chaos.result()


def play(seed: int) -> tuple[World, Tally]:
    """One seed to its end. Raises BrokenPromiseError, with how to play it again."""
    world = World(seed)
    try:
        world.loop.run_until_complete(_story(world))
        counted = world.tally()
        counted.check(unknown=None)
    except (AssertionError, StuckError) as error:
        raise BrokenPromiseError(f"{error}\nplay it again: python -m tests.faults.world {seed}") from error
    finally:
        world.close()
    return world, counted


def main(seed: int) -> None:
    world = World(seed)
    try:
        world.loop.run_until_complete(_story(world))
        counted = world.tally()
    finally:
        for line in world.trace:
            print(*line)
        for run in world.server.runs:
            print(run)
        for row in world.store.results(B):
            print(row.position, row.state.value, row.cause, row.run_id)
        world.close()
    print(counted)
    counted.check(unknown=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
