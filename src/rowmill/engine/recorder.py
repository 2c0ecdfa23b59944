"""Group commits: what comes while one commit is on its way to the disk goes into the next, all of it at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from rowmill.domain.errors import FencedError, StoreError
from rowmill.domain.events import Event, Fact

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.ports.clock import Clock
    from rowmill.ports.store import Record, Store

# Bounds one transaction, and with it the memory and the time that a commit takes.
LARGEST_COMMIT = 500
LONGEST_WAIT = 15.0


class Recorder:
    """`put` returns when the record is durable: True if it took effect, False if it came too late.

    While the database refuses (disk full, locked) records stay in memory and are tried again; nobody who waits for a
    commit goes on, so nothing new is sent meanwhile.
    """

    def __init__(self, store: Store, fence: int, clock: Clock, tell: Callable[[Event], None]) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        self._tell = tell
        self._waiting: list[tuple[Record, asyncio.Future[bool]]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._dead: Exception | None = None
        self._giving_up = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._task = asyncio.create_task(self._commit_all(), name="recorder")

    def put(self, record: Record) -> asyncio.Future[bool]:
        """Queue a record; the future answers after the commit. Raises what ended this recorder, if it has ended."""
        if self._dead is not None:
            raise self._dead
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        self._wake.set()
        return future

    async def close(self) -> None:
        """Commits what is waiting, then ends."""
        self._closing = True
        self._wake.set()
        await self._task
        self._thread.shutdown()

    async def _commit_all(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            group, self._waiting = self._waiting[:LARGEST_COMMIT], self._waiting[LARGEST_COMMIT:]
            try:
                answers = await self._commit([record for record, _ in group])
            except Exception as error:  # noqa: BLE001 -- whatever it is, everybody waits for this task
                self._die(error, group)
                return
            for (_, future), took_effect in zip(group, answers, strict=True):
                if not future.done():
                    future.set_result(took_effect)

    async def _commit(self, records: list[Record]) -> list[bool]:
        loop, wait, troubled = asyncio.get_running_loop(), 0.5, False
        while True:
            try:
                answers = await loop.run_in_executor(self._thread, self._store.write, records, self._fence)
            except FencedError:
                raise
            except StoreError as error:
                if error.code == "store_damaged" or self._giving_up:
                    raise
                if not troubled:
                    self._say(Event(Fact.STORE_TROUBLE, {"code": error.code}))
                troubled = True
                await self._clock.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            if troubled:
                self._say(Event(Fact.STORE_WELL))
            return answers

    def give_up(self) -> None:
        """Do not wait any longer for a database that refuses; what it did not take is found again by the next start."""
        self._giving_up = True

    def _say(self, event: Event) -> None:
        # Where the disk is full, telling of it may fail as well.
        with suppress(OSError):
            self._tell(event)

    def _die(self, error: Exception, group: list[tuple[Record, asyncio.Future[bool]]]) -> None:
        self._dead = error
        for _, future in group + self._waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waited was perhaps cancelled: the error is raised by `put` as well
        self._waiting = []
