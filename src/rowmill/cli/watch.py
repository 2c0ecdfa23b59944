"""Running a batch under the eyes of a person: a live bar, plain messages, and Ctrl-C that loses nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column

from rowmill.domain.batch import RowState
from rowmill.domain.errors import RowmillError
from rowmill.domain.progress import Counts, Speed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from rowmill.cli.session import Session
    from rowmill.domain.batch import BatchState
    from rowmill.domain.events import Event
    from rowmill.engine.batches import Engine
    from rowmill.engine.runner import Ending
    from rowmill.ports.store import BatchRecord
    from rowmill.texts import Speech
    from rowmill.workbench import Workbench

LOOK_EVERY = 0.25
# Counting a million rows takes a while: of a second at most this part is spent on it.
LOOKING_SHARE = 0.1
# Without a terminal the bar would be thousands of lines: one now and then, and at each quarter.
SAY_EVERY = 10.0
LOOK_FOR_LINES_EVERY = 1.0
QUARTERS = 4
# Of the terminal's width: spinner, bar and the gaps between.
BAR_WIDTH = 30
BESIDE_LINE = 5
NARROWEST_BAR = 5
TERM_PATIENCE = 8.0

_SHOWN_STATES = (
    RowState.SUCCEEDED,
    RowState.PARTIAL,
    RowState.FAILED,
    RowState.STOPPED,
    RowState.UNKNOWN,
    RowState.WAITING,
    RowState.RUNNING,
)

# The first row of each is news.
_ENDS = (RowState.PARTIAL, RowState.FAILED, RowState.STOPPED, RowState.UNKNOWN)


@dataclass(slots=True)
class Watched:
    """How a watched run ended."""

    state: BatchState
    ending: Ending
    counts: Counts
    seconds: float
    interrupted: bool


@dataclass(slots=True)
class _Signals:
    """First Ctrl-C: no new rows, wait for those that run. Second: leave at once. SIGTERM: the first, with a limit."""

    session: Session
    engine: Engine
    count: int = 0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def __call__(self, number: int) -> None:
        self.count += 1
        if self.count == 1:
            self.session.tell("draining")
            self.engine.drain()
            if number == signal.SIGTERM:
                self.timers.append(asyncio.get_running_loop().call_later(TERM_PATIENCE, self.engine.abandon))
        else:
            self.engine.abandon()


@contextmanager
def _listening(signals: _Signals) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, signals, number)
    try:
        yield
    finally:
        for number in numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
        for timer in signals.timers:
            timer.cancel()


async def watch(
    session: Session,
    workbench: Workbench,
    engine: Engine,
    batch: BatchRecord,
    *,
    api_key: str | None,
    until: int | None = None,
) -> Watched:
    """Run a batch and show how it goes."""
    signals = _Signals(session, engine)
    start = asyncio.get_running_loop().time()
    with _listening(signals):
        running = workbench.batches.run(engine, batch, _teller(session), api_key=api_key, until=until)
        state, ending = await _shown(session, workbench, batch, running)
    return Watched(
        state,
        ending,
        await asyncio.to_thread(workbench.batches.counts, batch.id),
        asyncio.get_running_loop().time() - start,
        signals.count > 0,
    )


async def watch_many(session: Session, workbench: Workbench, engine: Engine, batches: Sequence[BatchRecord]) -> bool:
    """Run several batches at once, with one line for each; True if somebody interrupted."""
    signals = _Signals(session, engine)
    with _listening(signals):
        runs = [workbench.batches.run(engine, batch, _teller(session)) for batch in batches]
        viewing = asyncio.create_task(_many_lines(session, workbench, batches))
        try:
            ended = await asyncio.gather(*runs, return_exceptions=True)
        finally:
            viewing.cancel()
            await asyncio.gather(viewing, return_exceptions=True)
    for error in ended:
        if isinstance(error, RowmillError):
            session.fail(error)  # the others have run all the same
        elif isinstance(error, BaseException):
            raise error
    return signals.count > 0


async def _many_lines(session: Session, workbench: Workbench, batches: Sequence[BatchRecord]) -> None:
    if session.json or not session.side.is_terminal:
        for batch in batches:
            session.tell("batch_started", batch=batch.id)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[line]}", markup=False),
    )
    with Progress(*columns, console=session.side, refresh_per_second=8) as progress:
        tasks = {batch.id: (progress.add_task(batch.id, line="", total=None), Speed()) for batch in batches}
        before: dict[str, int | None] = dict.fromkeys(tasks)
        while True:
            start = asyncio.get_running_loop().time()
            for batch_id, (task, speed) in tasks.items():
                counts = await asyncio.to_thread(workbench.batches.counts, batch_id)
                _note(speed, counts, before[batch_id])
                before[batch_id] = counts.done
                _draw(session, counts, speed, progress, task)
            await _rest(LOOK_EVERY, start)


async def _rest(seconds: float, start: float) -> None:
    """Before the next look; `start`: the loop's time when this one began."""
    took = asyncio.get_running_loop().time() - start
    await asyncio.sleep(max(seconds, took / LOOKING_SHARE))


def _teller(session: Session) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        params: dict[str, Any] = dict(event.params)
        if "position" in params:
            params["nth"] = int(params["position"]) + 1
        if "cause" in params:
            params["cause"] = reason_text(session, str(params["cause"]))
        session.tell(f"event.{event.fact.value}", **params)

    return tell


def reason_text(session: Session, reason: str) -> str:
    """Why a batch stands still: a cause of failure, or something that is no failure."""
    cause = f"cause.{reason}"
    return session.say(cause) if session.say.knows(cause) else session.say(f"pause_reason.{reason}")


async def _shown(
    session: Session,
    workbench: Workbench,
    batch: BatchRecord,
    running: Awaitable[tuple[BatchState, Ending]],
) -> tuple[BatchState, Ending]:
    view = _bar if session.side.is_terminal and not session.json else _lines
    viewing = asyncio.create_task(view(session, workbench, batch))
    try:
        return await running
    finally:
        viewing.cancel()
        await asyncio.gather(viewing, return_exceptions=True)


async def _bar(session: Session, workbench: Workbench, batch: BatchRecord) -> None:
    bar = BarColumn(bar_width=BAR_WIDTH)
    # One line whatever its length: a line that wraps would be drawn again and again.
    line = TextColumn("{task.fields[line]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (SpinnerColumn(), bar, line)
    with Progress(*columns, console=session.side, transient=False, refresh_per_second=8) as progress:
        task = progress.add_task("", line="", total=None)
        speed = Speed()
        try:
            while True:
                start = asyncio.get_running_loop().time()
                await _step(session, workbench, batch, speed, progress, task)
                await _rest(LOOK_EVERY, start)
        finally:
            with suppress(Exception):
                _draw(session, workbench.batches.counts(batch.id), speed, progress, task)


async def _step(
    session: Session, workbench: Workbench, batch: BatchRecord, speed: Speed, progress: Progress, task: TaskID
) -> None:
    counts = await asyncio.to_thread(workbench.batches.counts, batch.id)
    _note(speed, counts, progress.tasks[0].completed if progress.tasks[0].total else None)
    _draw(session, counts, speed, progress, task)


def _note(speed: Speed, counts: Counts, before: float | None) -> None:
    speed.note(asyncio.get_running_loop().time(), 0 if before is None else max(0, counts.done - int(before)))


def _draw(session: Session, counts: Counts, speed: Speed, progress: Progress, task: TaskID) -> None:
    width = session.side.width
    done = cell_len(f"{counts.done:,}/{counts.total:,}")
    bar_width = max(NARROWEST_BAR, min(BAR_WIDTH, width - BESIDE_LINE - done))
    for column in progress.columns:
        if isinstance(column, BarColumn):
            column.bar_width = bar_width
    line = progress_line(session, counts, speed, width=width - bar_width - BESIDE_LINE)
    progress.update(task, total=counts.total, completed=counts.done, line=line)


def progress_line(session: Session, counts: Counts, speed: Speed, *, width: int | None = None) -> str:
    """`120/300 · 118 succeeded · 2 failed · 3.1 rows/s · ETA 50–70 s · 41,200 tokens`. Where `width` is too small for
    all of it, the tokens go first, then the time that is left, the speed, and at last the states."""
    now = asyncio.get_running_loop().time()
    states = [(counts.of(state), session.say(f"state.{state.value}")) for state in _SHOWN_STATES]
    parts = [f"{counts.done:,}/{counts.total:,}", *(f"{count:,} {name}" for count, name in states if count)]
    parts.append(session.say("progress.rate", rate=f"{speed.rate(now):.1f}"))
    eta = speed.eta(now, counts.total - counts.done)
    if eta is not None and counts.total > counts.done:
        soonest, latest = (duration(session.say, seconds) for seconds in eta)
        code = "progress.eta" if soonest != latest else "progress.eta_one"
        parts.append(session.say(code, soonest=soonest, latest=latest))
    if counts.tokens:
        parts.append(session.say("progress.tokens", tokens=f"{counts.tokens:,}"))
    while width is not None and len(parts) > 1 and cell_len(" · ".join(parts)) > width:
        parts.pop()
    return " · ".join(parts)


def duration(say: Speech, seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:  # noqa: PLR2004
        return say("duration.seconds", seconds=round(seconds))
    if minutes < 90:  # noqa: PLR2004
        return say("duration.minutes", minutes=minutes)
    return say("duration.hours", hours=minutes // 60, minutes=minutes % 60)


async def _lines(session: Session, workbench: Workbench, batch: BatchRecord) -> None:
    """For logs and pipes: one line now and then. Programs get none."""
    if session.json:
        return
    speed, before, told = Speed(), None, None
    silent = 0.0
    while True:
        start = asyncio.get_running_loop().time()
        counts = await asyncio.to_thread(workbench.batches.counts, batch.id)
        _note(speed, counts, before)
        before = counts.done
        news = (_quarter(counts), [state for state in _ENDS if counts.of(state)])
        if news != told or silent >= SAY_EVERY:
            session.side.print(progress_line(session, counts, speed), markup=False)
            told, silent = news, 0.0
        await _rest(LOOK_FOR_LINES_EVERY, start)
        silent += asyncio.get_running_loop().time() - start


def _quarter(counts: Counts) -> int:
    return counts.done * QUARTERS // counts.total if counts.total else 0


def run_loop(main: Awaitable[Any]) -> Any:
    """asyncio.run, on uvloop where there is one."""

    async def wrapped() -> Any:
        return await main

    # The thread that commits must not hold up the loop for Python's usual 5 ms, a tenth of a short run.
    sys.setswitchinterval(0.0005)

    try:
        import uvloop  # noqa: PLC0415 -- not there on Windows
    except ImportError:
        return asyncio.run(wrapped())
    return uvloop.run(wrapped())
