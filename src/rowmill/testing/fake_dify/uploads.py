"""Files that were uploaded, and the form that carries one."""

from __future__ import annotations

import mimetypes
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowmill.testing.fake_dify.bodies import Refusal

if TYPE_CHECKING:
    from rowmill.testing.fake_dify.apps import FakeApp

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "svg")
MEGABYTE = 1024 * 1024
# What is kept of a file, for the extractor.
MOST_CONTENT = 100_000
TENANT = "c0406a04-f74e-473d-a413-ca62ef01178b"


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a multipart form."""

    field: str
    name: str | None
    mime: str
    content: bytes

    @property
    def ending(self) -> str:
        return self.name.rsplit(".", 1)[-1].lower() if self.name and "." in self.name else ""


def accept(app: FakeApp, content_type: str, data: bytes) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(id, what is remembered, what is answered). Raises Refusal."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    parts = _multipart(data, boundary) if boundary else []
    files = [part for part in parts if part.name is not None]
    file = next((part for part in files if part.field == "file"), None)
    if file is None or file.name is None:
        raise Refusal(400, "no_file_uploaded", "Please upload your file.")
    if len(files) > 1:
        raise Refusal(400, "too_many_files", "Only one file is allowed.")
    if len(file.content) > (10 if file.ending in IMAGES else 15) * MEGABYTE:
        raise Refusal(413, "file_too_large", "")
    user = next((part.content.decode() for part in parts if part.field == "user"), "DEFAULT-USER")
    known = {
        "name": file.name, "kind": "image" if file.ending in IMAGES else "document", "mime": file.mime,
        "size": len(file.content), "owner": (app.key, user), "content": file.content[:MOST_CONTENT],
    }  # fmt: skip
    file_id = str(uuid.uuid4())
    return file_id, known, _answer(file_id, file)


def _answer(file_id: str, file: Part) -> dict[str, Any]:
    empty = dict.fromkeys(("preview_url", "original_url", "user_id", "conversation_id", "file_key"))
    return {
        "id": file_id,
        "name": file.name,
        "size": len(file.content),
        "extension": file.ending,
        "mime_type": file.mime,
        "created_by": file_id,
        "created_at": int(time.time()),
        "source_url": f"http://127.0.0.1:5001/files/{file_id}/file-preview?sign=fake",
        "tenant_id": TENANT,
        **empty,
    }


def _multipart(data: bytes, boundary: bytes) -> list[Part]:
    return [_part(piece) for piece in data.split(b"--" + boundary)[1:-1]]


def _part(piece: bytes) -> Part:
    head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    field = re.search(rb'[ ;]name="([^"]*)"', head)
    name = re.search(rb'filename="([^"]*)"', head)
    kind = re.search(rb"content-type: *([^;\r\n]+)", head, re.IGNORECASE)
    file = name.group(1).decode() if name else None
    mime = kind.group(1).decode() if kind else mimetypes.guess_type(file or "")[0]
    return Part(
        field.group(1).decode() if field else "",
        file,
        mime or "application/octet-stream",
        content.removesuffix(b"\r\n"),
    )
