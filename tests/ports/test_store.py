"""What every store promises (rowmill.ports.store)."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from decimal import Decimal

import pytest
from tests.ports.building import APP, B, ask, batch, fill, finish, give_up, intend, key, lose, new_row, refuse

from rowmill.domain.batch import (
    ATTEMPT_MOVES,
    ROW_MOVES,
    AttemptMove,
    AttemptState,
    BatchMove,
    BatchState,
    RowMove,
    RowState,
    RunStatus,
    Spent,
)
from rowmill.domain.cell import CellError, JsonCell
from rowmill.domain.conversation import Before
from rowmill.domain.errors import FencedError, IllegalMoveError, StoreError
from rowmill.ports.store import Again, Attach, Break, NewRow, RowJob, Wish


def row(store, position):
    return next(r for r in store.results(B) if r.position == position)


def snapshot(store):
    return (
        list(store.results(B)),
        store.open_attempts(B),
        store.busy_slots(B),
        store.counts(B),
        store.causes(B),
        store.startable(B, 1e9, -1, 1000, None),
    )


ATTEMPT_PATHS = {
    AttemptState.INTENT: [],
    AttemptState.ATTACHED: [lambda p: Attach(key(p), "run", "task")],
    AttemptState.UNKNOWN: [lose],
    AttemptState.PAUSED: [ask],
    AttemptState.DONE: [finish],
    AttemptState.REFUSED: [refuse],
    AttemptState.INDETERMINATE: [give_up],
}
ROW_STATE = {
    AttemptState.PAUSED: RowState.WAITING,
    AttemptState.DONE: RowState.SUCCEEDED,
    AttemptState.REFUSED: RowState.PENDING,
    AttemptState.INDETERMINATE: RowState.UNKNOWN,
}
RECORDS = [
    (AttemptMove.ATTACH, None, lambda p: Attach(key(p), "late", "late")),
    (AttemptMove.LOSE, None, lose),
    (AttemptMove.ASK, RowMove.ASK, ask),
    (AttemptMove.GIVE_UP, RowMove.LOSE, give_up),
    (AttemptMove.REFUSE, RowMove.PUT_BACK, refuse),
    *[(AttemptMove.FINISH, move, lambda p, move=move: finish(p, move=move)) for move in RowMove],
    *[(AttemptMove.REFUSE, move, lambda p, move=move: refuse(p, move=move)) for move in RowMove],
]


@pytest.mark.parametrize("start", AttemptState)
def test_each_record_takes_effect_exactly_where_the_tables_of_moves_allow_it(store, start):
    fence = fill(store, len(RECORDS))
    for position, (move, row_move, make) in enumerate(RECORDS):
        store.write([intend(position), *[step(position) for step in ATTEMPT_PATHS[start]]], fence)
        state = row(store, position).state
        assert state is ROW_STATE.get(start, RowState.RUNNING)
        allowed = start in ATTEMPT_MOVES[move][0] and (row_move is None or state in ROW_MOVES[row_move][0])
        before = snapshot(store)
        assert store.write([make(position)], fence) == [allowed], (start, move, row_move)
        if not allowed:
            assert snapshot(store) == before
        elif row_move is not None:
            assert row(store, position).state is ROW_MOVES[row_move][1]
        elif move is AttemptMove.ATTACH:
            assert row(store, position).state is RowState.RUNNING


@pytest.mark.parametrize("state", RowState)
def test_only_pending_and_waiting_rows_start_and_only_with_the_next_number(store, state):
    ways = {
        RowState.PENDING: [],
        RowState.RUNNING: [intend(0)],
        RowState.WAITING: [intend(0), refuse(0, move=RowMove.WAIT, due_at=5.0)],
        RowState.SUCCEEDED: [intend(0), finish(0)],
        RowState.PARTIAL: [intend(0), finish(0, move=RowMove.SUCCEED_IN_PART)],
        RowState.FAILED: [intend(0), finish(0, move=RowMove.FAIL)],
        RowState.STOPPED: [intend(0), finish(0, move=RowMove.STOP)],
        RowState.UNKNOWN: [intend(0), give_up(0)],
    }
    fence = fill(store, 1)
    if state is RowState.SKIPPED:
        store.add_batch(batch("other"))
        store.add_rows("other", [new_row(0, blank=True)])
        assert store.write([intend(0, batch_id="other")], fence) == [False]
        return
    for record in ways[state]:
        assert store.write([record], fence) == [True]
    tries = len(ways[state]) and 1
    assert store.write([intend(0, tries)], fence) == [False]
    assert store.write([intend(0, tries + 2)], fence) == [False]
    assert store.write([intend(0, tries + 1)], fence) == [state in (RowState.PENDING, RowState.WAITING)]


def test_records_for_what_is_not_there_answer_false(store):
    fence = fill(store, 1)
    absent = [intend(9), finish(9), intend(0, batch_id="none"), lose(0), give_up(0), Attach(key(0), "r", None)]
    assert store.write(absent, fence) == [False] * 6
    assert store.write([], fence) == []


def test_a_late_record_among_good_ones_is_the_only_one_that_answers_false(store):
    fence = fill(store, 5)
    store.write([intend(position) for position in range(5)], fence)
    store.write([finish(2)], fence)
    late = finish(2, outputs='{"a": "late"}')
    assert store.write([finish(0), finish(1), late, finish(3), finish(4)], fence) == [True, True, False, True, True]
    assert row(store, 2).outputs == '{"a": 2}'


def test_records_of_one_row_are_applied_in_order_within_a_write(store):
    fence = fill(store, 2)
    records = [
        intend(0),
        intend(1),
        Attach(key(0), "run-a", "task-a"),
        finish(0, move=RowMove.WAIT, due_at=3.0, status=RunStatus.FAILED, cause="x"),
        intend(0, 2),
        refuse(0, 2),
        intend(0, 3),
        finish(0, 3),
        lose(1),
        finish(0, 3),
    ]
    assert store.write(records, fence) == [True] * 9 + [False]
    assert row(store, 0).state is RowState.SUCCEEDED
    assert row(store, 0).attempts == 2


def test_what_a_finished_row_shows(store):
    fence = fill(store, 1)
    store.write([intend(0), Attach(key(0), "run-1", "task-1", "wf")], fence)
    outputs = '{"b": 1.0,\n "a": "\\ud83d", "text": "中文"}'
    done = finish(0, outputs=outputs, tokens=12, seconds=1.5, price="0.0012", currency="USD")
    assert store.write([done], fence) == [True]
    shown = row(store, 0)
    assert (shown.outputs, shown.tokens, shown.seconds, shown.run_id) == (outputs, 12, 1.5, "run-1")
    assert (shown.price, shown.currency, shown.attempts, shown.number) == ("0.0012", "USD", 1, 2)


def test_given_seconds_come_before_those_of_the_outcome(store):
    fence = fill(store, 1)
    store.write([intend(0), replace(finish(0, seconds=1.0), seconds=9.0)], fence)
    assert row(store, 0).seconds == 9.0


def test_attaching_again_keeps_the_ids_that_are_known(store):
    fence = fill(store, 1)
    store.write([intend(0), Attach(key(0), "run-1", "task-1", ahead=0.5)], fence)
    store.write([give_up(0)], fence)
    assert row(store, 0).run_id == "run-1"
    assert store.write([Attach(key(0), None, None, ahead=0.25)], fence) == [True]
    (found,) = store.open_attempts(B)
    assert (found.run_id, found.task_id, found.ahead, found.state) == ("run-1", "task-1", 0.25, AttemptState.ATTACHED)
    assert (row(store, 0).state, row(store, 0).cause) == (RowState.RUNNING, None)


def test_refusals_cost_no_try_unless_they_count(store):
    fence = fill(store, 1)
    store.write([intend(0), refuse(0)], fence)
    assert store.startable(B, 0.0, -1, 9, None) == [RowJob(0, {"q": "text 0"}, 1, 1)]
    assert (row(store, 0).cause, row(store, 0).attempts) == (None, 0)
    store.write([intend(0, 2), refuse(0, 2, RowMove.WAIT, due_at=50.0, counts=True)], fence)
    assert (row(store, 0).cause, row(store, 0).error, row(store, 0).attempts) == ("rate_limit", "too many", 1)
    store.write([intend(0, 3)], fence)
    assert (row(store, 0).cause, row(store, 0).error) == (None, None)
    store.write([refuse(0, 3, RowMove.FAIL)], fence)
    assert (row(store, 0).state, row(store, 0).cause, row(store, 0).error) == (
        RowState.FAILED,
        "rate_limit",
        "too many",
    )


def test_a_retried_unknown_row_is_safe_from_its_old_attempt_and_keeps_the_slot_busy(store):
    fence = fill(store, 1)
    store.write([intend(0, slot=3), give_up(0)], fence)
    assert store.retry(B, Again()) == 0
    assert store.retry(B, Again("lost")) == 1
    assert store.busy_slots(B) == {3}
    assert store.write([finish(0)], fence) == [False]
    assert store.write([Attach(key(0), "old", None)], fence) == [False]
    assert store.write([intend(0, 2, slot=4)], fence) == [True]
    assert store.write([finish(0, 1, outputs='{"old": 1}')], fence) == [True]
    assert (row(store, 0).state, row(store, 0).outputs) == (RowState.RUNNING, None)
    assert store.busy_slots(B) == {4}
    assert store.write([finish(0, 2)], fence) == [True]


def test_an_unknown_row_takes_its_result_when_it_is_found_after_all(store):
    fence = fill(store, 1)
    store.write([intend(0), give_up(0)], fence)
    assert store.write([finish(0)], fence) == [True]
    assert (row(store, 0).state, row(store, 0).cause, store.busy_slots(B)) == (RowState.SUCCEEDED, None, set())


def test_retry_takes_failed_and_stopped_rows_or_those_of_a_cause(store):
    fence = fill(store, 5)
    store.write([intend(position) for position in range(5)], fence)
    store.write(
        [
            finish(0, move=RowMove.FAIL, cause="a", error="e"),
            finish(1, move=RowMove.STOP, cause="b"),
            give_up(2),
            finish(3),
            finish(4, move=RowMove.FAIL, cause="a"),
        ],
        fence,
    )
    assert store.causes(B) == [("a", RowState.FAILED, 2), ("b", RowState.STOPPED, 1), ("lost", RowState.UNKNOWN, 1)]
    assert store.retry(B, Again("b")) == 1
    assert store.retry(B, Again("nothing")) == 0
    assert store.retry(B, Again()) == 2
    cleared = row(store, 0)
    assert (cleared.state, cleared.outputs, cleared.error, cleared.cause) == (RowState.PENDING, None, None, None)
    assert [job.position for job in store.startable(B, 0, -1, 9, None)] == [0, 1, 4]
    assert store.startable(B, 0, -1, 1, None)[0].tries == 1


def test_startable_gives_due_rows_first_and_only_what_lies_between_after_and_until(store):
    fence = fill(store, 8)
    for position, due_at in ((0, 50.0), (1, 40.0), (2, 101.0), (3, 900.0), (6, 30.0)):
        store.write([intend(position), refuse(position, move=RowMove.WAIT, due_at=due_at)], fence)
    store.write([intend(7), refuse(7, move=RowMove.WAIT)], fence)
    asked = [
        ((100.0, 4, 9, None), [6, 1, 0, 3, 5]),
        ((100.0, -1, 9, None), [6, 1, 0, 3, 4, 5]),
        ((100.0, -1, 2, None), [6, 1]),
        ((100.0, -1, 5, 5), [1, 0, 3, 4]),
        ((400.0, 9, 9, None), [6, 1, 0, 2]),
    ]
    for arguments, positions in asked:
        assert [job.position for job in store.startable(B, *arguments)] == positions
    assert store.next_due(B) == 30.0
    assert store.next_due("none") is None


def test_open_attempts_come_oldest_first_with_their_rows(store):
    fence = fill(store, 4)
    store.write([intend(p, slot=p, sent_at=100.0 - p) for p in range(4)], fence)
    store.write([lose(1), give_up(2), finish(3)], fence)
    found = store.open_attempts(B)
    assert [(a.key.position, a.state, a.user) for a in found] == [
        (1, AttemptState.UNKNOWN, "rowmill-s1"),
        (0, AttemptState.INTENT, "rowmill-s0"),
    ]
    assert found[0].cause == "cut"
    assert found[0].job == RowJob(1, {"q": "text 1"}, 1, 0)
    assert store.busy_slots(B) == {0, 1, 2}


def test_known_runs_are_those_of_the_slot_user(store):
    fence = fill(store, 3)
    store.write([intend(0), intend(1, slot=1), intend(2)], fence)
    store.write([Attach(key(0), "r0", None), Attach(key(1), "r1", None), finish(2, run_id="r2")], fence)
    assert store.known_runs(B, "rowmill-s0") == {"r0", "r2"}
    assert store.known_runs(B, "nobody") == set()


def test_counts_are_of_rows_and_tokens(store):
    fence = fill(store, 3)
    store.write([intend(0), intend(1), finish(0, tokens=7), finish(1, tokens=None)], fence)
    counts = store.counts(B)
    assert counts.by_state == {RowState.SUCCEEDED: 2, RowState.PENDING: 1}
    assert (counts.tokens, counts.total, counts.done) == (7, 3, 2)
    assert store.counts("none").by_state == {}


def test_an_absurd_number_of_tokens_is_no_reason_to_refuse_a_result(store):
    fence = fill(store, 2)
    store.write([intend(0), intend(1)], fence)
    assert store.write([finish(0, tokens=10**30), finish(1, tokens=10**30)], fence) == [True, True]
    assert store.counts(B).tokens == 2 * 10**12


def test_a_newer_runner_fences_the_older_one_off(store):
    old = fill(store, 1)
    newer = store.take_over("other")
    assert newer > old
    for fence in (old, newer + 1):
        with pytest.raises(FencedError) as raised:
            store.write([intend(0)], fence)
        assert raised.value.params == {"fence": fence, "newest": newer}
    assert row(store, 0).state is RowState.PENDING
    assert store.write([intend(0)], newer) == [True]


ODD_CELLS = (
    "text",
    "",
    None,
    True,
    3,
    3.5,
    -(2**63),
    2**64 - 1,
    10**40,
    math.inf,
    1e308,
    "half \ud83d emoji",
    "nul \0 inside",
    "\x01json:mark",
    dt.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=8))),
    dt.date(2024, 2, 29),
    dt.time(1, 2, 3),
    dt.timedelta(seconds=90),
    CellError("#N/A"),
    JsonCell({"$date": [1, {"x": None}], "n": 2**70}),
)


@pytest.mark.parametrize("cell", ODD_CELLS, ids=repr)
def test_cells_and_inputs_come_back_as_they_went_in(store, cell):
    store.save_app(APP)
    store.add_batch(batch())
    value = cell if isinstance(cell, (str, bool, int, float)) else [cell and "x", None]
    store.add_rows(B, [NewRow(0, 2, (cell, "beside"), {"q": value, "列": "\udfff"})])
    (shown,) = store.results(B)
    assert shown.cells == (cell, "beside")
    assert [type(c) for c in shown.cells] == [type(cell), str]
    assert shown.inputs == {"q": value, "列": "\udfff"}


def test_nan_stays_nan(store):
    store.save_app(APP)
    store.add_batch(batch())
    store.add_rows(B, [NewRow(0, 2, (math.nan, None), {"q": [{"deep": math.nan}]})])
    (shown,) = store.results(B)
    assert math.isnan(shown.cells[0])
    assert math.isnan(shown.inputs["q"][0]["deep"])


@pytest.mark.parametrize("text", ["\ud83d", "a\0b", "\x01json:", '\x01json:"x"', "中文 😀", "", " lead"], ids=ascii)
def test_texts_from_the_server_come_back_exactly(store, text):
    fence = fill(store, 2)
    done = finish(0, outputs=text, error=text, cause=text, run_id=text + "r", price=text, currency=text)
    assert store.write([intend(0), done], fence) == [True, True]
    shown = row(store, 0)
    assert (shown.outputs, shown.error, shown.cause, shown.run_id) == (text, text, text, text + "r")
    assert store.causes(B) == [(text, RowState.SUCCEEDED, 1)]
    assert store.known_runs(B, "rowmill-s0") == {text + "r"}


def test_results_show_all_rows_in_order_with_blank_ones(store):
    store.save_app(APP)
    store.add_batch(batch())
    store.add_rows(B, [new_row(2), new_row(0, blank=True)])
    store.add_rows(B, [new_row(1)])
    assert [(r.position, r.state) for r in store.results(B)] == [
        (0, RowState.SKIPPED),
        (1, RowState.PENDING),
        (2, RowState.PENDING),
    ]
    assert list(store.results("none")) == []


def test_results_are_one_reading_whatever_is_written_meanwhile(store):
    fence = fill(store, 2500)
    reading = store.results(B)
    first = next(reading)
    store.write([intend(p) for p in range(2500)], fence)
    store.write([finish(p) for p in range(2500)], fence)
    assert store.counts(B).done == 2500
    assert {r.state for r in [first, *reading]} == {RowState.PENDING}
    half = store.results(B)
    next(half)
    half.close()


def test_a_batch_comes_back_as_it_was_added_with_the_newest_key_of_its_app(store):
    store.save_app(APP)
    made = batch(reason="r", detail="\ud800", started_at=1.0, ended_at=2.0)
    store.add_batch(made)
    assert store.batch(B) == made
    newer = store.save_app(replace(APP, sealed_key=b"\x00new", key_hint="new", version=None))
    assert store.batch(B) == replace(made, app=newer)
    assert store.find_app(APP.id) == newer
    assert store.find_app("none") is None
    assert store.batch("none") is None


def test_conflicts_are_refused_and_change_nothing(store):
    with pytest.raises(StoreError, match="store_conflict"):
        store.add_batch(batch())
    store.save_app(APP)
    store.add_batch(batch())
    with pytest.raises(StoreError, match="store_conflict"):
        store.add_batch(batch())
    store.add_rows(B, [new_row(0)])
    with pytest.raises(StoreError, match="store_conflict"):
        store.add_rows(B, [new_row(1), new_row(0)])
    with pytest.raises(StoreError, match="store_conflict"):
        store.add_rows(B, [new_row(1), new_row(1)])
    assert [r.position for r in store.results(B)] == [0]
    with pytest.raises(StoreError, match="store_no_batch"):
        store.add_rows("none", [new_row(0)])
    with pytest.raises(StoreError, match="store_no_batch"):
        store.move_batch("none", BatchMove.START)


def test_only_drafts_take_rows_and_can_be_dropped(store):
    store.save_app(APP)
    store.add_batch(batch("draft"))
    store.add_rows("draft", [new_row(0)])
    store.drop_batch("draft")
    assert (store.batch("draft"), list(store.results("draft"))) == (None, [])
    fill(store)
    for refused in (lambda: store.add_rows(B, [new_row(9)]), lambda: store.drop_batch(B)):
        with pytest.raises(IllegalMoveError):
            refused()


def test_old_drafts_are_swept(store):
    fill(store)
    store.add_batch(batch("old", created_at=10.0))
    store.add_rows("old", [new_row(0)])
    store.add_batch(batch("young", created_at=1000.0))
    assert store.sweep_drafts(500.0) == 1
    assert store.batch("old") is None
    assert store.batch("young") is not None
    assert store.batch(B) is not None


def test_moving_a_batch_keeps_times_and_reason(store):
    fill(store)
    with pytest.raises(IllegalMoveError):
        store.move_batch(B, BatchMove.CHECKED)
    assert store.move_batch(B, BatchMove.PAUSE, reason="quota", detail="no money", at=300.0) is BatchState.PAUSING
    assert store.move_batch(B, BatchMove.PAUSE, at=301.0) is BatchState.PAUSING
    assert store.move_batch(B, BatchMove.DRAINED, at=302.0) is BatchState.PAUSED
    paused = store.batch(B)
    assert (paused.reason, paused.detail, paused.started_at, paused.ended_at) == ("quota", "no money", 200.0, None)
    store.move_batch(B, BatchMove.START, at=400.0)
    assert (store.batch(B).reason, store.batch(B).started_at) == (None, 200.0)
    store.move_batch(B, BatchMove.COMPLETE, at=500.0)
    assert store.batch(B).ended_at == 500.0
    store.move_batch(B, BatchMove.RETRY, at=600.0)
    assert (store.batch(B).state, store.batch(B).ended_at) == (BatchState.QUEUED, None)


def test_batches_are_listed_newest_first_without_drafts(store):
    fill(store)
    store.add_batch(batch("draft"))
    for name, at in (("bb%", 300.0), ("ba", 200.0), ("bc", 200.0)):
        store.add_batch(batch(name, created_at=at, state=BatchState.QUEUED))
    store.add_batch(batch("done", created_at=900.0, state=BatchState.COMPLETED))
    store.add_batch(batch("else", state=BatchState.PAUSED, sheet_name="Sheet2"))
    assert [b.id for b in store.batches()] == ["done", "bb%", "bc", "ba", "else", B]
    listed = store.batches()[-1]
    assert (listed.app_name, listed.base_url, listed.counts.total, listed.state) == (
        APP.name,
        APP.base_url,
        5,
        BatchState.RUNNING,
    )
    assert [b.id for b in store.unfinished(APP.id, "d1", "Sheet1")] == ["bb%", "bc", "ba", B]
    assert store.unfinished(APP.id, "d2", "Sheet1") == []
    assert store.find_batch_ids("b") == ["bb%", "bc", "ba", B]
    assert store.find_batch_ids("B") == store.find_batch_ids("%") == store.find_batch_ids("d" * 3) == []
    assert store.find_batch_ids(B) == [B]


def test_a_retry_by_hand_is_seen_by_whoever_runs_the_batch(store):
    fence = fill(store)
    store.write([intend(p) for p in range(3)], fence)
    store.write([finish(p, move=RowMove.FAIL, cause="c") for p in range(3)], fence)
    assert store.wishes([B, "none"]) == {B: Wish(BatchState.RUNNING, None, 0)}
    assert store.retry(B, Again(positions=(1, 4))) == 1  # 4 has never run
    assert [row(store, p).state for p in (0, 1, 4)] == [RowState.FAILED, RowState.PENDING, RowState.PENDING]
    assert store.wishes([B]) == {B: Wish(BatchState.RUNNING, None, 1)}
    assert store.retry(B, Again(positions=(2,), inputs={"q": "other"})) == 1
    assert row(store, 2).inputs == {"q": "other"}
    assert store.retry(B, Again("nothing")) == 0
    assert store.wishes([B])[B].touched == 2


def test_a_retry_that_the_batch_does_not_allow_changes_nothing(store):
    fence = fill(store)
    store.write([intend(0)], fence)
    store.write([finish(0, move=RowMove.FAIL, cause="c")], fence)
    store.move_batch(B, BatchMove.STOP)
    before = snapshot(store)
    with pytest.raises(IllegalMoveError):
        store.retry(B, Again())
    assert snapshot(store) == before


def test_many_positions_at_once(store):
    fence = fill(store, 1200)
    store.write([intend(p, slot=p) for p in range(1200)], fence)
    store.write([finish(p, move=RowMove.STOP) for p in range(1200)], fence)
    numbers = list(range(2, 1202))
    assert store.positions_of(B, numbers) == list(range(1200))
    assert store.positions_of(B, [1, 5000]) == []
    assert store.retry(B, Again(positions=tuple(range(1200)))) == 1200


def test_a_batch_is_laid_down_as_was_wished_for_last(store):
    fill(store)
    assert store.close_batch(B, wants_to_end=False, reason="sample") is None
    assert store.batch(B).state is BatchState.RUNNING
    store.move_batch(B, BatchMove.PAUSE, reason="asked")
    assert store.close_batch(B, wants_to_end=True, reason="sample", at=5.0) is BatchState.PAUSED
    assert store.batch(B).reason == "asked"
    store.move_batch(B, BatchMove.START)
    assert store.close_batch(B, wants_to_end=True, reason="bad_key", detail="no", at=6.0) is BatchState.PAUSED
    assert (store.batch(B).reason, store.batch(B).detail) == ("bad_key", "no")
    store.move_batch(B, BatchMove.START)
    store.move_batch(B, BatchMove.STOP, reason="asked")
    assert store.close_batch(B, wants_to_end=False, reason="x", at=7.0) is BatchState.STOPPED
    assert (store.batch(B).reason, store.batch(B).ended_at) == ("asked", 7.0)


def test_a_runner_that_was_taken_over_lays_no_batch_down(store):
    fence = fill(store)
    newer = store.take_over("newer")
    with pytest.raises(FencedError):
        store.close_batch(B, wants_to_end=True, reason="x", fence=fence)
    assert store.batch(B).state is BatchState.RUNNING
    assert store.close_batch(B, wants_to_end=True, reason="x", fence=newer) is BatchState.PAUSED


def test_a_batch_without_rows_to_do_is_completed_whatever_was_wished(store):
    fence = fill(store, 1)
    store.write([intend(0)], fence)
    store.write([finish(0)], fence)
    store.move_batch(B, BatchMove.STOP)
    assert store.close_batch(B, wants_to_end=False, reason="x", at=7.0) is BatchState.COMPLETED


def test_what_was_spent_counts_all_attempts_since_a_person_started_the_batch(store):
    fence = fill(store)
    store.write([intend(0), intend(1, slot=1)], fence)
    store.write([finish(0, price="0.10"), finish(1, move=RowMove.WAIT, price="0.2", due_at=1.0)], fence)
    assert store.spent(B, with_price=True) == Spent(1, 20, Decimal("0.3"))
    assert store.spent(B).price == 0
    store.move_batch(B, BatchMove.START)  # goes on after a kill: nothing is granted anew
    assert store.spent(B) == Spent(1, 20)
    store.move_batch(B, BatchMove.PAUSE)
    store.move_batch(B, BatchMove.DRAINED)
    store.move_batch(B, BatchMove.START)
    assert store.spent(B) == Spent(0, 0)
    store.write([intend(1, 2, slot=1)], fence)
    store.write([finish(1, 2)], fence)
    assert store.spent(B) == Spent(1, 10)


def test_a_deleted_batch_is_shown_nowhere_and_goes_away_in_parts(store):
    fence = fill(store, 5)
    store.write([intend(0)], fence)
    with pytest.raises(IllegalMoveError):
        store.delete_batch(B)
    store.move_batch(B, BatchMove.PAUSE)
    store.move_batch(B, BatchMove.DRAINED)
    fill_other = batch("other", created_at=1.0)
    store.add_batch(fill_other)
    store.add_rows("other", [new_row(0)])
    store.delete_batch(B)
    assert store.batches() == []
    assert store.find_batch_ids("b") == []
    assert store.purge(3) == 3
    assert store.purge(3) == 2
    assert store.purge(3) == 0
    assert store.batch(B) is None
    assert store.batch("other") is not None


def test_one_row(store):
    fill(store)
    assert store.row(B, 3) == row(store, 3)
    assert store.row(B, 99) is None


def test_what_a_batch_cost_is_exact_and_counts_every_attempt(store):
    fence = fill(store, 3)
    records = [
        intend(0),
        finish(0, move=RowMove.WAIT, status=RunStatus.FAILED, price="0.1", currency="USD", due_at=1.0),
        intend(0, 2),
        finish(0, 2, price="0.2", currency="USD"),
        intend(1),
        finish(1, price="0.0000001", currency="USD"),
        intend(2),
        finish(2, price="5", currency=None),
    ]
    assert store.prices(B) == {}
    store.write(records, fence)
    assert store.prices(B) == {"": Decimal(5), "USD": Decimal("0.3000001")}
    assert store.prices("other") == {}


def test_conversations_and_messages_of_a_user_are_known_from_the_moment_they_are_heard_of(store):
    fence = fill(store, 4)
    store.write([intend(0), intend(1), intend(2, slot=1), intend(3)], fence)
    store.write([Attach(key(0), None, "t", message_id="m0", conversation_id="c0")], fence)
    store.write([finish(1, message_id="m1", conversation_id="c1"), finish(2, message_id="m2")], fence)
    asked = ["m0", "c0", "m1", "c1", "m2", "other"]
    assert store.known_talk(B, "rowmill-s0", asked) == {"m0", "c0", "m1", "c1"}
    assert store.known_talk(B, "rowmill-s1", asked) == {"m2"}
    assert store.known_talk(B, "nobody", asked) == store.known_talk(B, "rowmill-s0", []) == set()
    (attached, nameless) = store.open_attempts(B)
    assert (attached.message_id, attached.conversation_id) == ("m0", "c0")
    assert (nameless.message_id, nameless.conversation_id) == (None, None)


def test_attempts_without_a_message_are_unsettled_until_they_end(store):
    fence = fill(store, 5)
    store.write([intend(position) for position in range(5)], fence)
    assert store.unsettled(B, "rowmill-s0") == 5
    store.write([Attach(key(0), None, "t", message_id="m0"), lose(1), give_up(2), finish(3), refuse(4)], fence)
    assert store.unsettled(B, "rowmill-s0") == 2
    assert store.unsettled(B, "nobody") == store.unsettled("other", "rowmill-s0") == 0


def test_what_the_end_does_not_tell_again_is_kept(store):
    fence = fill(store, 1)
    store.write([intend(0), Attach(key(0), "r", "t", message_id="m0", conversation_id="c0"), finish(0)], fence)
    assert store.known_talk(B, "rowmill-s0", ["m0", "c0"]) == {"m0", "c0"}


# ── runs that wait for a person ─────────────────────────────────────────────────────────────────────────────────────


def test_a_paused_row_waits_without_being_due_and_its_slot_is_free(store):
    fence = fill(store, 3)
    store.write([intend(0), intend(1, slot=1), Attach(key(0), "run-0", "t"), ask(0, asks='[{"node_id": "n"}]')], fence)
    paused = row(store, 0)
    assert (paused.state, paused.cause, paused.asks) == (RowState.WAITING, "needs_person", '[{"node_id": "n"}]')
    assert (paused.run_id, paused.tokens, paused.error) == ("run-0", 7, None)
    assert store.busy_slots(B) == {1}
    assert [open_.key.position for open_ in store.open_attempts(B)] == [1]
    assert store.next_due(B) is None
    assert [job.position for job in store.startable(B, 1e12, -1, 10, None)] == [2]
    counts = store.counts(B)
    assert (counts.of(RowState.WAITING), counts.asking, counts.open, counts.done) == (1, 1, 2, 0)
    assert store.batches()[0].counts == counts
    assert [one.position for one in store.asking(B, 10)] == [0]


def test_a_row_that_waits_for_its_next_attempt_asks_nobody(store):
    fence = fill(store, 1)
    store.write([intend(0), finish(0, move=RowMove.WAIT, cause="model_down", due_at=5.0)], fence)
    assert (store.counts(B).asking, store.counts(B).open, store.asking(B, 9)) == (0, 1, [])
    assert store.retry(B, Again("model_down")) == 0, "it goes again by itself"


@pytest.mark.parametrize("asks", [None, "[]"])
def test_what_is_asked_stays_until_it_is_said_anew_or_the_row_ends(store, asks):
    fence = fill(store, 2)
    store.write([intend(0), ask(0, asks="[1]"), intend(1), ask(1, asks="[2]")], fence)
    store.write([finish(0)], fence)
    assert (row(store, 0).state, row(store, 0).asks, row(store, 0).outputs) == (RowState.SUCCEEDED, None, '{"a": 0}')
    store.write([ask(1, asks=asks)], fence)
    assert row(store, 1).asks == "[2]", "a second one for the same pause changes nothing"


def test_paused_and_indeterminate_attempts_are_to_be_checked_if_their_row_has_not_gone_on(store):
    fence = fill(store, 6)
    store.write([intend(position, slot=position) for position in range(5)], fence)
    store.write([ask(0), give_up(1), give_up(2), finish(3), ask(4)], fence)
    assert store.retry(B, Again("lost")) == 2
    store.write([intend(2, 2, slot=9)], fence)
    assert [(one.key.position, one.state) for one in store.to_check(B, -1, 10)] == [
        (0, AttemptState.PAUSED),
        (1, AttemptState.INDETERMINATE),
        (4, AttemptState.PAUSED),
    ]
    assert [one.key.position for one in store.to_check(B, 0, 1)] == [1]
    assert store.write([finish(4), finish(1)], fence) == [True, False]
    assert [one.key.position for one in store.to_check(B, -1, 10)] == [0, 1]


def test_a_row_that_asks_is_put_back_only_by_its_cause(store):
    fence = fill(store, 2)
    store.write([intend(0), ask(0, asks="[1]"), intend(1), finish(1, move=RowMove.FAIL, cause="x")], fence)
    assert store.retry(B, Again()) == 1
    assert row(store, 0).state is RowState.WAITING
    assert store.retry(B, Again("needs_person")) == 1
    assert (row(store, 0).state, row(store, 0).asks, row(store, 0).cause) == (RowState.PENDING, None, None)
    assert store.write([intend(0, 2), finish(0, 2, outputs='{"a": "new"}')], fence) == [True, True]
    assert store.write([finish(0, outputs='{"a": "old"}')], fence) == [True], "the old run's end stays with its attempt"
    assert row(store, 0).outputs == '{"a": "new"}'


# ── conversations of several rows ───────────────────────────────────────────────────────────────────────────────────

TALKS = ["a", None, "b", "a", "a", "b"]


def talks(store, names=TALKS):
    """Rows 0, 3, 4 are one conversation, 2 and 5 another, 1 a row of its own."""
    store.save_app(APP)
    store.add_batch(batch())
    store.add_rows(B, [replace(new_row(i), conversation=name) for i, name in enumerate(names)])
    store.move_batch(B, BatchMove.CHECKED)
    store.move_batch(B, BatchMove.START)
    return store.take_over("tests")


def placed(jobs):
    return [(job.position, job.conversation, job.first, job.before) for job in jobs]


def test_a_row_knows_the_first_turn_and_the_one_before_it(store):
    fence = talks(store)
    new = Before(RowState.PENDING)
    turns = [(0, "a", 0, None), (1, None, None, None), (2, "b", 2, None), (3, "a", 0, new), (4, "a", 0, new)]
    turns.append((5, "b", 2, new))
    assert placed(store.startable(B, 0.0, -1, 9, None)) == turns
    store.write([intend(0), finish(0, conversation_id="c-a")], fence)
    store.write([intend(2), Attach(key(2), "r", "t", conversation_id="c-b"), ask(2)], fence)
    answered = Before(RowState.SUCCEEDED, conversation_id="c-a")
    asked = Before(RowState.WAITING, asks=True, conversation_id="c-b")
    assert placed(store.startable(B, 0.0, -1, 9, None))[1:] == [(3, "a", 0, answered), turns[4], (5, "b", 2, asked)]
    store.write([intend(3), finish(3, move=RowMove.WAIT, status=RunStatus.FAILED, due_at=5.0)], fence)
    assert placed(store.startable(B, 0.0, -1, 9, None))[1] == (4, "a", 0, Before(RowState.WAITING))
    assert placed(store.startable(B, 9.0, -1, 9, None))[0] == (3, "a", 0, answered)
    store.write([intend(1), intend(3, 2)], fence)
    assert [placed([one.job])[0] for one in store.open_attempts(B)] == [turns[1], (3, "a", 0, answered)]
    assert placed([one.job for one in store.to_check(B, -1, 9)]) == [(2, "b", 2, None)]
    assert row(store, 0).conversation_id == "c-a"


def test_the_next_turn(store):
    fence = talks(store)
    new = Before(RowState.PENDING)
    ended = [("b", 2), ("a", 0), ("a", 4), ("nobody", 0), ("a", -1)]
    found = placed(store.next_turns(B, ended, None))
    assert found == [(5, "b", 2, new), (3, "a", 0, new), (0, "a", 0, None)]
    assert [job.position for job in store.next_turns(B, ended, 5)] == [3, 0]
    store.write([intend(3)], fence)
    assert store.next_turns(B, [("a", 0)], None) == [], "it is under way"
    assert [job.position for job in store.next_turns(B, [("a", 3)], None)] == [4]


def test_a_broken_conversation_ends_from_a_turn_on(store):
    fence = talks(store)
    store.write([intend(0)], fence)
    broken = Break(key(3, 0), "conversation_broken")
    assert store.write([Break(key(1, 0), "x"), broken, broken, Break(key(9, 0), "x")], fence) == [
        False,
        True,
        False,
        False,
    ]
    assert [row(store, i).state for i in range(6)] == [
        RowState.RUNNING, RowState.PENDING, RowState.PENDING, RowState.FAILED, RowState.FAILED, RowState.PENDING,
    ]  # fmt: skip
    assert (row(store, 4).cause, row(store, 4).attempts, row(store, 4).error) == ("conversation_broken", 0, None)
    assert store.causes(B) == [("conversation_broken", RowState.FAILED, 2)]


def test_later_turns_are_put_back_with_the_one_that_broke(store):
    fence = talks(store, ["a", "a", "b", "a", "b"])
    store.write([intend(0), finish(0, move=RowMove.FAIL, cause="model_down")], fence)
    store.write([intend(2), finish(2, move=RowMove.FAIL, cause="other")], fence)
    store.write([Break(key(1, 0), "conversation_broken"), Break(key(4, 0), "conversation_broken")], fence)
    assert store.retry(B, Again("model_down")) == 3
    assert [row(store, i).state for i in range(5)] == [
        RowState.PENDING, RowState.PENDING, RowState.FAILED, RowState.PENDING, RowState.FAILED,
    ]  # fmt: skip
    assert row(store, 3).cause is None
    assert store.retry(B, Again()) == 2


def test_a_row_that_starts_again_forgets_its_conversation(store):
    fence = talks(store)
    store.write([intend(0), finish(0, move=RowMove.FAIL, cause="x", conversation_id="c-a")], fence)
    store.retry(B, Again())
    store.write([intend(0, 2)], fence)
    assert row(store, 0).conversation_id is None


@pytest.mark.parametrize("inputs", [None, {"q": "other"}])
def test_rows_chosen_by_hand_take_their_later_turns_along_as_they_are(store, inputs):
    fence = talks(store, ["a", "a", "b", "a", "b"])
    store.write([intend(0), finish(0, move=RowMove.FAIL, cause="x")], fence)
    store.write([intend(2), finish(2, move=RowMove.FAIL, cause="x")], fence)
    store.write([Break(key(1, 0), "conversation_broken"), Break(key(4, 0), "conversation_broken")], fence)
    assert store.retry(B, Again(positions=(0,), inputs=inputs)) == 3
    assert [row(store, i).state for i in range(5)] == [
        RowState.PENDING, RowState.PENDING, RowState.FAILED, RowState.PENDING, RowState.FAILED,
    ]  # fmt: skip
    assert row(store, 0).inputs == (inputs or {"q": "text 0"})
    assert row(store, 1).inputs == {"q": "text 1"}
    assert store.wishes([B])[B].touched == 1


def test_rows_that_wait_are_put_back_by_hand_only_if_they_wait_for_a_person(store):
    fence = fill(store, 2)
    store.write([intend(0), ask(0, asks="[1]")], fence)
    store.write([intend(1), finish(1, move=RowMove.WAIT, cause="model_down", due_at=5.0)], fence)
    assert store.retry(B, Again(positions=(0, 1))) == 1
    assert [row(store, i).state for i in range(2)] == [RowState.PENDING, RowState.WAITING]
    assert row(store, 0).asks is None
    assert store.next_due(B) == 5.0


def test_a_batch_is_completed_around_rows_that_wait_for_a_person(store):
    fence = fill(store, 2)
    store.write([intend(0), ask(0)], fence)
    assert store.close_batch(B, wants_to_end=False, reason="x") is None, "row 1 is still to be run"
    store.write([intend(1), finish(1)], fence)
    assert store.close_batch(B, wants_to_end=False, reason="x", at=7.0) is BatchState.COMPLETED


def test_a_run_that_waits_for_a_person_was_paid_for(store):
    fence = fill(store, 3)
    store.write([intend(0), ask(0, price="0.1", currency="USD")], fence)
    store.write([intend(1), finish(1, price="0.00000000000000000000000000002", currency="USD")], fence)
    store.write([intend(2), finish(2, price="7", currency="CNY")], fence)
    assert store.spent(B, with_price=True) == Spent(3, 27, Decimal("7.10000000000000000000000000002"))
    store.write([finish(0, price="0.3", currency="USD")], fence)  # answered, and looked at again
    assert store.spent(B, with_price=True) == Spent(3, 30, Decimal("7.30000000000000000000000000002"))


def test_the_first_version_is_the_batchs_and_each_row_keeps_its_own(store):
    fence = fill(store, 5)
    store.write([intend(p) for p in range(5)], fence)
    late = Attach(key(9), "r", None, "late")
    assert store.write([Attach(key(0), "r0", None, None), late], fence) == [True, False]
    assert (store.batch(B).workflow_id, store.versions(B)) == (None, [])
    store.write(
        [finish(1, workflow_id="v1"), Attach(key(2), "r2", None, "v2"), Attach(key(3), "r3", None, "v2")], fence
    )
    assert store.batch(B).workflow_id == "v1"
    store.write([finish(2), finish(3, move=RowMove.FAIL), give_up(0), finish(4, workflow_id="v1")], fence)
    assert [r.workflow_id for r in store.results(B)] == [None, "v1", "v2", "v2", "v1"]
    assert store.versions(B) == [("v1", 2), ("v2", 2)]
    assert store.retry(B, Again()) == 1
    store.write([intend(3, 2)], fence)
    assert row(store, 3).workflow_id is None
    store.write([finish(3, 2, workflow_id="v1")], fence)
    assert (row(store, 3).workflow_id, store.versions(B)) == ("v1", [("v1", 3), ("v2", 1)])


def test_settings_can_be_changed(store):
    fill(store)
    other = replace(store.batch(B).settings, pin_first=True, pinned_workflow=None)
    store.change_settings(B, other)
    assert store.batch(B).settings == other
