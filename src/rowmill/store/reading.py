"""What is read from the tables, each within a transaction of the caller's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, literal_column, select, text

from rowmill.domain.batch import HIDDEN, UNFINISHED, AttemptState, BatchState, RowState, Settings
from rowmill.domain.form import Mode, form_from_json, form_to_json
from rowmill.domain.mapping import Mapping
from rowmill.domain.progress import Counts
from rowmill.ports.store import (
    AppendedSheet,
    AppRecord,
    AttemptKey,
    BatchRecord,
    BatchSummary,
    OpenAttempt,
    RowJob,
    RowResult,
)
from rowmill.store.bounds import FAR_AHEAD
from rowmill.store.files import read_files_between, read_files_of_leaders
from rowmill.store.tables import OPEN_STATES, apps, attempts, batches, is_led, leading, origin, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Connection, Select

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


_LEFT = (RowState.PENDING, RowState.RUNNING, RowState.WAITING)


def read_left(conn: Connection, batch_id: str) -> int:
    """Rows that have not come to their end."""
    return read_counts(conn, batch_id).of(*_LEFT)


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
    return {batch_id: Counts(by_state, sum(spent)) for batch_id, (by_state, spent) in found.items()}


def read_causes(conn: Connection, batch_id: str) -> list[tuple[str, RowState, int]]:
    number = func.count()
    query = (
        select(rows.c.cause, rows.c.state, number)
        .where(rows.c.batch_id == batch_id, rows.c.cause.is_not(None))
        .group_by(rows.c.cause, rows.c.state)
        .order_by(number.desc(), rows.c.cause, rows.c.state)
    )
    return [(cause, RowState(state), found) for cause, state, found in conn.execute(query)]


_JOB = (rows.c.position, rows.c.inputs, rows.c.tries, rows.c.refused)
# Written out, so that SQLite sees that its partial index holds all such rows.
_WAITING = literal_column("state") == literal_column("'waiting'")


def read_startable(
    conn: Connection, batch_id: str, now: float, after: int, limit: int, until: int | None
) -> list[RowJob]:
    below = [] if until is None else [rows.c.position < until]
    # The sum keeps SQLite from taking the index for this condition instead of the one for the order.
    below_too = [] if until is None else [rows.c.position + literal_column("0") < until]
    jobs: list[RowJob] = []
    for due in (rows.c.due_at <= now, rows.c.due_at > now + FAR_AHEAD):
        waiting = select(*_JOB).where(rows.c.batch_id == batch_id, _WAITING, due, *below_too)
        jobs += _jobs(conn, waiting.order_by(rows.c.due_at, rows.c.position).limit(limit - len(jobs)))
    is_pending = rows.c.state == RowState.PENDING.value
    by_itself = and_(rows.c.leader.is_(None), rows.c.origin.is_(None))
    pending = select(*_JOB).where(rows.c.batch_id == batch_id, is_pending, by_itself, rows.c.position > after, *below)
    return jobs + _jobs(conn, pending.order_by(rows.c.position).limit(limit - len(jobs)))


def _jobs(conn: Connection, query: Select[Any]) -> list[RowJob]:
    return [RowJob(*row) for row in conn.execute(query)]


def read_next_due(conn: Connection, batch_id: str, until: int | None) -> float | None:
    below = [] if until is None else [rows.c.position + literal_column("0") < until]
    return conn.execute(select(func.min(rows.c.due_at)).where(rows.c.batch_id == batch_id, _WAITING, *below)).scalar()


# Inside the partial index; spelled as there.
_OPEN = text(f"attempts.{OPEN_STATES}")


def read_open_attempts(conn: Connection, batch_id: str) -> list[OpenAttempt]:
    query = (
        select(attempts, *_JOB)
        .join(rows, and_(rows.c.batch_id == attempts.c.batch_id, rows.c.position == attempts.c.position))
        .where(attempts.c.batch_id == batch_id, _OPEN, attempts.c.state != AttemptState.INDETERMINATE.value)
        .order_by(attempts.c.sent_at, attempts.c.position, attempts.c.number)
    )
    return [_open_attempt(row) for row in conn.execute(query).mappings()]


def _open_attempt(row: Any) -> OpenAttempt:
    return OpenAttempt(
        key=AttemptKey(row[attempts.c.batch_id], row[attempts.c.position], row[attempts.c.number]),
        state=AttemptState(row[attempts.c.state]),
        user=row[attempts.c.slot_user],
        slot=row[attempts.c.slot],
        sent_at=row[attempts.c.sent_at],
        job=RowJob(*[row[column] for column in _JOB]),
        run_id=row[attempts.c.run_id],
        task_id=row[attempts.c.task_id],
        ahead=row[attempts.c.ahead],
        cause=row[attempts.c.cause],
    )


def read_busy_slots(conn: Connection, batch_id: str) -> set[int]:
    return set(conn.execute(select(attempts.c.slot).where(attempts.c.batch_id == batch_id, _OPEN)).scalars())


def read_known_runs(conn: Connection, batch_id: str, user: str) -> set[str]:
    mine = (attempts.c.batch_id == batch_id, attempts.c.slot_user == user, attempts.c.run_id.is_not(None))
    return {run_id for run_id in conn.execute(select(attempts.c.run_id).where(*mine)).scalars() if run_id}


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
    there = and_(origin.c.batch_id == settings.get("since"), origin.c.position == rows.c.origin)
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


def _result(position: int, number: int, cells: tuple[Cell, ...], inputs: Any, state: str, *rest: Any) -> RowResult:
    return RowResult(position, number, cells, inputs, RowState(state), *rest)


def state_values(batch: BatchRecord) -> dict[str, Any]:
    """The columns that a move of the batch may change."""
    return {
        "state": batch.state.value,
        **{name: getattr(batch, name) for name in ("reason", "detail", "started_at", "ended_at")},
    }
