"""Files to and from Dify: which addresses are asked, and what is told to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowmill.dify.client import Deadlines, DifyClient
from rowmill.dify.files import Guard, may_ask
from rowmill.domain.errors import DifyFailureError
from rowmill.domain.outputs import FileLink
from rowmill.ports.dify import Uploaded
from tests.dify.wire import Talk, reply, serving

PATH = "/files/tools/5b0f.txt?timestamp=1&nonce=2&sign=a%2Bb%3D"


def link(url: str, **known: object) -> FileLink:
    return FileLink(
        **{"place": "/f", "name": "a.txt", "mime": "text/plain", "size": None, "own": True, **known}, url=url
    )


ADDRESSES = {
    "own": (f"https://dify.example{PATH}", [f"https://dify.example{PATH}"]),
    "no host": (PATH, [f"https://dify.example{PATH}"]),
    "blanks": (f" {PATH} ", [f"https://dify.example{PATH}"]),
    "a container's": (f"http://api:5001{PATH}", [f"https://dify.example{PATH}", f"http://api:5001{PATH}"]),
    "another host of theirs": (
        f"https://upload.e.ai{PATH}",
        [f"https://dify.example{PATH}", f"https://upload.e.ai{PATH}"],
    ),
    "no scheme": (f"//h.e{PATH}", [f"https://dify.example{PATH}", f"https://h.e{PATH}"]),
    "elsewhere": ("https://s3.e/bucket/x?sig=1", ["https://s3.e/bucket/x?sig=1"]),
    "a password": (f"https://u:p@h.e{PATH}", []),
    "ftp": ("ftp://h.e/files/x", []),
    "file": ("file:///etc/passwd", []),
    "no slash": ("files/x", []),
    "broken": ("http://[::1/x", []),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("url", "expected"), ADDRESSES.values(), ids=ADDRESSES)
async def test_addresses(url: str, expected: list[str]) -> None:
    async with DifyClient("https://dify.example/v1", "app-x") as client:
        assert client.addresses(link(url)) == expected


MAY_ASK = {
    "93.184.216.34": True,
    "10.0.0.5": True,
    "192.168.1.1": True,
    "fd12::1": True,
    "127.0.0.1": False,
    "127.9.9.9": False,
    "::1": False,
    "0.0.0.0": False,
    "0.1.2.3": False,
    "::": False,
    "169.254.169.254": False,
    "::ffff:169.254.169.254": False,
    "64:ff9b::a9fe:a9fe": False,
    "fe80::1%eth0": False,
    "fd00:ec2::254": False,
    "100.100.100.200": False,
    "224.0.0.1": False,
    "255.255.255.255": False,
    "not an address": False,
}


@pytest.mark.parametrize(("address", "may"), MAY_ASK.items())
def test_which_addresses_are_asked(address: str, may: bool) -> None:
    assert may_ask(address, like="dify.example") is may
    assert may_ask(address, like="10.0.0.1") is may


@pytest.mark.parametrize("own", ["localhost", "127.0.0.1", "::1"])
def test_this_machine_is_asked_where_the_app_is_on_it(own: str) -> None:
    assert may_ask("127.0.0.1", like=own)
    assert may_ask("::1", like=own)
    assert not may_ask("169.254.169.254", like=own)


async def test_names_are_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard("dify.example")

    async def resolve(host: str, port: int, family: int) -> list[dict]:
        return [{"hostname": host, "host": "93.184.216.34"}, {"hostname": host, "host": "169.254.169.254"}]

    monkeypatch.setattr(guard._resolver, "resolve", resolve)
    with pytest.raises(DifyFailureError, match="address_refused"):
        await guard.resolve("evil.example", 80)
    assert len(await guard.resolve("Dify.example", 80)) == 2, "the app's own server was named by its user"
    await guard.close()


async def fetch(client: DifyClient, url: str, **known: object) -> bytes:
    return b"".join([block async for block in client.download(url, link(url, **known))])


async def failure(client: DifyClient, url: str, **known: object) -> str:
    with pytest.raises(DifyFailureError) as raised:
        await fetch(client, url, **known)
    return raised.value.failure.code


async def test_the_key_is_told_to_nobody() -> None:
    async with serving(reply(200, b"hello", "text/plain")) as wire:
        async with DifyClient(wire.url, "app-secret") as client:
            assert await fetch(client, f"{wire.url}{PATH}") == b"hello"
        assert b"secret" not in wire.requests[0]
        assert PATH.encode() in wire.requests[0]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reply(404, {"code": "not_found"}), "http_404"),
        (reply(302, b"", "text/html", Location="http://127.0.0.1:9/"), "http_302"),
        (reply(200, b"<html>", "text/html; charset=utf-8"), "not_the_file"),
    ],
)
async def test_what_is_not_the_file(answer: bytes, code: str) -> None:
    async with serving(answer) as wire, DifyClient(wire.url, "app-x") as client:
        assert await failure(client, f"{wire.url}{PATH}") == code


async def test_a_page_where_a_page_was_put_out() -> None:
    async with serving(reply(200, b"<p>", "text/html")) as wire, DifyClient(wire.url, "app-x") as client:
        assert await fetch(client, f"{wire.url}{PATH}", mime="text/html") == b"<p>"
        assert await fetch(client, f"{wire.url}{PATH}", name="A.HTM") == b"<p>"


async def test_addresses_that_are_refused() -> None:
    async with DifyClient("https://dify.example/v1", "app-x") as client:
        assert await failure(client, "http://169.254.169.254/files/x") == "address_refused"
        assert await failure(client, "http://[::ffff:7f00:1]/files/x") == "address_refused"
        assert await failure(client, "http://localhost:9/files/x") == "address_refused"


async def test_nobody_there_and_no_answer() -> None:
    hasty = Deadlines(download=0.1)
    async with serving(Talk.gone) as wire, DifyClient(wire.url, "app-x", deadlines=hasty) as client:
        assert await failure(client, f"{wire.url}{PATH}") == "no_answer"
    async with DifyClient("http://127.0.0.1:9/v1", "app-x") as client:
        assert await failure(client, "http://127.0.0.1:9/files/x") == "connection_refused"


async def test_a_file_is_uploaded_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"\x00\xff" * 100_000)

    answer = reply(201, {"id": "f-1", "name": "a.bin", "size": 200000})
    async with serving(answer) as wire, DifyClient(wire.url, "app-x") as client:
        assert await client.upload("a.bin", path, "application/octet-stream", "u") == Uploaded("f-1", "a.bin", 200000)
        assert path.read_bytes() in wire.requests[0]
        with pytest.raises(FileNotFoundError):
            await client.upload("a.bin", tmp_path / "gone", "application/octet-stream", "u")
