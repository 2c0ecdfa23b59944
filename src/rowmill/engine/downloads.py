"""Files in runs' outputs, fetched before their links die. Beside the rows: none waits for it, and no row's state
depends on it (docs/design/files.md)."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowmill.domain.errors import DifyFailureError, StoreError
from rowmill.domain.events import Event, Fact
from rowmill.domain.filenames import safe_name
from rowmill.domain.outputs import FileLink, file_links, may_hold_files
from rowmill.domain.verdict import Failure, FailureKind
from rowmill.ports.store import OutputFile

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from rowmill.ports.clock import Clock
    from rowmill.ports.dify import DifyApp
    from rowmill.ports.files import Kept, Shelf, ShelfDraft
    from rowmill.ports.store import AttemptKey, Store

AT_ONCE = 3
MOST_FILES = 50
LARGEST = 200 * 1024**2
# Dify's FILES_ACCESS_TIMEOUT, in seconds.
LINK_LIFE = 300.0
# A server may let them live longer, and a queue be long: a first try is worth it for a while.
LONGEST_QUEUE = 4 * LINK_LIFE
LONGEST_GAP = 30.0
# How long a batch that is over waits for links that do not work but may again.
LINGER = 20.0
_PASSING = (408, 425, 429)


@dataclass(frozen=True, slots=True)
class _Wanted:
    key: AttemptKey
    link: FileLink
    until: float

    def note(self, kept: Kept | None, error: str | None = None) -> OutputFile:
        name = safe_name(self.link.name or self.link.url.split("?")[0])
        if kept is None:
            return OutputFile(self.link.place, name, error=error)
        return OutputFile(self.link.place, name, kept.sha256, kept.size)


class Downloads:
    """`collect` what a run put out; `done` when nothing is under way any more."""

    def __init__(
        self, app: DifyApp, store: Store, shelf: Shelf | None, clock: Clock, tell: Callable[[Event], None]
    ) -> None:
        self._app = app
        self._store = store
        self._shelf = shelf
        self._clock = clock
        self._tell = tell
        self._few = asyncio.Semaphore(AT_ONCE)
        self._stopping = asyncio.Event()
        self._end = math.inf
        self._tasks: set[asyncio.Task[None]] = set()

    def collect(self, key: AttemptKey, outputs: str, without: frozenset[str] = frozenset()) -> None:
        """Fetch what a committed result holds, but for what is kept already (`without`: places)."""
        if self._shelf is None or self._stopping.is_set() or not may_hold_files(outputs):
            return
        until = self._clock.monotonic() + LINK_LIFE
        for index, link in enumerate(_own_links(outputs)):
            if link.place not in without:
                self._start(self._fetch(_Wanted(key, link, until), self._shelf, within=index < MOST_FILES))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def resume(self, batch_id: str) -> None:
        """Fetch what a former process has left, where the links still live."""
        since = self._clock.wall() - LINK_LIFE
        for key, outputs in await asyncio.to_thread(self._store.fresh_outputs, batch_id, since):
            known = await asyncio.to_thread(self._store.output_files, key)
            self.collect(key, outputs, frozenset(file.place for file in known if file.sha256))

    async def done(self) -> None:
        """Nothing is to come any more: wait for what is under way."""
        self._end = self._clock.monotonic() + LINGER
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def stop(self) -> None:
        """Leave at once."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()

    async def stopped(self) -> None:
        """After `stop`: nothing uses the app or the shelf any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fetch(self, wanted: _Wanted, shelf: Shelf, *, within: bool) -> None:
        error, gap = None if within else "too_many_files", 1.0
        while error is None:
            async with self._few:
                if self._clock.monotonic() > wanted.until + LONGEST_QUEUE:
                    error = "not_in_time"
                    break
                failure = await self._try(wanted, shelf)
            if failure is None:
                return
            now = self._clock.monotonic()
            if _is_final(failure) or now + gap > min(wanted.until, self._end) or self._stopping.is_set():
                error = failure.code
                break
            await self._clock.sleep_or(gap, self._stopping)
            gap = min(2 * gap, LONGEST_GAP)
        with suppress(StoreError):
            await self._note(wanted, wanted.note(None, error))
        name = wanted.link.name[:80]
        self._tell(Event(Fact.FILE_LOST, {"position": wanted.key.position, "name": name, "detail": error}))

    async def _try(self, wanted: _Wanted, shelf: Shelf) -> Failure | None:
        """None when it is kept. Of all addresses the failure that leaves most hope, the first of its kind."""
        failures = []
        for url in self._app.addresses(wanted.link):
            try:
                kept = await self._download(url, wanted.link, shelf)
                await self._note(wanted, wanted.note(kept))
            except DifyFailureError as error:
                failures.append(error.failure)
            except StoreError as error:
                return Failure(FailureKind.ERRORED, error.code)
            else:
                return None
        failures.append(Failure(FailureKind.REFUSED, "no_address"))
        return min(failures, key=_is_final)

    async def _download(self, url: str, link: FileLink, shelf: Shelf) -> Kept:
        draft = await asyncio.to_thread(shelf.draft)
        try:
            await self._receive(url, link, draft)
            return await asyncio.to_thread(draft.keep)
        except BaseException:
            draft.abandon()
            raise

    async def _receive(self, url: str, link: FileLink, draft: ShelfDraft) -> None:
        async with aclosing(self._app.download(url, link)) as blocks:
            async for block in blocks:
                draft.write(block)
                if max(draft.size, link.size or 0) > LARGEST:
                    raise DifyFailureError(Failure(FailureKind.REFUSED, "output_file_too_large"))
        if link.size is not None and draft.size != link.size:
            raise DifyFailureError(Failure(FailureKind.AMBIGUOUS, "incomplete"))

    async def _note(self, wanted: _Wanted, file: OutputFile) -> None:
        await asyncio.to_thread(self._store.save_output_file, wanted.key, file)


def _is_final(failure: Failure) -> bool:
    status = failure.status or 0
    return failure.kind is FailureKind.REFUSED and status < 500 and status not in _PASSING  # noqa: PLR2004


def _own_links(outputs: str) -> list[FileLink]:
    """A file that was given as a link to elsewhere stays there."""
    try:
        return [link for link in file_links(json.loads(outputs)) if link.own]
    except (ValueError, RecursionError):
        return []
