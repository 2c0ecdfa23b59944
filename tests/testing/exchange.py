"""Sends a recorded request to the fake, and says where two answers differ."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.dify.recordings import FOLDER, Recording

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Answer:
    """What came back, from the fake or from the recording."""

    status: int
    kind: str
    version: str
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in self.body.split(b"\n") if line.startswith(b"data: ")]


@dataclass(frozen=True)
class Asked:
    """The request behind a recording."""

    app: str
    authorization: str | None
    content_type: str | None
    parts: tuple[tuple[str, str], ...]


def asked(recording: Recording) -> Asked:
    text = (FOLDER / recording.version / f"{recording.name}.txt").read_text(errors="replace")
    app = re.search(r"^### app=(\S+)", text, re.MULTILINE)
    line = next(line for line in text.splitlines() if line.startswith("$ curl"))
    authorization = re.search(r"Authorization: ([^']*)'", line)
    kind = re.search(r"Content-Type: ([^']*)'", line)
    return Asked(
        app.group(1) if app else "",
        authorization.group(1) if authorization else None,
        kind.group(1) if kind else None,
        tuple(_parts(line)),
    )


def _parts(line: str) -> list[tuple[str, str]]:
    found = re.findall(r"-F (.*?)(?= -F |$)", line)
    return [tuple(part.strip("'").split("=", 1)) for part in found]


def recorded(recording: Recording) -> Answer:
    kind = re.search(rb"content-type: ([^;\n]+)", recording.head, re.IGNORECASE)
    version = re.search(rb"x-version: (\S+)", recording.head, re.IGNORECASE)
    told = version.group(1).decode() if version else ""
    return Answer(recording.status, kind.group(1).decode() if kind else "", told, recording.answer)


async def send(
    client: aiohttp.ClientSession, base: str, recording: Recording, key: str, path: str, body: str | None
) -> Answer:
    request = asked(recording)
    headers = {}
    if request.authorization is not None:
        headers["Authorization"] = request.authorization.replace("app-XXXX", key)
    data: Any = None if body is None else body.encode()
    if request.parts:
        data = _form(request.parts)
    elif request.content_type:
        headers["Content-Type"] = request.content_type
    skip = () if data is not None else ("Content-Type",)
    async with client.request(
        recording.method, base + path, data=data, headers=headers, skip_auto_headers=skip
    ) as response:
        version = response.headers.get("X-Version", "")
        return Answer(response.status, response.content_type, version, await response.read())


SIZES = {"ok15.txt": 15 * 1024 * 1024, "big.txt": 15 * 1024 * 1024 + 1, "big.png": 10 * 1024 * 1024 + 1, "empty.txt": 0}
CURL_KINDS = {"txt": "text/plain", "png": "image/png"}


def _form(parts: tuple[tuple[str, str], ...]) -> aiohttp.FormData:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in parts:
        if not value.startswith("@"):
            form.add_field(name, value)
            continue
        file = value[1:].split(";")[0]
        kind = CURL_KINDS.get(file.rsplit(".", 1)[-1], "application/octet-stream")
        form.add_field(name, io.BytesIO(b"x" * SIZES.get(file, 18)), filename=file, content_type=kind)
    return form


# ── comparing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def differences(real: Answer, fake: Answer) -> list[str]:
    there, here = (real.status, real.kind, real.version), (fake.status, fake.kind, fake.version)
    if there != here:
        return [f"real {there}, fake {here} {fake.body[:200]!r}"]
    if real.kind == "text/event-stream":
        return _streams(real, fake)
    if real.kind != "application/json":
        return [] if real.body.strip() == fake.body.strip() else [f"real {real.body!r}, fake {fake.body!r}"]
    mine, theirs = json.loads(fake.body), json.loads(real.body)
    return _refusals(theirs, mine) if real.status >= 400 else _shapes("", theirs, mine) + _said(theirs, mine)


def _refusals(real: dict[str, Any], fake: dict[str, Any]) -> list[str]:
    found = [f"keys: real {list(real)}, fake {list(fake)}"] if set(real) != set(fake) else []
    return found + [
        f"{name}: real {_words(real.get(name))!r}, fake {_words(fake.get(name))!r}"
        for name in ("code", "message", "status")
        if _words(real.get(name)) != _words(fake.get(name))
    ]


def _words(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # pydantic: the headline, the field, and the sentence; the rest repeats what was sent
    return UUID.sub("UUID", re.sub(r" \[type=.*", "", value, flags=re.DOTALL))


def _said(real: dict[str, Any], fake: dict[str, Any]) -> list[str]:
    """How a run ended and what it put out, where the answer tells it."""
    there, here = real.get("data"), fake.get("data")
    if not isinstance(there, dict) or not isinstance(here, dict):
        return []
    names = ["status", "error", "outputs", "total_steps", "exceptions_count"]
    return [
        f"data.{name}: real {there[name]!r}, fake {here.get(name)!r}"
        for name in names
        if name in there and _comparable(there[name]) != _comparable(here.get(name))
    ]


def _comparable(value: Any) -> Any:
    """Without what depends on the delay, which tests shorten, and on ids of files."""
    text = json.dumps(value)
    return None if "__dify__file__" in text else re.sub(r"slept_ms[^,]*", "slept_ms", text)


def _kind(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def _shapes(where: str, real: Any, fake: Any) -> list[str]:
    if _kind(real) != _kind(fake):
        return [f"{where}: real {_kind(real)} {real!r:.80}, fake {_kind(fake)} {fake!r:.80}"]
    if isinstance(real, dict):
        found = _keys(where, real, fake)
        return found + [
            line for name in real if name in fake for line in _shapes(f"{where}.{name}", real[name], fake[name])
        ]
    if isinstance(real, list):
        if bool(real) != bool(fake):
            return [f"{where}: real {real!r:.80}, fake {fake!r:.80}"]
        return _shapes(f"{where}[0]", real[0], fake[0]) if real else []
    return []


def _keys(where: str, real: dict[str, Any], fake: dict[str, Any]) -> list[str]:
    missing, extra = sorted(set(real) - set(fake)), sorted(set(fake) - set(real))
    return [f"{where}: missing {missing}, extra {extra}"] if missing or extra else []


def _streams(real: Answer, fake: Answer) -> list[str]:
    found = []
    if real.body.startswith(b"event: ping") != fake.body.startswith(b"event: ping"):
        found.append("the first ping")
    there, here = _collapsed(real.events), _collapsed(fake.events)
    names, mine = [event["event"] for event in there], [event["event"] for event in here]
    if names != mine:
        return [*found, f"real {names}, fake {mine}"]
    for one, other in zip(there, here, strict=True):
        found += _keys(one["event"], one, other)
        if isinstance(one.get("data"), dict):
            found += _keys(f"{one['event']}.data", one["data"], other["data"])
        if one["event"] == "workflow_finished":
            found += _said(one, other)
    return found


def _collapsed(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    repeated = ("text_chunk", "message", "node_retry")
    return [
        event
        for before, event in zip([None, *events], events, strict=False)
        if not (before and event["event"] in repeated and before["event"] == event["event"])
    ]
