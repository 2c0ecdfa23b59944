"""Rows with the same inputs: the first of them leads, the others follow and take its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, func, literal_column, null, or_, select, update

from rowmill.domain.batch import SHARED_ENDS, TAKES_A_SHARE, RowState
from rowmill.store.bounds import SHARED_AT_ONCE
from rowmill.store.tables import leading, rows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum

    from sqlalchemy import ColumnElement, Connection, FromClause

# What a row takes of another: all but what it cost.
TAKEN = ("state", "outputs", "error", "cause", "asks", "run_id", "workflow_id", "conversation_id")

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
    had = read_followers(conn, batch_id)
    found = conn.execute(follow.values(leader=same.c.position)).rowcount
    if had and found:
        # One that led others may follow now: they follow the same row as it does.
        led = (leading.c.batch_id == batch_id, leading.c.position == rows.c.leader, leading.c.leader.is_not(None))
        conn.execute(update(rows).where(rows.c.batch_id == batch_id, *led).values(leader=leading.c.leader))
    return found


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
        _has_end(leader),
        leader.c.state != follower.c.state,
    )


def _has_end(row: FromClause) -> ColumnElement[bool]:
    """An end that others take: that it waits for a person, too."""
    asks = and_(row.c.state == RowState.WAITING.value, row.c.due_at.is_(None))
    return or_(row.c.state.in_(_words(SHARED_ENDS)), asks)


def share_results(conn: Connection, batch_id: str, positions: list[int]) -> int:
    """For those of them that are still due."""
    return _take(conn, batch_id, rows.c.position.in_(positions))


def _take(conn: Connection, batch_id: str, which: ColumnElement[bool]) -> int:
    take = (
        update(rows)
        .where(rows.c.batch_id == batch_id, which)
        .where(leading.c.batch_id == batch_id, leading.c.position == rows.c.leader, _is_due(rows, leading))
        .values({name: leading.c[name] for name in TAKEN})
        .values(tokens=literal_column("0"), seconds=null(), price=null(), currency=null())
    )
    return conn.execute(take).rowcount


def read_followers(conn: Connection, batch_id: str) -> int:
    following = (rows.c.batch_id == batch_id, rows.c.leader.is_not(None))
    return int(conn.execute(select(func.count()).where(*following)).scalar_one())


def read_taken(conn: Connection, batch_id: str) -> int:
    """How many rows have the end of another, which cost nothing of their own."""
    taken = (rows.c.batch_id == batch_id, rows.c.leader.is_not(None), _has_end(rows))
    return int(conn.execute(select(func.count()).where(*taken)).scalar_one())


def with_leaders(conn: Connection, batch_id: str, parts: list[list[int]]) -> list[int]:
    """These positions and those of the rows that they follow."""
    found = {position for part in parts for position in part}
    for part in parts:
        of = (rows.c.batch_id == batch_id, rows.c.position.in_(part), rows.c.leader.is_not(None))
        found.update(
            leader for leader in conn.execute(select(rows.c.leader).where(*of)).scalars() if leader is not None
        )
    return sorted(found)


def set_apart(conn: Connection, batch_id: str, position: int) -> None:
    """The row at this position has ended, and shares with no other from now on. Those that followed it keep what it
    has come to, and the first of them leads the others."""
    followers = and_(rows.c.batch_id == batch_id, rows.c.leader == position)
    _take(conn, batch_id, rows.c.leader == position)
    first = conn.execute(select(func.min(rows.c.position)).where(followers)).scalar()
    conn.execute(update(rows).where(followers).values(leader=first))
    alone = rows.c.position.in_([position] if first is None else [position, first])
    conn.execute(update(rows).where(rows.c.batch_id == batch_id, alone).values(leader=None))
