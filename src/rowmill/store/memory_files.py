"""What the store in memory knows about files."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rowmill.domain.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from rowmill.ports.store import AttemptKey, OutputFile, UploadRecord


class MemoryFiles:
    """The part of MemoryStore that is about files. Uploads by (app, user, hash, name); files that runs put out by
    (batch, position), then by (attempt, place)."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._needed: dict[str, set[str]] = {}
        self._uploads: dict[tuple[str, str, str, str], UploadRecord] = {}
        self._outputs: dict[tuple[str, int], dict[tuple[int, str], OutputFile]] = {}

    def _forget_files(self, batch_id: str) -> None:
        self._needed.pop(batch_id, None)
        self._outputs = {row: files for row, files in self._outputs.items() if row[0] != batch_id}

    def _add_files(self, batch_id: str, files: Collection[str]) -> None:
        self._needed.setdefault(batch_id, set()).update(files)

    def needed_files(self) -> set[str]:
        with self._lock:
            kept = {file.sha256 for files in self._outputs.values() for file in files.values() if file.sha256}
            return kept.union(*self._needed.values())

    def find_upload(self, app_id: str, user: str, sha256: str, name: str) -> UploadRecord | None:
        return self._uploads.get((app_id, user, sha256, name))

    def _save_upload(self, upload: UploadRecord, apps: Iterable[str]) -> None:
        if upload.app_id not in apps:
            raise StoreError("store_conflict", path="memory", detail=upload.app_id)
        self._uploads[upload.app_id, upload.user, upload.sha256, upload.name] = upload

    def forget_uploads(self, app_id: str, sha256: str, name: str) -> None:
        with self._lock:
            for key in [key for key in self._uploads if (key[0], key[2], key[3]) == (app_id, sha256, name)]:
                del self._uploads[key]

    def _save_output_file(self, key: AttemptKey, file: OutputFile) -> None:
        files = self._outputs.setdefault((key.batch_id, key.position), {})
        known = files.get((key.number, file.place))
        if known is None or known.sha256 is None:
            files[key.number, file.place] = file

    def output_files(self, key: AttemptKey) -> list[OutputFile]:
        with self._lock:
            files = self._outputs.get((key.batch_id, key.position), {})
            return [files[place] for place in sorted(files) if place[0] == key.number]
