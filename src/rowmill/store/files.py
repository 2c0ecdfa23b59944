"""Tables about files, each function within a transaction of the caller's. The bytes are not here: rowmill.files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, insert, select, union, update

from rowmill.ports.store import AttemptKey, OutputFile, UploadRecord
from rowmill.store.tables import attempts, batch_files, is_led, leading, origin, output_files, rows, uploads

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Connection, FromClause, Select

_FILE_MARK = "__dify__file__"


def add_files(conn: Connection, batch_id: str, files: Collection[str]) -> None:
    new = [{"batch_id": batch_id, "sha256": sha256} for sha256 in sorted(set(files) - read_files_of(conn, batch_id))]
    if new:
        conn.execute(insert(batch_files), new)


def read_files_of(conn: Connection, batch_id: str) -> set[str]:
    """Those that its rows name."""
    return set(conn.execute(select(batch_files.c.sha256).where(batch_files.c.batch_id == batch_id)).scalars())


def read_needed(conn: Connection) -> set[str]:
    kept = select(output_files.c.sha256).where(output_files.c.sha256.is_not(None))
    return set(conn.execute(union(select(batch_files.c.sha256), kept)).scalars())


# ── uploads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _upload(app_id: str, user: str, sha256: str, name: str) -> ColumnElement[bool]:
    mine = and_(uploads.c.app_id == app_id, uploads.c.slot_user == user)
    return and_(mine, uploads.c.sha256 == sha256, uploads.c.name == name)


def read_upload(conn: Connection, app_id: str, user: str, sha256: str, name: str) -> UploadRecord | None:
    found = conn.execute(select(uploads).where(_upload(app_id, user, sha256, name))).one_or_none()
    return None if found is None else UploadRecord(*found)


def save_upload(conn: Connection, upload: UploadRecord) -> None:
    mine = _upload(upload.app_id, upload.user, upload.sha256, upload.name)
    news = {"file_id": upload.file_id, "uploaded_at": upload.uploaded_at}
    if conn.execute(update(uploads).where(mine).values(news)).rowcount == 0:
        key = {"app_id": upload.app_id, "slot_user": upload.user, "sha256": upload.sha256, "name": upload.name}
        conn.execute(insert(uploads).values(**key, **news))


def forget_uploads(conn: Connection, app_id: str, sha256: str, name: str) -> None:
    same = (uploads.c.app_id == app_id, uploads.c.sha256 == sha256, uploads.c.name == name)
    conn.execute(delete(uploads).where(*same))


# ── files that runs put out ─────────────────────────────────────────────────────────────────────────────────────────

_FILE = (
    output_files.c.place,
    output_files.c.name,
    output_files.c.sha256,
    output_files.c.size,
    output_files.c.error,
)


def _attempt(key: AttemptKey) -> ColumnElement[bool]:
    row = and_(output_files.c.batch_id == key.batch_id, output_files.c.position == key.position)
    return and_(row, output_files.c.number == key.number)


def save_output_file(conn: Connection, key: AttemptKey, file: OutputFile) -> None:
    mine = and_(_attempt(key), output_files.c.place == file.place)
    kept = conn.execute(select(output_files.c.sha256).where(mine)).one_or_none()
    news = {"name": file.name, "sha256": file.sha256, "size": file.size, "error": file.error}
    if kept is None and _row_exists(conn, key):
        place = {"batch_id": key.batch_id, "position": key.position, "number": key.number, "place": file.place}
        conn.execute(insert(output_files).values(**place, **news))
    elif kept is not None and kept.sha256 is None:
        conn.execute(update(output_files).where(mine).values(news))


def _row_exists(conn: Connection, key: AttemptKey) -> bool:
    row = select(rows.c.position).where(rows.c.batch_id == key.batch_id, rows.c.position == key.position)
    return conn.execute(row).one_or_none() is not None


def read_output_files(conn: Connection, key: AttemptKey) -> list[OutputFile]:
    query = select(*_FILE).where(_attempt(key)).order_by(output_files.c.place)
    return [OutputFile(*row) for row in conn.execute(query)]


def _of(table: FromClause) -> ColumnElement[bool]:
    """Of the last attempts of these rows."""
    same_row = and_(output_files.c.batch_id == table.c.batch_id, output_files.c.position == table.c.position)
    return and_(same_row, output_files.c.number == table.c.tries)


_of_row = _of(rows)


def read_files_between(conn: Connection, batch_id: str, first: int, last: int) -> dict[int, list[OutputFile]]:
    """By position, both ends included; of the attempts that the rows' outputs came from."""
    query = (
        select(output_files.c.position, *_FILE)
        .join(rows, _of_row)
        .where(output_files.c.batch_id == batch_id, output_files.c.position.between(first, last))
        .order_by(output_files.c.position, output_files.c.place)
    )
    return _by_position(conn, query)


def read_files_of_leaders(conn: Connection, batch_id: str, first: int, last: int) -> dict[int, list[OutputFile]]:
    """… of the rows between that follow another: the files of that one."""
    query = (
        select(rows.c.position, *_FILE)
        .select_from(rows.join(leading, is_led).join(output_files, _of(leading)))
        .where(rows.c.batch_id == batch_id, rows.c.position.between(first, last))
        .order_by(rows.c.position, output_files.c.place)
    )
    return _by_position(conn, query)


def _by_position(conn: Connection, query: Select[Any]) -> dict[int, list[OutputFile]]:
    found: dict[int, list[OutputFile]] = {}
    for position, *file in conn.execute(query):
        found.setdefault(position, []).append(OutputFile(*file))
    return found


def take_files(conn: Connection, batch_id: str, since: str, positions: Collection[int]) -> None:
    """Rows that take the result of a row of the batch `since`, without an attempt of their own, take its files."""
    giver = and_(leading.c.batch_id == since, leading.c.position == func.coalesce(origin.c.leader, origin.c.position))
    there = and_(origin.c.batch_id == since, origin.c.position == rows.c.origin)
    taken = (
        select(rows.c.batch_id, rows.c.position, rows.c.tries, *_FILE)
        .select_from(rows.join(origin, there).join(leading, giver).join(output_files, _of(leading)))
        .where(rows.c.batch_id == batch_id, rows.c.position.in_(positions))
    )
    columns = ["batch_id", "position", "number", *(column.name for column in _FILE)]
    conn.execute(insert(output_files).from_select(columns, taken))


def read_fresh_outputs(conn: Connection, batch_id: str, since: float) -> list[tuple[AttemptKey, str]]:
    same = and_(rows.c.batch_id == attempts.c.batch_id, rows.c.position == attempts.c.position)
    holds_file: Any = rows.c.outputs.contains(_FILE_MARK, autoescape=True)
    query = (
        select(attempts.c.position, attempts.c.number, rows.c.outputs)
        .join(rows, and_(same, rows.c.tries == attempts.c.number))
        .where(attempts.c.batch_id == batch_id, attempts.c.ended_at >= since, holds_file)
        .order_by(attempts.c.position)
    )
    return [(AttemptKey(batch_id, position, number), outputs) for position, number, outputs in conn.execute(query)]


def count_output_files(conn: Connection, batch_id: str) -> tuple[int, int]:
    kept = func.count(output_files.c.sha256)
    query = select(kept, func.count()).select_from(output_files).join(rows, _of_row)
    found, total = conn.execute(query.where(output_files.c.batch_id == batch_id)).one()
    return found, total - found
