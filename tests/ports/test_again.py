"""What every store promises of rows and sheets that are not new (rowmill.ports.store)."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.ports.building import APP, B, batch, fill, finish, give_up, intend, key, new_row

from rowmill.domain.batch import RowMove, RowState
from rowmill.domain.errors import IllegalMoveError
from rowmill.ports.store import Attach, NewRow
from rowmill.store import bounds, memory_sharing, sharing
from rowmill.store.memory import MemoryStore
from rowmill.store.sql import SqlStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    made = MemoryStore() if request.param == "memory" else SqlStore(tmp_path / "rowmill.db")
    yield made
    made.close()


def states(store, batch_id=B):
    return [row.state for row in store.results(batch_id)]


def startable(store, batch_id=B):
    return [job.position for job in store.startable(batch_id, 0.0, -1, 1000, None)]


OK, FAILED, PENDING, UNKNOWN = RowState.SUCCEEDED, RowState.FAILED, RowState.PENDING, RowState.UNKNOWN
ENDS = {
    RowState.SUCCEEDED: [lambda p: finish(p, outputs='{"a": 1}', run_id="r", workflow_id="v", price="1", seconds=2.0)],
    RowState.PARTIAL: [lambda p: finish(p, move=RowMove.SUCCEED_IN_PART)],
    RowState.FAILED: [lambda p: finish(p, move=RowMove.FAIL, error="e", cause="c", outputs="{}")],
    RowState.STOPPED: [lambda p: finish(p, move=RowMove.STOP)],
    RowState.UNKNOWN: [lambda p: Attach(key(p), "run", None, "v"), give_up],
}


# ── rows that follow another ────────────────────────────────────────────────────────────────────────────────────────


def test_duplicates_are_counted_and_followed_only_when_asked_for(store):
    store.save_app(APP)
    store.add_batch(batch())
    hashes = ["x", "y", "x", None, None, "x", "y", "z"]
    store.add_rows(B, [NewRow(p, p + 2, (), {}, known_by is None, known_by) for p, known_by in enumerate(hashes)])
    assert (store.duplicates(B), store.followers(B)) == (3, 0)
    assert store.find_leaders(B) == 3
    assert [row.leader for row in store.results(B)] == [None, None, 0, None, None, 0, 1, None]
    assert [row.shared_with for row in store.results(B)] == [None, None, 2, None, None, 2, 3, None]
    assert (store.duplicates(B), store.followers(B)) == (3, 3)
    assert store.duplicates("none") == store.followers("none") == store.share_results("none") == 0


def test_leaders_are_found_in_drafts_only(store):
    fill(store, same=(0, 2))
    with pytest.raises(IllegalMoveError):
        store.find_leaders(B)


def test_followers_do_not_start(store):
    fence = fill(store, 6, same=(1, 3, 4))
    assert startable(store) == [0, 1, 2, 5]
    assert [job.position for job in store.startable(B, 0.0, 1, 1, None)] == [2]
    assert store.write([intend(3)], fence) == [False]


@pytest.mark.parametrize("end", ENDS)
def test_followers_take_whatever_end_their_leader_comes_to(store, end):
    fence = fill(store, 6, same=(1, 3, 4))
    assert store.share_results(B) == 0
    store.write([intend(1)], fence)
    assert store.share_results(B) == 0
    store.write([step(1) for step in ENDS[end]], fence)
    spent = store.counts(B).tokens
    assert store.share_results(B) == 2
    assert store.share_results(B) == 0
    rows = list(store.results(B))
    for follower in (rows[3], rows[4]):
        for name in ("state", "outputs", "error", "cause", "run_id", "workflow_id"):
            assert getattr(follower, name) == getattr(rows[1], name)
        assert (follower.attempts, follower.tokens, follower.price, follower.seconds) == (0, 0, None, None)
        assert (follower.leader, follower.shared_with) == (1, 3)
    assert store.counts(B).tokens == spent
    assert store.counts(B).by_state == {end: 3, PENDING: 3}


def test_what_is_found_out_about_an_unknown_leader_reaches_its_followers(store):
    fence = fill(store, 3, same=(0, 2))
    store.write([intend(0), give_up(0)], fence)
    assert store.share_results(B) == 1
    store.write([Attach(key(0), "found", None)], fence)
    assert (states(store), store.share_results(B)) == ([RowState.RUNNING, PENDING, UNKNOWN], 0)
    store.write([finish(0)], fence)
    assert store.share_results(B) == 1
    assert (states(store), store.causes(B)) == ([OK, PENDING, OK], [])


@pytest.mark.parametrize(("end", "cause"), [(FAILED, None), (FAILED, "c"), (UNKNOWN, "lost")])
def test_a_retry_of_the_leader_takes_its_followers_along(store, end, cause):
    fence = fill(store, 5, same=(0, 2, 3))
    store.write([intend(0), *[step(0) for step in ENDS[end]], intend(1), finish(1)], fence)
    store.share_results(B)
    assert store.retry(B, cause) == 3
    assert (startable(store), store.share_results(B)) == ([0, 4], 0)
    assert [row.outputs for row in store.results(B)] == [None, '{"a": 1}', None, None, None]
    store.write([intend(0, 2), finish(0, 2, outputs='{"second": 1}')], fence)
    assert store.share_results(B) == 2
    assert [row.outputs for row in store.results(B)][2:4] == ['{"second": 1}'] * 2
    assert store.counts(B).by_state == {OK: 4, PENDING: 1}


def test_results_are_shared_some_at_a_time(store, monkeypatch):
    for module in (bounds, sharing, memory_sharing):
        monkeypatch.setattr(module, "SHARED_AT_ONCE", 3)
    fence = fill(store, 9, same=range(1, 9))
    store.write([intend(1), finish(1)], fence)
    assert [store.share_results(B) for _ in range(4)] == [3, 3, 1, 0]
    assert Counter(states(store)) == {OK: 8, PENDING: 1}


def test_only_the_own_batch_shares(store):
    fence = fill(store, 3, same=(0, 2))
    fill(store, 3, "other", same=(0, 2))
    fence = store.take_over("tests")
    store.write([intend(0), finish(0)], fence)
    assert (store.share_results("other"), store.share_results(B)) == (0, 1)
    assert states(store, "other") == [PENDING] * 3
    assert new_row(0).input_hash is None
