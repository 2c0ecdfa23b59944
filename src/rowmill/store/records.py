"""How `write` applies its records: many at a time, and one by one only where some came too late.

Each kind of record is a gate and a follow-up. The gate changes the attempt (for Intend: the row) only where the tables
of moves allow it for both; as many rows as it changed took effect. The follow-up then changes the other of the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    and_,
    case,
    cast,
    column,
    exists,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    table,
    update,
)

from rowmill.domain.batch import ATTEMPT_MOVES, ROW_MOVES, AttemptMove, AttemptState, RowMove, RowState
from rowmill.ports.store import Ask, Attach, Break, Finish, GiveUp, Intend, Lose, Refuse
from rowmill.store.bounds import bounded_tokens
from rowmill.store.tables import attempts, rows
from rowmill.store.text import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from enum import StrEnum

    from sqlalchemy import ColumnElement, Connection, Dialect, Insert, Table, Update
    from sqlalchemy.types import TypeEngine

    from rowmill.ports.store import AttemptKey, Record

Binds = dict[str, Any]

# What records carry, with the types of the columns that take it.
_GIVEN: dict[str, TypeEngine[Any]] = {
    **{column.name: column.type for column in attempts.c if column.name != "state"},
    "due_at": rows.c.due_at.type,
    "asks": rows.c.asks.type,
    "void": rows.c.refused.type,
}
given = table("given", *(column(name, kind) for name, kind in _GIVEN.items()))

Kind = tuple[type, RowMove | None]

_RANK: dict[type, int] = {Intend: 0, Attach: 1, Lose: 2, Ask: 3, Finish: 4, Refuse: 5, GiveUp: 6, Break: 7}


def apply_records(conn: Connection, records: Sequence[Record]) -> list[bool]:
    """Within the caller's transaction. True for each record that took effect."""
    answers = [False] * len(records)
    for group in _groups(records):
        kind = _kind(records[group[0]])
        plan = _plan(kind, conn.dialect)
        binds = [_binds(records[index]) for index in group]
        for index, took_effect in zip(group, _apply_group(conn, plan, binds), strict=True):
            answers[index] = took_effect
    return answers


def _groups(records: Sequence[Record]) -> Iterator[list[int]]:
    """Records of one kind each, by index. A row's own records stay in order: a run ends where one would come before
    an earlier one of the same row."""
    run: dict[tuple[int, Kind], list[int]] = {}
    last: dict[tuple[str, int], int] = {}
    for index, record in enumerate(records):
        row = (record.key.batch_id, record.key.position)
        rank = _RANK[type(record)]
        if last.get(row, -1) >= rank:
            yield from _in_order(run)
            run, last = {}, {}
        last[row] = rank
        run.setdefault((rank, _kind(record)), []).append(index)
    yield from _in_order(run)


def _in_order(run: dict[tuple[int, Kind], list[int]]) -> Iterator[list[int]]:
    return iter([run[key] for key in sorted(run, key=lambda key: key[0])])


def _apply_group(conn: Connection, plan: _Plan, binds: list[Binds]) -> Iterable[bool]:
    if plan.is_wide:
        return [plan.gate.run(conn, [bind]) > 0 for bind in binds]
    if len(binds) == 1:
        return [plan.apply(conn, binds)]
    savepoint = conn.begin_nested()
    if plan.apply(conn, binds):
        savepoint.commit()
        return [True] * len(binds)
    savepoint.rollback()
    return [plan.apply(conn, [bind]) for bind in binds]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A statement compiled once, over a table `given` of as many lines as there are records.

    One statement for a whole group, and not one per record: each gives Python's lock up and waits for it again, which
    at a thousand rows a second is what the loop and the thread that commits do most of the time.
    """

    sql: str
    """with {} where `given` stands"""
    columns: tuple[str, ...]
    sign: str
    """of a parameter, for this driver"""

    def run(self, conn: Connection, binds: list[Binds]) -> int:
        values = tuple([bind[name] for bind in binds for name in self.columns])
        return conn.exec_driver_sql(self._text(len(binds)), values).rowcount

    def _text(self, lines: int) -> str:
        line = f"({', '.join([self.sign] * len(self.columns))})"
        # Both databases call the columns of VALUES so. No WITH: Python's driver counts no changes of such a statement.
        named = ", ".join(f"column{place} AS {name}" for place, name in enumerate(self.columns, 1))
        listed = f"(VALUES {', '.join([line] * lines)}) AS listed"
        return self.sql.format(f"FROM (SELECT {named} FROM {listed}) AS given")  # noqa: S608  our own columns


@dataclass(frozen=True, slots=True)
class _Plan:
    gate: _Prepared
    follow: _Prepared | None
    is_wide: bool = False
    """one record may change many rows"""

    def apply(self, conn: Connection, binds: list[Binds]) -> bool:
        """All of them, or (False) some or none: then the caller rolls back."""
        if self.gate.run(conn, binds) != len(binds):
            return False
        if self.follow is not None:
            self.follow.run(conn, binds)
        return True


def _kind(record: Record) -> Kind:
    match record:
        case Finish():
            return Finish, record.move
        case Refuse():
            return Refuse, record.move or RowMove.PUT_BACK
        case _:
            return type(record), None


_plans: dict[tuple[str, Kind], _Plan] = {}


def _plan(kind: Kind, dialect: Dialect) -> _Plan:
    known = _plans.get((dialect.name, kind))
    if known is None:
        gate, follow = _statements(*kind)
        then = None if follow is None else _prepare(follow, dialect)
        known = _Plan(_prepare(gate, dialect), then, is_wide=kind[0] is Break)
        _plans[dialect.name, kind] = known
    return known


def _prepare(statement: Update | Insert, dialect: Dialect) -> _Prepared:
    sql = str(statement.compile(dialect=dialect))
    columns = tuple(name for name in _GIVEN if re.search(rf"\bgiven\.{name}\b", sql))
    return _Prepared(sql.replace("FROM given", "{}"), columns, "?" if dialect.paramstyle == "qmark" else "%s")


def _statements(kind: type, move: RowMove | None) -> tuple[Update, Update | Insert | None]:
    if kind is Intend:
        return _START_ROW, _INSERT_ATTEMPT
    if kind is Attach:
        return _ATTACH, _FOUND_AGAIN
    if kind is Lose:
        return _LOSE, None
    if kind is Break:
        return _BREAK, None
    if kind is GiveUp:
        return _gate(AttemptMove.GIVE_UP, RowMove.LOSE, cause=_p("cause"), error=_p("error")), _LOSE_ROW
    if kind is Ask:
        return _gate(AttemptMove.ASK, RowMove.ASK, **_ENDED_IDS, **_ASKED), _row_update(RowMove.ASK, **_ASKS)
    assert move is not None
    if kind is Finish:
        return _finish_gate(move), _row_update(move, **_FINISHED)
    changes: Binds = {"refused": rows.c.refused + _p("void"), "due_at": _p("due_at")}
    if move is not RowMove.PUT_BACK:
        changes |= {"cause": _p("cause"), "error": _p("error")}
    return _gate(AttemptMove.REFUSE, move, cause=_p("cause"), error=_p("error")), _row_update(move, **changes)


def _p(name: str) -> Any:
    """A value of the record. Postgres takes the columns of VALUES for texts: the type is named."""
    return cast(given.c[name], _GIVEN[name])


def _word(state: StrEnum) -> ColumnElement[Any]:
    """A state, written out: the statement needs no parameter for it, and partial indexes are recognised."""
    return literal_column(f"'{state.value}'")


def _state_in(table: Table, states: Iterable[StrEnum]) -> ColumnElement[bool]:
    return table.c.state.in_([_word(state) for state in sorted(states, key=str)])


def _own(table: Table) -> ColumnElement[bool]:
    return and_(table.c.batch_id == _p("batch_id"), table.c.position == _p("position"))


_this_attempt = and_(_own(attempts), attempts.c.number == _p("number"))
_is_latest = rows.c.tries == _p("number")


def _row_allows(sources: Iterable[RowState]) -> ColumnElement[bool]:
    """Nobody asks a row that has gone on to a newer attempt: it is not changed."""
    return exists(select(literal_column("1")).where(_own(rows), or_(~_is_latest, _state_in(rows, sources))))


def _attempt_update(move: AttemptMove, **values: Any) -> Update:
    sources, target = ATTEMPT_MOVES[move]
    found = update(attempts).where(_this_attempt, _state_in(attempts, sources))
    return found.values(state=_word(target), **values)


def _gate(move: AttemptMove, row_move: RowMove, **values: Any) -> Update:
    return _attempt_update(move, **values).where(_row_allows(ROW_MOVES[row_move][0]))


def _row_update(move: RowMove, **values: Any) -> Update:
    sources, target = ROW_MOVES[move]
    return update(rows).where(_own(rows), _is_latest, _state_in(rows, sources)).values(state=_word(target), **values)


_run_of_attempt = select(attempts.c.run_id).where(_this_attempt).scalar_subquery()
_talk_of_attempt = select(attempts.c.conversation_id).where(_this_attempt).scalar_subquery()
_version_of_attempt = select(attempts.c.workflow_id).where(_this_attempt).scalar_subquery()

_START_ROW = (
    update(rows)
    .where(_own(rows), rows.c.tries == _p("number") - literal_column("1"))
    .where(_state_in(rows, ROW_MOVES[RowMove.START][0]), rows.c.leader.is_(None), rows.c.origin.is_(None))
    .values(
        state=_word(ROW_MOVES[RowMove.START][1]),
        tries=_p("number"),
        outputs=null(),
        error=null(),
        cause=null(),
        due_at=null(),
        run_id=null(),
        asks=null(),
        conversation_id=null(),
        workflow_id=null(),
    )
)
_turn = rows.alias("turn")
_its_talk = select(_turn.c.conversation).where(
    _turn.c.batch_id == _p("batch_id"), _turn.c.position == _p("position")
)  # fmt: skip
_BREAK = (
    update(rows)
    .where(rows.c.batch_id == _p("batch_id"), rows.c.conversation == _its_talk.scalar_subquery())
    .where(rows.c.position >= _p("position"), _state_in(rows, ROW_MOVES[RowMove.BREAK][0]))
    .values(state=_word(ROW_MOVES[RowMove.BREAK][1]), cause=_p("cause"))
)
_INTENDED = ("batch_id", "position", "number", "slot", "slot_user", "sent_at")
_INSERT_ATTEMPT = insert(attempts).from_select(
    [*_INTENDED, "state"], select(*(_p(name) for name in _INTENDED), _word(AttemptState.INTENT))
)
# An attempt that was given up and is found after all takes its row back, unless the row was sent again.
_ATTACH = _attempt_update(
    AttemptMove.ATTACH,
    run_id=func.coalesce(_p("run_id"), attempts.c.run_id),
    task_id=func.coalesce(_p("task_id"), attempts.c.task_id),
    workflow_id=func.coalesce(_p("workflow_id"), attempts.c.workflow_id),
    message_id=func.coalesce(_p("message_id"), attempts.c.message_id),
    conversation_id=func.coalesce(_p("conversation_id"), attempts.c.conversation_id),
    ahead=_p("ahead"),
).where(or_(attempts.c.state != _word(AttemptState.INDETERMINATE), _row_allows([RowState.UNKNOWN])))
_FOUND_AGAIN = (
    update(rows)
    .where(_own(rows), _is_latest, _state_in(rows, [RowState.UNKNOWN]))
    .values(state=_word(RowState.RUNNING), cause=null(), error=null())
)
_LOSE = _attempt_update(AttemptMove.LOSE, cause=_p("cause"))
_LOSE_ROW = _row_update(
    RowMove.LOSE, cause=_p("cause"), error=_p("error"), run_id=_run_of_attempt, workflow_id=_version_of_attempt
)

# What the end does not tell again, the attempt has kept.
_IDS: Binds = {
    "run_id": func.coalesce(_p("run_id"), _run_of_attempt),
    "conversation_id": func.coalesce(_p("conversation_id"), _talk_of_attempt),
    "workflow_id": func.coalesce(_p("workflow_id"), _version_of_attempt),
}
_OUTCOME = ("error", "cause", "tokens", "seconds", "price", "currency")
_FINISHED: Binds = {
    **{name: _p(name) for name in _OUTCOME},
    "outputs": _p("outputs"),
    "due_at": _p("due_at"),
    **_IDS,
    "asks": null(),
}
_ENDED_IDS: Binds = {
    name: func.coalesce(_p(name), attempts.c[name])
    for name in ("run_id", "task_id", "workflow_id", "message_id", "conversation_id")
}
_SPENT = {name: _p(name) for name in ("tokens", "seconds", "price", "currency")}
_ASKED: Binds = {"cause": _p("cause"), "status": _p("status"), **_SPENT}
_ASKS: Binds = {
    **_SPENT,
    "cause": _p("cause"),
    "error": null(),
    "due_at": null(),
    **_IDS,
    "asks": func.coalesce(_p("asks"), rows.c.asks),
}


def _finish_gate(move: RowMove) -> Update:
    # The result of an attempt whose row went on without it was paid for as well: it stays with the attempt.
    passed_by = exists(select(literal_column("1")).where(_own(rows), ~_is_latest))
    kept = ("ended_at", "status", "damaged")
    return _gate(
        AttemptMove.FINISH,
        move,
        **{name: _p(name) for name in (*_OUTCOME, *kept)},
        outputs=case((passed_by, _p("outputs"))),
        **_ENDED_IDS,
    )


def _binds(record: Record) -> Binds:
    match record:
        case Intend(key, slot, user, sent_at):
            return {**_key(key), "slot": slot, "slot_user": pack(user), "sent_at": sent_at}
        case Attach(key):
            ids = ("run_id", "task_id", "workflow_id", "message_id", "conversation_id")
            known = {name: pack(getattr(record, name)) for name in ids}
            return {**_key(key), **known, "ahead": record.ahead}
        case Lose(key, cause) | Break(key, cause):
            return {**_key(key), "cause": pack(cause)}
        case Ask():
            return {**_outcome_binds(record), "asks": pack(record.outcome.asks)}
        case Finish():
            due = {"due_at": record.due_at, "ended_at": record.ended_at}
            return {**_outcome_binds(record), **due, "outputs": pack(record.outcome.outputs)}
        case Refuse(key, cause, error):
            return {
                **_key(key),
                "cause": pack(cause),
                "error": pack(error),
                "due_at": record.due_at,
                "void": 0 if record.counts else 1,
            }
        case GiveUp(key, cause, error):
            return {**_key(key), "cause": pack(cause), "error": pack(error)}


def _key(key: AttemptKey) -> Binds:
    return {"batch_id": pack(key.batch_id), "position": key.position, "number": key.number}


def _outcome_binds(record: Ask | Finish) -> Binds:
    outcome = record.outcome
    return {
        **_key(record.key),
        "error": pack(outcome.error),
        "cause": pack(record.cause),
        "tokens": bounded_tokens(outcome.tokens),
        "seconds": outcome.seconds if record.seconds is None else record.seconds,
        "price": pack(outcome.price),
        "currency": pack(outcome.currency),
        "status": outcome.status.value,
        "run_id": pack(outcome.run_id),
        "task_id": pack(outcome.task_id),
        "workflow_id": pack(outcome.workflow_id),
        "conversation_id": pack(outcome.conversation_id),
        "message_id": pack(outcome.message_id),
        "damaged": outcome.damaged,
    }
