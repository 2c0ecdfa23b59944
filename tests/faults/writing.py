"""A process that writes to a store and says on its standard output what is durable, once it is; and the check that it
was."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from rowmill.domain.batch import BatchMove, RowState
from rowmill.domain.errors import StoreError
from rowmill.store.connect import Patience
from rowmill.store.sql import FILE_NAME, SqlStore, open_store
from tests.ports.building import APP, B, batch, finish, intend, new_row

IMPATIENT = Patience(busy=0.2, total=0.5)
TRIES = 3


def write_groups(folder: str, first: int, groups: int, size: int) -> int:
    """`groups` times: intend `size` rows, then finish them. A commit that fails is tried again."""
    store = SqlStore(Path(folder) / FILE_NAME, IMPATIENT)
    fence = store.take_over("writing")
    for start in range(first, first + groups * size, size):
        places = range(start, start + size)
        _put(store, fence, "intended", [intend(place, slot=place) for place in places])
        _put(store, fence, "finished", [finish(place) for place in places])
    store.close()
    return 0


def _put(store: SqlStore, fence: int, word: str, records: list) -> None:
    for last in range(TRIES, 0, -1):
        try:
            answers = store.write(records, fence)
        except StoreError:
            if last == 1:
                raise
            continue
        took = [record.key.position for record, answer in zip(records, answers, strict=True) if answer]
        os.write(1, "".join(f"{word} {place}\n" for place in took).encode())
        return


def make_store(folder: str, rows: int) -> int:
    """A batch that may run, from nothing: folder, tables, rows."""
    store = SqlStore(Path(folder) / FILE_NAME, IMPATIENT)
    store.save_app(APP)
    store.add_batch(batch(B))
    store.add_rows(B, [new_row(place) for place in range(rows)])
    store.move_batch(B, BatchMove.CHECKED)
    store.close()
    os.write(1, b"made\n")
    return 0


def check_acknowledged(folder: Path, said: str) -> int:
    """What was said to be durable is there, and the file is whole; returns how many rows were acknowledged."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    acknowledged = [line.split() for line in said.splitlines()]
    store = open_store(folder)
    states = {row.position: row.state for row in store.results(B)}
    store.close()
    for word, place in acknowledged:
        allowed = (RowState.SUCCEEDED,) if word == "finished" else (RowState.SUCCEEDED, RowState.RUNNING)
        assert states[int(place)] in allowed, (word, place)
    return len(acknowledged)
