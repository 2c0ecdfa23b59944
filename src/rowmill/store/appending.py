"""Rows of a checked draft become the last ones of a batch."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, update

from rowmill.store.files import add_files, read_files_of
from rowmill.store.reading import read_batch
from rowmill.store.sharing import find_leaders
from rowmill.store.tables import batches, rows

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rowmill.ports.store_again import AppendedSheet


def append_rows(conn: Connection, batch_id: str, draft_id: str, sheet: AppendedSheet) -> None:
    """In one statement: until it is committed, nobody sees any of them."""
    batch = read_batch(conn, batch_id)
    assert batch is not None
    last = conn.execute(select(func.max(rows.c.position)).where(rows.c.batch_id == batch.id)).scalar()
    first = 0 if last is None else last + 1
    mine = update(rows).where(rows.c.batch_id == draft_id)
    count = conn.execute(mine.values(batch_id=batch.id, position=rows.c.position + first)).rowcount
    known = [asdict(one) for one in (*batch.appended, replace(sheet, first=first, rows=count))]
    conn.execute(update(batches).where(batches.c.id == batch.id).values(appended=known))
    add_files(conn, batch.id, read_files_of(conn, draft_id))
    conn.execute(delete(batches).where(batches.c.id == draft_id))
    if batch.settings.share_duplicates:
        find_leaders(conn, batch.id, first)
