"""The store in a database: SQLite by default. Promises: rowmill.ports.store.

Way not taken: SQLAlchemy's ORM. Every write here is a conditional UPDATE whose row count is the answer.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from rowmill.domain.batch import BatchMove, BatchState, RowState
from rowmill.domain.errors import FencedError, IllegalMoveError, StoreError
from rowmill.store import appending, control, files, reading, reuse, sharing
from rowmill.store.connect import QUICK_CHECK_BELOW, Patience, open_engines, patiently
from rowmill.store.faults import as_store_errors, code_of
from rowmill.store.records import apply_records
from rowmill.store.revision import check_revision, migrate
from rowmill.store.tables import apps, batches, runner
from rowmill.store.tables import rows as rows_table
from rowmill.store.versions import note_first_versions, read_versions
from rowmill.store.wal import check_log

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from decimal import Decimal

    from sqlalchemy import Connection, RootTransaction

    from rowmill.domain.again import Reuse
    from rowmill.domain.batch import Settings, Spent
    from rowmill.domain.progress import Counts
    from rowmill.ports.store import (
        Again,
        AppRecord,
        AttemptKey,
        BatchRecord,
        BatchSummary,
        NewRow,
        OpenAttempt,
        OutputFile,
        Record,
        RowJob,
        RowResult,
        UploadRecord,
        Wish,
    )
    from rowmill.ports.store_again import AppendedSheet

FILE_NAME = "rowmill.db"


def open_store(data_dir: Path) -> SqlStore:
    """The store of a data folder; makes both if they are not there."""
    with as_store_errors(str(data_dir)):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SqlStore(data_dir / FILE_NAME)


class SqlStore:
    """See rowmill.ports.store. Errors: rowmill.store.faults, and store_too_new."""

    def __init__(self, path_or_url: str | Path, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._engines = open_engines(path_or_url, self._patience)
        self._place = self._engines.place
        self._lock = threading.Lock()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        with self._reading() as conn:
            up_to_date = check_revision(conn, self._place)
            self._quick_check(conn)
            if conn.dialect.name == "sqlite":
                check_log(self._place)
        if not up_to_date:
            with self._writing() as conn:
                migrate(conn, self._place)

    def _quick_check(self, conn: Connection) -> None:
        if conn.dialect.name != "sqlite" or Path(self._place).stat().st_size >= QUICK_CHECK_BELOW:
            return
        said = conn.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if said != "ok":
            raise StoreError("store_damaged", path=self._place, detail=str(said)[:300])

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._lock, as_store_errors(self._place):
            conn, transaction = patiently(self._begin, self._patience)
            try:
                with transaction:
                    yield conn
            except DBAPIError as error:
                # After a failed write to the disk nothing that this connection remembers can be relied on.
                if code_of(error) in ("store_io", "store_damaged"):
                    conn.invalidate()
                raise
            finally:
                conn.close()

    def _begin(self) -> tuple[Connection, RootTransaction]:
        conn = self._engines.writer.connect()
        try:
            return conn, conn.begin()
        except BaseException:
            conn.close()
            raise

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with as_store_errors(self._place), self._engines.reader.connect() as conn, conn.begin():
            yield conn

    def close(self) -> None:
        self._engines.dispose()

    def take_over(self, owner: str) -> int:
        with self._writing() as conn:
            newer = update(runner).values(fence=runner.c.fence + 1, owner=owner, taken_at=time.time())
            return int(conn.execute(newer.returning(runner.c.fence)).scalar_one())

    def save_app(self, app: AppRecord) -> AppRecord:
        values = asdict(app) | {"mode": app.mode.value}
        with self._writing() as conn:
            if conn.execute(update(apps).where(apps.c.id == app.id).values(values)).rowcount == 0:
                conn.execute(insert(apps).values(values))
        return app

    def find_app(self, app_id: str) -> AppRecord | None:
        with self._reading() as conn:
            return reading.read_app(conn, app_id)

    def add_batch(self, batch: BatchRecord) -> None:
        with self._writing() as conn:
            conn.execute(insert(batches), [reading.batch_values(batch)])

    def add_rows(self, batch_id: str, rows: Sequence[NewRow]) -> None:
        values = [
            {
                "batch_id": batch_id,
                "position": row.position,
                "number": row.number,
                "state": (RowState.SKIPPED if row.blank else RowState.PENDING).value,
                "inputs": row.inputs,
                "cells": row.cells,
                "conversation": row.conversation,
                "input_hash": row.input_hash,
            }
            for row in rows
        ]
        with self._writing() as conn:
            _require_draft(conn, batch_id, "add_rows")
            if values:
                conn.execute(insert(rows_table), values)

    def drop_batch(self, batch_id: str) -> None:
        with self._writing() as conn:
            _require_draft(conn, batch_id, "drop")
            conn.execute(delete(batches).where(batches.c.id == batch_id))

    def append_rows(self, batch_id: str, draft_id: str, sheet: AppendedSheet) -> BatchState:
        with self._writing() as conn:
            _require_draft(conn, draft_id, "append")
            state = control.move(conn, batch_id, BatchMove.APPEND, None, None, 0.0)
            appending.append_rows(conn, batch_id, draft_id, sheet)
            return state

    def sweep_drafts(self, older_than: float) -> int:
        old = (batches.c.state == BatchState.DRAFT.value, batches.c.created_at < older_than)
        with self._writing() as conn:
            return conn.execute(delete(batches).where(*old)).rowcount

    def batch(self, batch_id: str) -> BatchRecord | None:
        with self._reading() as conn:
            return reading.read_batch(conn, batch_id)

    def batches(self) -> list[BatchSummary]:
        with self._reading() as conn:
            return reading.read_batches(conn)

    def find_batch_ids(self, prefix: str) -> list[str]:
        with self._reading() as conn:
            return reading.find_ids(conn, prefix)

    def unfinished(self, app_id: str, sheet_digest: str, sheet_name: str) -> list[BatchSummary]:
        with self._reading() as conn:
            return reading.read_unfinished(conn, app_id, sheet_digest, sheet_name)

    def move_batch(
        self, batch_id: str, move: BatchMove, *, reason: str | None = None, detail: str | None = None, at: float = 0.0
    ) -> BatchState:
        with self._writing() as conn:
            return control.move(conn, batch_id, move, reason, detail, at)

    def wishes(self, batch_ids: Sequence[str]) -> dict[str, Wish]:
        with self._reading() as conn:
            return control.read_wishes(conn, batch_ids)

    def close_batch(
        self,
        batch_id: str,
        *,
        wants_to_end: bool,
        reason: str,
        detail: str | None = None,
        at: float = 0.0,
        fence: int | None = None,
    ) -> BatchState | None:
        with self._writing() as conn:
            if fence is not None:
                _refuse_old(conn, fence)
            return control.close(conn, batch_id, wants_to_end, reason, detail, at)

    def spent(self, batch_id: str, *, with_price: bool = False) -> Spent:
        with self._reading() as conn:
            return control.read_spent(conn, batch_id, with_price=with_price)

    def retry(self, batch_id: str, again: Again, at: float = 0.0) -> int:
        with self._writing() as conn:
            return control.retry(conn, batch_id, again, at)

    def row(self, batch_id: str, position: int) -> RowResult | None:
        with self._reading() as conn:
            return reading.read_row(conn, batch_id, position)

    def positions_of(self, batch_id: str, numbers: Sequence[int]) -> list[int]:
        with self._reading() as conn:
            return control.read_positions(conn, batch_id, numbers)

    def delete_batch(self, batch_id: str) -> None:
        self.move_batch(batch_id, BatchMove.DELETE)

    def purge(self, limit: int = 5000) -> int:
        with self._writing() as conn:
            return control.purge(conn, limit)

    def change_settings(self, batch_id: str, settings: Settings) -> None:
        with self._writing() as conn:
            conn.execute(update(batches).where(batches.c.id == batch_id).values(settings=asdict(settings)))

    def write(self, records: Sequence[Record], fence: int) -> list[bool]:
        with self._writing() as conn:
            _refuse_old(conn, fence)
            answers = apply_records(conn, records)
            note_first_versions(conn, records, answers)
            return answers

    def startable(self, batch_id: str, now: float, after: int, limit: int, until: int | None) -> list[RowJob]:
        with self._reading() as conn:
            return reading.read_startable(conn, batch_id, now, after, limit, until)

    def next_turns(self, batch_id: str, turns: Sequence[tuple[str, int]], until: int | None) -> list[RowJob]:
        with self._reading() as conn:
            return reading.read_next_turns(conn, batch_id, turns, until)

    def next_due(self, batch_id: str, until: int | None = None) -> float | None:
        with self._reading() as conn:
            return reading.read_next_due(conn, batch_id, until)

    def open_attempts(self, batch_id: str) -> list[OpenAttempt]:
        with self._reading() as conn:
            return reading.read_open_attempts(conn, batch_id)

    def busy_slots(self, batch_id: str) -> set[int]:
        with self._reading() as conn:
            return reading.read_busy_slots(conn, batch_id)

    def known_runs(self, batch_id: str, user: str) -> set[str]:
        with self._reading() as conn:
            return reading.read_known_runs(conn, batch_id, user)

    def known_talk(self, batch_id: str, user: str, ids: Sequence[str]) -> set[str]:
        with self._reading() as conn:
            return reading.read_known_talk(conn, batch_id, user, ids)

    def unsettled(self, batch_id: str, user: str) -> int:
        with self._reading() as conn:
            return reading.read_unsettled(conn, batch_id, user)

    def to_check(self, batch_id: str, after: int, limit: int) -> list[OpenAttempt]:
        with self._reading() as conn:
            return reading.read_to_check(conn, batch_id, after, limit)

    def asking(self, batch_id: str, limit: int) -> list[RowResult]:
        with self._reading() as conn:
            return reading.read_asking(conn, batch_id, limit)

    def counts(self, batch_id: str) -> Counts:
        with self._reading() as conn:
            return reading.read_counts(conn, batch_id)

    def prices(self, batch_id: str) -> dict[str, Decimal]:
        with self._reading() as conn:
            return reading.read_prices(conn, batch_id)

    def causes(self, batch_id: str) -> list[tuple[str, RowState, int]]:
        with self._reading() as conn:
            return reading.read_causes(conn, batch_id)

    def duplicates(self, batch_id: str) -> int:
        with self._reading() as conn:
            return sharing.read_duplicates(conn, batch_id)

    def find_leaders(self, batch_id: str) -> int:
        with self._writing() as conn:
            return sharing.find_leaders(conn, batch_id)

    def share_results(self, batch_id: str) -> int:
        with self._reading() as conn:
            due = sharing.read_due(conn, batch_id)
        if not due:
            return 0
        with self._writing() as conn:
            return sharing.share_results(conn, batch_id, due)

    def followers(self, batch_id: str) -> int:
        with self._reading() as conn:
            return sharing.read_followers(conn, batch_id)

    def plan_reuse(self, batch_id: str, since: str, columns: tuple[int, int] | None, *, usable: bool) -> Reuse:
        with self._writing() as conn:
            _require_draft(conn, batch_id, "plan_reuse")
            return reuse.plan_reuse(conn, batch_id, since, columns, usable=usable)

    def take_results(self, batch_id: str, since: str, workflow_id: str | None, *, any_version: bool = False) -> int:
        with self._writing() as conn:
            return reuse.take_results(conn, batch_id, since, workflow_id, any_version=any_version)

    def free_held(self, batch_id: str, limit: int) -> int:
        with self._writing() as conn:
            return reuse.free_held(conn, batch_id, limit)

    def reuse(self, batch_id: str) -> tuple[int, int]:
        with self._reading() as conn:
            return reuse.read_reuse(conn, batch_id)

    def versions(self, batch_id: str) -> list[tuple[str, int]]:
        with self._reading() as conn:
            return read_versions(conn, batch_id)

    def results(self, batch_id: str) -> Iterator[RowResult]:
        with self.snapshot(batch_id) as rows_:
            yield from rows_

    @contextmanager
    def snapshot(self, batch_id: str) -> Iterator[Iterable[RowResult]]:
        with self._reading() as conn:
            yield reading.Results(conn, batch_id)

    def add_files(self, batch_id: str, files_: Collection[str]) -> None:
        with self._writing() as conn:
            _require_draft(conn, batch_id, "add_files")
            files.add_files(conn, batch_id, files_)

    def needed_files(self) -> set[str]:
        with self._reading() as conn:
            return files.read_needed(conn)

    def find_upload(self, app_id: str, user: str, sha256: str, name: str) -> UploadRecord | None:
        with self._reading() as conn:
            return files.read_upload(conn, app_id, user, sha256, name)

    def save_upload(self, upload: UploadRecord) -> None:
        with self._writing() as conn:
            files.save_upload(conn, upload)

    def forget_uploads(self, app_id: str, sha256: str, name: str) -> None:
        with self._writing() as conn:
            files.forget_uploads(conn, app_id, sha256, name)

    def save_output_file(self, key: AttemptKey, file: OutputFile) -> None:
        with self._writing() as conn:
            files.save_output_file(conn, key, file)

    def output_files(self, key: AttemptKey) -> list[OutputFile]:
        with self._reading() as conn:
            return files.read_output_files(conn, key)

    def fresh_outputs(self, batch_id: str, since: float) -> list[tuple[AttemptKey, str]]:
        with self._reading() as conn:
            return files.read_fresh_outputs(conn, batch_id, since)

    def count_output_files(self, batch_id: str) -> tuple[int, int]:
        with self._reading() as conn:
            return files.count_output_files(conn, batch_id)


# Locked where the database has locks on rows: a runner that takes over waits for the commit under way.
_NEWEST_FENCE = select(runner.c.fence).with_for_update()


def _refuse_old(conn: Connection, fence: int) -> None:
    newest = conn.execute(_NEWEST_FENCE).scalar_one()
    if newest != fence:
        raise FencedError("fenced", fence=fence, newest=newest)


def _require_draft(conn: Connection, batch_id: str, move: str) -> None:
    state = conn.execute(select(batches.c.state).where(batches.c.id == batch_id)).scalar()
    if state is None:
        raise StoreError("store_no_batch", batch=batch_id)
    if state != BatchState.DRAFT.value:
        raise IllegalMoveError("illegal_move", thing="batch", state=state, move=move)
