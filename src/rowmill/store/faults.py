"""What the database says when it refuses, in the codes of StoreError. No SQLAlchemy exception leaves the package.

store_full, store_readonly, store_locked, store_damaged, store_io     (path, detail)
store_conflict        a row, app or batch is there already, or what it belongs to is missing (path, detail)
"""

from __future__ import annotations

import errno
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from rowmill.domain.errors import StoreError, os_detail

if TYPE_CHECKING:
    from collections.abc import Iterator

_SQLITE_CODES = {
    sqlite3.SQLITE_FULL: "store_full",
    sqlite3.SQLITE_READONLY: "store_readonly",
    sqlite3.SQLITE_PERM: "store_readonly",
    sqlite3.SQLITE_BUSY: "store_locked",
    sqlite3.SQLITE_LOCKED: "store_locked",
    sqlite3.SQLITE_CORRUPT: "store_damaged",
    sqlite3.SQLITE_NOTADB: "store_damaged",
    sqlite3.SQLITE_CONSTRAINT: "store_conflict",
}
_OS_CODES = {
    errno.ENOSPC: "store_full",
    errno.EDQUOT: "store_full",
    errno.EROFS: "store_readonly",
    errno.EACCES: "store_readonly",
    errno.EPERM: "store_readonly",
}
# Postgres' classes and codes of SQLSTATE.
_SQLSTATES = {"53100": "store_full", "25006": "store_readonly", "55P03": "store_locked", "40P01": "store_locked"}


@contextmanager
def as_store_errors(place: str) -> Iterator[None]:
    """Turns the errors of the database, and of the disk under it, into StoreError. `place` names the store."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StoreError(code_of(error), path=place, detail=_detail(error)) from error


def code_of(error: Exception) -> str:
    if isinstance(error, OSError):
        return _OS_CODES.get(error.errno or 0, "store_io")
    cause = error.orig if isinstance(error, DBAPIError) else error
    primary = getattr(cause, "sqlite_errorcode", None)
    if primary is not None:
        return _SQLITE_CODES.get(primary & 0xFF, "store_io")
    if isinstance(error, IntegrityError):
        return "store_conflict"
    return _SQLSTATES.get(getattr(cause, "sqlstate", None) or "", "store_io")


def _detail(error: Exception) -> str:
    """The driver's words only: SQLAlchemy's own would quote the parameters, and with them the users' data."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return os_detail(cause) if isinstance(cause, OSError) else str(cause)[:300]
