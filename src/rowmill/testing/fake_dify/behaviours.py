"""What the runs of each app do: how long, through which nodes, to which end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.testing.fake_dify.apps import FakeApp
    from rowmill.testing.fake_dify.profiles import Profile

    FindFile = Callable[[str], dict[str, Any] | None]
    MakeFile = Callable[[str, bytes], dict[str, Any]]

RATE_LIMIT = "[models] Rate Limit Error, you exceeded the requests per minute of your account (429)"
HTTP_NODE_RETRIES = 3
FIRST_ERROR = 400


@dataclass(slots=True)
class Doing:
    """One run, decided when it starts. `delay` in seconds, or None for the fake's own latency."""

    nodes: tuple[tuple[str, str], ...] = (("start", "start"), ("end", "end"))
    outputs: dict[str, Any] = field(default_factory=dict)
    status: str = "succeeded"
    error: str | None = None
    tokens: int = 0
    delay: float | None = None
    chunks: tuple[tuple[int, str], ...] = ()
    """(index of the node during which it is said, text)"""
    price: str | None = None
    retries: int = 0
    rescued_by: str | None = None
    """the error strategy that replaced a failed node's outputs"""

    @property
    def steps(self) -> int:
        return len(self.nodes) + self.retries

    @property
    def exceptions(self) -> int:
        return self.retries + (self.rescued_by is not None)


def decide(
    app: FakeApp, inputs: dict[str, Any], query: str, find_file: FindFile, profile: Profile, make_file: MakeFile
) -> Doing:
    """What a run with these inputs does."""
    match app.behaviour:
        case "slow" | "slow-default" | "slow-failbranch" | "deadend":
            return _slow(app, inputs, profile)
        case "retry":
            return _retry(inputs, profile)
        case "extract":
            return _extract(inputs, find_file)
        case "report":
            return _report(inputs, make_file)
        case "answer":
            return _answer(query, inputs.get("name"))
        case "answer-slow":
            return _slow_answer(inputs, profile)
        case "titles":
            return _titles(inputs)
        case _:
            return Doing(outputs=inputs, chunks=_said(0, inputs))


def _said(node: int, outputs: dict[str, Any]) -> tuple[tuple[int, str], ...]:
    """Outputs as a stream says them: one piece each, and line breaks between."""
    texts = [_chunk(value) for value in outputs.values() if value is not None]
    pieces = [piece for text in texts for piece in ("\n", text)][1:]
    return tuple((node, piece) for piece in pieces)


def _chunk(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, indent=2)
    return value if isinstance(value, str) else str(value)


_HTTP = (("start", "start"), ("http", "http-request"), ("end", "end"))
_HTTP_ONLY = _HTTP[:2]


def _seconds(inputs: dict[str, Any]) -> float:
    return float(inputs.get("delay_ms") or 0) / 1000


def _slow(app: FakeApp, inputs: dict[str, Any], profile: Profile) -> Doing:
    delay, query = _seconds(inputs), inputs.get("query")
    error, delay = _http_error(str(inputs.get("mode") or "200"), delay, app.node_timeout_s, profile)
    if app.behaviour == "deadend":
        return Doing(_HTTP_ONLY, delay=delay)
    if error is not None:
        return _http_failed(app.behaviour, query, error, delay)
    status = int(inputs.get("mode") or 200)
    said = {"ok": status < FIRST_ERROR, "slept_ms": str(int(delay * 1000)), "status": status, "q": query or ""}
    outputs = {"status_code": status, "body": json.dumps(said), "query": query}
    return Doing(_HTTP, outputs, delay=delay, chunks=_said(1, outputs))


def _http_error(mode: str, delay: float, timeout: float, profile: Profile) -> tuple[str | None, float]:
    """The HTTP node's error, and how long it took."""
    match mode:
        case "500":
            return f"{profile.http_error} http://127.0.0.1:9701/sleep", delay
        case "reset":
            return "Server disconnected without sending a response.", delay
        case "timeout":
            return "timed out", delay
        case "hang":
            return "timed out", timeout
        case _:
            return ("timed out", timeout) if delay > timeout else (None, delay)


def _http_failed(behaviour: str, query: Any, error: str, delay: float) -> Doing:
    if behaviour == "slow-default":
        outputs = {"status_code": 0, "body": "DEFAULT", "query": query}
        how = "default-value"
        return Doing(_HTTP, outputs, "partial-succeeded", delay=delay, chunks=_said(2, outputs), rescued_by=how)
    if behaviour == "slow-failbranch":
        outputs = {"error": error, "error_type": "HttpRequestNodeError", "query": query}
        nodes, how = (*_HTTP_ONLY, ("end_fail", "end")), "fail-branch"
        return Doing(nodes, outputs, "partial-succeeded", delay=delay, chunks=_said(1, outputs), rescued_by=how)
    return Doing(_HTTP_ONLY, {}, "failed", error, delay=delay)


def _retry(inputs: dict[str, Any], profile: Profile) -> Doing:
    """An HTTP node that is tried up to four times; each failure but the last is told as a retry."""
    fails = int(inputs.get("fails") or 0)
    if fails > HTTP_NODE_RETRIES:
        error = f"{profile.http_error} http://127.0.0.1:9701/flaky"
        return Doing(_HTTP_ONLY, {}, "failed", error, retries=HTTP_NODE_RETRIES)
    outputs = {"status_code": 200, "body": json.dumps({"call": fails + 1, "status": 200})}
    status = "partial-succeeded" if fails else "succeeded"
    return Doing(_HTTP, outputs, status, chunks=_said(1, outputs), retries=fails)


def _extract(inputs: dict[str, Any], find_file: FindFile) -> Doing:
    known = find_file(str(inputs["doc"]["related_id"])) or {"content": b""}
    outputs = {"text": known["content"].decode("utf-8", "replace")}
    nodes = (("start", "start"), ("extract", "document-extractor"), ("end", "end"))
    return Doing(nodes, outputs, chunks=_said(1, outputs))


def _report(inputs: dict[str, Any], make_file: MakeFile) -> Doing:
    """Writes files: one, and a list of pages."""
    query = str(inputs["query"])
    text = f"report on {query}\n".encode().ljust(int(inputs.get("size") or 0), b".")
    pages = [
        make_file(f"page {i + 1}.md", f"# {query} {i + 1}\n".encode()) for i in range(int(inputs.get("pages") or 0))
    ]
    outputs = {"title": query, "report": make_file(str(inputs.get("name") or "report.txt"), text), "pages": pages}
    nodes = (("start", "start"), ("writer", "tool"), ("end", "end"))
    return Doing(nodes, outputs, tokens=7, chunks=((1, query),))


_ANSWER = (("start", "start"), ("answer", "answer"))


def _answer(query: str, name: Any) -> Doing:
    pieces = ("echo: ", query, " name=", "" if name is None else str(name))
    text = "".join(pieces)
    chunks = tuple((0, piece) for piece in pieces)
    return Doing(_ANSWER, {"answer": text, "files": []}, tokens=len(text), chunks=chunks)


def _slow_answer(inputs: dict[str, Any], profile: Profile) -> Doing:
    if inputs.get("mode") == "500":
        error = f"{profile.http_error} http://127.0.0.1:9701/sleep"
        return Doing(_HTTP_ONLY, {}, "failed", error, delay=_seconds(inputs), chunks=((0, "got "),))
    nodes = (*_HTTP_ONLY, ("answer", "answer"))
    outputs = {"answer": "got 200", "files": []}
    return Doing(nodes, outputs, tokens=7, delay=_seconds(inputs), chunks=((0, "got "), (1, "200")))


_HOOKS = ("Everyday", "Trusted", "Light", "Best-loved", "New")
_TONES = {"playful": "Say hello to the", "luxury": "The art of the", "plain": "The"}


def _titles(inputs: dict[str, Any]) -> Doing:
    product = str(inputs.get("product") or "")
    seed = int(hashlib.sha256(product.encode()).hexdigest()[:8], 16)
    title = f"{_TONES.get(inputs.get('tone') or 'plain', 'The')} {_HOOKS[seed % len(_HOOKS)].lower()} {product}"
    title = title[: int(inputs.get("max_chars") or 120)] + (" ✨" if inputs.get("emoji") else "")
    words = [word.strip(",.;").lower() for word in str(inputs.get("features") or "").split()][:4]
    tokens = 180 + len(product) * 3 + len(str(inputs.get("features") or ""))
    return Doing(
        nodes=(("start", "start"), ("writer", "llm"), ("end", "end")),
        outputs={"title": title, "tags": words, "seo": {"score": 60 + seed % 40, "keywords": words[:2]}},
        tokens=tokens,
        chunks=((1, title),),
        price=f"{tokens * 0.0000006:.7f}",
    )
