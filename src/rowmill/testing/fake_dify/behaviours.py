"""What the runs of each app do: how long, through which nodes, to which end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowmill.testing.fake_dify.apps import FakeApp

RATE_LIMIT = "[models] Rate Limit Error, you exceeded the requests per minute of your account (429)"
HTTP_FAILED = "Reached maximum retries for URL http://127.0.0.1:9701/sleep"


@dataclass(slots=True)
class Doing:
    """One run, decided when it starts. `delay` in seconds, or None for the fake's own latency."""

    nodes: tuple[tuple[str, str], ...] = (("start", "start"), ("end", "end"))
    outputs: dict[str, Any] = field(default_factory=dict)
    status: str = "succeeded"
    error: str | None = None
    tokens: int = 0
    delay: float | None = None
    chunks: tuple[str, ...] = ()
    price: str | None = None


def decide(app: FakeApp, inputs: dict[str, Any], query: str) -> Doing:
    """What a run with these inputs does."""
    match app.behaviour:
        case "slow" | "slow-default" | "deadend":
            return _slow(app.behaviour, inputs)
        case "answer":
            return _answer(f"echo: {query} name={inputs.get('name')}")
        case "answer-slow":
            return _slow_answer(inputs)
        case "titles":
            return _titles(inputs)
        case _:
            chunks = tuple(_chunk(value) for value in inputs.values() if value is not None)
            return Doing(outputs=inputs, chunks=chunks)


def _chunk(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


_HTTP = (("start", "start"), ("http", "http-request"), ("end", "end"))


def _seconds(inputs: dict[str, Any]) -> float:
    return float(inputs.get("delay_ms") or 0) / 1000


def _slow(behaviour: str, inputs: dict[str, Any]) -> Doing:
    mode, delay = inputs.get("mode") or "200", _seconds(inputs)
    if behaviour == "deadend":
        return Doing(nodes=(("start", "start"), ("http", "http-request")), delay=delay)
    if mode in ("500", "hang", "reset", "timeout"):
        if behaviour == "slow-default":
            outputs = {"status_code": 0, "body": "default", "query": inputs.get("query")}
            return Doing(_HTTP, outputs, "partial-succeeded", delay=delay)
        return Doing(_HTTP[:2], {}, "failed", HTTP_FAILED, delay=delay)
    body = f'{{"ok": true, "slept_ms": "{int(delay * 1000)}", "status": {mode}, "q": "{inputs.get("query")}"}}'
    return Doing(_HTTP, {"status_code": int(mode), "body": body, "query": inputs.get("query")}, delay=delay)


_ANSWER = (("start", "start"), ("answer", "answer"))


def _answer(text: str, delay: float | None = None) -> Doing:
    half = len(text) // 2
    return Doing(_ANSWER, {"answer": text}, tokens=len(text), chunks=(text[:half], text[half:]), delay=delay)


def _slow_answer(inputs: dict[str, Any]) -> Doing:
    if inputs.get("mode") == "500":
        return Doing(_HTTP[:2], {}, "failed", HTTP_FAILED, delay=_seconds(inputs), chunks=("got ",))
    return _answer("got 200", _seconds(inputs))


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
        chunks=(title,),
        price=f"{tokens * 0.0000006:.7f}",
    )
