"""Rows that take the result of the same row of an earlier batch.

Which row is the same as which is found by joins over two temporary tables: nothing of the size of a batch is held in
Python, and no index has to be kept for all the batches that nobody ever compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    case,
    exists,
    func,
    insert,
    literal_column,
    not_,
    null,
    or_,
    select,
    update,
)

from rowmill.domain.again import Reuse, digest, row_key
from rowmill.domain.batch import RowState
from rowmill.store.bounds import SHARED_AT_ONCE
from rowmill.store.files import take_files
from rowmill.store.sharing import TAKEN
from rowmill.store.tables import origin, rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection

    from rowmill.domain.cell import Cell

PAGE = 1000

_temporary = MetaData()


def _lines(name: str) -> Table:
    """One line for each row of a batch that is not blank. `usable`: whether its result may be taken."""
    return Table(
        name,
        _temporary,
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("key", Text, nullable=False),
        Column("hash", Text, nullable=False),
        Column("usable", Integer, nullable=False),
        prefixes=["TEMPORARY"],
    )


_earlier, _present = _lines("reuse_earlier"), _lines("reuse_present")


def plan_reuse(conn: Connection, batch_id: str, since: str, columns: tuple[int, int] | None, *, usable: bool) -> Reuse:
    _hash_old_rows(conn, since)
    for table, of, column in ((_earlier, since, 0), (_present, batch_id, 1)):
        table.create(conn)
        _fill(conn, table, of, None if columns is None else columns[column], usable=usable)
        # Made when the lines are there: sorted once, not kept in order while they come.
        conn.exec_driver_sql(f"CREATE INDEX {table.name}_by_key ON {table.name} (key, hash, usable, position)")
    found = _compared(conn)
    if found.reused:
        _note_origins(conn, batch_id)
    for table in (_earlier, _present):
        table.drop(conn)
    return found


def _hash_old_rows(conn: Connection, batch_id: str) -> None:
    """Batches that a former Rowmill made have no hashes. Turns of a conversation never have one."""
    missing = (rows.c.input_hash.is_(None), rows.c.conversation.is_(None), rows.c.state != RowState.SKIPPED.value)
    for page in _pages(conn, batch_id, (rows.c.position, rows.c.inputs), *missing):
        for position, inputs in page:
            this = (rows.c.batch_id == batch_id, rows.c.position == position)
            conn.execute(update(rows).where(*this).values(input_hash=digest(inputs)))


def _pages(
    conn: Connection, batch_id: str, wanted: tuple[ColumnElement[Any], ...], *which: ColumnElement[bool]
) -> Iterator[list[Any]]:
    """Rows in order; their position is the first of what is wanted."""
    query = select(*wanted).where(rows.c.batch_id == batch_id, *which).order_by(rows.c.position).limit(PAGE)
    page = list(conn.execute(query))
    while page:
        yield page
        page = list(conn.execute(query.where(rows.c.position > page[-1][0]))) if len(page) == PAGE else []


def _fill(conn: Connection, table: Table, batch_id: str, column: int | None, *, usable: bool) -> None:
    """`column`: where in the sheet the key stands; without one the inputs are the key."""
    gives = and_(rows.c.state == RowState.SUCCEEDED.value, rows.c.conversation.is_(None))
    told = case((gives, literal_column("1" if usable else "0")), else_=literal_column("0"))
    which = [rows.c.state != RowState.SKIPPED.value]
    if column is None:
        hashed = (rows.c.batch_id == batch_id, rows.c.input_hash.is_not(None), *which)
        line = select(rows.c.position, rows.c.input_hash, rows.c.input_hash, told).where(*hashed)
        conn.execute(insert(table).from_select(["position", "key", "hash", "usable"], line))
        which.append(rows.c.input_hash.is_(None))
    # What turns of a conversation are the same as is told, though their results are not taken.
    unhashed = case((rows.c.input_hash.is_(None), rows.c.inputs))
    for page in _pages(conn, batch_id, (rows.c.position, rows.c.cells, rows.c.input_hash, unhashed, told), *which):
        lines = [_line(column, *line) for line in page]
        conn.execute(insert(table), lines)


def _line(
    column: int | None, position: int, cells: Sequence[Cell], known_by: str | None, inputs: Any, may: int
) -> dict[str, Any]:
    known_by = known_by or digest(inputs)
    key = known_by if column is None else row_key(cells, column)
    return {"position": position, "key": key, "hash": known_by, "usable": may}


def _has(table: Table, *which: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(literal_column("1")).select_from(table).where(*which))


def _compared(conn: Connection) -> Reuse:
    same_key = _earlier.c.key == _present.c.key
    same = and_(same_key, _earlier.c.hash == _present.c.hash)
    kind = case(
        (_has(_earlier, same, _earlier.c.usable == 1), literal_column("'reused'")),
        (_has(_earlier, same), literal_column("'again'")),
        (_has(_earlier, same_key), literal_column("'changed'")),
        else_=literal_column("'new'"),
    ).label("kind")
    kinds = select(kind).select_from(_present).subquery()
    grouped = conn.execute(select(kinds.c.kind, func.count()).group_by(kinds.c.kind))
    counts: dict[str, int] = dict(grouped.all())
    is_gone = not_(exists(select(literal_column("1")).select_from(_present).where(same_key)))
    gone = conn.execute(select(func.count()).select_from(_earlier).where(is_gone)).scalar_one()
    return Reuse(**counts, gone=gone)


def _note_origins(conn: Connection, batch_id: str) -> None:
    usable = and_(_earlier.c.key == _present.c.key, _earlier.c.hash == _present.c.hash, _earlier.c.usable == 1)
    first = select(func.min(_earlier.c.position)).where(usable).scalar_subquery()
    here = (rows.c.batch_id == batch_id, rows.c.position == _present.c.position)
    conn.execute(update(rows).where(*here).values(origin=first))


def _held(batch_id: str) -> tuple[ColumnElement[bool], ...]:
    return (
        rows.c.batch_id == batch_id,
        rows.c.origin.is_not(None),
        rows.c.state == RowState.PENDING.value,
    )


def take_results(conn: Connection, batch_id: str, since: str, workflow_id: str | None, *, any_version: bool) -> int:
    there = and_(origin.c.batch_id == since, origin.c.position == rows.c.origin)
    same_version = or_(origin.c.workflow_id.is_(None), origin.c.workflow_id == workflow_id)
    which = [*_held(batch_id), *([] if any_version else [same_version])]
    due = select(rows.c.position).select_from(rows.join(origin, there)).where(*which).limit(SHARED_AT_ONCE)
    positions = list(conn.execute(due).scalars())
    if not positions:
        return 0
    take = (
        update(rows)
        .where(rows.c.batch_id == batch_id, rows.c.position.in_(positions), there)
        .values({name: origin.c[name] for name in TAKEN})
        .values(tokens=literal_column("0"), seconds=null(), price=null(), currency=null())
    )
    take_files(conn, batch_id, since, positions)
    return conn.execute(take).rowcount


def free_held(conn: Connection, batch_id: str, limit: int) -> int:
    first = select(rows.c.position).where(*_held(batch_id)).order_by(rows.c.position).limit(min(limit, SHARED_AT_ONCE))
    positions = list(conn.execute(first).scalars())
    free = update(rows).where(rows.c.batch_id == batch_id, rows.c.position.in_(positions))
    return conn.execute(free.values(origin=None)).rowcount if positions else 0


def read_reuse(conn: Connection, batch_id: str) -> tuple[int, int]:
    state = select(rows.c.state, func.count()).where(rows.c.batch_id == batch_id, rows.c.origin.is_not(None))
    counts: dict[str, int] = dict(conn.execute(state.group_by(rows.c.state)).all())
    held = counts.pop(RowState.PENDING.value, 0)
    return held, sum(counts.values())
