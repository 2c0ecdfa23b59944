"""Apps: an address and a key, probed, with the key sealed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rowmill.ports.store import AppRecord

if TYPE_CHECKING:
    from rowmill.ports.dify import AppInfo
    from rowmill.workbench.tools import Tools


class Apps:
    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def probe(self, base_url: str, api_key: str) -> AppInfo:
        """What stands there. Raises AppError. Sends nothing that costs."""
        return await self._tools.probe(tidy_url(base_url), api_key)

    async def register(self, base_url: str, api_key: str) -> tuple[AppRecord, AppInfo]:
        """Probe an app and keep it. The same address and key are the same app."""
        info = await self.probe(base_url, api_key)
        url = tidy_url(base_url)
        own_id = app_id(url, api_key)
        app = AppRecord(
            id=own_id,
            base_url=url,
            name=info.name,
            mode=info.mode,
            version=info.version,
            sealed_key=self._tools.sealer.seal(api_key, app_id=own_id, origin=origin(url)),
            key_hint=f"…{api_key[-4:]}",
        )
        return self._tools.store.save_app(app), info

    def key_of(self, app: AppRecord) -> str:
        """The app's key in clear, for its own server only. Raises StoreError if it cannot be read."""
        return self._tools.sealer.open(app.sealed_key, app_id=app.id, origin=origin(app.base_url))


def app_id(base_url: str, api_key: str) -> str:
    """The same address and key are the same app; the key cannot be found from it."""
    return hashlib.sha256(f"{base_url}\0{api_key}".encode()).hexdigest()[:16]


def tidy_url(base_url: str) -> str:
    return base_url.strip().rstrip("/")


def origin(url: str) -> str:
    """Scheme, host and port: what a key is bound to."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
