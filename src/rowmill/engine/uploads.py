"""Files that a row names, brought to the app's server before the row is sent (docs/design/files.md).

Uploading costs nothing and may be repeated, so it comes before the intent: whatever happens to it, no run was started.
"""

from __future__ import annotations

import asyncio
import mimetypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowmill.domain.errors import DifyFailureError
from rowmill.domain.filenames import safe_name
from rowmill.domain.files import KEPT, placeholders, replaced
from rowmill.domain.verdict import Action, Failure, FailureKind, Verdict, judge_upload
from rowmill.ports.store import UploadRecord

if TYPE_CHECKING:
    from rowmill.ports.clock import Clock
    from rowmill.ports.dify import DifyApp
    from rowmill.ports.files import Shelf
    from rowmill.ports.store import RowJob, Store

# Beside the runs: a server with its usual ten connections must not be filled with uploads.
AT_ONCE = 3
# A server may be set to clean up, and while streaming most versions say nothing where a file is gone.
TRUSTED = 24 * 3600.0
_UNKNOWN_KIND = "application/octet-stream"

Name = tuple[str, str]
"""hash, and the name that the app sees"""


@dataclass(frozen=True, slots=True)
class Ready:
    """A row's inputs as they can be sent for one user. `reused`: uploads that an earlier attempt has made."""

    inputs: dict[str, Any]
    reused: tuple[Name, ...] = ()


class Uploads:
    """The uploads of one app: once for each file, name and user."""

    def __init__(self, app: DifyApp, app_id: str, store: Store, shelf: Shelf | None, clock: Clock) -> None:
        self._app = app
        self._app_id = app_id
        self._store = store
        self._shelf = shelf
        self._clock = clock
        self._few = asyncio.Semaphore(AT_ONCE)
        self._errors: dict[int, int] = {}

    async def ready(self, job: RowJob, user: str, quit_: asyncio.Event) -> Ready | None:
        """The row's inputs with every file uploaded for this user; None if it was time to quit first. Raises
        DifyFailureError, to be given to `judge`."""
        if not placeholders(job.inputs):
            return Ready(job.inputs)
        work = asyncio.create_task(self._bring(job, user))
        leaving = asyncio.create_task(quit_.wait())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            leaving.cancel()
            work.cancel()
            await asyncio.gather(work, leaving, return_exceptions=True)

    def judge(self, job: RowJob, failure: Failure) -> Verdict:
        """What to do about the row whose upload failed."""
        self._errors[job.position] = self._errors.get(job.position, 0) + (failure.kind is not FailureKind.NOT_SENT)
        verdict = judge_upload(failure, self._errors[job.position])
        if verdict.action is Action.SETTLE:
            del self._errors[job.position]
        return verdict

    async def forget(self, names: tuple[Name, ...]) -> None:
        """The server does not have them any more."""
        for sha256, name in names:
            await asyncio.to_thread(self._store.forget_uploads, self._app_id, sha256, name)

    async def _bring(self, job: RowJob, user: str) -> Ready:
        ids: dict[Name, str] = {}
        reused: list[Name] = []
        for sha256, name in dict.fromkeys(map(_name, placeholders(job.inputs))):
            known = await asyncio.to_thread(self._store.find_upload, self._app_id, user, sha256, name)
            if known is not None and known.uploaded_at > self._clock.wall() - TRUSTED:
                ids[sha256, name] = known.file_id
                reused.append((sha256, name))
            else:
                ids[sha256, name] = await self._upload(sha256, name, user)
        self._errors.pop(job.position, None)
        inputs = replaced(job.inputs, lambda file: _file_object(file, ids[_name(file)]))
        return Ready(inputs, tuple(reused))

    async def _upload(self, sha256: str, name: str, user: str) -> str:
        path = self._shelf.path(sha256) if self._shelf is not None else None
        if path is None:
            raise _gone(name)
        kind = mimetypes.guess_type(name, strict=False)[0] or _UNKNOWN_KIND
        async with self._few:
            try:
                uploaded = await self._app.upload(name, path, kind, user)
            except OSError:
                raise _gone(name) from None
        record = UploadRecord(self._app_id, user, sha256, name, uploaded.file_id, self._clock.wall())
        await asyncio.to_thread(self._store.save_upload, record)
        return uploaded.file_id


def _gone(name: str) -> DifyFailureError:
    return DifyFailureError(Failure(FailureKind.REFUSED, "file_gone", name))


def _name(file: dict[str, Any]) -> Name:
    return file[KEPT], safe_name(str(file.get("name") or ""))


def _file_object(file: dict[str, Any], file_id: str) -> dict[str, Any]:
    return {"transfer_method": "local_file", "upload_file_id": file_id, "type": file["type"]}
