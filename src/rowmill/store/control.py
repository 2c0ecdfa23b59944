"""What people wish for a batch, and what becomes of it, each within a transaction of the caller's."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, not_, select, update

from rowmill.domain.again import input_hash
from rowmill.domain.batch import (
    IDLE,
    RETRIED_BY_CAUSE_ONLY,
    ROW_MOVES,
    BatchMove,
    BatchState,
    RowMove,
    RowState,
    Spent,
    closing_moves,
)
from rowmill.domain.errors import StoreError
from rowmill.domain.money import total
from rowmill.ports.store import Again, Wish
from rowmill.store import reading, reuse, sharing
from rowmill.store.moves import moved
from rowmill.store.tables import attempts, batches, rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection

    from rowmill.ports.store import BatchRecord

# Values in one statement: well below what either database takes.
_AT_ONCE = 500


def move(
    conn: Connection, batch_id: str, step: BatchMove, reason: str | None, detail: str | None, at: float
) -> BatchState:
    batch = _known(conn, batch_id)
    after = moved(batch, step, reason, detail, at)
    values = reading.state_values(after)
    if step is BatchMove.START and batch.state in IDLE:
        # From here on the limits count anew: each start by a person grants them once.
        whole = _all_spent(conn, batch_id, with_price=batch.settings.max_price is not None)
        values["spent_before"] = [whole.rows, whole.tokens, str(whole.price)]
    conn.execute(update(batches).where(batches.c.id == batch_id).values(values))
    return after.state


def _known(conn: Connection, batch_id: str) -> BatchRecord:
    batch = reading.read_batch(conn, batch_id)
    if batch is None:
        raise StoreError("store_no_batch", batch=batch_id)
    return batch


def close(
    conn: Connection, batch_id: str, wants_to_end: bool, reason: str, detail: str | None, at: float
) -> BatchState | None:
    left = reading.read_counts(conn, batch_id).open
    steps = closing_moves(_known(conn, batch_id).state, left, wants_to_end=wants_to_end)
    state = None
    for step in steps:
        gives_reason = step is BatchMove.PAUSE
        state = move(conn, batch_id, step, reason if gives_reason else None, detail if gives_reason else None, at)
    return state


def read_wishes(conn: Connection, batch_ids: Sequence[str]) -> dict[str, Wish]:
    query = select(batches.c.id, batches.c.state, batches.c.reason, batches.c.touched)
    found = conn.execute(query.where(batches.c.id.in_(list(batch_ids))))
    return {batch_id: Wish(BatchState(state), reason, touched) for batch_id, state, reason, touched in found}


# ── spending ────────────────────────────────────────────────────────────────────────────────────────────────────


def read_spent(conn: Connection, batch_id: str, *, with_price: bool) -> Spent:
    before = conn.execute(select(batches.c.spent_before).where(batches.c.id == batch_id)).scalar()
    rows_before, tokens_before, price_before = before or (0, 0, "0")
    whole = _all_spent(conn, batch_id, with_price=with_price)
    price = max(Decimal(0), total((whole.price, -Decimal(price_before))))
    return Spent(max(0, whole.rows - rows_before), max(0, whole.tokens - tokens_before), price)


def _all_spent(conn: Connection, batch_id: str, *, with_price: bool) -> Spent:
    own = attempts.c.batch_id == batch_id
    tokens = conn.execute(select(func.coalesce(func.sum(attempts.c.tokens), 0)).where(own)).scalar_one()
    price = total(reading.read_prices(conn, batch_id).values()) if with_price else Decimal(0)
    counts = reading.read_counts(conn, batch_id)
    free = sharing.read_taken(conn, batch_id) + reuse.read_reuse(conn, batch_id)[1]
    return Spent(counts.done + counts.asking - free, int(tokens), price)


# ── again ───────────────────────────────────────────────────────────────────────────────────────────────────────


def retry(conn: Connection, batch_id: str, again: Again, at: float) -> int:
    if again.inputs is not None:
        _set_apart(conn, batch_id, again.positions or ())
    count = sum(_put_back(conn, which, again.inputs) for which in _which(conn, batch_id, again))
    if count:
        # Turns that were not sent for want of one that is run again go with it: as they are, whatever its new inputs.
        count += _put_back(conn, and_(*reading.left_behind(batch_id)), None)
        move(conn, batch_id, BatchMove.RETRY, None, None, at)
        touched = update(batches).where(batches.c.id == batch_id).values(touched=batches.c.touched + 1)
        conn.execute(touched)
    return count


def _set_apart(conn: Connection, batch_id: str, positions: Sequence[int]) -> None:
    may_go = select(rows.c.position).where(_may_go_again(batch_id), _in(ROW_MOVES[RowMove.RETRY][0]))
    for position in sorted(positions):
        if conn.execute(may_go.where(rows.c.position == position)).first() is not None:
            sharing.set_apart(conn, batch_id, position)


def _may_go_again(batch_id: str) -> ColumnElement[bool]:
    """A row that waits for its next attempt is not to be put back: it goes again by itself."""
    by_itself = and_(rows.c.state == RowState.WAITING.value, rows.c.due_at.is_not(None))
    return and_(rows.c.batch_id == batch_id, not_(by_itself))


def _which(conn: Connection, batch_id: str, again: Again) -> list[ColumnElement[bool]]:
    """Rows that share a result have its state and cause in common; where positions are named, the others go along."""
    sources = ROW_MOVES[RowMove.RETRY][0]
    own = _may_go_again(batch_id)
    if again.positions is not None:
        positions: Sequence[int] = again.positions
        if again.inputs is None:
            positions = sharing.with_leaders(conn, batch_id, [list(part) for part in _parts(positions)])
        columns = [rows.c.position] if again.inputs is not None else [rows.c.position, rows.c.leader]
        parts = [column.in_(part) for part in _parts(positions) for column in columns]
        return [and_(own, _in(sources), part) for part in parts]
    if again.cause is not None:
        return [and_(own, _in(sources), rows.c.cause == again.cause)]
    return [and_(own, _in(sources - RETRIED_BY_CAUSE_ONLY))]


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE))


def _in(states: frozenset[RowState]) -> ColumnElement[bool]:
    return rows.c.state.in_([state.value for state in states])


def _put_back(conn: Connection, which: ColumnElement[bool], inputs: dict[str, Any] | None) -> int:
    cleared = dict.fromkeys(("error", "cause", "outputs", "due_at", "asks"))
    values: dict[str, Any] = {"state": ROW_MOVES[RowMove.RETRY][1].value, **cleared}
    if inputs is not None:
        values |= {"inputs": inputs, "input_hash": input_hash(inputs), "origin": None}
    return conn.execute(update(rows).where(which).values(values)).rowcount


def read_positions(conn: Connection, batch_id: str, numbers: Sequence[int]) -> list[int]:
    found: list[int] = []
    for part in _parts(numbers):
        query = select(rows.c.position).where(rows.c.batch_id == batch_id, rows.c.number.in_(part))
        found += conn.execute(query).scalars()
    return sorted(found)


# ── deleted ─────────────────────────────────────────────────────────────────────────────────────────────────────


def purge(conn: Connection, limit: int) -> int:
    batch_id = conn.execute(select(batches.c.id).where(batches.c.state == BatchState.DELETED.value).limit(1)).scalar()
    if batch_id is None:
        return 0
    some = select(rows.c.position).where(rows.c.batch_id == batch_id).limit(limit)
    gone = conn.execute(delete(rows).where(rows.c.batch_id == batch_id, rows.c.position.in_(some))).rowcount
    if gone == 0:
        conn.execute(delete(batches).where(batches.c.id == batch_id))
        return purge(conn, limit)
    return gone
