"""What every store promises of rows and sheets that are not new (rowmill.ports.store)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from tests.ports.building import APP, B, batch, fill, finish, give_up, intend, key, new_row, refuse, states

from rowmill.domain.again import Reuse, input_hash
from rowmill.domain.batch import BATCH_MOVES, BatchMove, BatchState, RowMove, RowState, Settings
from rowmill.domain.errors import IllegalMoveError, StoreError
from rowmill.ports.store import Again, Attach, NewRow
from rowmill.ports.store_again import AppendedSheet
from rowmill.store import bounds, memory_reuse, memory_sharing, reuse, sharing


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
    store.add_rows(
        B, [NewRow(p, p + 2, (), {}, known_by is None, input_hash=known_by) for p, known_by in enumerate(hashes)]
    )
    assert (store.duplicates(B), store.followers(B)) == (3, 0)
    assert store.find_leaders(B) == 3
    assert [row.leader for row in store.results(B)] == [None, None, 0, None, None, 0, 1, None]
    assert [row.shared_with for row in store.results(B)] == [None, None, 2, None, None, 2, 3, None]
    assert (store.duplicates(B), store.followers(B)) == (3, 3)
    assert store.duplicates("none") == store.followers("none") == store.share_results("none") == 0


def test_rows_that_were_started_do_not_begin_to_follow(store):
    fence = fill(store, 6, same=())
    store.add_batch(batch("two"))
    store.add_rows("two", [NewRow(p, p + 2, (), {}, input_hash="x") for p in range(5)])
    store.move_batch("two", BatchMove.CHECKED)
    steps = [intend(1, batch_id="two"), intend(2, batch_id="two")]
    assert store.write([*steps, replace(refuse(2), key=key(2, batch_id="two"))], fence) == [True] * 3
    assert store.find_leaders("two") == 2
    assert [row.leader for row in store.results("two")] == [None, None, None, 0, 0]
    assert store.find_leaders("two") == 0


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
    assert store.retry(B, Again(cause)) == 3
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


# ── rows that take the result of an earlier batch ───────────────────────────────────────────────────────────────────

NEW = "batch-new"


def line(position, name, text, hashed=True):
    """A row named in its second cell."""
    inputs = {"q": text}
    return NewRow(position, position + 2, (text, name), inputs, input_hash=input_hash(inputs) if hashed else None)


def earlier(store, hashed=True):
    """Row 0 failed, 1 and 2 succeeded with version v1, 3 with v2, 4 with one that nobody told, 5 is blank."""
    store.save_app(APP)
    store.add_batch(batch())
    names = ["a", "b", "c", "d", 5]
    store.add_rows(B, [line(p, name, f"text {name}", hashed) for p, name in enumerate(names)])
    store.add_rows(B, [NewRow(5, 7, (None, None), {}, blank=True)])
    store.move_batch(B, BatchMove.CHECKED)
    fence = store.take_over("tests")
    store.write([intend(p) for p in range(5)], fence)
    store.write([finish(0, move=RowMove.FAIL)], fence)
    for p, version in ((1, "v1"), (2, "v1"), (3, "v2"), (4, None)):
        store.write([finish(p, run_id=f"r{p}", workflow_id=version, price="0.1")], fence)
    return fence


def later(store, *rows):
    store.add_batch(batch(NEW, settings=Settings(since=B)))
    store.add_rows(NEW, [line(p, name, text) for p, (name, text) in enumerate(rows)])
    store.add_rows(NEW, [NewRow(len(rows), 99, (None, None), {}, blank=True)])


SHEET = [("a", "text a"), ("c", "text c"), ("b", "text new"), ("x", "text b"), ("d", "text d"), ("5", "text 5")]


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize(
    ("columns", "found", "origins"),
    [
        (None, Reuse(reused=4, again=1, changed=0, new=1, gone=0), [None, 2, None, 1, 3, 4]),
        ((1, 1), Reuse(reused=3, again=1, changed=1, new=1, gone=0), [None, 2, None, None, 3, 4]),
    ],
)
def test_rows_are_compared_with_those_of_an_earlier_batch(store, columns, found, origins, hashed):
    earlier(store, hashed)
    later(store, *SHEET)
    assert store.plan_reuse(NEW, B, columns, usable=True) == found
    assert [row.origin for row in store.results(NEW)] == [*origins, None]
    assert [row.reused_row for row in store.results(NEW)][1] == 4
    assert store.reuse(NEW) == (found.reused, 0)
    assert startable(store, NEW) == [p for p, origin in enumerate(origins) if origin is None]
    assert states(store, NEW) == [PENDING] * 6 + [RowState.SKIPPED]


def test_what_is_gone_and_what_may_not_be_taken(store):
    earlier(store)
    later(store, ("a", "text a"), ("b", "text b"), ("b", "text b"))
    assert store.plan_reuse(NEW, B, None, usable=False) == Reuse(again=3, gone=3)
    assert store.reuse(NEW) == (0, 0)
    assert store.plan_reuse(NEW, B, (1, 1), usable=True) == Reuse(reused=2, again=1, gone=3)
    assert [row.origin for row in store.results(NEW)][:3] == [None, 1, 1]
    assert store.plan_reuse(NEW, "none", (1, 1), usable=True) == Reuse(new=3)


def test_only_a_draft_is_compared(store):
    earlier(store)
    with pytest.raises(IllegalMoveError):
        store.plan_reuse(B, B, None, usable=True)


def test_the_first_of_several_that_are_the_same_gives_its_result(store):
    fence = fill(store, 4)
    store.add_batch(batch("twins"))
    store.add_rows("twins", [line(p, "n", "same") for p in range(3)])
    store.move_batch("twins", BatchMove.CHECKED)
    keys = [key(p, batch_id="twins") for p in range(3)]
    store.write([intend(p, batch_id="twins") for p in range(3)], fence)
    store.write([replace(finish(p, move=move), key=keys[p]) for p, move in enumerate(
        (RowMove.FAIL, RowMove.SUCCEED, RowMove.SUCCEED))], fence)  # fmt: skip
    later(store, ("n", "same"), ("n", "same"))
    assert store.plan_reuse(NEW, "twins", (1, 1), usable=True) == Reuse(reused=2)
    assert [row.origin for row in store.results(NEW)][:2] == [1, 1]


@pytest.mark.parametrize(
    ("workflow_id", "any_version", "taken"),
    [(None, False, [4]), ("v1", False, [1, 2, 4]), ("v2", False, [3, 4]), (None, True, [1, 2, 3, 4])],
)
def test_results_are_taken_of_the_same_version_only(store, workflow_id, any_version, taken):
    earlier(store)
    later(store, *[(name, f"text {name}") for name in ("a", "b", "c", "d", 5)])
    store.plan_reuse(NEW, B, None, usable=True)
    assert store.take_results(NEW, B, workflow_id, any_version=any_version) == len(taken)
    assert store.take_results(NEW, B, workflow_id, any_version=any_version) == 0
    then, now = list(store.results(B)), list(store.results(NEW))
    for position in taken:
        assert now[position].state is OK
        for name in ("outputs", "run_id", "workflow_id"):
            assert getattr(now[position], name) == getattr(then[position], name)
        assert (now[position].attempts, now[position].tokens, now[position].price) == (0, 0, None)
        assert (now[position].origin, now[position].reused_row) == (position, position + 2)
    assert store.reuse(NEW) == (4 - len(taken), len(taken))
    assert store.counts(NEW).tokens == 0
    assert sum(store.counts(NEW).by_state.values()) == 6


def test_rows_that_are_freed_are_rows_like_any_other(store):
    fence = earlier(store)
    later(store, *[(name, f"text {name}") for name in ("a", "b", "c", "d", 5)])
    store.plan_reuse(NEW, B, None, usable=True)
    store.move_batch(NEW, BatchMove.CHECKED)
    assert store.write([intend(1, batch_id=NEW)], fence) == [False]
    assert (store.free_held(NEW, 1), startable(store, NEW)) == (1, [0, 1])
    assert store.write([intend(1, batch_id=NEW)], fence) == [True]
    assert (store.free_held(NEW, 1000), store.free_held(NEW, 1000)) == (3, 0)
    assert (startable(store, NEW), store.reuse(NEW)) == ([0, 2, 3, 4], (0, 0))
    assert store.take_results(NEW, B, None, any_version=True) == 0


def test_many_are_taken_and_freed_some_at_a_time(store, monkeypatch):
    for module in (bounds, reuse, memory_reuse):
        monkeypatch.setattr(module, "SHARED_AT_ONCE", 2)
    earlier(store)
    later(store, *[(name, f"text {name}") for name in ("a", "b", "c", "d", 5)])
    store.plan_reuse(NEW, B, None, usable=True)
    assert [store.take_results(NEW, B, "v1") for _ in range(3)] == [2, 1, 0]
    assert [store.free_held(NEW, 1000) for _ in range(2)] == [1, 0]


def test_taken_results_are_taken_again_and_rows_that_are_held_do_not_lead(store):
    earlier(store)
    later(store, ("b", "text b"), ("b", "text b"), ("y", "text y"), ("y", "text y"))
    store.plan_reuse(NEW, B, None, usable=True)
    assert (store.duplicates(NEW), store.find_leaders(NEW)) == (2, 1)
    assert [row.leader for row in store.results(NEW)] == [None, None, None, 2, None]
    store.take_results(NEW, B, "v1")
    store.add_batch(batch("third", settings=Settings(since=NEW)))
    store.add_rows("third", [line(0, "b", "text b")])
    assert store.plan_reuse("third", NEW, (1, 1), usable=True) == Reuse(reused=1, gone=2)
    assert store.take_results("third", NEW, "v1") == 1
    (row,) = store.results("third")
    assert (row.run_id, row.workflow_id, row.origin) == ("r1", "v1", 0)


# ── rows that are appended ──────────────────────────────────────────────────────────────────────────────────────────

MORE = AppendedSheet(0, 0, "more.csv", "/data/more.csv", "more", "d2")


def draft_of(store, *texts, name="draft", blank=()):
    store.add_batch(batch(name, settings=Settings()))
    made = [line(p, None, text) for p, text in enumerate(texts)]
    store.add_rows(name, [replace(row, blank=row.position in blank) for row in made])


def completed(store, **changes):
    """Three rows, the first two the same."""
    store.save_app(APP)
    store.add_batch(batch(**changes))
    store.add_rows(B, [line(p, None, text) for p, text in enumerate(("x", "x", "y"))])
    store.move_batch(B, BatchMove.CHECKED)
    store.move_batch(B, BatchMove.START, at=1.0)
    fence = store.take_over("tests")
    store.write([intend(p) for p in range(3)], fence)
    store.write([finish(p) for p in range(3)], fence)
    store.move_batch(B, BatchMove.COMPLETE, at=2.0)
    return fence


def test_appended_rows_are_the_last_ones_and_the_batch_goes_on(store):
    fence = completed(store)
    draft_of(store, "x", "z", "y", blank=(1,))
    assert store.append_rows(B, "draft", MORE) is BatchState.QUEUED
    rows = list(store.results(B))
    assert [(row.position, row.number) for row in rows] == [(0, 2), (1, 3), (2, 4), (3, 2), (4, 3), (5, 4)]
    assert states(store) == [OK, OK, OK, PENDING, RowState.SKIPPED, PENDING]
    assert rows[5].inputs == {"q": "y"}
    assert (store.batch("draft"), list(store.results("draft"))) == (None, [])
    after = store.batch(B)
    assert after.appended == (replace(MORE, first=3, rows=3),)
    assert (after.state, after.started_at, after.ended_at) == (BatchState.QUEUED, 1.0, None)
    draft_of(store, "w")
    assert store.append_rows(B, "draft", MORE) is BatchState.QUEUED
    assert [sheet.first for sheet in store.batch(B).appended] == [3, 6]
    assert startable(store) == [3, 5, 6]
    assert store.write([intend(3), finish(3), intend(6)], fence) == [True] * 3


def test_appended_rows_share_if_the_batch_does(store):
    completed(store, settings=Settings(share_duplicates=True))
    draft_of(store, "x", "z", "z", "new")
    store.append_rows(B, "draft", MORE)
    assert [row.leader for row in store.results(B)] == [None, None, None, 0, None, 4, None]
    assert store.share_results(B) == 1
    assert (states(store)[3], startable(store)) == (OK, [4, 6])


def test_a_paused_batch_stays_paused_when_rows_are_appended(store):
    fill(store)
    store.move_batch(B, BatchMove.PAUSE, reason="quota", at=3.0)
    store.move_batch(B, BatchMove.DRAINED, at=3.0)
    draft_of(store, "x")
    assert store.append_rows(B, "draft", MORE) is BatchState.PAUSED
    assert store.batch(B).reason == "quota"


@pytest.mark.parametrize("state", [s for s in BatchState if s not in BATCH_MOVES[BatchMove.APPEND]])
def test_nothing_is_appended_to_what_is_running_or_not_checked(store, state):
    store.save_app(APP)
    store.add_batch(batch(state=state))
    draft_of(store, "x")
    with pytest.raises(IllegalMoveError):
        store.append_rows(B, "draft", MORE)
    assert (states(store), store.batch(B).appended, len(states(store, "draft"))) == ([], (), 1)


def test_only_the_rows_of_a_draft_are_appended(store):
    completed(store)
    fill(store, batch_id="running")
    with pytest.raises(IllegalMoveError):
        store.append_rows(B, "running", MORE)
    with pytest.raises(StoreError, match="store_no_batch"):
        store.append_rows(B, "none", MORE)
    draft_of(store, "x")
    with pytest.raises(StoreError, match="store_no_batch"):
        store.append_rows("none", "draft", MORE)
    assert (len(states(store)), len(states(store, "running")), len(states(store, "draft"))) == (3, 5, 1)
    assert store.batch(B).state is BatchState.COMPLETED
