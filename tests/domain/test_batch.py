"""The whole tables of moves, written a second time from house.md §1 and reliability.md §3: every state x every move."""

from __future__ import annotations

import pytest

from rowmill.domain.batch import (
    ATTEMPT_MOVES,
    OPEN_ATTEMPTS,
    ROW_MOVES,
    UNFINISHED,
    AttemptMove,
    AttemptState,
    BatchMove,
    BatchState,
    Outcome,
    RowMove,
    RowState,
    RunStatus,
    Settings,
    closing_moves,
    next_batch_state,
)
from rowmill.domain.errors import IllegalMoveError

BATCH = {
    ("draft", "checked"): "queued",
    ("draft", "delete"): "deleted",
    ("queued", "start"): "running",
    ("queued", "pause"): "paused",
    ("queued", "stop"): "stopped",
    ("queued", "retry"): "queued",
    ("queued", "delete"): "deleted",
    ("running", "retry"): "running",
    ("running", "start"): "running",
    ("running", "pause"): "pausing",
    ("running", "stop"): "stopping",
    ("running", "complete"): "completed",
    ("pausing", "start"): "running",
    ("pausing", "pause"): "pausing",
    ("pausing", "retry"): "pausing",
    ("pausing", "drained"): "paused",
    ("pausing", "stop"): "stopping",
    ("pausing", "complete"): "completed",
    ("paused", "start"): "running",
    ("paused", "pause"): "paused",
    ("paused", "stop"): "stopped",
    ("paused", "retry"): "paused",
    ("paused", "delete"): "deleted",
    ("stopping", "start"): "running",
    ("stopping", "pause"): "pausing",
    ("stopping", "stop"): "stopping",
    ("stopping", "drained"): "stopped",
    ("stopping", "complete"): "completed",
    ("stopped", "start"): "running",
    ("stopped", "stop"): "stopped",
    ("stopped", "retry"): "queued",
    ("stopped", "delete"): "deleted",
    ("completed", "retry"): "queued",
    ("completed", "delete"): "deleted",
    ("deleted", "delete"): "deleted",
    ("queued", "append"): "queued",
    ("paused", "append"): "paused",
    ("stopped", "append"): "queued",
    ("completed", "append"): "queued",
}

# How a batch is laid down when nothing of it is under way: (state, rows left, the runner's own wish to end).
CLOSING = {
    ("running", 0, False): ("complete",),
    ("running", 0, True): ("complete",),
    ("pausing", 0, True): ("complete",),
    ("stopping", 0, False): ("complete",),
    ("running", 3, True): ("pause", "drained"),
    ("running", 3, False): (),
    ("pausing", 3, True): ("drained",),
    ("pausing", 3, False): ("drained",),
    ("stopping", 3, True): ("drained",),
    ("paused", 3, True): (),
    ("stopped", 3, True): (),
    ("completed", 0, True): (),
}


@pytest.mark.parametrize(("case", "moves"), CLOSING.items())
def test_closing(case, moves):
    state, left, wants_to_end = case
    assert closing_moves(BatchState(state), left, wants_to_end=wants_to_end) == moves
    for move in moves:
        state = next_batch_state(BatchState(state), BatchMove(move)).value


ROW = {
    ("pending", "skip"): "skipped",
    ("pending", "start"): "running",
    ("pending", "break"): "failed",
    ("waiting", "start"): "running",
    ("running", "lose"): "unknown",
    ("running", "put_back"): "pending",
    ("unknown", "put_back"): "pending",
    ("running", "ask"): "waiting",
    ("unknown", "ask"): "waiting",
    # Waiting: for a person. One that waits for its next attempt has no attempt left that could move it.
    **{
        (state, move): then
        for state in ("running", "unknown", "waiting")
        for move, then in {
            "wait": "waiting",
            "succeed": "succeeded",
            "succeed_in_part": "partial",
            "fail": "failed",
            "stop": "stopped",
        }.items()
    },
    ("failed", "retry"): "pending",
    ("stopped", "retry"): "pending",
    ("unknown", "retry"): "pending",
    ("waiting", "retry"): "pending",
}

ATTEMPT = {
    ("intent", "attach"): "attached",
    ("intent", "lose"): "unknown",
    ("intent", "finish"): "done",
    ("intent", "refuse"): "refused",
    ("intent", "give_up"): "indeterminate",
    ("attached", "finish"): "done",
    ("attached", "give_up"): "indeterminate",
    ("unknown", "attach"): "attached",
    ("unknown", "finish"): "done",
    ("unknown", "refuse"): "refused",
    ("unknown", "give_up"): "indeterminate",
    ("indeterminate", "attach"): "attached",
    ("indeterminate", "finish"): "done",
    ("intent", "ask"): "paused",
    ("attached", "ask"): "paused",
    ("unknown", "ask"): "paused",
    ("indeterminate", "ask"): "paused",
    ("paused", "finish"): "done",
}


def pairs(states, moves):
    return [pytest.param(state, move, id=f"{state}-{move}") for state in states for move in moves]


@pytest.mark.parametrize(("state", "move"), pairs(BatchState, BatchMove))
def test_batch(state, move):
    expected = BATCH.get((state, move))
    if expected is not None:
        assert next_batch_state(state, move) is BatchState(expected)
        return
    with pytest.raises(IllegalMoveError) as caught:
        next_batch_state(state, move)
    assert (caught.value.code, caught.value.params) == (
        "illegal_move",
        {"thing": "batch", "state": state.value, "move": move.value},
    )


def follow(table, state, move):
    allowed, then = table[move]
    return then if state in allowed else None


@pytest.mark.parametrize(("state", "move"), pairs(RowState, RowMove))
def test_row(state, move):
    assert follow(ROW_MOVES, state, move) == ROW.get((state, move))


@pytest.mark.parametrize(("state", "move"), pairs(AttemptState, AttemptMove))
def test_attempt(state, move):
    assert follow(ATTEMPT_MOVES, state, move) == ATTEMPT.get((state, move))


def reachable(moves, start):
    """Every state that moves lead to from `start`, itself included."""
    seen, fresh = {start}, {start}
    while fresh:
        fresh = {then for (state, _), then in moves.items() if state in fresh} - seen
        seen |= fresh
    return seen


FAMILIES = {
    "batch": (BATCH, BatchState, "draft"),
    "row": (ROW, RowState, "pending"),
    "attempt": (ATTEMPT, AttemptState, "intent"),
}


@pytest.mark.parametrize(("moves", "states", "start"), FAMILIES.values(), ids=FAMILIES)
def test_every_state_is_reachable(moves, states, start):
    assert reachable(moves, start) == set(states)


ABSORBING = {
    "row": (ROW_MOVES, {RowState.SUCCEEDED, RowState.PARTIAL, RowState.SKIPPED}),
    "attempt": (ATTEMPT_MOVES, {AttemptState.DONE, AttemptState.REFUSED}),
}


@pytest.mark.parametrize(("table", "ends"), ABSORBING.values(), ids=ABSORBING)
def test_nothing_leaves_an_end(table, ends):
    left = {state for allowed, _ in table.values() for state in allowed}
    assert not left & ends


def test_only_retry_leaves_an_ended_row():
    ended = {RowState.FAILED, RowState.STOPPED}
    assert {move for move, (allowed, _) in ROW_MOVES.items() if allowed & ended} == {RowMove.RETRY}


@pytest.mark.parametrize("state", BatchState)
def test_every_unfinished_batch_can_come_to_an_end(state):
    ends = {BatchState.STOPPED, BatchState.COMPLETED, BatchState.DELETED}
    can_end = bool(reachable({pair: then for pair, then in BATCH.items() if pair[1] != "retry"}, state) & ends)
    assert can_end
    assert (state in UNFINISHED) is (state not in ends and state is not BatchState.DRAFT)


def test_open_attempts_are_those_that_may_still_be_a_run():
    """A paused one is a run as well, but one whose id tells it from others: its slot is free."""
    assert set(AttemptState) - OPEN_ATTEMPTS == {AttemptState.PAUSED, AttemptState.DONE, AttemptState.REFUSED}


NOT_DONE = {RowState.PENDING, RowState.RUNNING, RowState.WAITING}


@pytest.mark.parametrize("state", RowState)
def test_done(state):
    assert state.is_done is (state not in NOT_DONE)


def test_settings_from_json():
    known = {"concurrency": 9, "retries": 0, "row_timeout": 5.0, "lost_window": 1.0, "pinned_workflow": "w"}
    assert Settings.from_json(known) == Settings(9, 0, 5.0, 1.0, "w")
    assert Settings.from_json({}) == Settings()


def test_outcome_keeps_what_dify_said():
    assert Outcome(RunStatus("partial-succeeded")).outputs == "{}"
