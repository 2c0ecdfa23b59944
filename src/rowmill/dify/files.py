"""Files on their way to and from Dify: the form that carries one, and the addresses that a link may stand for.

A link in a run's outputs can be anything that the app's author, or a model, has put there. It is fetched without the
key, without redirects, and not from addresses that lead into a machine or a cloud's own services.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from rowmill.dify.classify import read_exception
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.verdict import Failure, FailureKind

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Awaitable
    from typing import BinaryIO

    from rowmill.domain.outputs import FileLink

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

T = TypeVar("T")
HTTP_OK = 200
# Where signed links lead, whatever host Dify thinks that it has.
SIGNED_PATH = "/files/"
# A cloud's metadata service where it is not link-local.
_METADATA = {ipaddress.ip_address("100.100.100.200"), ipaddress.ip_address("fd00:ec2::254")}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_BROADCAST = ipaddress.ip_address("255.255.255.255")


def upload_form(name: str, content: bytes | BinaryIO, kind: str, user: str) -> aiohttp.FormData:
    """A file is read while it is sent."""
    # Dify takes the name as it stands: one that is quoted for 7 bits would show its percent signs in the app.
    form = aiohttp.FormData(quote_fields=False)
    safe = "".join(sign if sign.isprintable() else "_" for sign in name)
    form.add_field("file", content, filename=safe, content_type=kind)
    form.add_field("user", user)
    return form


class SignedLinks:
    """Fetches files by the links in a run's outputs."""

    def __init__(self, base_url: str, connect: float, seconds: float) -> None:
        self._base_url = base_url
        self._connect, self._seconds = connect, seconds
        self._guard: Guard | None = None
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._guard is not None:
            await self._guard.close()

    def addresses(self, link: FileLink) -> list[str]:
        """See DifyApp.addresses."""
        return _addresses(self._base_url, link)

    async def blocks(self, url: str, link: FileLink) -> AsyncGenerator[bytes]:
        """See DifyApp.download."""
        last = asyncio.get_running_loop().time() + self._seconds
        answer = await _in_time(self._get(url), last)
        try:
            _check(answer, link)
            while block := await _in_time(answer.content.readany(), last):
                yield block
        finally:
            answer.close()

    async def _get(self, url: str) -> aiohttp.ClientResponse:
        if self._guard is None or self._session is None:
            self._guard = Guard(urlsplit(self._base_url).hostname or "")
            # Without the key: a link is signed, and may lead anywhere.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=self._guard, use_dns_cache=False),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity"},
            )
        self._guard.check_url(url)
        return await self._session.get(url, allow_redirects=False)


async def _in_time(step: Awaitable[T], last: float) -> T:
    """Each step by itself: a deadline around a generator would strike whoever reads from it."""
    try:
        async with asyncio.timeout_at(last):
            return await step
    except TimeoutError:
        raise DifyFailureError(Failure(FailureKind.AMBIGUOUS, "no_answer", "")) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise DifyFailureError(read_exception(error, sent=True)) from None


def _check(answer: aiohttp.ClientResponse, link: FileLink) -> None:
    """Raises DifyFailureError for what is not the file: also a web page where no page was put out, as a sign-in form,
    or an app that answers every path."""
    if answer.status != HTTP_OK:
        raise DifyFailureError(Failure(FailureKind.REFUSED, f"http_{answer.status}", "", answer.status))
    is_page = answer.content_type in ("text/html", "application/xhtml+xml")
    if is_page and "html" not in link.mime and not link.name.lower().endswith((".html", ".htm")):
        raise DifyFailureError(Failure(FailureKind.REFUSED, "not_the_file", "", HTTP_OK))


def _addresses(base_url: str, link: FileLink) -> list[str]:
    """Where the file may be had, the likeliest first. Without FILES_URL Dify writes no host, or one that only its own
    containers know; its server gives the file out under its own name as well."""
    try:
        there, parts = urlsplit(base_url), urlsplit(link.url.strip())
    except ValueError:
        return []
    own = f"{there.scheme}://{there.netloc}"
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if not parts.scheme and not parts.netloc:
        return [f"{own}{path}"] if path.startswith("/") else []
    if parts.scheme not in ("http", "https", "") or not parts.hostname or "@" in parts.netloc:
        return []
    given = f"{parts.scheme or there.scheme}://{parts.netloc}{path}"
    return list(dict.fromkeys([own + path, given])) if path.startswith(SIGNED_PATH) else [given]


class Guard(AbstractResolver):
    """Names of hosts -> addresses, but for the app's own server none of this machine, this network's link or a cloud's
    services: looked at for each connection, so that a name cannot change what it means in between."""

    def __init__(self, own_host: str) -> None:
        self._own = own_host.lower()
        self._resolver = DefaultResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily | int = 0) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]
        for address in found:
            self.check(host, address["host"])
        return found

    def check(self, host: str, address: str) -> None:
        """Raises DifyFailureError for an address that is not to be asked."""
        if host.lower() != self._own and not may_ask(address, like=self._own):
            raise DifyFailureError(Failure(FailureKind.REFUSED, "address_refused", host))

    def check_url(self, url: str) -> None:
        """A host that is written as an address is never looked up: it is looked at here."""
        host = urlsplit(url).hostname or ""
        if _address(host) is not None:
            self.check(host, host)

    async def close(self) -> None:
        await self._resolver.close()


def may_ask(address: str, *, like: str) -> bool:
    """Private networks are normal; loopback is, where the app's own server (`like`) is there too."""
    ip = _address(address.split("%", maxsplit=1)[0])
    if ip is None or ip in _METADATA or ip == _BROADCAST or ip in _THIS_NETWORK:
        return False
    if ip.is_loopback:
        own = _address(like)
        return like == "localhost" or (own is not None and own.is_loopback)
    return not (ip.is_link_local or ip.is_multicast or ip.is_unspecified)


def _address(host: str) -> Address | None:
    """IPv4 in its clothes of IPv6 is undressed."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in _NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip
