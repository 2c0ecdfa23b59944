"""An event loop without a clock and without the world: time jumps to the next timer, whatever is ready runs in an order
that a seed decides, and "processes" inside it can be frozen and killed between any two steps.

The same seed gives the same run, to the last step: nothing in it depends on addresses, hashes or threads. What would
run in a thread (commits) runs in the loop, some milliseconds of its time later.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from asyncio import events
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any

# To which process the running step belongs; 0 is the world around them.
PROCESS: ContextVar[int] = ContextVar("process", default=0)
COMMIT_TIME = 0.01


class StuckError(Exception):
    """Nothing will ever happen again, and somebody still waits; or somebody runs in circles."""


class CountedTask(asyncio.Task):
    """Tasks stand in sets, whose order must not depend on addresses."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, **how: Any) -> None:
        self._number = next(CountedTask._numbers)
        super().__init__(*args, **how)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        CountedTask._numbers = itertools.count()
        self.chance = random.Random(seed)
        self._now = 0.0
        self._frozen: dict[int, list[events.Handle]] = {}
        self.steps, self.most_steps = 0, 500_000
        self.set_task_factory(lambda loop, coro, **how: CountedTask(coro, loop=loop, **how))
        self.set_exception_handler(lambda *_: None)

    def time(self) -> float:
        return self._now

    # ── processes ───────────────────────────────────────────────────────────────────────────────────────────────

    def start_process(self, number: int, main: Any) -> asyncio.Task[Any]:
        """Run a coroutine as a process of its own: all that it starts belongs to it."""
        context = copy_context()
        context.run(PROCESS.set, number)
        return self.create_task(main, context=context)

    def freeze(self, process: int) -> None:
        """SIGSTOP: none of its steps is done until `thaw`. A killed process stays so for ever."""
        self._frozen.setdefault(process, [])

    def thaw(self, process: int) -> None:
        """SIGCONT: whatever became due meanwhile is due now."""
        self._ready.extend(self._frozen.pop(process, []))

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _run_once(self) -> None:
        self._take_due()
        while not self._ready:
            self._jump()
            self._take_due()
        handle = self._pick()
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS, 0)
        if process in self._frozen:
            self._frozen[process].append(handle)
            return
        self.steps += 1
        if self.steps > self.most_steps:
            raise StuckError(f"at {self._now:.1f} s after {self.steps} steps: somebody runs in circles")
        handle._run()

    def _pick(self) -> events.Handle:
        place = self.chance.randrange(len(self._ready))
        self._ready[place], self._ready[-1] = self._ready[-1], self._ready[place]
        return self._ready.pop()

    def _take_due(self) -> None:
        while self._scheduled and (self._scheduled[0]._cancelled or self._scheduled[0]._when <= self._now):
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1
            else:
                self._ready.append(handle)

    def _jump(self) -> None:
        if not self._scheduled:
            raise StuckError(f"at {self._now:.1f} s nobody will ever wake anybody")
        self._now = max(self._now, self._scheduled[0]._when)

    def _write_to_self(self) -> None:
        """Nobody waits in a system call."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """As a thread would: later, and its answer later still. A process that is killed in between has done it, and
        never learns of it."""
        future: asyncio.Future[Any] = self.create_future()
        self.call_later(self.chance.uniform(0, COMMIT_TIME), self._do, future, func, args)
        return future

    def _do(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            answer, error = func(*args), None
        except Exception as failed:  # noqa: BLE001 -- it belongs to whoever waits for it
            answer, error = None, failed
        self.call_later(self.chance.uniform(0, COMMIT_TIME), self._tell, future, answer, error)

    @staticmethod
    def _tell(future: asyncio.Future[Any], answer: Any, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)


class VirtualClock:
    """The Clock port on a VirtualLoop. `shift`: how far the wall clock was set."""

    def __init__(self, loop: VirtualLoop, start: float = 1_800_000_000.0) -> None:
        self._loop = loop
        self._start = start
        self.shift = 0.0

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return self._start + self._loop.time() + self.shift

    def chance(self) -> float:
        return self._loop.chance.random()

    def call_later(self, seconds: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        return self._loop.call_later(max(0.0, seconds), call)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    async def sleep_or(self, seconds: float, sign: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(sign.wait(), max(0.0, seconds))
