"""One runner per data folder: a lock that the operating system lets go of when its process dies, however it dies."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from rowmill.domain.errors import StoreError
from rowmill.store.faults import as_store_errors

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

LOCK_NAME = "rowmill.lock"
OWNER_NAME = "rowmill.owner"


class RunnerLock:
    """Held from its making until `release`. Raises store_in_use(path, pid, host, since), what is not known being
    None; `since` in Unix seconds. Does not wait."""

    def __init__(self, data_dir: Path) -> None:
        self._owner = data_dir / OWNER_NAME
        # No soft lock where the file system knows no locks: it would outlive a kill.
        self._lock = FileLock(data_dir / LOCK_NAME, timeout=0, mode=0o600, thread_local=False, fallback_to_soft=False)
        with as_store_errors(str(data_dir)):
            try:
                self._lock.acquire()
            except Timeout:
                raise StoreError("store_in_use", path=str(data_dir), **_read_owner(self._owner)) from None
            self._name_owner()

    def _name_owner(self) -> None:
        """For people only: the lock holds without it."""
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        fresh = self._owner.with_suffix(".new")
        fresh.write_text(json.dumps(about))
        fresh.replace(self._owner)

    def release(self) -> None:
        if self._lock.is_locked:
            self._owner.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _read_owner(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError):
        about = None
    known = about if isinstance(about, dict) else {}
    return {name: known.get(name) for name in ("pid", "host", "since")}
