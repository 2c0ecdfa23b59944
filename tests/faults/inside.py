"""Batches run by the engine in this process, on a real SQLite file and real sockets, with a clock fifty times as fast:
for faults that last minutes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rowmill.dify.client import Deadlines, DifyClient
from rowmill.dify.versions import recovery
from rowmill.domain.batch import Settings
from rowmill.domain.events import Event
from rowmill.domain.form import Mode
from rowmill.engine.reconcile import Patience
from rowmill.testing.clock import QuickClock
from rowmill.testing.fake_dify import FakeDify
from tests.engine.running import DEADLINES, QUICK, SPEED, B, Ran, engine_on, make_store
from tests.faults import audit
from tests.faults.processes import KEY

__all__ = ["DEADLINES", "QUICK", "SPEED", "B", "Inside", "inside", "queries", "texts_with"]


def queries(count: int) -> list[str]:
    return [f"row {i}" for i in range(1, count + 1)]


def texts_with(count: int, *faults: str) -> list[str]:
    """Rows of which every other one carries a fault, in turn."""
    texts = queries(count)
    for i in range(1, count, 2):
        texts[i] = f"[[fault:{faults[(i // 2) % len(faults)]}]] {i}"
    return texts


@dataclass
class Inside(Ran):
    """A batch that ran to its end or its pause."""

    told: list[tuple[float, Event]] = field(default_factory=list)
    """facts, with the moment (time.monotonic) at which they were told"""
    folder: Path = Path()

    def tally(self, *, tried: int, runs: list[Any] | None = None) -> audit.Tally:
        rows = [{"inputs": row.inputs, "status": row.state.value, "cause": row.cause} for row in self.rows]
        counted = audit.tally(self.fake.ledger.runs if runs is None else runs, rows, tried=tried)
        assert counted.rows == len(rows) == sum(self.states.values())
        audit.no_secret(KEY, str(self.events), folder=self.folder)
        return counted

    def damaged(self) -> int:
        return int(self._ask("SELECT count(*) FROM attempts WHERE damaged"))

    def _ask(self, question: str) -> Any:
        with closing(sqlite3.connect(self.folder / "rowmill.db")) as raw:
            return raw.execute(question).fetchone()[0]

    def first(self, fact: str) -> float:
        """When a fact was first told."""
        return next(moment for moment, event in self.told if event.fact.value == fact)


async def inside(
    folder: Path,
    texts: list[str],
    fake: FakeDify,
    url: str,
    *,
    meanwhile: Callable[[], Any] | None = None,
    deadlines: Deadlines = DEADLINES,
    patience: Patience = QUICK,
    clock: Any = None,
    key: str = KEY,
    limit: float = 120.0,
    **settings: Any,
) -> Inside:
    """Run these rows to their end. `meanwhile`: a coroutine function that plays the fault."""
    folder.mkdir(parents=True, exist_ok=True)
    known = Settings(**{"concurrency": 8, "lost_window": 100.0, "row_timeout": 20.0, **settings})
    store = make_store(folder, texts, url, known, Mode.WORKFLOW, fake.profile.version)
    told: list[tuple[float, Event]] = []
    batch = store.batch(B)
    assert batch is not None
    playing = asyncio.ensure_future(meanwhile()) if meanwhile else None
    async with (
        engine_on(folder, store, patience, clock or QuickClock(SPEED)) as engine,
        DifyClient(url, key, Mode.WORKFLOW, deadlines=deadlines) as app,
    ):
        tell = lambda event: told.append((time.monotonic(), event))  # noqa: E731
        running = engine.run(batch, app, recovery(fake.profile.version, Mode.WORKFLOW), tell)
        state, ending = await asyncio.wait_for(running, limit)
    if playing is not None:
        await playing
    return Inside(state, ending, store, fake, [event for _, event in told], told, folder)
