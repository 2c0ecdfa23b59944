"""Files that were uploaded, and the form that carries one."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowmill.testing.fake_dify.bodies import Refusal
from rowmill.testing.fake_dify.faults import Fault
from rowmill.testing.fake_dify.runs import LedgerUpload
from rowmill.testing.fake_dify.strikes import refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.testing.fake_dify.apps import FakeApp
    from rowmill.testing.fake_dify.wire import Wire

MEGABYTE = 1024 * 1024
KINDS = {
    "image": ("jpg", "jpeg", "png", "webp", "gif", "svg"),
    "video": ("mp4", "mov", "mpeg", "webm"),
    "audio": ("mp3", "m4a", "wav", "amr", "mpga"),
    "document": (
        "txt", "markdown", "md", "mdx", "pdf", "html", "htm", "xlsx", "xls", "vtt", "properties", "doc", "docx", "csv",
        "eml", "msg", "ppt", "pptx", "xml", "epub",
    ),
}  # fmt: skip
LIMITS = {"image": 10, "video": 100, "audio": 50}
OTHER_LIMIT = 15
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

    @property
    def kind(self) -> str:
        """By the ending, else by the MIME type."""
        found = next((kind for kind, endings in KINDS.items() if self.ending in endings), None)
        return found or ("document" if self.mime.startswith("text/") or "pdf" in self.mime else "custom")


def accept(
    app: FakeApp, content_type: str, data: bytes, link: Callable[[str], str]
) -> tuple[LedgerUpload, dict[str, Any], dict[str, Any]]:
    """(entry of the ledger, what is remembered, what is answered). Raises Refusal."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    parts = _multipart(data, boundary) if boundary else []
    files = [part for part in parts if part.name is not None]
    file = next((part for part in files if part.field == "file"), None)
    if file is None or file.name is None:
        raise Refusal(400, "no_file_uploaded", "Please upload your file.")
    if len(files) > 1:
        raise Refusal(400, "too_many_files", "Only one file is allowed.")
    if "/" in file.name or "\\" in file.name:
        raise Refusal(400, "invalid_param", "Filename contains invalid characters")
    if len(file.content) > LIMITS.get(file.kind, OTHER_LIMIT) * MEGABYTE:
        raise Refusal(413, "file_too_large", "")
    user = next((part.content.decode() for part in parts if part.field == "user"), "DEFAULT-USER")
    known = {
        "name": file.name, "kind": file.kind, "mime": file.mime,
        "size": len(file.content), "owner": (app.key, user), "content": file.content[:MOST_CONTENT],
    }  # fmt: skip
    file_id = str(uuid.uuid4())
    entry = LedgerUpload(
        app.key, user, file_id, file.name, len(file.content), hashlib.sha256(file.content).hexdigest(), time.time()
    )
    return entry, known, _answer(file_id, file, link(file_id))


async def strike(fault: Fault, wire: Wire) -> bool:
    """A fault before the file was kept: True if the answer is given."""
    match fault.kind:
        case "upload_reset":
            wire.abort()
        case "upload_status":
            await refuse(Fault("status", params=fault.params), wire)
        case "upload_slow":
            await asyncio.sleep(fault.number("seconds", 1))
            return False
        case _:
            return False
    return True


def _answer(file_id: str, file: Part, source_url: str) -> dict[str, Any]:
    empty = dict.fromkeys(("preview_url", "original_url", "user_id", "conversation_id", "file_key"))
    return {
        "id": file_id,
        "name": file.name,
        "size": len(file.content),
        "extension": file.ending,
        "mime_type": file.mime,
        "created_by": file_id,
        "created_at": int(time.time()),
        "source_url": source_url,
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
