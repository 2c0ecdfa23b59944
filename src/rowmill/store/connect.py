"""Engines for a store: one connection that writes, others that read, with what each database needs to be safe."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import QueuePool

from rowmill.domain.errors import StoreError
from rowmill.store.faults import as_store_errors, code_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from sqlalchemy import Connection, Engine

    T = TypeVar("T")

_HEADER = b"SQLite format 3\x00"
# A check reads the whole file: above this size it would keep a start waiting.
QUICK_CHECK_BELOW = 50 * 1024 * 1024
_WRITER_CACHE_KIB = 12 * 1024
_READER_CACHE_KIB = 4 * 1024
# What the write-ahead log shrinks to when a long reader has let it grow.
_LOG_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long SQLite itself waits for a lock, and how long we go on trying in all."""

    busy: float = 5.0
    total: float = 90.0


@dataclass(frozen=True, slots=True)
class Engines:
    writer: Engine
    reader: Engine
    place: str
    """names the store in messages; never holds a password"""

    def dispose(self) -> None:
        self.writer.dispose()
        self.reader.dispose()


def open_engines(path_or_url: str | Path, patience: Patience) -> Engines:
    """Nothing in the database is changed yet."""
    url = make_url(path_or_url) if isinstance(path_or_url, str) and "://" in path_or_url else None
    if url is None or url.get_backend_name() == "sqlite":
        path = Path(url.database or "" if url else path_or_url)
        return _sqlite_engines(path, patience)
    writer = create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_pre_ping=True)
    reader = create_engine(url, max_overflow=-1, pool_pre_ping=True, isolation_level="REPEATABLE READ")
    return Engines(writer, reader, url.render_as_string(hide_password=True))


def patiently(act: Callable[[], T], patience: Patience) -> T:
    """Does it again while another program holds the database, up to the total."""
    deadline, pause = time.monotonic() + patience.total, 0.05
    while True:
        try:
            return act()
        except Exception as error:
            if code_of(error) != "store_locked" or time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _sqlite_engines(path: Path, patience: Patience) -> Engines:
    with as_store_errors(str(path)):
        _prepare_file(path)
    url = URL.create("sqlite", database=str(path))
    # Statements differ by the size of their group: many are kept.
    connecting = {
        "check_same_thread": False,
        "timeout": patience.busy,
        "isolation_level": None,
        "cached_statements": 512,
    }
    writer = create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0, connect_args=connecting)
    reader = create_engine(url, poolclass=QueuePool, max_overflow=-1, connect_args=connecting)
    _on_connect(
        writer,
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=FULL",
        "PRAGMA foreign_keys=ON",
        f"PRAGMA journal_size_limit={_LOG_LIMIT}",
        f"PRAGMA cache_size=-{_WRITER_CACHE_KIB}",
    )
    _on_connect(reader, "PRAGMA query_only=ON", f"PRAGMA cache_size=-{_READER_CACHE_KIB}")
    # The lock is taken at the start: a transaction that has begun cannot find the database busy any more.
    _on_begin(writer, "BEGIN IMMEDIATE")
    _on_begin(reader, "BEGIN")
    return Engines(writer, reader, str(path))


def _prepare_file(path: Path) -> None:
    """Makes the file with its final mode (SQLite gives the same to its log), or looks at its first bytes."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        with path.open("rb") as file:
            start = file.read(len(_HEADER))
        if start and start != _HEADER:
            raise StoreError("store_damaged", path=str(path), detail="not a SQLite file") from None
        _tighten(path)


def _tighten(path: Path) -> None:
    """A restored copy often comes back readable for all."""
    if path.stat().st_mode & 0o077:
        try:
            path.chmod(0o600)
        except OSError:
            return


def _on_connect(engine: Engine, *pragmas: str) -> None:
    def prepare(connection: Any, _: Any) -> None:
        for pragma in pragmas:
            connection.execute(pragma).close()

    event.listen(engine, "connect", prepare)


def _on_begin(engine: Engine, statement: str) -> None:
    def begin(conn: Connection) -> None:
        conn.exec_driver_sql(statement)

    event.listen(engine, "begin", begin)
