"""The window: concurrency, canary, drains, restarts, retries."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rowmill.domain.batch import BatchMove, BatchState, RowState, Settings
from rowmill.domain.errors import FencedError
from rowmill.domain.form import Mode
from rowmill.ports.store import Again, Attach, AttemptKey, GiveUp, Intend
from rowmill.store.sent import SentFile
from rowmill.testing.fake_dify import FakeDify, Fault, serve
from tests.engine.running import B, Ran, engine_on, make_store, queries, run_batch, run_engine

OK = RowState.SUCCEEDED


class Watched(FakeDify):
    """Notes how many runs are under way."""

    def __init__(self, **settings: object) -> None:
        super().__init__(hold_ms=0, celery_slots=0, **settings)  # type: ignore[arg-type]
        self.most = 0
        self.now = 0
        self.before_first_end = 0
        self.ended = 0

    async def __call__(self, scope: dict, receive: object, send: object) -> None:
        counts = scope.get("path", "").endswith("/run")
        self.now += counts
        self.most = max(self.most, self.now)
        self.before_first_end += counts and self.ended == 0
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.now -= counts
            self.ended += counts


@pytest.mark.parametrize("lanes", [1, 3, 10])
async def test_never_more_than_the_limit(tmp_path: Path, lanes: int) -> None:
    fake = Watched(latency_ms=100)
    ran = await run_batch(tmp_path, queries(40), fake, concurrency=lanes)
    assert ran.states == {OK: 40}
    assert fake.most == lanes


async def test_first_row_alone_until_it_is_accepted(tmp_path: Path) -> None:
    fake = Watched(latency_ms=50)
    fake.faults.add(Fault("hold_started", params={"seconds": 0.2}))
    ran = await run_batch(tmp_path, queries(10), fake, concurrency=5)
    assert ran.states == {OK: 10}
    first = fake.ledger.runs[0]
    assert all(run.started_at >= first.started_at for run in fake.ledger.runs[1:])


async def test_app_limit_is_learnt(tmp_path: Path) -> None:
    fake = FakeDify("1.11", hold_ms=0, latency_ms=20)
    fake.apps["app-echo"].max_active = 2
    ran = await run_batch(tmp_path, queries(20), fake, concurrency=8)
    assert ran.states == {OK: 20}
    rejects = fake.requests - len(fake.ledger.runs)
    assert rejects <= 8, "after the first wave the quoted limit holds"


async def test_blank_rows_are_skipped(tmp_path: Path) -> None:
    ran = await run_batch(tmp_path, ["a", "", "b", ""])
    assert [row.state for row in ran.rows] == [OK, RowState.SKIPPED, OK, RowState.SKIPPED]
    assert len(ran.fake.ledger.runs) == 2


async def test_sample_then_the_rest(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        ran = await run_batch(tmp_path, queries(20), fake, server=server, until=5)
        assert (ran.state, ran.store.batch(B).reason) == (BatchState.PAUSED, "sample")
        assert ran.states == {OK: 5, RowState.PENDING: 15}
        async with engine_on(tmp_path, ran.store) as engine:
            state, _ = await run_engine(engine, ran.store, "app-echo", ran.events)
    assert state is BatchState.COMPLETED
    assert ran.states == {OK: 20}
    assert ran.paid_twice == []


async def started(fake: FakeDify, count: int) -> None:
    while len(fake.ledger.runs) < count:
        await asyncio.sleep(0.005)


async def interrupted(tmp_path: Path, fake: FakeDify, how: str, server: object) -> Ran:
    """A batch of 30 rows that is drained or abandoned after its tenth run began."""
    store = make_store(
        tmp_path, queries(30), server.url, Settings(concurrency=5, lost_window=50.0), Mode.WORKFLOW, "1.14.2"
    )
    events: list = []
    async with engine_on(tmp_path, store) as engine:
        running = asyncio.create_task(run_engine(engine, store, "app-echo", events))
        await started(fake, 10)
        getattr(engine, how)()
        state, ending = await running
    return Ran(state, ending, store, fake, events)


async def test_drain_waits_for_what_runs(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=60)
    with serve(fake) as server:
        ran = await interrupted(tmp_path, fake, "drain", server)
    assert (ran.state, ran.store.batch(B).reason) == (BatchState.PAUSED, "interrupted")
    assert ran.states[RowState.RUNNING] == 0
    assert ran.states[OK] == len(fake.ledger.runs)


async def test_abandon_then_resume_finds_what_ran(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=60)
    with serve(fake) as server:
        ran = await interrupted(tmp_path, fake, "abandon", server)
        assert ran.states[RowState.RUNNING] > 0
        async with engine_on(tmp_path, ran.store) as engine:
            state, _ = await run_engine(engine, ran.store, "app-echo", ran.events)
    assert state is BatchState.COMPLETED
    assert ran.states == {OK: 30}
    assert ran.paid_twice == []
    assert "recovering" in ran.facts


async def test_intent_that_never_left_is_sent(tmp_path: Path) -> None:
    """A process killed between the commit of an intent and its first byte: no look-up, no waiting."""
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        store = make_store(tmp_path, queries(3), server.url, Settings(lost_window=3000.0), Mode.WORKFLOW, "1.14.2")
        store.move_batch(B, BatchMove.START)
        fence = store.take_over("killed")
        marks = SentFile(tmp_path / f"sent-{B}.marks")
        marks.begin()
        marks.close()
        store.write([Intend(AttemptKey(B, 0, 1), 0, f"rowmill-{B}-s0", 0.0)], fence)
        events: list = []
        async with engine_on(tmp_path, store) as engine:
            state, _ = await run_engine(engine, store, "app-echo", events)
    ran = Ran(state, None, store, fake, events)
    assert ran.states == {OK: 3}
    assert ran.paid_twice == []
    assert ran.rows[0].attempts == 1, "what certainly cost nothing is not counted"


async def test_intent_that_may_have_left_is_not_sent_again(tmp_path: Path) -> None:
    """Marked as sent, and nowhere in the log: unknown, for a person to decide."""
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        store = make_store(tmp_path, queries(3), server.url, Settings(lost_window=10.0), Mode.WORKFLOW, "1.14.2")
        store.move_batch(B, BatchMove.START)
        fence = store.take_over("killed")
        key = AttemptKey(B, 0, 1)
        marks = SentFile(tmp_path / f"sent-{B}.marks")
        marks.begin()
        marks.mark(0, key, 0.0)
        marks.close()
        store.write([Intend(key, 0, f"rowmill-{B}-s0", 0.0)], fence)
        events: list = []
        async with engine_on(tmp_path, store) as engine:
            state, _ = await run_engine(engine, store, "app-echo", events)
        ran = Ran(state, None, store, fake, events)
        assert ran.rows[0].state is RowState.UNKNOWN
        assert ran.runs_of("row 0") == 0
        # Asked for by a person, it runs again, on another slot.
        assert store.retry(B, Again("reply_lost")) == 1
        store.move_batch(B, BatchMove.RETRY)
        async with engine_on(tmp_path, store) as engine:
            await run_engine(engine, store, "app-echo", events)
    assert ran.states == {OK: 3}
    assert fake.ledger.runs[-1].user != f"rowmill-{B}-s0"


def test_copied_marks_are_not_trusted(tmp_path: Path) -> None:
    """On a copy of the data folder nobody knows what was sent after the copy was made."""
    marks = SentFile(tmp_path / "sent.marks")
    marks.begin()
    marks.close()
    copy = tmp_path / "copy.marks"
    copy.write_bytes((tmp_path / "sent.marks").read_bytes())
    for path, trusted in ((tmp_path / "sent.marks", False), (copy, None)):
        opened = SentFile(path)
        assert opened.was_sent(0, AttemptKey(B, 0, 1)) is trusted
        opened.close()


def test_marks_that_another_runner_has_opened(tmp_path: Path) -> None:
    """A process that was suspended between the commit of an intent and its first byte must not send it when it wakes
    up: the newer runner has judged it. Nor may it write into the newer one's marks."""
    sleeper = SentFile(tmp_path / "sent.marks")
    sleeper.begin()
    sleeper.mark(0, AttemptKey(B, 0, 1), 0.0)
    newer = SentFile(tmp_path / "sent.marks")
    assert newer.was_sent(0, AttemptKey(B, 0, 1)) is True
    assert newer.was_sent(1, AttemptKey(B, 1, 1)) is False
    with pytest.raises(FencedError):
        sleeper.mark(1, AttemptKey(B, 1, 1), 0.0)
    newer.begin()
    newer.mark(1, AttemptKey(B, 7, 1), 0.0)
    with pytest.raises(FencedError):
        sleeper.mark(1, AttemptKey(B, 1, 1), 0.0)
    newest = SentFile(tmp_path / "sent.marks")
    assert newest.was_sent(1, AttemptKey(B, 7, 1)) is True
    for marks in (sleeper, newer, newest):
        marks.close()


def test_marks_stay_until_they_were_judged(tmp_path: Path) -> None:
    marks = SentFile(tmp_path / "sent.marks")
    marks.begin()
    marks.mark(0, AttemptKey(B, 0, 1), 0.0)
    for _ in range(3):
        opened = SentFile(tmp_path / "sent.marks")
        assert opened.was_sent(0, AttemptKey(B, 0, 1)) is True
        opened.close()
    opened.begin()
    opened.close()
    assert SentFile(tmp_path / "sent.marks").was_sent(0, AttemptKey(B, 0, 1)) is False
    marks.close()


async def test_untrusted_marks_stay_untrusted(tmp_path: Path) -> None:
    """After a reboot an intent is looked for; a start that is interrupted before the look ends must not make the next
    one believe that it never left."""
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        store = make_store(tmp_path, queries(3), server.url, Settings(lost_window=1e5), Mode.WORKFLOW, "1.14.2")
        store.move_batch(B, BatchMove.START)
        store.write([Intend(AttemptKey(B, 0, 1), 0, f"rowmill-{B}-s0", 1e12)], store.take_over("before the reboot"))
        for _ in range(3):
            async with engine_on(tmp_path, store) as engine:
                running = asyncio.create_task(run_engine(engine, store, "app-echo", []))
                await started(fake, 2)
                await asyncio.sleep(0.1)
                engine.abandon()
                await running
    rows = list(store.results(B))
    assert rows[0].state is RowState.RUNNING
    assert [run.inputs["query"] for run in fake.ledger.runs] == ["row 1", "row 2"], "row 0 may have been paid for"


async def test_marks_of_one_batch_survive_another(tmp_path: Path) -> None:
    """Slots are numbered per batch: the next batch must not write over what a killed one left."""
    first, second = (SentFile(tmp_path / f"sent-{name}.marks") for name in ("one", "two"))
    for marks in (first, second):
        marks.begin()
    first.mark(0, AttemptKey("one", 0, 1), 0.0)
    second.mark(0, AttemptKey("two", 0, 1), 0.0)
    again = SentFile(tmp_path / "sent-one.marks")
    assert again.was_sent(0, AttemptKey("one", 0, 1)) is True
    assert again.was_sent(0, AttemptKey("one", 0, 2)) is False
    for marks in (first, second, again):
        marks.close()


async def test_run_that_ended_while_nobody_looked(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        first = await run_batch(tmp_path, queries(1), fake, server=server)
        run = fake.ledger.runs[0]
        folder = tmp_path / "second"
        folder.mkdir()
        store = make_store(folder, queries(2), server.url, Settings(), Mode.WORKFLOW, "1.14.2")
        store.move_batch(B, BatchMove.START)
        fence = store.take_over("killed")
        key = AttemptKey(B, 0, 1)
        store.write([Intend(key, 0, run.user, 0.0)], fence)
        store.write([Attach(key, run.run_id, run.task_id)], fence)
        async with engine_on(folder, store) as engine:
            await run_engine(engine, store, "app-echo", [])
    rows = list(store.results(B))
    assert rows[0].run_id == run.run_id
    assert rows[0].outputs == first.rows[0].outputs
    assert len(fake.ledger.runs) == 2, "row 0 was not sent again"


async def test_fenced_runner_stops(tmp_path: Path) -> None:
    """Another process has taken the store over: this one neither writes nor sends any more."""
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=30)
    with serve(fake) as server:
        store = make_store(tmp_path, queries(50), server.url, Settings(), Mode.WORKFLOW, "1.14.2")
        async with engine_on(tmp_path, store) as engine:
            running = asyncio.create_task(run_engine(engine, store, "app-echo", []))
            await started(fake, 8)
            store.take_over("the other")
            with pytest.raises(FencedError):
                await running
        sent = len(fake.ledger.runs)
        assert sent <= 8 + 2 * 4
        async with engine_on(tmp_path, store) as engine:
            await run_engine(engine, store, "app-echo", [])
    ran = Ran(BatchState.COMPLETED, None, store, fake)
    assert ran.states == {OK: 50}
    assert ran.paid_twice == []


async def test_server_goes_away_and_comes_back(tmp_path: Path) -> None:
    fake = FakeDify(hold_ms=0, celery_slots=0, latency_ms=20)
    with serve(fake) as server:
        store = make_store(tmp_path, queries(40), server.url, Settings(lost_window=250.0), Mode.WORKFLOW, "1.14.2")
        events: list = []
        async with engine_on(tmp_path, store) as engine:
            running = asyncio.create_task(run_engine(engine, store, "app-echo", events))
            await started(fake, 10)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(0.3)
            for run in fake.ledger.runs:
                # The API process is gone; Celery's worker finishes what it began.
                under_way = fake.execution.seen(run.run_id)
                if under_way is not None and under_way.ended is None:
                    under_way.end(fake.ledger, "succeeded", None)
            server.start_again()
            await running
    ran = Ran(BatchState.COMPLETED, None, store, fake, events)
    assert ran.states[RowState.FAILED] == 0, "no row fails because the server was away"
    assert ran.states[OK] + ran.states[RowState.UNKNOWN] == 40
    assert ran.paid_twice == []


async def test_give_up_then_found_later(tmp_path: Path) -> None:
    """An unknown row keeps its slot: nobody else's reply can be taken for its own."""
    fake = FakeDify(hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        store = make_store(tmp_path, queries(2), server.url, Settings(), Mode.WORKFLOW, "1.14.2")
        store.move_batch(B, BatchMove.START)
        fence = store.take_over("killed")
        key = AttemptKey(B, 0, 1)
        store.write([Intend(key, 0, f"rowmill-{B}-s0", 0.0)], fence)
        store.write([GiveUp(key, "reply_lost")], fence)
        async with engine_on(tmp_path, store) as engine:
            await run_engine(engine, store, "app-echo", [])
    assert fake.ledger.runs[0].user == f"rowmill-{B}-s1"
