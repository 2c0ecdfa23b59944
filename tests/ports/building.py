"""Small stores and records for the tests of the store."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from rowmill.domain.batch import BatchMove, BatchState, Outcome, RowMove, RunStatus, Settings
from rowmill.domain.form import Field, FieldKind, Form, Mode
from rowmill.domain.mapping import Feed, Mapping, Reason
from rowmill.ports.store import AppRecord, Ask, AttemptKey, BatchRecord, Finish, GiveUp, Intend, Lose, NewRow, Refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowmill.domain.batch import RowState
    from rowmill.ports.store import Store

APP = AppRecord("app-1", "https://dify.example/v1", "翻译", Mode.WORKFLOW, "1.14.2", b"\x01sealed", "…last")
FORM = Form((Field("q", FieldKind.SELECT, "问题", required=True, options=("a", "b"), default={"deep": [1, None]}),))
MAPPING = Mapping((Feed("q", Reason.LABEL, column=0), Feed("lang", Reason.CONSTANT, constant="zh")))
B = "batch-one"


def batch(batch_id: str = B, **changes) -> BatchRecord:
    known = {
        "app": APP,
        "form": FORM,
        "mapping": MAPPING,
        "settings": Settings(concurrency=7, pinned_workflow="wf"),
        "state": BatchState.DRAFT,
        "sheet_path": "/data/表.xlsx",
        "sheet_name": "Sheet1",
        "sheet_digest": "d1",
        "headers": ("问题", ""),
        "created_at": 100.5,
    }
    return BatchRecord(batch_id, **{**known, **changes})


def new_row(position: int, blank: bool = False, **inputs) -> NewRow:
    return NewRow(position, position + 2, (f"cell {position}", 3, None), inputs or {"q": f"text {position}"}, blank)


def fill(
    store: Store, rows: int = 5, batch_id: str = B, talks: tuple[str | None, ...] = (), same: Sequence[int] = ()
) -> int:
    """A batch that may run; returns the fence. The rows `same` have the same inputs, and share a result."""
    store.save_app(APP)
    store.add_batch(batch(batch_id))
    new = [replace(new_row(p), input_hash="same" if p in same else f"own {p}") for p in range(rows)]
    turns = [replace(row, conversation=talk) for row, talk in zip_longest(new, talks)]
    store.add_rows(batch_id, [row if row.conversation is None else replace(row, input_hash=None) for row in turns])
    if same:
        assert store.find_leaders(batch_id) == len(same) - 1
    store.move_batch(batch_id, BatchMove.CHECKED)
    store.move_batch(batch_id, BatchMove.START, at=200.0)
    return store.take_over("tests")


def key(position: int, number: int = 1, batch_id: str = B) -> AttemptKey:
    return AttemptKey(batch_id, position, number)


def intend(position: int, number: int = 1, slot: int = 0, sent_at: float = 10.0, batch_id: str = B) -> Intend:
    return Intend(key(position, number, batch_id), slot, f"rowmill-s{slot}", sent_at)


def finish(position: int, number: int = 1, move: RowMove = RowMove.SUCCEED, **outcome) -> Finish:
    cause = outcome.pop("cause", None)
    due_at = outcome.pop("due_at", None)
    known = {"status": RunStatus.SUCCEEDED, "outputs": f'{{"a": {position}}}', "tokens": 10, "run_id": None}
    return Finish(key(position, number), move, Outcome(**{**known, **outcome}), cause, due_at=due_at, ended_at=20.0)


def ask(position: int, number: int = 1, **outcome) -> Ask:
    known = {"status": RunStatus.PAUSED, "tokens": 7, "asks": None}
    return Ask(key(position, number), Outcome(**{**known, **outcome}), "needs_person")


def refuse(position: int, number: int = 1, move: RowMove | None = None, **rest) -> Refuse:
    return Refuse(key(position, number), "rate_limit", "too many", move, **rest)


def lose(position: int, number: int = 1) -> Lose:
    return Lose(key(position, number), "cut")


def give_up(position: int, number: int = 1) -> GiveUp:
    return GiveUp(key(position, number), "lost", "not found")


def states(store: Store, batch_id: str = B) -> list[RowState]:
    return [row.state for row in store.results(batch_id)]
