"""Batches run in process against a served fake Dify, on a real SQLite file."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowmill.dify.client import Deadlines, DifyClient
from rowmill.dify.versions import recovery
from rowmill.domain.again import input_hash
from rowmill.domain.batch import BatchMove, BatchState, RowState, Settings
from rowmill.domain.form import Field, FieldKind, Form, Mode
from rowmill.domain.mapping import Mapping
from rowmill.engine.batches import Engine
from rowmill.engine.reconcile import Patience
from rowmill.ports.store import AppRecord, BatchRecord, NewRow, RowResult
from rowmill.store.sent import SentFile
from rowmill.store.sql import SqlStore
from rowmill.testing.clock import QuickClock
from rowmill.testing.fake_dify import FakeDify, Serving, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rowmill.domain.events import Event
    from rowmill.engine.runner import Ending

B = "abcdefgh"
FORM = Form((Field("query", FieldKind.TEXT, required=True, max_length=48),))
# The engine's clock runs fifty times as fast: its seconds are these tests' hundredths.
SPEED = 50.0
QUICK = Patience(first_gap=1, longest_gap=5, shortest_run_deadline=20, not_found=15, errored_window=5, send_margin=2)
DEADLINES = Deadlines(connect=2, answer=2, first_event=0.5, silence=0.5, usage=0.1, run=3)


@dataclass
class Ran:
    """What a run left behind."""

    state: BatchState
    ending: Ending
    store: SqlStore
    fake: FakeDify
    events: list[Event] = field(default_factory=list)

    @property
    def rows(self) -> list[RowResult]:
        return list(self.store.results(B))

    @property
    def states(self) -> Counter[RowState]:
        return Counter(row.state for row in self.rows)

    @property
    def facts(self) -> list[str]:
        return [event.fact.value for event in self.events]

    def runs_of(self, query: str) -> int:
        return sum(run.inputs.get("query") == query for run in self.fake.ledger.runs)

    @property
    def paid_twice(self) -> list[str]:
        counts = Counter(str(run.inputs.get("query")) for run in self.fake.ledger.runs)
        return [query for query, count in counts.items() if count > 1]


def queries(count: int, **special: str) -> list[str]:
    """`row 0` …; `r3="…"` puts a text of its own into row 3."""
    return [special.get(f"r{i}", f"row {i}") for i in range(count)]


def make_store(
    folder: Path,
    texts: list[str],
    url: str,
    settings: Settings,
    mode: Mode,
    version: str,
    talks: Sequence[str | None] = (),
    created_at: float | None = None,
) -> SqlStore:
    """A queued batch, made now unless said otherwise, with one row per text; `talks`: the conversations that the first
    ones are turns of."""
    store = SqlStore(folder / "rowmill.db")
    app = store.save_app(AppRecord("app", url, "echo", mode, version, b"", ""))
    made = time.time() if created_at is None else created_at
    store.add_batch(
        BatchRecord(
            B, app, FORM, Mapping(()), settings, BatchState.DRAFT, "rows.csv", "rows", "digest", ("query",), made
        )
    )
    variable = "sys.query" if mode.is_chat else "query"
    rows = [
        NewRow(i, i + 2, (text,), {variable: text}, blank=text == "", input_hash=input_hash({variable: text}))
        for i, text in enumerate(texts)
    ]
    rows = [replace(row, conversation=talk) for row, talk in zip_longest(rows, talks)]
    store.add_rows(B, [row if row.conversation is None else replace(row, input_hash=None) for row in rows])
    if settings.share_duplicates:
        store.find_leaders(B)
    store.move_batch(B, BatchMove.CHECKED)
    return store


@asynccontextmanager
async def engine_on(
    folder: Path, store: SqlStore, patience: Patience = QUICK, clock: Any = None
) -> AsyncIterator[Engine]:
    yield Engine(
        store,
        lambda batch_id: SentFile(folder / f"sent-{batch_id}.marks"),
        store.take_over("test"),
        clock or QuickClock(SPEED),
        patience,
    )


async def run_engine(
    engine: Engine,
    store: SqlStore,
    key: str,
    events: list[Event],
    *,
    deadlines: Deadlines = DEADLINES,
    until: int | None = None,
) -> tuple[BatchState, Ending]:
    batch = store.batch(B)
    assert batch is not None
    async with DifyClient(batch.app.base_url, key, batch.app.mode, deadlines=deadlines) as app:
        known = recovery(batch.app.version, batch.app.mode)
        return await asyncio.wait_for(engine.run(batch, app, known, events.append, until=until), 30)


async def run_batch(
    folder: Path,
    texts: list[str],
    fake: FakeDify | None = None,
    *,
    key: str = "app-echo",
    mode: Mode = Mode.WORKFLOW,
    server: Serving | None = None,
    patience: Patience = QUICK,
    deadlines: Deadlines = DEADLINES,
    until: int | None = None,
    clock: Any = None,
    talks: Sequence[str | None] = (),
    **settings: Any,
) -> Ran:
    """Run a batch of these rows to its end."""
    fake = fake or FakeDify(hold_ms=0, celery_slots=0)
    known = Settings(**{"concurrency": 4, "lost_window": 15.0, "row_timeout": 20.0, **settings})
    with serve(fake) if server is None else _given(server) as serving:
        store = make_store(folder, texts, serving.url, known, mode, fake.profile.version, talks)
        events: list[Event] = []
        async with engine_on(folder, store, patience, clock) as engine:
            state, ending = await run_engine(engine, store, key, events, deadlines=deadlines, until=until)
    return Ran(state, ending, store, fake, events)


class _given:  # noqa: N801 -- reads like `serve`
    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def __enter__(self) -> Serving:
        return self._serving

    def __exit__(self, *_: object) -> None:
        pass
