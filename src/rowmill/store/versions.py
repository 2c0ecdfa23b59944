"""Which versions of the app a batch has met."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, func, literal_column, select, update

from rowmill.store.moves import first_versions
from rowmill.store.tables import attempts, batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from rowmill.ports.store import Record


def note_first_versions(conn: Connection, records: Sequence[Record], answers: Sequence[bool]) -> None:
    """Where a batch has none yet."""
    for batch_id, workflow_id in first_versions(records, answers).items():
        unknown = (batches.c.id == batch_id, batches.c.workflow_id.is_(None))
        conn.execute(update(batches).where(*unknown).values(workflow_id=workflow_id))


def read_versions(conn: Connection, batch_id: str) -> list[tuple[str, int]]:
    """From the attempts alone: their lines are short, those of rows are not."""
    later = attempts.alias("later")
    same_row = and_(later.c.batch_id == attempts.c.batch_id, later.c.position == attempts.c.position)
    told_later = exists(
        select(literal_column("1")).where(
            same_row, later.c.number > attempts.c.number, later.c.workflow_id.is_not(None)
        )
    )
    query = (
        select(attempts.c.workflow_id, func.count())
        .where(attempts.c.batch_id == batch_id, attempts.c.workflow_id.is_not(None), ~told_later)
        .group_by(attempts.c.workflow_id)
    )
    return sorted(((told, rows) for told, rows in conn.execute(query)), key=lambda one: (-one[1], one[0]))
