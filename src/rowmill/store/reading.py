"""What is read from the tables, each within a transaction of the caller's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, exists, func, literal_column, select, text

from rowmill.domain.batch import HIDDEN, UNFINISHED, AttemptState, BatchState, RowState, Settings
from rowmill.domain.causes import Cause
from rowmill.domain.conversation import Before
from rowmill.domain.form import Mode, form_from_json, form_to_json
from rowmill.domain.mapping import Mapping
from rowmill.domain.money import sum_prices
from rowmill.domain.progress import Counts
from rowmill.ports.store import (
    AppRecord,
    AttemptKey,
    BatchRecord,
    BatchSummary,
    OpenAttempt,
    RowJob,
    RowResult,
)
from rowmill.ports.store_again import AppendedSheet
from rowmill.store.bounds import FAR_AHEAD
from rowmill.store.files import read_files_between, read_files_of_leaders
from rowmill.store.tables import OPEN_STATES, TO_CHECK, apps, attempts, batches, is_led, leading, origin, rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from sqlalchemy import Connection, Select

    from rowmill.domain.cell import Cell

PAGE = 1000


def read_app(conn: Connection, app_id: str) -> AppRecord | None:
    found = conn.execute(select(apps).where(apps.c.id == app_id)).one_or_none()
    return None if found is None else _app(found._mapping)  # noqa: SLF001  public, in spite of its name


def _app(row: Any) -> AppRecord:
    return AppRecord(
        id=row[apps.c.id],
        base_url=row[apps.c.base_url],
        name=row[apps.c.name],
        mode=Mode(row[apps.c.mode]),
        version=row[apps.c.version],
        sealed_key=row[apps.c.sealed_key],
        key_hint=row[apps.c.key_hint],
    )


def batch_values(batch: BatchRecord) -> dict[str, Any]:
    """A batch as the columns of its table."""
    return {
        "id": batch.id,
        "app_id": batch.app.id,
        "form": form_to_json(batch.form),
        "mapping": batch.mapping.to_json(),
        "settings": asdict(batch.settings),
        "headers": list(batch.headers),
        "appended": [asdict(sheet) for sheet in batch.appended],
        "state": batch.state.value,
        **{name: getattr(batch, name) for name in _PLAIN},
    }


_PLAIN = (
    "sheet_path", "sheet_name", "sheet_digest", "created_at", "reason", "detail", "started_at", "ended_at",
    "workflow_id",
)  # fmt: skip


def read_batch(conn: Connection, batch_id: str) -> BatchRecord | None:
    query = select(batches, apps).join(apps).where(batches.c.id == batch_id)
    found = conn.execute(query).mappings().one_or_none()
    if found is None:
        return None
    return BatchRecord(
        id=found[batches.c.id],
        app=_app(found),
        form=form_from_json(found[batches.c.form]),
        mapping=Mapping.from_json(found[batches.c.mapping]),
        settings=Settings.from_json(found[batches.c.settings]),
        state=BatchState(found[batches.c.state]),
        headers=tuple(found[batches.c.headers]),
        appended=tuple(AppendedSheet(**sheet) for sheet in found[batches.c.appended] or ()),
        **{name: found[batches.c[name]] for name in _PLAIN},
    )


_SHOWN = batches.c.state.not_in([state.value for state in HIDDEN])


def read_batches(conn: Connection) -> list[BatchSummary]:
    return _summaries(conn, _SHOWN)


def read_unfinished(conn: Connection, app_id: str, sheet_digest: str, sheet_name: str) -> list[BatchSummary]:
    same = and_(batches.c.app_id == app_id, batches.c.sheet_digest == sheet_digest, batches.c.sheet_name == sheet_name)
    return _summaries(conn, and_(same, batches.c.state.in_([state.value for state in UNFINISHED])))


def _summaries(conn: Connection, which: ColumnElement[bool]) -> list[BatchSummary]:
    counts = _counts(conn, rows.c.batch_id.in_(select(batches.c.id).where(which)))
    shown = (
        batches.c.id,
        batches.c.state,
        apps.c.name,
        apps.c.base_url,
        batches.c.sheet_path,
        batches.c.created_at,
        batches.c.reason,
    )
    newest = (batches.c.created_at.desc(), batches.c.id.desc())
    found = conn.execute(select(*shown).select_from(batches.join(apps)).where(which).order_by(*newest))
    return [
        BatchSummary(batch_id, BatchState(state), name, url, path, created_at, reason, counts.get(batch_id, Counts()))
        for batch_id, state, name, url, path, created_at, reason in found
    ]


def find_ids(conn: Connection, prefix: str) -> list[str]:
    same = func.substr(batches.c.id, 1, len(prefix)) == prefix
    newest = (batches.c.created_at.desc(), batches.c.id.desc())
    return list(conn.execute(select(batches.c.id).where(same, _SHOWN).order_by(*newest)).scalars())


# Written out, so that SQLite sees that its partial index holds all such rows.
_WAITING = literal_column("rows.state") == literal_column("'waiting'")
_FOR_A_PERSON = and_(_WAITING, rows.c.due_at.is_(None))
_ASKING = select(rows.c.batch_id, func.count().label("number")).where(_FOR_A_PERSON).group_by(rows.c.batch_id)


def read_counts(conn: Connection, batch_id: str) -> Counts:
    return _counts(conn, rows.c.batch_id == batch_id).get(batch_id, Counts())


def _counts(conn: Connection, which: ColumnElement[bool]) -> dict[str, Counts]:
    query = (
        select(rows.c.batch_id, rows.c.state, func.count(), func.coalesce(func.sum(rows.c.tokens), 0))
        .where(which)
        .group_by(rows.c.batch_id, rows.c.state)
    )
    found: dict[str, tuple[dict[RowState, int], list[int]]] = {}
    for batch_id, state, number, tokens in conn.execute(query):
        by_state, spent = found.setdefault(batch_id, ({}, []))
        by_state[RowState(state)] = number
        spent.append(int(tokens))
    asking = {row.batch_id: row.number for row in conn.execute(_ASKING.where(which))}
    return {one: Counts(by_state, sum(spent), asking.get(one, 0)) for one, (by_state, spent) in found.items()}


def read_prices(conn: Connection, batch_id: str) -> dict[str, Decimal]:
    """Added up here: a database would add texts as floats."""
    priced = (attempts.c.batch_id == batch_id, attempts.c.price.is_not(None))
    query = select(attempts.c.price, attempts.c.currency).where(*priced).execution_options(yield_per=PAGE)
    return sum_prices((price, currency) for price, currency in conn.execute(query))


def read_causes(conn: Connection, batch_id: str) -> list[tuple[str, RowState, int]]:
    number = func.count()
    query = (
        select(rows.c.cause, rows.c.state, number)
        .where(rows.c.batch_id == batch_id, rows.c.cause.is_not(None))
        .group_by(rows.c.cause, rows.c.state)
        .order_by(number.desc(), rows.c.cause, rows.c.state)
    )
    return [(cause, RowState(state), found) for cause, state, found in conn.execute(query)]


_turns = rows.alias("turns")
_before = rows.alias("before")
_same_talk = and_(_turns.c.batch_id == rows.c.batch_id, _turns.c.conversation == rows.c.conversation)
_first = select(func.min(_turns.c.position)).where(_same_talk).correlate(rows).scalar_subquery()
_last_before = select(func.max(_turns.c.position)).where(_same_talk, _turns.c.position < rows.c.position)

_JOB: tuple[ColumnElement[Any], ...] = (
    rows.c.position,
    rows.c.inputs,
    rows.c.tries,
    rows.c.refused,
    rows.c.conversation,
    _first.label("first_turn"),
    _before.c.state.label("before_state"),
    _before.c.due_at.is_(None).label("before_undue"),
    _before.c.conversation_id.label("before_talk"),
)
# The turn before a row's own is found by its position in the conversation, not by going through all of them.
_ROWS = rows.outerjoin(
    _before,
    and_(
        _before.c.batch_id == rows.c.batch_id,
        _before.c.position == _last_before.correlate(rows).scalar_subquery(),
    ),
)


def _job(position: int, inputs: Any, tries: int, refused: int, talk: str | None, *turn: Any) -> RowJob:
    first, state, undue, conversation_id = turn
    asks = state == RowState.WAITING.value and bool(undue)
    before = None if state is None else Before(RowState(state), asks, conversation_id)
    return RowJob(position, inputs, tries, refused, talk, first, before)


def read_startable(
    conn: Connection, batch_id: str, now: float, after: int, limit: int, until: int | None
) -> list[RowJob]:
    below = [] if until is None else [rows.c.position < until]
    # The sum keeps SQLite from taking the index for this condition instead of the one for the order.
    below_too = [] if until is None else [rows.c.position + literal_column("0") < until]
    jobs: list[RowJob] = []
    for due in (rows.c.due_at <= now, rows.c.due_at > now + FAR_AHEAD):
        waiting = select(*_JOB).select_from(_ROWS).where(rows.c.batch_id == batch_id, _WAITING, due, *below_too)
        jobs += _jobs(conn, waiting.order_by(rows.c.due_at, rows.c.position).limit(limit - len(jobs)))
    is_pending = rows.c.state == RowState.PENDING.value
    by_itself = (rows.c.leader.is_(None), rows.c.origin.is_(None))
    mine = (rows.c.batch_id == batch_id, is_pending, *by_itself, rows.c.position > after, *below)
    pending = select(*_JOB).select_from(_ROWS).where(*mine)
    return jobs + _jobs(conn, pending.order_by(rows.c.position).limit(limit - len(jobs)))


def _jobs(conn: Connection, query: Select[Any]) -> list[RowJob]:
    return [_job(*row) for row in conn.execute(query)]


def read_next_turns(
    conn: Connection, batch_id: str, turns: Sequence[tuple[str, int]], until: int | None
) -> list[RowJob]:
    below = [] if until is None else [rows.c.position < until]
    jobs: list[RowJob] = []
    for conversation, position in turns:
        behind = (_turns.c.batch_id == batch_id, _turns.c.conversation == conversation, _turns.c.position > position)
        following = select(func.min(_turns.c.position)).where(*behind).scalar_subquery()
        mine = (rows.c.batch_id == batch_id, rows.c.position == following, rows.c.state == RowState.PENDING.value)
        jobs += _jobs(conn, select(*_JOB).select_from(_ROWS).where(*mine, *below))
    return jobs


def left_behind(batch_id: str) -> tuple[ColumnElement[bool], ...]:
    """Rows that were not sent for want of an earlier turn, which is to be run again."""
    earlier = (_same_talk, _turns.c.position < rows.c.position, _turns.c.state == RowState.PENDING.value)
    return (
        rows.c.batch_id == batch_id,
        rows.c.state == RowState.FAILED.value,
        rows.c.cause == Cause.CONVERSATION_BROKEN.value,
        exists(select(literal_column("1")).where(*earlier).correlate(rows)),
    )


def read_next_due(conn: Connection, batch_id: str, until: int | None) -> float | None:
    below = [] if until is None else [rows.c.position + literal_column("0") < until]
    return conn.execute(select(func.min(rows.c.due_at)).where(rows.c.batch_id == batch_id, _WAITING, *below)).scalar()


# Inside the partial index; spelled as there.
_OPEN = text(f"attempts.{OPEN_STATES}")


_ITS_ROW = and_(rows.c.batch_id == attempts.c.batch_id, rows.c.position == attempts.c.position)


def read_open_attempts(conn: Connection, batch_id: str) -> list[OpenAttempt]:
    query = (
        select(attempts, *_JOB)
        .select_from(_ROWS.join(attempts, _ITS_ROW))
        .where(attempts.c.batch_id == batch_id, _OPEN, attempts.c.state != AttemptState.INDETERMINATE.value)
        .order_by(attempts.c.sent_at, attempts.c.position, attempts.c.number)
    )
    return [_open_attempt(row) for row in conn.execute(query).mappings()]


_TO_CHECK = text(f"attempts.{TO_CHECK}")


def read_to_check(conn: Connection, batch_id: str, after: int, limit: int) -> list[OpenAttempt]:
    query = (
        select(attempts, *_JOB)
        .select_from(_ROWS.join(attempts, and_(_ITS_ROW, rows.c.tries == attempts.c.number)))
        .where(attempts.c.batch_id == batch_id, _TO_CHECK, attempts.c.position > after)
        .order_by(attempts.c.position)
        .limit(limit)
    )
    return [_open_attempt(row) for row in conn.execute(query).mappings()]


def _open_attempt(row: Any) -> OpenAttempt:
    return OpenAttempt(
        key=AttemptKey(row[attempts.c.batch_id], row[attempts.c.position], row[attempts.c.number]),
        state=AttemptState(row[attempts.c.state]),
        user=row[attempts.c.slot_user],
        slot=row[attempts.c.slot],
        sent_at=row[attempts.c.sent_at],
        job=_job(*[row[column] for column in _JOB]),
        run_id=row[attempts.c.run_id],
        task_id=row[attempts.c.task_id],
        ahead=row[attempts.c.ahead],
        cause=row[attempts.c.cause],
        message_id=row[attempts.c.message_id],
        conversation_id=row[attempts.c.conversation_id],
    )


def read_busy_slots(conn: Connection, batch_id: str) -> set[int]:
    return set(conn.execute(select(attempts.c.slot).where(attempts.c.batch_id == batch_id, _OPEN)).scalars())


def read_known_runs(conn: Connection, batch_id: str, user: str) -> set[str]:
    mine = (attempts.c.batch_id == batch_id, attempts.c.slot_user == user, attempts.c.run_id.is_not(None))
    return {run_id for run_id in conn.execute(select(attempts.c.run_id).where(*mine)).scalars() if run_id}


def read_known_talk(conn: Connection, batch_id: str, user: str, ids: Sequence[str]) -> set[str]:
    if not ids:
        return set()
    found: set[str] = set()
    for column in (attempts.c.conversation_id, attempts.c.message_id):
        mine = (attempts.c.batch_id == batch_id, attempts.c.slot_user == user, column.in_(ids))
        found.update(conn.execute(select(column).where(*mine)).scalars())
    return found


def read_unsettled(conn: Connection, batch_id: str, user: str) -> int:
    nameless = (attempts.c.slot_user == user, attempts.c.message_id.is_(None))
    return int(conn.execute(select(func.count()).where(attempts.c.batch_id == batch_id, _OPEN, *nameless)).scalar_one())


_RESULT: tuple[ColumnElement[Any], ...] = (
    rows.c.position,
    rows.c.number,
    rows.c.cells,
    rows.c.inputs,
    rows.c.state,
    rows.c.outputs,
    rows.c.error,
    rows.c.cause,
    rows.c.tokens,
    rows.c.seconds,
    (rows.c.tries - rows.c.refused).label("attempts"),
    rows.c.run_id,
    rows.c.price,
    rows.c.currency,
    rows.c.asks,
    rows.c.conversation_id,
    rows.c.workflow_id,
    rows.c.leader,
    leading.c.number.label("shared_with"),
    rows.c.origin,
    origin.c.number.label("reused_row"),
)


@dataclass(frozen=True, slots=True)
class Results:
    """All rows of a batch, as often as wanted, within one transaction."""

    conn: Connection
    batch_id: str

    def __iter__(self) -> Iterator[RowResult]:
        return read_results(self.conn, self.batch_id)


def read_results(conn: Connection, batch_id: str) -> Iterator[RowResult]:
    """In pages: a statement is never left open while somebody thinks about a row."""
    query = _results(conn, batch_id).order_by(rows.c.position).limit(PAGE)
    page = _page(conn, batch_id, query)
    while page:
        yield from page
        behind = query.where(rows.c.position > page[-1].position)
        page = _page(conn, batch_id, behind) if len(page) == PAGE else []


def _results(conn: Connection, batch_id: str) -> Select[Any]:
    settings = conn.execute(select(batches.c.settings).where(batches.c.id == batch_id)).scalar() or {}
    # No batch has an empty name; looking for NULL would make SQLite go through all rows.
    since = settings.get("since") or ""
    there = and_(origin.c.batch_id == since, origin.c.position == rows.c.origin)
    known = rows.outerjoin(leading, is_led).outerjoin(origin, there)
    return select(*_RESULT).select_from(known).where(rows.c.batch_id == batch_id)


def _page(conn: Connection, batch_id: str, query: Select[Any]) -> list[RowResult]:
    page = [_result(*row) for row in conn.execute(query)]
    files = read_files_between(conn, batch_id, page[0].position, page[-1].position) if page else {}
    if any(row.leader is not None for row in page):
        files |= read_files_of_leaders(conn, batch_id, page[0].position, page[-1].position)
    return [replace(row, files=tuple(files[row.position])) if row.position in files else row for row in page]


def read_row(conn: Connection, batch_id: str, position: int) -> RowResult | None:
    found = conn.execute(_results(conn, batch_id).where(rows.c.position == position)).one_or_none()
    return None if found is None else _result(*found)


def read_asking(conn: Connection, batch_id: str, limit: int) -> list[RowResult]:
    query = _results(conn, batch_id).where(_FOR_A_PERSON, rows.c.leader.is_(None))
    return [_result(*row) for row in conn.execute(query.order_by(rows.c.position).limit(limit))]


def _result(position: int, number: int, cells: tuple[Cell, ...], inputs: Any, state: str, *rest: Any) -> RowResult:
    return RowResult(position, number, cells, inputs, RowState(state), *rest)


def state_values(batch: BatchRecord) -> dict[str, Any]:
    """The columns that a move of the batch may change."""
    return {
        "state": batch.state.value,
        **{name: getattr(batch, name) for name in ("reason", "detail", "started_at", "ended_at")},
    }
