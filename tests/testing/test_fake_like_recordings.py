"""The fake answers recorded requests as the real servers did."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from rowmill.testing.fake_dify import FakeDify, Serving, serve
from tests.dify.recordings import Recording, all_recordings
from tests.testing.exchange import asked, differences, recorded, send

PROFILE = {"1.14.2": "1.14", "1.11.4": "1.11"}
# The recordings where the fake is meant to differ, each with its reason.
# (None is left; what the tests change in a request, or do before it, is in _prepared, _others, _past and KEYS.)
EXCEPTIONS: dict[str, str] = {}

ALL = [pytest.param(one, id=f"{one.version}/{one.name}") for one in all_recordings()]
# Apps that were given another name, or another form, between two recordings.
KEYS = {
    "03-deadend-succeeded-empty-blocking": "app-deadend",
    "03-deadend-succeeded-empty-streaming": "app-deadend",
}
TEXT, IMAGE, FOREIGN = (
    "0e951464-1d26-43f3-8d1e-0e574de3bd14",
    "b7464d3d-20db-4747-bd46-6322e715f3d1",
    "a2b996bf-8fc8-49b5-bd5c-b1ab2fb19f95",
)
CONVERSATION = "1f5173cd-759c-4886-a01c-c2f1d6d86874"


def _fake(version: str) -> FakeDify:
    fake = FakeDify(PROFILE[version], hold_ms=0, queue_idle_s=0.2)
    fake.apps["app-slow"].node_timeout_s = 0.5  # the recorded 12 s are too long for the real 10 s in the same way
    text = {"name": "a.txt", "kind": "document", "mime": "text/plain", "content": b"hello file\nline 2\n", "size": 18}
    fake.files[TEXT] = {**text, "owner": ("app-files", "u1")}
    fake.files[FOREIGN] = {**text, "owner": ("app-files-extract", "u1")}
    fake.files[IMAGE] = {**text, "name": "p.png", "kind": "image", "mime": "image/png", "owner": ("app-files", "u1")}
    return fake


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Serving]]:
    with serve(_fake("1.14.2")) as new, serve(_fake("1.11.4")) as old:
        for serving in (new, old):
            # In a thread of its own: pytest-asyncio may have a loop running in this one.
            thread = threading.Thread(target=asyncio.run, args=(_past(serving.url),))
            thread.start()
            thread.join()
        yield {"1.14.2": new, "1.11.4": old}


async def _past(base: str) -> None:
    """What had happened on the recorded servers before logs, conversations and messages were asked for."""
    slow = {"delay_ms": 0, "query": "disc"}
    runs = [("echo", {"query": "q"}, "u1")] * 5
    runs += [("slow", {"delay_ms": 0, "query": "bad", "mode": "500"}, "u1")] * 2
    runs += [("slow", slow, "u-disc"), ("slow", slow, "u-disc-block")]
    async with aiohttp.ClientSession() as client:
        for app, inputs, user in runs:
            await _run(client, base, app, inputs, user)


async def _run(client: aiohttp.ClientSession, base: str, app: str, inputs: dict, user: str) -> str:
    body = {"inputs": inputs, "response_mode": "blocking", "user": user}
    headers = {"Authorization": f"Bearer app-{app}"}
    async with client.post(f"{base}/workflows/run", json=body, headers=headers) as response:
        return (await response.json())["workflow_run_id"]


async def _chat(client: aiohttp.ClientSession, base: str, conversation: str | None, name: str = "bob") -> dict:
    body = {"inputs": {"name": name}, "query": "hi there", "user": "u1"}
    if conversation:
        body["conversation_id"] = conversation
    headers = {"Authorization": "Bearer app-chatflow"}
    async with client.post(f"{base}/chat-messages", json=body, headers=headers) as response:
        return await response.json()


@pytest.mark.parametrize("recording", ALL)
async def test_the_fake_answers_as_the_real_server_did(recording: Recording, servers: dict[str, Serving]) -> None:
    if recording.name in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[recording.name])
    serving = servers[recording.version]
    base = serving.url
    key = KEYS.get(recording.name, f"app-{asked(recording).app}")
    async with aiohttp.ClientSession() as client:
        path, body = await _prepared(client, serving, recording)
        others = await _others(client, serving, recording)
        fake = await send(client, base, recording, key, path, body)
        await asyncio.gather(*others)
    assert differences(recorded(recording), fake) == []


async def _prepared(client: aiohttp.ClientSession, serving: Serving, recording: Recording) -> tuple[str, str | None]:
    """Path and body, with the ids of this server, and with less waiting."""
    path, body = recording.path, recording.body
    if recording.name == "13-run-detail-ok":
        path = f"/workflows/run/{await _run(client, serving.url, 'echo', {'query': 'q'}, 'u1')}"
    if recording.name == "15-chat-workflow-run-detail":
        await _chat(client, serving.url, None)
        path = f"/workflows/run/{serving.fake.ledger.runs[-1].run_id}"
    if CONVERSATION in path + (body or ""):
        conversation = (await _chat(client, serving.url, None))["conversation_id"]
        await _chat(client, serving.url, conversation, "carol")
        path, body = path.replace(CONVERSATION, conversation), body and body.replace(CONVERSATION, conversation)
    if recording.name == "15-chat-conversations":
        for _ in range(3):
            await _chat(client, serving.url, None)
    if recording.name.startswith("13-logs") and asked(recording).app == "slow":
        await _run(client, serving.url, "slow", {"delay_ms": 0, "query": "disc"}, "u-disc")
    if recording.name == "13-logs-dates":
        today = datetime.now(UTC).date()
        days = {"2026-11-23": today - timedelta(days=1), "2026-11-24": today + timedelta(days=1)}
        path = re.sub("2026-11-2[34]", lambda day: str(days[day[0]]), path)
    return path, body and re.sub(r'"delay_ms": 2500', '"delay_ms": 30', body)


async def _others(client: aiohttp.ClientSession, serving: Serving, recording: Recording) -> list[asyncio.Task[str]]:
    """The two runs that filled the app's limit before the third and fourth of the recorded four were read."""
    if not re.fullmatch(r"14-429-(blocking|streaming)-[23]", recording.name):
        return []
    before = len(serving.fake.ledger.runs)
    inputs = {"delay_ms": 150, "query": "other"}
    tasks = [asyncio.create_task(_run(client, serving.url, "limited", inputs, "u1")) for _ in range(2)]
    while len(serving.fake.ledger.runs) < before + 2:
        await asyncio.sleep(0.005)
    return tasks


def test_nearly_all_recordings_are_compared() -> None:
    names = {one.name for one in all_recordings()}
    assert set(EXCEPTIONS) <= names
    assert sum(one.name not in EXCEPTIONS for one in all_recordings()) >= 0.9 * len(ALL)


def test_the_recorded_requests_are_read_in_full() -> None:
    by_name = {one.name: one for one in all_recordings()}
    assert asked(by_name["11-upload-two"]).parts == (("user", "u1"), ("file", "@a.txt"), ("file2", "@a.txt"))
    assert asked(by_name["04-401-nokey"]).authorization is None
    assert json.loads(by_name["05-no-user"].body or "")["inputs"] == {"query": "x"}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("02-run-echo-blocking", "03-retry-ok-blocking"),  # outputs, status, steps
        ("02-run-echo-streaming", "03-retry-ok-streaming"),  # the order of events
        ("05-malformed-json", "05-no-user"),  # code and message
        ("05-no-inputs", "05-inputs-string"),  # pydantic's sentence
        ("13-logs-page1", "13-logs-beyond"),  # an empty list
        ("15-chat-streaming", "15-chat-node-fails-streaming"),
        ("04-401-badkey", "05-no-user"),  # status
    ],
)
def test_the_comparison_sees_differences(name: str, other: str) -> None:
    new = {one.name: one for one in all_recordings() if one.version == "1.14.2"}
    assert differences(recorded(new[name]), recorded(new[name])) == []
    assert differences(recorded(new[name]), recorded(new[other])) != []


def test_the_comparison_sees_what_changed_between_versions() -> None:
    both = [one for one in all_recordings() if one.name == "15-chat-streaming"]
    assert differences(*map(recorded, both)) != []
