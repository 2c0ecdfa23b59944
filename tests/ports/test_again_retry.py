"""What every store promises of rows that share a result and are run again, changed, or have files."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.ports.building import B, batch, fill, finish, give_up, intend, key, new_row, states

from rowmill.domain.again import input_hash
from rowmill.domain.batch import BatchMove, RowMove, RowState, Settings, Spent
from rowmill.ports.store import Again, Attach, OutputFile
from rowmill.ports.store_again import AppendedSheet

OK, FAILED, PENDING, UNKNOWN = RowState.SUCCEEDED, RowState.FAILED, RowState.PENDING, RowState.UNKNOWN
OTHER = {"q": "other"}


def leaders(store, batch_id=B):
    return [row.leader for row in store.results(batch_id)]


def startable(store):
    return [job.position for job in store.startable(B, 0.0, -1, 1000, None)]


def failed(store, same=(0, 2, 3), rows=5):
    """The rows that are the same have failed."""
    fence = fill(store, rows, same=same)
    store.write([intend(same[0]), finish(same[0], move=RowMove.FAIL, cause="c")], fence)
    assert store.share_results(B) == len(same) - 1
    return fence


@pytest.mark.parametrize("named", [(0,), (2,), (0, 3), (2, 3)])
def test_whichever_of_them_is_named_all_are_run_again(store, named):
    fence = failed(store)
    assert store.retry(B, Again(positions=named)) == 3
    assert (states(store), startable(store), store.share_results(B)) == ([PENDING] * 5, [0, 1, 4], 0)
    store.write([intend(0, 2), finish(0, 2)], fence)
    assert store.share_results(B) == 2
    assert store.counts(B).by_state == {OK: 3, PENDING: 2}


def test_a_row_that_has_succeeded_is_not_run_again_with_those_that_follow_it(store):
    fence = fill(store, 5, same=(0, 2, 3))
    store.write([intend(0), give_up(0)], fence)
    store.share_results(B)
    store.write([Attach(key(0), "r", None), finish(0)], fence)
    assert states(store) == [OK, PENDING, UNKNOWN, UNKNOWN, PENDING]
    assert store.retry(B, Again(positions=(2,))) == 2
    assert startable(store) == [1, 4]
    assert store.share_results(B) == 2
    assert store.counts(B).by_state == {OK: 3, PENDING: 2}


def test_a_leader_that_is_changed_leaves_its_followers_to_the_first_of_them(store):
    fence = failed(store)
    assert store.retry(B, Again(positions=(0,), inputs=OTHER)) == 1
    assert (states(store), leaders(store)) == ([PENDING, PENDING, FAILED, FAILED, PENDING], [None, None, None, 2, None])
    store.write([intend(0, 2), finish(0, 2)], fence)
    assert store.share_results(B) == 0
    assert store.retry(B, Again()) == 2
    assert startable(store) == [1, 2, 4]
    store.write([intend(2), finish(2, outputs='{"of": "two"}')], fence)
    assert store.share_results(B) == 1
    assert [row.outputs for row in store.results(B)][2:4] == ['{"of": "two"}'] * 2
    assert store.counts(B).by_state == {OK: 3, PENDING: 2}


def test_what_a_changed_leader_came_to_is_still_taken(store):
    fence = fill(store, 5, same=(0, 2, 3))
    store.write([intend(0), finish(0, move=RowMove.FAIL, cause="c")], fence)
    assert store.retry(B, Again(positions=(0,), inputs=OTHER)) == 1
    assert (states(store), leaders(store)) == ([PENDING, PENDING, FAILED, FAILED, PENDING], [None, None, None, 2, None])


def test_a_follower_that_is_changed_is_run_by_itself(store):
    fence = failed(store)
    assert store.retry(B, Again(positions=(2,), inputs=OTHER)) == 1
    assert leaders(store) == [None, None, None, 0, None]
    assert (startable(store), store.share_results(B)) == ([1, 2, 4], 0)
    store.write([intend(2), finish(2)], fence)
    assert store.retry(B, Again("c")) == 2


def test_the_only_follower_of_a_changed_leader_is_free(store):
    fence = failed(store, same=(1, 2))
    assert store.retry(B, Again(positions=(1,), inputs=OTHER)) == 1
    assert leaders(store) == [None] * 5
    assert store.retry(B, Again(positions=(2,))) == 1
    assert store.write([intend(1, 2), intend(2)], fence) == [True, True]


def test_a_row_that_cannot_be_run_again_keeps_inputs_and_followers(store):
    fence = fill(store, 5, same=(0, 2, 3))
    store.write([intend(0), finish(0)], fence)
    assert store.retry(B, Again(positions=(0,), inputs=OTHER)) == 0
    assert leaders(store) == [None, None, 0, 0, None]
    assert store.row(B, 0).inputs == {"q": "text 0"}
    assert store.share_results(B) == 2


def test_a_changed_row_is_known_by_its_new_inputs(store):
    failed(store, same=(0, 2))
    store.retry(B, Again(positions=(0,), inputs=OTHER))
    store.add_batch(batch("later", settings=Settings(since=B)))
    store.add_rows("later", [replace(new_row(0), inputs=OTHER, input_hash=input_hash(OTHER))])
    assert store.plan_reuse("later", B, None, usable=True).again == 1


def test_what_cost_nothing_is_not_spent(store):
    fence = fill(store, 5, same=(0, 2, 3))
    store.write([intend(0), intend(1, slot=1), finish(0), finish(1)], fence)
    assert store.spent(B) == Spent(2, 20)
    store.share_results(B)
    assert store.spent(B) == Spent(2, 20)


FILE = OutputFile("files.0", "a.png", "f" * 64, 5)


def test_a_row_that_follows_has_the_files_of_its_leader(store):
    fence = fill(store, 5, same=(0, 2))
    store.write([intend(0), finish(0), intend(1), finish(1)], fence)
    store.share_results(B)
    store.save_output_file(key(0), FILE)
    assert [row.files for row in store.results(B)] == [(FILE,), (), (FILE,), (), ()]
    assert store.count_output_files(B) == (1, 0)


def test_files_of_an_earlier_batch_are_taken_with_its_results_and_outlive_it(store):
    fence = fill(store, 3, same=(0, 2))
    store.write([intend(0), finish(0), intend(1), finish(1)], fence)
    store.share_results(B)
    store.save_output_file(key(0), FILE)
    store.add_batch(batch("later", settings=Settings(since=B)))
    rows = [replace(new_row(0), input_hash="same"), replace(new_row(1), input_hash="own 1")]
    store.add_rows("later", rows)
    assert store.plan_reuse("later", B, None, usable=True).reused == 2
    assert store.take_results("later", B, None) == 2
    assert [row.files for row in store.results("later")] == [(FILE,), ()]
    store.close_batch(B, wants_to_end=True, reason="asked")
    store.delete_batch(B)
    while store.purge():
        pass
    assert store.batch(B) is None
    assert [row.files for row in store.results("later")] == [(FILE,), ()]
    assert FILE.sha256 in store.needed_files()


def test_appended_rows_bring_their_files_along(store):
    fill(store)
    store.move_batch(B, BatchMove.PAUSE)
    store.move_batch(B, BatchMove.DRAINED)
    store.add_batch(batch("draft"))
    store.add_rows("draft", [new_row(0)])
    store.add_files("draft", {"f" * 64})
    store.append_rows(B, "draft", AppendedSheet(0, 0, "more.csv", "/more.csv", "more", "d"))
    assert store.batch("draft") is None
    assert store.needed_files() == {"f" * 64}
