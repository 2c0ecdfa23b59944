"""An old copy of the data folder: noticed before anything is sent, and what was paid for meanwhile taken over."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rowmill.dify.client import DifyClient
from rowmill.domain.batch import BatchMove, BatchState, RowState, Settings
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.form import Mode
from rowmill.domain.verdict import Failure, FailureKind
from rowmill.engine.attempt import slot_of
from rowmill.ports.dify import RunRequest
from rowmill.ports.store import AttemptKey, Intend
from rowmill.store.sent import SentFile
from rowmill.store.sql import SqlStore
from rowmill.testing.fake_dify import FakeDify, Fault, Serving, serve
from tests.engine.running import DEADLINES, B, engine_on, make_store, queries, run_engine

OK, PENDING = RowState.SUCCEEDED, RowState.PENDING
SETTINGS = Settings(concurrency=3, lost_window=15.0, row_timeout=20.0)


class Place:
    """A batch that runs a little, is copied, runs on, and whose copy is put back."""

    def __init__(self, folder: Path, texts: list[str], server: Serving, fake: FakeDify, settings: Settings) -> None:
        self.folder, self.fake, self.url = folder, fake, server.url
        self.texts = texts
        version = fake.profile.version
        make_store(folder, texts, server.url, settings, Mode.WORKFLOW, version, created_at=0.0).close()
        self.events: list[Any] = []

    async def run(self, until: int | None = None) -> BatchState:
        store = SqlStore(self.folder / "rowmill.db")
        try:
            async with engine_on(self.folder, store) as engine:
                state, self.ending = await run_engine(engine, store, "app-echo", self.events, until=until)
            self.rows = list(store.results(B))
        finally:
            store.close()
        return state

    def copy(self) -> None:
        shutil.copy(self.folder / "rowmill.db", self.folder / "copy")

    def put_back(self) -> None:
        shutil.copy(self.folder / "copy", self.folder / "rowmill.db")

    async def lose(self, first: int, until: int | None) -> None:
        """The rows below `first` are in the copy; those up to `until` were run since."""
        if first:
            await self.run(until=first)
        self.copy()
        await self.run(until=until)
        self.put_back()
        self.paid = len(self.fake.ledger.runs)

    @property
    def sent_since(self) -> int:
        return len(self.fake.ledger.runs) - self.paid

    @property
    def states(self) -> Counter[RowState]:
        return Counter(row.state for row in self.rows)


@contextmanager
def place(folder: Path, texts: list[str], profile: str = "1.14", settings: Settings = SETTINGS) -> Iterator[Place]:
    fake = FakeDify(profile, hold_ms=0, celery_slots=0)
    with serve(fake) as server:
        yield Place(folder, texts, server, fake, settings)


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("profile", ["1.11", "1.14"])
async def test_noticed_and_taken_over(tmp_path: Path, first: int, profile: str) -> None:
    """Also where the copy is older than the first row."""
    with place(tmp_path, queries(12), profile) as old:
        await old.lose(first, 9)
        assert await old.run() is BatchState.PAUSED
        assert (str(old.ending.cause), old.sent_since) == ("restored", 0)
        assert old.ending.detail == f"found={9 - first} adopted={9 - first}"
        assert old.states == {OK: 9, PENDING: 3}
        assert {row.run_id for row in old.rows if row.run_id} == {run.run_id for run in old.fake.ledger.runs}
        assert await old.run() is BatchState.COMPLETED
        assert (old.sent_since, old.states) == (3, {OK: 12})


async def test_nothing_is_left_to_ask_about(tmp_path: Path) -> None:
    with place(tmp_path, queries(8)) as old:
        await old.lose(3, None)
        assert await old.run() is BatchState.COMPLETED
        assert (old.sent_since, old.states) == (0, {OK: 8})


async def test_rows_with_the_same_inputs(tmp_path: Path) -> None:
    """It does not matter which of them gets which run; but a success is not given up for a failure."""
    texts = ["same"] * 6 + ["[[fault:run_failed times=1]]"] * 2 + queries(3)
    with place(tmp_path, texts, settings=Settings(concurrency=1, lost_window=15.0)) as old:
        await old.lose(2, 8)
        runs = Counter(str(run.inputs["query"]) for run in old.fake.ledger.runs)
        await old.run()
        assert old.sent_since == 0
        assert [row.state for row in old.rows[:6]] == [OK] * 6
        assert len({row.run_id for row in old.rows[:6]}) == 6
        assert runs["same"] == 6


async def test_a_run_that_goes_on_is_followed(tmp_path: Path) -> None:
    with place(tmp_path, queries(6)) as old:
        old.fake.faults.add(Fault("running_forever", match="row 4"))
        old.copy()
        running = asyncio.ensure_future(old.run(until=5))
        while len(old.fake.ledger.runs) < 5:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        old.put_back()
        old.paid = len(old.fake.ledger.runs)
        await old.run()
        assert old.rows[4].state is RowState.RUNNING
        assert old.sent_since == 0
        await old.run()
        assert old.rows[4].cause == "run_never_ended"
        assert old.sent_since == 1


async def test_others_have_filled_the_log(tmp_path: Path) -> None:
    """The last hundred lines are somebody else's: the slot that comes next is asked for by its user."""
    with place(tmp_path, queries(8)) as old:
        await old.lose(3, 6)
        async with DifyClient(old.url, "app-echo", deadlines=DEADLINES) as app:
            for number in range(110):
                async for _ in app.run(RunRequest({"query": str(number)}, f"somebody-{number % 3}")):
                    pass
        old.paid = len(old.fake.ledger.runs)
        assert await old.run() is BatchState.PAUSED
        assert (old.sent_since, old.states[OK]) == (0, 6)


async def test_a_log_that_does_not_answer_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def runs_of(self: DifyClient, user: str | None, after: float, page: int = 1) -> list[Any]:
        asked.append(user)
        raise DifyFailureError(Failure(FailureKind.ERRORED, "internal_server_error", "", 500))

    with place(tmp_path, queries(6)) as old:
        await old.run(until=3)
        monkeypatch.setattr(DifyClient, "runs_of", runs_of)
        assert await old.run() is BatchState.COMPLETED
    assert asked == [None] * 3


async def test_a_server_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back and would take the next row: nobody may send it one before the log was seen."""
    runs_of, away = DifyClient.runs_of, [Failure(FailureKind.NOT_SENT, "connection_refused")] * 8

    async def away_at_first(self: DifyClient, *how: Any) -> list[Any]:
        if away:
            raise DifyFailureError(away.pop())
        return await runs_of(self, *how)

    with place(tmp_path, queries(8)) as old:
        await old.lose(3, 6)
        monkeypatch.setattr(DifyClient, "runs_of", away_at_first)
        assert await old.run() is BatchState.PAUSED
        assert old.sent_since == 0


async def test_what_could_not_be_taken_over_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dify fails in the middle of it: going on takes over the rest before it sends anything."""
    run_detail, answers = DifyClient.run_detail, [True] * 5

    async def fails_soon(self: DifyClient, run_id: str) -> Any:
        if not answers:
            raise DifyFailureError(Failure(FailureKind.ERRORED, "internal_server_error", "", 500))
        answers.pop()
        return await run_detail(self, run_id)

    with place(tmp_path, queries(8)) as old:
        await old.lose(3, 6)
        monkeypatch.setattr(DifyClient, "run_detail", fails_soon)
        assert await old.run() is BatchState.PAUSED
        assert old.states[OK] < 6
        monkeypatch.setattr(DifyClient, "run_detail", run_detail)
        assert await old.run() is BatchState.COMPLETED
        assert (old.sent_since, old.states) == (2, {OK: 8})


async def test_where_the_log_cannot_be_asked(tmp_path: Path) -> None:
    """Below 1.11 nobody can know: rows finished since the copy are sent again, as the documentation says."""
    with place(tmp_path, queries(6), "1.10") as old:
        await old.lose(2, 5)
        assert await old.run() is BatchState.COMPLETED
        assert old.sent_since == 4


async def test_an_attempt_of_the_copy_that_was_put_back_since(tmp_path: Path) -> None:
    """Its row was sent on another slot then: found by its inputs, where its own slot's user knows nothing of it."""
    with place(tmp_path, queries(6)) as old:
        store = SqlStore(tmp_path / "rowmill.db")
        store.move_batch(B, BatchMove.START)
        store.write([Intend(AttemptKey(B, 1, 1), 5, f"rowmill-{B}-s5", 0.0)], store.take_over("killed"))
        store.close()
        old.copy()
        marks = SentFile(tmp_path / f"sent-{B}.marks")
        marks.begin()
        marks.close()
        await old.run(until=4)
        old.put_back()
        (tmp_path / f"sent-{B}.marks").unlink()
        old.paid = len(old.fake.ledger.runs)
        assert await old.run() is BatchState.PAUSED
        assert (old.sent_since, old.states) == (0, {OK: 4, PENDING: 2})


async def test_one_that_is_being_stopped(tmp_path: Path) -> None:
    """It could be wished to go on at any moment: what is there is taken over as well."""
    with place(tmp_path, queries(6)) as old:
        await old.lose(2, 5)
        store = SqlStore(tmp_path / "rowmill.db")
        store.move_batch(B, BatchMove.START)
        store.move_batch(B, BatchMove.STOP)
        store.close()
        assert await old.run() is BatchState.STOPPED
        assert (old.sent_since, old.states) == (0, {OK: 5, PENDING: 1})


def test_users_of_slots() -> None:
    assert slot_of("abcdefgh1", "rowmill-abcdefgh-s12") == 12
    others = ("rowmill-abcdefgh-c1", "rowmill-abcdefgh-s", "rowmill-abcdefgh-s01", "rowmill-zzzzzzzz-s1", None, "s1")
    assert [slot_of("abcdefgh1", user) for user in others] == [None] * len(others)
