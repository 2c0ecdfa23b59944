"""Signed links to files: what was uploaded, and what runs have put out. They die, as Dify's do.

The paths and the signature's parts are as recorded; what is said to a link that is dead is from Dify's source.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import mimetypes
import secrets
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rowmill.testing.fake_dify.bodies import Refusal

if TYPE_CHECKING:
    from rowmill.testing.fake_dify.faults import Fault
    from rowmill.testing.fake_dify.wire import Wire

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LedgerDownload:
    """One request for a file. `authorized`: it carried a key, which it must not."""

    path: str
    status: int
    authorized: bool


class Links:
    """`host`: how the fake's own address is written into links: None as it is called by, "" not at all, else as given
    (FILES_URL)."""

    def __init__(self, files: dict[str, JSON], host: str | None, life_s: float) -> None:
        self.host = host
        self.life = life_s
        self.called = ""
        self.downloads: list[LedgerDownload] = []
        self._files = files
        self._made: dict[str, JSON] = {}
        self._secret = secrets.token_bytes(16)

    def to_upload(self, file_id: str) -> str:
        return self._signed(f"/files/{file_id}/file-preview")

    def make(self, name: str, content: bytes) -> JSON:
        """A file that a tool of the workflow has written, as outputs show it."""
        file_id, mime = str(uuid.uuid4()), mimetypes.guess_type(name)[0] or "application/octet-stream"
        ending = mimetypes.guess_extension(mime) or ".bin"
        self._made[file_id] = {"content": content, "mime": mime}
        return {
            "dify_model_identity": "__dify__file__",
            "id": None,
            "type": "image" if mime.startswith("image/") else "document",
            "transfer_method": "tool_file",
            "remote_url": None,
            "reference": "dify-file-ref:" + base64.b64encode(f'{{"record_id":"{file_id}"}}'.encode()).decode(),
            "filename": name,
            "extension": ending,
            "mime_type": mime,
            "size": len(content),
            "related_id": file_id,
            "url": self._signed(f"/files/tools/{file_id}{ending}"),
        }

    def _signed(self, path: str) -> str:
        moment, nonce = f"{time.time():.3f}", secrets.token_hex(16)
        host = f"http://{self.called}" if self.host is None else self.host
        return f"{host}{path}?timestamp={moment}&nonce={nonce}&sign={quote(self._sign(path, moment, nonce))}"

    def _sign(self, path: str, moment: str, nonce: str) -> str:
        text = f"{path}|{moment}|{nonce}".encode()
        return base64.urlsafe_b64encode(hmac.digest(self._secret, text, hashlib.sha256)).decode()

    async def serve(self, path: str, query: dict[str, str], fault: Fault | None, wire: Wire, *, key: bool) -> None:
        """Answer a request under /files/."""
        status = 200
        try:
            if fault is not None and await _struck(fault, wire):
                status = int(fault.number("code", 0))
                return
            file = self._find(path, query)
            content = file["content"]
            await wire.open(200, file["mime"], ((b"content-length", str(len(content)).encode()),))
            await wire.end(content)
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            self.downloads.append(LedgerDownload(path, status, key))

    def _find(self, path: str, query: dict[str, str]) -> JSON:
        signed = self._sign(path, query.get("timestamp", ""), query.get("nonce", "")) == query.get("sign")
        alive = signed and time.time() - float(query["timestamp"]) < self.life
        parts = path.removeprefix("/files/").split("/")
        if parts[0] == "tools":
            if not alive:
                raise Refusal(403, "forbidden", "Invalid request.")
            found = self._made.get(parts[1][:36])
        else:
            found = self._files.get(parts[0]) if alive else None
        if found is None:
            raise Refusal(404, "not_found", "File not found or signature is invalid.")
        return found


async def _struck(fault: Fault, wire: Wire) -> bool:
    match fault.kind:
        case "download_status":
            await wire.answer(int(fault.number("code", 500)), b"<html><body>error</body></html>", "text/html")
        case "download_page":
            await wire.answer(200, b"<html><body>Please sign in</body></html>", "text/html")
        case "download_cut":
            await wire.open(200, "text/plain", ((b"content-length", b"1000000"),))
            await wire.write(b"x" * 10)
            await asyncio.sleep(0.005)
            wire.abort()
        case _:
            return False
    return True
