"""What each fault does to a request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rowmill.testing.fake_dify import answers

if TYPE_CHECKING:
    from rowmill.testing.fake_dify.execution import Execution
    from rowmill.testing.fake_dify.faults import Fault
    from rowmill.testing.fake_dify.runs import Run
    from rowmill.testing.fake_dify.wire import Wire

TOO_MANY = "Too many requests. Please try again later. The current maximum concurrent requests allowed for app is 2."
LOGIN = b"<html><head><title>Sign in</title></head><body>Please sign in</body></html>"
EDGE = b"<html><body><h1>Error 1015</h1>You are being rate limited</body></html>"


async def refuse(fault: Fault, wire: Wire) -> bool:
    """Faults that start no run: True if this was one, and the answer is given."""
    match fault.kind:
        case "status":
            await _status(fault, wire)
        case "too_many_400":
            await wire.answer(400, answers.refusal("invalid_param", TOO_MANY, 400))
        case "too_many_429":
            await wire.answer(429, answers.refusal("too_many_requests", TOO_MANY, 429), headers=_retry_after(fault))
        case "rate_limit_429":
            text = "Workflow execution quota limit reached for tenant."
            await wire.answer(429, answers.refusal("rate_limit_error", text, 429))
        case "edge_1015":
            await wire.answer(429, EDGE, "text/html", _retry_after(fault))
        case "gateway_502_before":
            await wire.answer(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", "text/html")
        case "html_200":
            await wire.answer(200, LOGIN, "text/html")
        case "redirect":
            where = fault.text("location", "http://127.0.0.1:9/elsewhere").encode()
            await wire.answer(307, b"", "text/html", ((b"location", where),))
        case "reset_before":
            wire.abort()
        case "silent":
            while wire.heard:  # noqa: ASYNC110 -- the socket sets no event
                await asyncio.sleep(0.05)
        case _:
            return False
    return True


async def _status(fault: Fault, wire: Wire) -> None:
    status = int(fault.number("code", 500))
    if fault.text("body", "json") == "html":
        await wire.answer(status, b"<html><body>error</body></html>", "text/html", _retry_after(fault))
        return
    code, text = fault.text("dify_code", "internal_server_error"), fault.text("message", "error").replace("_", " ")
    await wire.answer(status, answers.refusal(code, text, status), headers=_retry_after(fault))


def _retry_after(fault: Fault) -> tuple[tuple[bytes, bytes], ...]:
    value = fault.params.get("retry_after")
    return () if value is None else ((b"retry-after", str(value).encode()),)


async def strange(execution: Execution, run: Run, fault: Fault, wire: Wire, first: bytes) -> bytes:
    """Begin a run under a fault; what is to be written before its first event."""
    match fault.kind:
        case "hold_started":
            await wire.write(first)
            first = b""
            await asyncio.sleep(fault.number("seconds", 1))
        case "eof_no_id":
            await wire.write(first)
            await wire.end()
            await asyncio.sleep(fault.number("delay_s", 0))
        case "cut_at_byte":
            wire.cut_after(int(fault.number("n", 100)))
        case "one_byte_chunks":
            wire.one_byte = True
    execution._begin(run, fault)  # noqa: SLF001 -- the two are one machine in two files
    match fault.kind:
        case "cut_started" | "clean_eof_started" | "stall" | "drip" | "running_forever" | "lost_run":
            await _lose_stream(run, fault, wire, first)
            return b""
        case "error_event":
            text = fault.text("message", "went wrong").replace("_", " ")
            code, status = fault.text("code", "internal_server_error"), int(fault.number("status", 500))
            event = answers.error(run, status, code, text)
            await wire.write(first + answers.started(run) + event)
            asyncio.get_running_loop().call_later(5, wire.abort)
            wire.hang()
        case "unknown_events":
            return first + b'data: {"event":"brand_new","workflow_run_id":null,"x":[1]}\n\ndata: 17\n\n: comment\n\n'
        case "foreign_events":
            return first + _foreign(run)
        case "invalid_utf8":
            return first + b'data: {"event":"text_chunk","data":{"text":"\xff\xfe"}}\n\n'
    return first


def _foreign(run: Run) -> bytes:
    """Events of somebody else's run, as a mixed-up relay would send them."""
    mine = answers.started(run)
    theirs = mine.replace(run.run_id.encode(), b"00000000-0000-4000-8000-000000000000")
    theirs = theirs.replace(run.task_id.encode(), b"00000000-0000-4000-8000-000000000001")
    return theirs.replace(run.user.encode(), b"somebody-else").split(b"\n\n")[0] + b"\n\n"


async def _lose_stream(run: Run, fault: Fault, wire: Wire, first: bytes) -> None:
    await wire.write(first + answers.started(run))
    # Give the bytes a moment to leave before the connection goes.
    await asyncio.sleep(0.005)
    if fault.kind in ("cut_started", "running_forever", "lost_run"):
        wire.abort()
    elif fault.kind == "clean_eof_started":
        await wire.end()
    else:
        wire.hang(drip=fault.kind == "drip")
