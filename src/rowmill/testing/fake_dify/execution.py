"""How runs are executed, heard, queued, logged and lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rowmill.testing.fake_dify import answers
from rowmill.testing.fake_dify.behaviours import RATE_LIMIT, decide
from rowmill.testing.fake_dify.chats import Chats, UnknownConversationError
from rowmill.testing.fake_dify.inputs import BrokenInputsError, RefusedInputsError, read_inputs
from rowmill.testing.fake_dify.runs import MOST_RUNS, Ledger, Run
from rowmill.testing.fake_dify.strikes import refuse, strange

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowmill.testing.fake_dify.apps import FakeApp
    from rowmill.testing.fake_dify.behaviours import MakeFile
    from rowmill.testing.fake_dify.faults import Fault, Faults
    from rowmill.testing.fake_dify.profiles import Profile
    from rowmill.testing.fake_dify.wire import Wire

INTERNAL = (
    "The server encountered an internal error and was unable to complete your request. Either the server is "
    "overloaded or there is an error in the application."
)
STREAM = "text/event-stream; charset=utf-8"
PING = b"event: ping\n\n"
PING_EVERY = 10.0


class Execution:
    """Everything that happens to runs after their request was understood."""

    def __init__(
        self,
        profile: Profile,
        ledger: Ledger,
        faults: Faults,
        make_file: MakeFile,
        *,
        latency_ms: float,
        jitter_ms: float,
        hold_ms: float,
        slots: int,
        queue_idle_s: float,
        fail_rate: float,
        seed: int,
    ) -> None:
        self._profile = profile
        self._ledger = ledger
        self._faults = faults
        self._make_file = make_file
        self.latency, self._jitter, self._hold = latency_ms / 1000, jitter_ms / 1000, hold_ms / 1000
        self._queue_idle = queue_idle_s
        self.ping_every = PING_EVERY
        self._fail_rate = fail_rate
        self._random = random.Random(seed)  # noqa: S311
        self._active: dict[str, int] = {}
        self._slot_count = slots
        self._slots: asyncio.Semaphore | None = None
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._by_user: dict[tuple[str, str], list[Run]] = {}
        self._by_task: dict[str, Run] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._in_worker: list[tuple[Run, Fault | None]] = []
        self.chats = Chats()
        self.raw: dict[str, bytes] = {}
        self.new_process()

    def new_process(self) -> None:
        """The API was started again. Its own runs are lost; those in the queue or in the worker came to their end."""
        self._slots = asyncio.Semaphore(self._slot_count) if self._slot_count else None
        self._active.clear()
        orphans, self._in_worker = self._in_worker, []
        for run, fault in orphans:
            if run.began == 0.0:
                self._begin(run, fault)
            self._end(run, fault, heard=False)

    # ── what other requests see ─────────────────────────────────────────────────────────────────────────────────

    def seen(self, run_id: str) -> Run | None:
        """A run as its row shows it."""
        run = self._runs.get(run_id)
        return run if run is not None and time.time() >= run.shown_from else None

    def logged(self, app: FakeApp, query: dict[str, str]) -> list[Run]:
        """Log lines, newest first."""
        user = query.get("created_by_end_user_session_id")
        runs = self._by_user.get((app.key, user), []) if user else list(self._runs.values())
        after, before = _moment(query.get("created_at__after")), _moment(query.get("created_at__before"))
        word = query.get("keyword", "")[:30].lower()
        found = [
            run
            for run in reversed(runs)
            if run.app is app
            and run.in_log
            and (after is None or run.began >= after)
            and (before is None or run.began <= before)
            and (not word or word in f"{run.run_id} {run.user} {run.inputs} {run.outputs}".lower())
        ]
        return sorted(found, key=lambda run: -run.began)

    def stop(self, task_id: str, user: str | None) -> None:
        """Ask a run to stop; `user` only where the kind of app compares it."""
        run = self._by_task.get(task_id)
        if run is not None and (user is None or user == run.user):
            run.stop_asked = True

    def answer_form(self, token: str, action: str) -> bool:
        """A person answers a paused run, and it comes to its end. False where there is no such form (any more)."""
        run = self._runs.get(token.removeprefix("form-"))
        if run is None or run.status != "paused" or action not in ("yes", "no"):
            return False
        run.end(self._ledger, "succeeded" if action == "yes" else "failed", None if action == "yes" else "Rejected.")
        return True

    # ── one request ─────────────────────────────────────────────────────────────────────────────────────────────

    async def start(
        self, app: FakeApp, body: dict[str, Any], pinned: str | None, wire: Wire, find_file: Callable[[str], Any]
    ) -> None:
        fault = self._faults.strike(app.key, (body["inputs"], body.get("query")))
        if fault is not None and await refuse(fault, wire):
            return
        streaming = body.get("response_mode") == "streaming"
        inputs = await self._read(app, body, wire, find_file, streaming=streaming)
        if inputs is None or not await self._below_limit(app, wire, streaming=streaming):
            return
        query = str(body.get("query") or "")
        doing = decide(app, inputs, query, find_file, self._profile, self._make_file)
        run = Run(app, str(body["user"]), inputs, query, doing, streaming, body["inputs"], self._profile)
        published = app.next_run()
        run.workflow_id = pinned or published
        self.chats.join(run, body)
        self._active[app.key] = self._active.get(app.key, 0) + 1
        try:
            await (self._stream(run, fault, wire) if streaming else self._block(run, fault, wire))
        finally:
            self._active[app.key] -= 1

    async def _read(
        self, app: FakeApp, body: dict[str, Any], wire: Wire, find_file: Callable[[str], Any], *, streaming: bool
    ) -> dict[str, Any] | None:
        late = streaming and self._profile.invalid_stream != "400" and app.mode in ("workflow", "advanced-chat")
        try:
            self.chats.check(app, body)
            return read_inputs(app, body["inputs"], find_file)
        except (RefusedInputsError, UnknownConversationError) as refused:
            if late:
                await self._refuse_late(wire, str(refused))
            elif isinstance(refused, UnknownConversationError):
                await wire.answer(404, answers.refusal("not_found", str(refused), 404))
            else:
                await wire.answer(400, answers.refusal("invalid_param", str(refused), 400))
        except BrokenInputsError:
            await wire.answer(500, answers.refusal("internal_server_error", INTERNAL, 500))
        return None

    async def _refuse_late(self, wire: Wire, message: str) -> None:
        """Since 1.13 the inputs are judged in the worker, when HTTP has long said 200."""
        await wire.open(200, STREAM)
        await wire.write(PING)
        if self._profile.invalid_stream == "error":
            text = message.replace('"', "'")
            await wire.write(f'data: {{"event":"error","message":"{text}","status":500}}\n\n'.encode())
        await self._silence(wire, self._queue_idle)
        await wire.end()

    async def _below_limit(self, app: FakeApp, wire: Wire, *, streaming: bool) -> bool:
        holds = not streaming or self._profile.limit_streams
        if not (holds and app.max_active and self._active.get(app.key, 0) >= app.max_active):
            return True
        text = "Too many requests. Please try again later. The current maximum concurrent requests allowed for "
        await wire.answer(400, answers.refusal("invalid_param", f"{text}{app.app_id} is {app.max_active}.", 400))
        return False

    # ── executing ───────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, run: Run, fault: Fault | None) -> None:
        run.begin(self._ledger)
        self._runs[run.run_id] = run
        self._by_task[run.task_id] = run
        self._by_user.setdefault((run.app.key, run.user), []).append(run)
        self.chats.remember(run)
        run.in_log = self._profile.log_at == "start" and (fault is None or fault.kind != "lost_run")
        if fault is not None and fault.kind == "detail_404_for":
            run.shown_from = time.time() + fault.number("seconds", 1)
        if len(self._runs) > MOST_RUNS:
            _, old = self._runs.popitem(last=False)
            self._by_task.pop(old.task_id, None)
            self._by_user[(old.app.key, old.user)].remove(old)
            self.chats.forget(old)

    async def _work(self, run: Run, wire: Wire | None = None) -> None:
        """The time that the run takes, with pings to a stream; a stop ends it early."""
        own = run.doing.delay
        delay = self.latency + self._random.uniform(0, self._jitter) if own is None else own
        began = time.monotonic()
        ping_at = began + self.ping_every
        while (left := began + delay - time.monotonic()) > 0 and not run.stop_asked:
            await asyncio.sleep(min(left, 0.05) if delay > 0.5 else left)  # noqa: PLR2004
            if wire is not None and time.monotonic() >= ping_at:
                ping_at += self.ping_every
                await wire.write(PING)

    def _end(self, run: Run, fault: Fault | None, *, heard: bool) -> None:
        status, error = run.doing.status, run.doing.error
        kind = fault.kind if fault else ""
        if run.stop_asked and kind != "stop_ignored":
            status, error, run.doing.outputs = "stopped", "Stopped by user.", {}
        elif kind == "run_failed" or (self._fail_rate and self._random.random() < self._fail_rate):
            status, error = "failed", fault.text("message", RATE_LIMIT).replace("_", " ") if fault else RATE_LIMIT
            run.doing.outputs = {}
        elif kind in ("run_partial", "run_stopped", "run_paused"):
            status = {"run_partial": "partial-succeeded", "run_stopped": "stopped", "run_paused": "paused"}[kind]
        if fault is not None and kind == "big_output":
            run.doing.outputs = {"text": "x" * int(fault.number("bytes", 1_000_000))}
        if fault is not None and kind == "outputs":
            self.raw[run.run_id] = str(fault.params.get("value", "{}")).encode()
            run.doing.outputs = "@@raw@@"  # type: ignore[assignment]
        run.end(self._ledger, status, error)
        in_worker = run.app.mode == "advanced-chat" and self._profile.saves_unheard
        run.saved = heard or not run.streaming or in_worker
        forgotten = kind in ("running_forever", "lost_run") or not (heard or self._profile.outlives_client)
        if forgotten or (run.status == "stopped" and not self._profile.stop_is_stored and run.stop_asked):
            run.status = "running"
        logs = self._profile.log_at == "end" or (self._profile.log_at == "watched" and heard)
        run.in_log = run.in_log or (logs and kind != "lost_run")

    async def _block(self, run: Run, fault: Fault | None, wire: Wire) -> None:
        self._begin(run, fault)
        work = asyncio.create_task(self._work(run))
        cut = self._profile.proxy_cut_s
        if fault is not None and fault.kind in ("gateway_504", "reset_after"):
            await self._lose_answer(fault, wire)
        elif cut is not None:
            await asyncio.wait((work,), timeout=cut)
            if not work.done():
                await wire.answer(524, b"<html><body>524: A timeout occurred</body></html>", "text/html")
        await work
        self._end(run, fault, heard=True)
        if run.status == "failed" and run.app.mode == "advanced-chat":
            await wire.answer(400, answers.refusal("invalid_param", f"Run failed: {run.error}", 400))
            return
        raw = self.raw.get(run.run_id)
        await wire.answer(200, answers.blocking(run, raw.decode() if raw else None), "application/json; charset=utf-8")

    async def _lose_answer(self, fault: Fault, wire: Wire) -> None:
        if fault.kind == "reset_after":
            wire.abort()
        else:
            await wire.answer(504, b"<html><body><h1>504 Gateway Time-out</h1>nginx</body></html>", "text/html")

    async def _stream(self, run: Run, fault: Fault | None, wire: Wire) -> None:
        if fault is not None and fault.kind in ("gateway_504", "reset_after"):
            await self._lose_answer(fault, wire)
        await wire.open(200, STREAM)
        if self._slots is None or run.app.mode not in ("workflow", "advanced-chat"):
            await self._tell(run, fault, wire, PING if self._profile.first_ping else b"")
            return
        await wire.write(PING)
        await self._queued(run, fault, wire)

    async def _queued(self, run: Run, fault: Fault | None, wire: Wire) -> None:
        """Behind a queue: silence until a slot is free; after a while the stream ends, and the run still comes."""
        assert self._slots is not None
        waiting = asyncio.create_task(self._in_slot(run, fault, wire))
        self._background.add(waiting)
        waiting.add_done_callback(self._background.discard)
        begun = asyncio.get_running_loop().time() + self._queue_idle
        while not waiting.done() and run.began == 0.0:
            left = begun - asyncio.get_running_loop().time()
            if left <= 0:
                await wire.end()
                return
            await asyncio.wait((waiting,), timeout=min(left, 0.02))
        await waiting

    async def _in_slot(self, run: Run, fault: Fault | None, wire: Wire) -> None:
        assert self._slots is not None
        try:
            async with self._slots:
                await self._tell(run, fault, wire, b"", hold=False)
        except asyncio.CancelledError:
            # The API goes down; the worker does not.
            if run.ended is None:
                self._in_worker.append((run, fault))
            raise
        await self._close(wire)

    async def _tell(self, run: Run, fault: Fault | None, wire: Wire, first: bytes, *, hold: bool = True) -> None:
        """The run's life as its stream tells it."""
        if fault is not None:
            first = await strange(self, run, fault, wire, first)
        else:
            self._begin(run, None)
        quick = run.doing.delay is None and self.latency + self._jitter == 0
        opening = first
        if fault is None or fault.kind != "drop_started":
            opening += answers.started(run) + answers.until_work(run)
        if not quick:
            await wire.write(opening)
            opening = b""
            await self._work(run, wire)
        self._end(run, fault, heard=wire.heard)
        raw = self.raw.get(run.run_id)
        shown = run.status if run.entry is None else run.entry.status
        real, run.status = run.status, shown
        ending = answers.after_work(run) + answers.finished(run, raw.decode() if raw else None)
        run.status = real
        if fault is not None and fault.kind == "cut_end":
            # All of it was said, and saved; the last of it did not arrive.
            await wire.write(opening + answers.after_work(run))
            await asyncio.sleep(0.005)
            wire.abort()
        await wire.write(opening + ending)
        if fault is not None and fault.kind in ("duplicate_finish", "events_after_finish"):
            await wire.write(ending if fault.kind == "duplicate_finish" else answers.started(run))
        if hold:
            await self._close(wire)

    async def _close(self, wire: Wire) -> None:
        """Real servers keep the stream open a little longer."""
        if self._hold and wire.heard:
            await asyncio.sleep(self._hold)
        await wire.end()

    async def _silence(self, wire: Wire, seconds: float) -> None:
        end = time.monotonic() + seconds
        while wire.heard and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110 -- the socket sets no event
            await asyncio.sleep(min(left, 0.05))


def _moment(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
