"""Rows that are still held when a batch has run: by what is known then, they are taken or freed."""

from __future__ import annotations

import pytest
from tests.ports.building import APP, B, batch, finish, intend, key, new_row

from rowmill.domain.batch import BatchMove, RowState, Settings
from rowmill.engine.again import settle_the_rest
from rowmill.ports.store import Finish, NewRow
from rowmill.store.memory import MemoryStore

NEW = "new"


def held_rows(store: MemoryStore) -> int:
    """Two rows of a batch, the same as two of version v1 in an earlier one, and one that is new; returns the fence."""
    store.save_app(APP)
    for name, texts in ((B, "ab"), (NEW, "abc")):
        store.add_batch(batch(name, settings=Settings(since=B if name == NEW else None)))
        rows = [new_row(position) for position in range(len(texts))]
        store.add_rows(
            name,
            [NewRow(r.position, r.number, r.cells, {"q": t}, input_hash=t) for r, t in zip(rows, texts, strict=True)],
        )
        if name == NEW:
            store.plan_reuse(NEW, B, None, usable=True)
        store.move_batch(name, BatchMove.CHECKED)
        fence = store.take_over("tests")
        if name == B:
            store.write([intend(0), intend(1)], fence)
            store.write([finish(0, workflow_id="v1"), finish(1, workflow_id="v1")], fence)
    assert store.reuse(NEW) == (2, 0)
    return fence


@pytest.mark.parametrize(
    ("version", "settled"),
    [(None, (0, 2)), ("v1", (1, 0))],
)
async def test_what_no_run_told_is_told_by_the_form(version: str | None, settled: tuple[int, int]) -> None:
    store = MemoryStore()
    fence = held_rows(store)
    done = finish(2, workflow_id=version)
    ended = Finish(key(2, batch_id=NEW), done.move, done.outcome, ended_at=1.0)
    assert store.write([intend(2, batch_id=NEW), ended], fence) == [True, True]
    assert await settle_the_rest(store, store.batch(NEW)) is True
    assert store.reuse(NEW) == settled


async def test_one_is_freed_where_nothing_ran_well() -> None:
    store = MemoryStore()
    held_rows(store)
    assert await settle_the_rest(store, store.batch(NEW)) is True
    assert store.reuse(NEW) == (1, 0)
    assert [row.state for row in store.results(NEW)] == [RowState.PENDING] * 3
    assert await settle_the_rest(store, store.batch(B)) is False
