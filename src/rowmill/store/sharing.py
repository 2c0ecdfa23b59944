"""Rows with the same inputs: the first of them leads, the others follow and take its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, func, literal_column, null, or_, select, update

from rowmill.domain.batch import SHARED_ENDS, TAKES_A_SHARE, RowState
from rowmill.store.bounds import SHARED_AT_ONCE
from rowmill.store.tables import rows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum

    from sqlalchemy import ColumnElement, Connection, FromClause

leading = rows.alias("leading")
_waiting = rows.alias("waiting")
_ended = rows.alias("ended")


def _words(states: Iterable[StrEnum]) -> list[str]:
    return sorted(state.value for state in states)


def read_duplicates(conn: Connection, batch_id: str) -> int:
    """Without an index: sorting a million hashes once takes two seconds, but an index that they come into in random
    order would make reading the sheet take three times as long."""
    hashed = (rows.c.batch_id == batch_id, rows.c.input_hash.is_not(None))
    same = select(func.count().label("number")).where(*hashed).group_by(rows.c.input_hash).subquery()
    more = func.coalesce(func.sum(same.c.number - literal_column("1")), 0)
    return int(conn.execute(select(more).select_from(same)).scalar_one())


def find_leaders(conn: Connection, batch_id: str, first: int = 0) -> int:
    """Only rows from the position `first` on begin to follow."""
    not_held = or_(rows.c.origin.is_(None), rows.c.state != RowState.PENDING.value)
    hashed = (rows.c.batch_id == batch_id, rows.c.input_hash.is_not(None), not_held)
    same = (
        select(rows.c.input_hash, func.min(rows.c.position).label("position"))
        .where(*hashed)
        .group_by(rows.c.input_hash)
        .having(func.count() > 1)
        .subquery("same")
    )
    behind = and_(rows.c.position > same.c.position, rows.c.position >= first)
    fresh = (
        rows.c.state == RowState.PENDING.value,
        rows.c.tries == 0,
        rows.c.leader.is_(None),
        rows.c.origin.is_(None),
    )
    follow = update(rows).where(rows.c.batch_id == batch_id, rows.c.input_hash == same.c.input_hash, behind, *fresh)
    return conn.execute(follow.values(leader=same.c.position)).rowcount


def read_due(conn: Connection, batch_id: str) -> list[int]:
    """Followers whose leaders have ended, some thousands at most. Apart from the writing: among a million followers it
    takes seconds to find them, and nobody's commit shall wait for that."""
    led = and_(_ended.c.batch_id == _waiting.c.batch_id, _ended.c.position == _waiting.c.leader)
    following = (_waiting.c.batch_id == batch_id, _waiting.c.leader.is_not(None))
    due = (
        select(_waiting.c.position).select_from(_waiting.join(_ended, led)).where(*following, _is_due(_waiting, _ended))
    )
    return list(conn.execute(due.limit(SHARED_AT_ONCE)).scalars())


def _is_due(follower: FromClause, leader: FromClause) -> ColumnElement[bool]:
    return and_(
        follower.c.state.in_(_words(TAKES_A_SHARE)),
        leader.c.state.in_(_words(SHARED_ENDS)),
        leader.c.state != follower.c.state,
    )


def share_results(conn: Connection, batch_id: str, positions: list[int]) -> int:
    """For those of them that are still due."""
    take = (
        update(rows)
        .where(rows.c.batch_id == batch_id, rows.c.position.in_(positions))
        .where(leading.c.batch_id == batch_id, leading.c.position == rows.c.leader, _is_due(rows, leading))
        .values({name: leading.c[name] for name in ("state", "outputs", "error", "cause", "run_id", "workflow_id")})
        .values(tokens=literal_column("0"), seconds=null(), price=null(), currency=null())
    )
    return conn.execute(take).rowcount


def read_followers(conn: Connection, batch_id: str) -> int:
    following = (rows.c.batch_id == batch_id, rows.c.leader.is_not(None))
    return int(conn.execute(select(func.count()).where(*following)).scalar_one())
