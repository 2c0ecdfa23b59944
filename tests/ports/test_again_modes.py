"""What every store promises of rows that are the same, where they are turns of conversations or wait for a person."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from tests.ports.building import APP, B, ask, batch, fill, finish, give_up, intend, key, new_row, states

from rowmill.domain.again import Reuse, input_hash
from rowmill.domain.batch import BatchMove, BatchState, RowMove, RowState, Settings, Spent
from rowmill.domain.form import CONVERSATION
from rowmill.ports.store import Again, Attach
from rowmill.ports.store_again import AppendedSheet

OK, PENDING, WAITING = RowState.SUCCEEDED, RowState.PENDING, RowState.WAITING
SHEET = AppendedSheet(0, 0, "more.csv", "/more.csv", "more", "d")


def turn(position, text, talk):
    """As a sheet gives it."""
    inputs = {"q": text} | ({} if talk is None else {CONVERSATION: talk})
    new = new_row(position, inputs=inputs)
    return replace(new, cells=(f"name {position}",), conversation=talk, input_hash=input_hash(inputs))


TALKS = [("a", "x"), ("a", None), ("b", "x"), ("a", "x"), ("a", None)]


def talking(store, batch_id=B):
    store.add_batch(batch(batch_id))
    store.add_rows(batch_id, [turn(position, *told) for position, told in enumerate(TALKS)])


# ── turns of conversations ──────────────────────────────────────────────────────────────────────────────────────


def test_a_turn_of_a_conversation_is_nobodys_duplicate(store):
    store.save_app(APP)
    talking(store)
    assert (store.duplicates(B), store.find_leaders(B)) == (1, 1)
    assert [row.leader for row in store.results(B)] == [None, None, None, None, 1]


@pytest.mark.parametrize("columns", [None, (0, 0)])
def test_a_turn_of_a_conversation_is_the_same_but_gives_and_takes_no_result(store, columns):
    store.save_app(APP)
    talking(store)
    store.move_batch(B, BatchMove.CHECKED)
    fence = store.take_over("tests")
    store.write([one for p in range(5) for one in (intend(p), finish(p, conversation_id="c"))], fence)
    talking(store, "later")
    assert store.plan_reuse("later", B, columns, usable=True) == Reuse(reused=2, again=3)
    assert [row.origin for row in store.results("later")] == [None, 1, None, None, 1 if columns is None else 4]


def test_a_turn_that_is_changed_is_still_nobodys_duplicate(store):
    store.save_app(APP)
    talking(store)
    store.move_batch(B, BatchMove.CHECKED)
    fence = store.take_over("tests")
    store.write([intend(0), finish(0, move=RowMove.FAIL, cause="c")], fence)
    assert store.retry(B, Again(positions=(0,), inputs={"q": "b", CONVERSATION: "x"})) == 1
    assert store.duplicates(B) == 1


def test_appended_turns_go_on_with_the_conversation(store):
    store.save_app(APP)
    talking(store)
    store.move_batch(B, BatchMove.CHECKED)
    store.add_batch(batch("draft"))
    store.add_rows("draft", [turn(0, "c", "x"), turn(1, "a", "y")])
    store.add_files("draft", ["f" * 64])
    assert store.append_rows(B, "draft", SHEET) is BatchState.QUEUED
    jobs = store.startable(B, 0.0, 4, 9, None)
    assert [(job.position, job.conversation, job.first) for job in jobs] == [(5, "x", 0), (6, "y", 6)]
    assert store.needed_files() == {"f" * 64}
    assert store.batch("draft") is None


# ── rows that wait for a person ─────────────────────────────────────────────────────────────────────────────────


def asking(store, rows=5):
    """The rows 0, 2 and 3 are the same; the first of them asks."""
    fence = fill(store, rows, same=(0, 2, 3))
    store.write([intend(0), Attach(key(0), "run-0", "t", "v1"), ask(0, asks="[1]")], fence)
    assert (store.share_results(B), store.share_results(B)) == (2, 0)
    return fence


def test_rows_that_are_the_same_wait_for_a_person_together(store):
    asking(store)
    assert states(store) == [WAITING, PENDING, WAITING, WAITING, PENDING]
    rows = list(store.results(B))
    told = [(row.cause, row.asks, row.run_id, row.workflow_id) for row in rows[2:4]]
    assert told == [("needs_person", "[1]", "run-0", "v1")] * 2
    assert [(row.tokens, row.price, row.attempts) for row in rows[2:4]] == [(0, None, 0)] * 2
    counts = store.counts(B)
    assert (counts.asking, counts.open, counts.tokens) == (3, 2, 7)
    assert [row.position for row in store.asking(B, 9)] == [0], "it is one question"
    assert [one.key.position for one in store.to_check(B, -1, 9)] == [0]
    assert [job.position for job in store.startable(B, 1e12, -1, 9, None)] == [1, 4]
    assert store.next_due(B) is None
    assert store.spent(B) == Spent(1, 7)


def test_the_batch_is_completed_around_all_of_them(store):
    fence = asking(store)
    store.write([intend(1), finish(1), intend(4), finish(4)], fence)
    assert store.close_batch(B, wants_to_end=False, reason="x") is BatchState.COMPLETED


@pytest.mark.parametrize(("move", "state"), [(RowMove.SUCCEED, OK), (RowMove.FAIL, RowState.FAILED)])
def test_what_the_person_answers_is_taken_by_all(store, move, state):
    fence = asking(store)
    store.write([finish(0, move=move, price="0.1", currency="USD")], fence)
    assert (store.share_results(B), store.share_results(B)) == (2, 0)
    assert [states(store)[position] for position in (0, 2, 3)] == [state] * 3
    assert [row.asks for row in store.results(B)] == [None] * 5
    assert store.prices(B) == {"USD": Decimal("0.1")}
    assert store.spent(B, with_price=True) == Spent(1, 10, Decimal("0.1"))


def test_one_whose_reply_was_lost_may_turn_out_to_ask(store):
    fence = fill(store, 2, same=(0, 1))
    store.write([intend(0), give_up(0)], fence)
    assert store.share_results(B) == 1
    store.write([ask(0, asks="[1]")], fence)
    assert store.share_results(B) == 1
    assert states(store) == [WAITING, WAITING]


@pytest.mark.parametrize("which", [Again("needs_person"), Again(positions=(0,)), Again(positions=(2,))])
def test_they_are_run_again_together(store, which):
    fence = asking(store)
    assert store.retry(B, Again()) == 0
    assert store.retry(B, which) == 3
    assert (states(store), store.share_results(B)) == ([PENDING] * 5, 0)
    assert [job.position for job in store.startable(B, 0.0, -1, 9, None)] == [0, 1, 4]
    assert store.write([intend(0, 2), finish(0, 2, outputs='{"a": "new"}')], fence) == [True, True]
    assert store.share_results(B) == 2
    assert [row.outputs for row in store.results(B) if row.state is OK] == ['{"a": "new"}'] * 3


def test_the_others_still_wait_when_the_one_that_asks_is_changed(store):
    """They are not paid for without being asked for: `retry --cause needs_person` runs them, once for all."""
    asking(store)
    assert store.retry(B, Again(positions=(0,), inputs={"q": "other"})) == 1
    assert states(store) == [PENDING, PENDING, WAITING, WAITING, PENDING]
    assert [row.position for row in store.asking(B, 9)] == [2]
    assert store.retry(B, Again("needs_person")) == 2
    assert [job.position for job in store.startable(B, 0.0, -1, 9, None)] == [0, 1, 2, 4]


def test_a_leader_that_goes_again_by_itself_is_no_end(store):
    fence = fill(store, 2, same=(0, 1))
    store.write([intend(0), finish(0, move=RowMove.WAIT, cause="model_down", due_at=5.0)], fence)
    assert (store.share_results(B), states(store)) == (0, [WAITING, PENDING])
    assert store.retry(B, Again(positions=(0,), inputs={"q": "other"})) == 0
    assert [row.leader for row in store.results(B)] == [None, 0]


def test_a_row_that_asks_has_no_result_to_be_taken_by_a_later_batch(store):
    asking(store)
    store.add_batch(batch("later", settings=Settings(since=B)))
    store.add_rows("later", [replace(new_row(0), inputs=new_row(0).inputs, input_hash="same")])
    assert store.plan_reuse("later", B, None, usable=True).reused == 0


# ── chats ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_conversation_of_an_answer_is_taken_with_it(store):
    fence = fill(store, 2, same=(0, 1))
    store.write([intend(0), finish(0, conversation_id="c")], fence)
    store.share_results(B)
    assert [row.conversation_id for row in store.results(B)] == ["c", "c"]
    assert store.known_talk(B, "rowmill-s0", ["c"]) == {"c"}
