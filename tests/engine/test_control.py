"""Pause, hold, resume, stop, retry while a batch runs; brakes; several batches at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from rowmill.dify.client import DifyClient
from rowmill.dify.versions import recovery
from rowmill.domain.batch import BatchMove, BatchState, RowState, Settings
from rowmill.domain.form import Mode
from rowmill.ports.store import Again, NewRow
from rowmill.testing.fake_dify import FakeDify, Fault, serve
from tests.engine.running import DEADLINES, B, engine_on, make_store, queries, run_batch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from rowmill.engine.batches import Engine
    from rowmill.store.sql import SqlStore


@dataclass
class Stage:
    """A batch that runs beside the test."""

    engine: Engine
    store: SqlStore
    fake: FakeDify
    url: str
    events: list[Any] = field(default_factory=list)

    def start(self, batch_id: str = B, key: str = "app-echo", **deadlines: float) -> asyncio.Task[Any]:
        return asyncio.create_task(self._run(batch_id, key, deadlines))

    async def _run(self, batch_id: str, key: str, deadlines: dict[str, float]) -> Any:
        batch = self.store.batch(batch_id)
        assert batch is not None
        async with DifyClient(self.url, key, batch.app.mode, deadlines=replace(DEADLINES, **deadlines)) as app:
            known = recovery(batch.app.version, batch.app.mode)
            return await asyncio.wait_for(self.engine.run(batch, app, known, self.events.append), 30)

    async def until(self, *states: RowState, count: int = 1, batch_id: str = B) -> None:
        """So many rows are in one of these states."""
        for _ in range(2000):
            counts = await asyncio.to_thread(self.store.counts, batch_id)
            if counts.of(*states) >= count:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(counts)

    async def move(self, move: BatchMove, reason: str | None = None, batch_id: str = B) -> None:
        await asyncio.to_thread(self.store.move_batch, batch_id, move, reason=reason)
        await self.engine.look()

    def states(self, batch_id: str = B) -> dict[str, int]:
        return {state.value: number for state, number in self.store.counts(batch_id).by_state.items()}

    @property
    def started(self) -> int:
        return len(self.fake.ledger.runs)

    def paid_twice(self) -> list[str]:
        asked = [str(run.inputs.get("query")) for run in self.fake.ledger.runs]
        return [query for query in set(asked) if asked.count(query) > 1]


@asynccontextmanager
async def stage(folder: Path, rows: int = 40, latency_ms: int = 60, **settings: Any) -> AsyncIterator[Stage]:
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=latency_ms)
    known = Settings(**{"concurrency": 4, "lost_window": 15.0, "row_timeout": 60.0, **settings})
    with serve(fake) as serving:
        store = make_store(folder, queries(rows), serving.url, known, Mode.WORKFLOW, "1.14.2")
        async with engine_on(folder, store) as engine:
            yield Stage(engine, store, fake, serving.url)
        store.close()


async def test_pause_drains_and_resume_goes_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        running = on.start()
        await on.until(RowState.SUCCEEDED, count=4)
        await on.move(BatchMove.PAUSE, "asked")
        state, ending = await running
        assert (state, ending.asked) == (BatchState.PAUSED, True)
        assert on.store.batch(B).reason == "asked"
        before = on.states()
        assert set(before) == {"succeeded", "pending"}
        assert on.started == before["succeeded"]
        state, _ = await on.start()
        assert (state, on.states()) == (BatchState.COMPLETED, {"succeeded": 40})
        assert on.paid_twice() == []


async def test_the_last_wish_counts(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        running = on.start()
        await on.until(RowState.SUCCEEDED, count=2)
        for move in (BatchMove.PAUSE, BatchMove.STOP, BatchMove.PAUSE, BatchMove.PAUSE, BatchMove.START):
            await on.move(move, "asked")
        state, _ = await running
        if state is not BatchState.COMPLETED:  # it was laid down between two wishes: whoever started it runs it
            state, _ = await on.start()
        assert (state, on.states()["succeeded"]) == (BatchState.COMPLETED, 40 - on.states().get("stopped", 0))
        assert on.paid_twice() == []


async def test_a_wish_from_elsewhere_is_seen_without_a_call(tmp_path: Path) -> None:
    """Another process writes into the store; the engine's clock looks every half second of its own."""
    async with stage(tmp_path, rows=400) as on:
        running = on.start()
        await on.until(RowState.SUCCEEDED, count=2)
        await asyncio.to_thread(on.store.move_batch, B, BatchMove.PAUSE, reason="asked")
        state, _ = await running
        assert state is BatchState.PAUSED


async def test_hold_leaves_runs_to_dify_and_fetches_them_later(tmp_path: Path) -> None:
    async with stage(tmp_path, rows=8, latency_ms=700) as on:
        running = on.start(silence=5, run=20)
        await on.until(RowState.RUNNING, count=4)
        for _ in range(100):
            if on.started >= 4:
                break
            await asyncio.sleep(0.01)
        await on.move(BatchMove.PAUSE, "held")
        state, _ = await asyncio.wait_for(running, 0.6)  # sooner than any run ends
        assert (state, on.store.batch(B).reason) == (BatchState.PAUSED, "held")
        assert on.states()["running"] >= 1
        state, _ = await on.start(silence=5, run=20)
        assert (state, on.states()) == (BatchState.COMPLETED, {"succeeded": 8})
        assert on.paid_twice() == []


async def test_held_and_at_once_resumed(tmp_path: Path) -> None:
    async with stage(tmp_path, rows=12, latency_ms=300) as on:
        running = on.start(silence=5, run=20)
        await on.until(RowState.RUNNING, count=4)
        await on.move(BatchMove.PAUSE, "held")
        await asyncio.to_thread(on.store.move_batch, B, BatchMove.START)
        state, _ = await running
        assert state in (BatchState.COMPLETED, BatchState.PAUSED)
        if state is BatchState.PAUSED:
            state, _ = await on.start(silence=5, run=20)
        assert (state, on.states()) == (BatchState.COMPLETED, {"succeeded": 12})
        assert on.paid_twice() == []


async def test_stop_stops_difys_runs_and_keeps_what_finished(tmp_path: Path) -> None:
    async with stage(tmp_path, rows=40, latency_ms=400) as on:
        running = on.start(silence=5, run=60)
        await on.until(RowState.SUCCEEDED, count=4)
        await on.until(RowState.RUNNING, count=4)
        for _ in range(200):
            if on.started >= 8:
                break
            await asyncio.sleep(0.005)
        await on.move(BatchMove.STOP, "asked")
        state, _ = await running
        states = on.states()
        assert state is BatchState.STOPPED
        assert states["stopped"] >= 1
        assert states["succeeded"] + states["stopped"] == on.started
        assert states["succeeded"] + states["stopped"] + states["pending"] == 40
        assert [run.status for run in on.fake.ledger.runs].count("stopped") == states["stopped"]


async def test_a_stop_that_dify_ignores_still_keeps_the_results(tmp_path: Path) -> None:
    fake_rows = [f"row {i} [[fault:stop_ignored]]" for i in range(6)]
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=300)
    with serve(fake) as serving:
        store = make_store(tmp_path, fake_rows, serving.url, Settings(concurrency=3), Mode.WORKFLOW, "1.14.2")
        async with engine_on(tmp_path, store) as engine:
            on = Stage(engine, store, fake, serving.url)
            running = on.start(silence=5, run=60)
            await on.until(RowState.RUNNING, count=3)
            for _ in range(200):
                if on.started >= 3:
                    break
                await asyncio.sleep(0.005)
            await on.move(BatchMove.STOP, "asked")
            state, _ = await running
            assert state is BatchState.STOPPED
            assert on.states().get("succeeded") == on.started
        store.close()


async def test_rows_put_back_while_the_batch_runs_are_taken_up(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=40)
    texts = queries(30, r0="bad [[fault:run_failed]]")
    with serve(fake) as serving:
        settings = Settings(concurrency=2, retries=0)
        store = make_store(tmp_path, texts, serving.url, settings, Mode.WORKFLOW, "1.14.2")
        async with engine_on(tmp_path, store) as engine:
            on = Stage(engine, store, fake, serving.url)
            running = on.start()
            await on.until(RowState.FAILED)
            again = Again(positions=(0,), inputs={"query": "good"})
            assert await asyncio.to_thread(store.retry, B, again) == 1
            await engine.look()
            state, _ = await running
            assert (state, on.states()) == (BatchState.COMPLETED, {"succeeded": 30})
        store.close()


async def test_a_conversation_put_back_while_the_batch_runs_goes_on_in_order(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=40)
    texts = ["a1", "a2", "a3", *(f"row {i}" for i in range(20))]
    fake.faults.add(Fault("run_failed", match="'a1'", params={"message": "node_broke"}))
    with serve(fake) as serving:
        settings = Settings(concurrency=2, retries=0)
        store = make_store(tmp_path, texts, serving.url, settings, Mode.CHATFLOW, "1.14.2", ["a"] * 3)
        async with engine_on(tmp_path, store) as engine:
            on = Stage(engine, store, fake, serving.url)
            running = on.start(key="app-chatflow")
            await on.until(RowState.FAILED, count=3)
            assert await asyncio.to_thread(store.retry, B, Again(positions=(0,))) == 3
            await engine.look()
            state, _ = await running
            assert (state, on.states()) == (BatchState.COMPLETED, {"succeeded": 23})
        store.close()
    assert [run.query for run in fake.ledger.runs if run.query[0] == "a"] == ["a1", "a1", "a2", "a3"]


BRAKES = [
    ({"max_rows": 7}, "row_budget"),
    ({"max_seconds": 60.0}, "time_limit"),
]


@pytest.mark.parametrize(("limit", "reason"), BRAKES, ids=[reason for _, reason in BRAKES])
async def test_a_brake_pauses_with_its_reason_and_a_click_goes_on(tmp_path: Path, limit: dict, reason: str) -> None:
    async with stage(tmp_path, rows=150, concurrency=2, **limit) as on:
        state, ending = await on.start()
        assert (state, ending.cause.value, on.store.batch(B).reason) == (BatchState.PAUSED, reason, reason)
        first = on.started
        assert 0 < first < 150
        if reason == "row_budget":
            assert first == 7
        state, _ = await on.start()
        assert on.started > first
        assert on.paid_twice() == []


async def test_the_budget_of_tokens(tmp_path: Path) -> None:
    """A chatflow's answer of so many letters costs so many tokens here."""
    ran = await run_batch(tmp_path, queries(60), key="app-chatflow", mode=Mode.CHATFLOW, max_tokens=100)
    assert (ran.state, ran.ending.cause.value) == (BatchState.PAUSED, "token_budget")
    spent = sum(row.tokens or 0 for row in ran.rows)
    assert 100 <= spent <= 100 + 4 * 60
    assert ran.states[RowState.PENDING] > 0


async def test_too_many_failures_pause(tmp_path: Path) -> None:
    texts = [f"row {i} [[fault:run_failed]]" for i in range(60)]
    ran = await run_batch(tmp_path, texts, max_failures=0.5, retries=0)
    assert (ran.state, ran.ending.cause.value) == (BatchState.PAUSED, "too_many_failures")
    assert 20 <= len(ran.fake.ledger.runs) < 40


def add_batch(on: Stage, batch_id: str, rows: int, **settings: Any) -> None:
    known = on.store.batch(B)
    changed = replace(known.settings, **settings)
    on.store.add_batch(replace(known, id=batch_id, state=BatchState.DRAFT, settings=changed))
    texts = [f"{batch_id} {i}" for i in range(rows)]
    on.store.add_rows(batch_id, [NewRow(i, i + 2, (text,), {"query": text}) for i, text in enumerate(texts)])
    on.store.move_batch(batch_id, BatchMove.CHECKED)


async def test_a_small_batch_is_done_long_before_a_huge_one_on_the_same_app(tmp_path: Path) -> None:
    async with stage(tmp_path, rows=200, latency_ms=30) as on:
        add_batch(on, "small", 10)
        huge = on.start()
        await on.until(RowState.SUCCEEDED, count=8)
        state, _ = await on.start("small")
        assert state is BatchState.COMPLETED
        done = on.store.counts(B).done
        assert done < 100  # half of the places were the small one's while it ran
        await on.move(BatchMove.PAUSE, "asked")
        await huge
        assert on.fake.ledger.most_at_once <= 4
        assert on.paid_twice() == []
