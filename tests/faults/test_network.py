"""Family C of the fault matrix: the network, and whatever stands between Rowmill and Dify. Real sockets throughout."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import aiohttp.connector
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rowmill.domain.batch import BatchState, RowState
from rowmill.domain.pace import Pace, PaceLimits, ResponseMode, ServerPace
from rowmill.engine.permits import Permits
from rowmill.testing.clock import QuickClock
from rowmill.testing.fake_dify import FakeDify, Fault, serve
from rowmill.testing.fake_dify.runs import LedgerRun
from tests.faults import audit
from tests.faults.audit import Tally, size
from tests.faults.house import house, make_fake
from tests.faults.inside import DEADLINES, SPEED, inside, queries, texts_with
from tests.faults.processes import KEY, clean_environment, rowmill, until
from tests.faults.proxy import Harm, Proxy, answering

pytestmark = pytest.mark.slow
OK = RowState.SUCCEEDED
FLOOD = size(100, 400) * 2**20


def quick_fake(**how) -> FakeDify:
    return make_fake(**{"latency_ms": 20, "jitter_ms": 20, **how})


async def test_C1_names_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name, no attempt used: rows wait until the name is back."""
    find, asked = socket.getaddrinfo, []

    def flapping(host, *rest, **more):
        if host != "dify.test":
            return find(host, *rest, **more)
        asked.append(host)
        if len(asked) < 5 or 12 < len(asked) < 18:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return find("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", flapping)
    monkeypatch.setattr(aiohttp.connector._DNSCacheTable, "expired", lambda *_: True)
    fake = quick_fake()
    with serve(fake) as server:
        ran = await inside(tmp_path, queries(size(40, 400)), fake, f"http://dify.test:{server.port}/v1")
    counted = ran.tally(tried=8)
    counted.check()
    assert ran.states == {OK: counted.rows}
    assert all(row.attempts == 1 for row in ran.rows), "no attempt was used up"
    counted.own = {"rows failed by it": 0, "look-ups that failed": 8}
    audit.note("C1", "names that cannot be found, on and off", "sockets", counted)


def test_C2_server_is_down_for_a_while(tmp_path: Path) -> None:
    down = size(5, 120)
    # The workers stay: what ran inside a server that dies is told to be running for ever (D4), and followed for as long
    # as a run may take.
    with house(tmp_path, size(400, 4000), fake=make_fake(celery_slots=50)) as place:
        proc = place.begin()
        place.wait_for_runs(30, proc)
        start = time.monotonic()
        place.wait_for_runs(60, proc)
        rate = 60 / (time.monotonic() - start)
        place.server.stop()
        threading.Event().wait(down)
        place.server.start_again()
        since = time.monotonic()
        place.wait_for_runs(60, proc)
        goal = place.posts + 60
        start = time.monotonic()
        until(lambda: place.posts >= goal, proc)
        again = 60 / (time.monotonic() - start)
        recovery = time.monotonic() - since
        # A request can have died in the queue of the server that went away: nobody knows of it.
        counted = place.end(proc, tried=1, unknown=None)
        refused = _count_refused(place.data)
    assert recovery <= 60
    assert again >= 0.7 * rate, (again, rate)
    assert refused <= 150
    counted.recovery = [recovery]
    counted.own = {"seconds down": down, "refused connections": refused, "rate after / before": round(again / rate, 2)}
    audit.note("C2", "the server is down, then comes back", "processes", counted)


def _count_refused(data: Path) -> int:
    with closing(sqlite3.connect(data / "rowmill.db")) as raw:
        asked = "SELECT count(*) FROM attempts WHERE state = 'refused' AND cause = 'server_unreachable'"
        return int(raw.execute(asked).fetchone()[0])


async def test_C3_server_is_frozen(tmp_path: Path) -> None:
    """It takes connections and never answers (SIGSTOP); when it wakes up it starts the runs it was sent."""
    port = _free_port()
    proc = rowmill("fake-dify", "--port", port, "--latency-ms", 20, "--hold-ms", 0, "--celery-slots", 0, cwd=tmp_path)
    until(lambda: _is_open(port), proc)
    frozen_at = []

    async def freeze() -> None:
        while len(await asyncio.to_thread(_ledger, port)) < 20:
            await asyncio.sleep(0.02)
        frozen_at.append(time.monotonic())
        proc.send(signal.SIGSTOP)
        await asyncio.sleep(3)
        proc.send(signal.SIGCONT)

    fake = make_fake()
    url = f"http://127.0.0.1:{port}/v1"
    ran = await inside(
        tmp_path / "data", queries(80), fake, url, key="app-echo", meanwhile=freeze, lost_window=2000.0
    )  # fmt: skip
    counted = ran.tally(tried=1, runs=_ledger(port))
    proc.kill()
    counted.check(unknown=0)
    seconds = ran.first("lost") - frozen_at[0]
    assert seconds <= DEADLINES.first_event + 5
    counted.own = {"seconds until noticed": round(seconds, 2), "deadline": DEADLINES.first_event}
    audit.note("C3", "a frozen server (SIGSTOP)", "processes, sockets", counted)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _is_open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _ledger(port: int) -> list[LedgerRun]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_fake/ledger") as answer:
        return [LedgerRun(**run) for run in json.loads(answer.read())]


# ── C4 … C8: the answer breaks ──────────────────────────────────────────────────────────────────────────────────────

BROKEN = {
    "C4 RST in mid-stream": [Harm("rst", n) for n in (0, 150, 700, 1200)],
    "C6 clean end without a finish": [Harm("fin", n, old_http=True) for n in (150, 500, 900, 1300)],
    "C7 stall": [Harm("stall", n) for n in (0, 150, 600, 1300)],
    "C8 comments for ever": [Harm("drip", n, old_http=True) for n in (130, 600, 1000, 1300)],
}


@pytest.mark.parametrize("name", BROKEN)
async def test_C4_C6_C7_C8_answers_break(tmp_path: Path, name: str) -> None:
    fake, rows = quick_fake(), size(60, 600)
    harms = BROKEN[name]
    with serve(fake) as server, Proxy(server.port, lambda n: harms[n % 4] if n % 3 == 1 else None) as proxy:
        start = time.monotonic()
        ran = await inside(tmp_path, queries(rows), fake, proxy.url)
        seconds = time.monotonic() - start
        struck = proxy.struck
    counted = ran.tally(tried=struck)
    counted.check()
    assert struck >= rows // 4
    assert ran.states == {OK: rows}
    row, _, fault = name.partition(" ")
    counted.recovery = [ran_until - began for began, ran_until in _lost_and_found(ran)]
    counted.own = {"answers broken": struck, "seconds in all": round(seconds, 1)}
    if name.startswith("C8"):
        # The row's own deadline is the only thing that ends it: a drip is not silence.
        assert seconds <= DEADLINES.run * (struck / 8 + 2)
    audit.note(row, fault, "sockets", counted)


def _lost_and_found(ran) -> list[tuple[float, float]]:
    """(lost, found) of each row that was looked for."""
    lost: dict[object, float] = {}
    found = []
    for moment, event in ran.told:
        place = event.params.get("position")
        if event.fact.value == "lost":
            lost[place] = moment
        elif event.fact.value == "found" and place in lost:
            found.append((lost[place], moment))
    return found


async def test_C5_cut_at_every_byte(tmp_path: Path) -> None:
    fake, rows = quick_fake(latency_ms=5, jitter_ms=0), size(128, 2048)
    step = 2048 // rows

    def harm(number: int) -> Harm | None:
        return Harm("fin" if number % 2 else "rst", number * step) if number < rows else None

    with serve(fake) as server, Proxy(server.port, harm) as proxy:
        ran = await inside(tmp_path, queries(rows), fake, proxy.url, concurrency=16, limit=300)
        struck = proxy.struck
    counted = ran.tally(tried=struck)
    counted.check()
    assert ran.states == {OK: rows}
    assert struck >= rows * 0.6, "answers are longer than the places at which they are cut"
    counted.own = {"places of a cut": struck}
    audit.note("C5", "the answer is cut at byte n, n over the first 2 KB", "sockets", counted)


# ── C9 … C12: answers that are no run ───────────────────────────────────────────────────────────────────────────────


class Noting(FakeDify):
    """Notes when run requests came."""

    def __init__(self, **how) -> None:
        echo = make_fake()
        super().__init__("1.14", echo.apps, hold_ms=0, celery_slots=0, **how)
        self.moments: list[float] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            self.moments.append(time.monotonic())
        await super().__call__(scope, receive, send)


# Retry-After -> engine's seconds for which nothing may start
GATES = {None: 1.0, "5": 5.0, "0": 0.5, "-1": 0.5, "1000000000": 300.0, "soon": 1.0, "DATE": 20.0}


@pytest.mark.parametrize("value", GATES)
async def test_C9_too_many_requests(tmp_path: Path, value: str | None) -> None:
    rows = size(200, 1000)
    fake = Noting(latency_ms=20, jitter_ms=20)
    given = _in_seconds(20) if value == "DATE" else value
    params = {"code": 429, "dify_code": "too_many_requests"} | ({} if given is None else {"retry_after": given})
    # The last gate for as long as it takes the clock: three strikes, far from one another.
    for place in (40, 90, 140):
        fake.faults.add(Fault("status", after=place, params=params))
    with serve(fake) as server:
        ran = await inside(tmp_path, queries(rows), fake, server.url)
    counted = ran.tally(tried=3)
    counted.check()
    assert ran.states == {OK: rows}
    refused, gap = len(fake.moments) - len(fake.ledger.runs), _longest_gap(fake.moments)
    if value != "DATE":  # its answer's own Date has whole seconds only
        assert gap >= GATES[value] / SPEED * 0.9
    assert refused <= 0.05 * rows + 3
    counted.own = {"rejects per success": round(refused / rows, 3), "rows failed": 0}
    audit.note("C9", f"429, Retry-After: {value}", "sockets", counted)


def _in_seconds(seconds: float) -> str:
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return moment.strftime("%a, %d %b %Y %H:%M:%S GMT")


def _longest_gap(moments: list[float]) -> float:
    return max(later - earlier for earlier, later in itertools.pairwise(moments))


async def test_C10_a_proxy_gives_up_on_a_run(tmp_path: Path) -> None:
    fake, rows = quick_fake(), size(60, 600)
    texts = texts_with(rows, "gateway_504", "reset_after")
    with serve(fake) as server:
        ran = await inside(tmp_path, texts, fake, server.url)
    counted = ran.tally(tried=rows // 2)
    counted.check()
    assert ran.states == {OK: rows}
    counted.recovery = [found - lost for lost, found in _lost_and_found(ran)]
    audit.note("C10", "502 or 504 from a proxy after the run has begun", "sockets", counted)


PAUSES = {
    "C11 200 with a login page": ("html_200", {}),
    "C12 401, key revoked": ("status", {"code": 401, "dify_code": "unauthorized"}),
    "C12 403, API switched off": ("status", {"code": 403, "dify_code": "forbidden"}),
    "C12 404, version gone": (
        "status",
        {"code": 404, "dify_code": "not_found", "message": "Workflow_not_found_with_id"},
    ),
}


@pytest.mark.parametrize("name", PAUSES)
async def test_C11_C12_nothing_more_to_be_had(tmp_path: Path, name: str) -> None:
    kind, params = PAUSES[name]
    fake = Noting(latency_ms=20)
    fake.faults.add(Fault(kind, times=-1, after=20, params=params))
    with serve(fake) as server:
        ran = await inside(tmp_path, queries(80), fake, server.url)
    counted = ran.tally(tried=1)
    assert (counted.lost_paid, counted.double) == (0, 0)
    wasted = len(fake.moments) - 20
    assert ran.state is BatchState.PAUSED
    assert ran.states == {OK: 20, RowState.PENDING: 60}, "what was refused is put back, none fails"
    # Those in flight, and those that are connected and wait for their place (see the next test).
    assert wasted <= 2 * 8
    row, _, fault = name.partition(" ")
    counted.lost, counted.own = 0, {"requests after the first refusal": wasted - 1, "in flight at most": 8}
    audit.note(row, fault, "sockets", counted)


async def test_C12_nothing_prepared_is_sent_once_it_is_time_to_quit() -> None:
    """A refusal frees its place and pauses the batch in one step; whoever waits for the place must not take it then."""
    pace = Pace(PaceLimits(most=1, fixed=1), ServerPace(None))
    share, quit_ = Permits(pace, QuickClock()).join(1.0, 1, lambda _: None), asyncio.Event()
    assert await share.reserve(quit_)
    quit_.set()
    assert await share.send(5.0, quit_, 0.0, ResponseMode.STREAMING) is None


# ── C13 … C15 ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_C13_redirect_elsewhere(tmp_path: Path) -> None:
    with house(tmp_path, 20) as place, answering(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as listener:
        where = f"http://127.0.0.1:{listener.port}/v1/workflows/run"
        place.fake.faults.add(Fault("redirect", times=-1, after=8, params={"location": where}))
        proc = place.begin()
        assert proc.wait() != 0
        assert proc.answer()["reason"] == "redirected"
        place.said += [proc.out, proc.err]
        assert listener.connections == 0
        place.fake.faults.clear()
        counted = place.end(place.resume(), tried=1)
    counted.own = {"requests that followed it": 0}
    audit.note("C13", "307 to another host", "processes", counted)


REASONS = {
    "expired": "certificate has expired",
    "another host": "Hostname mismatch",
    "unknown authority": "unable to get local issuer certificate",
}


@pytest.mark.parametrize("wrong", REASONS)
def test_C14_tls(tmp_path: Path, wrong: str) -> None:
    """Refused in words, and the key is not sent."""
    context, authority = _tls(tmp_path, wrong)
    (tmp_path / "rows.csv").write_text("query\nx\n")
    with answering(lambda _: b"HTTP/1.1 200 OK\r\n\r\n", context) as server:
        # Not forked from one that has read the machine's authorities already.
        called = subprocess.run(
            [sys.executable, "-m", "rowmill", "run", "rows.csv", "--yes", "--json",
             "--base-url", f"https://localhost:{server.port}/v1", "--data-dir", str(tmp_path / "data")],
            cwd=tmp_path, env=clean_environment() | {"SSL_CERT_FILE": str(authority), "ROWMILL_API_KEY": KEY},
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert called.returncode == 2
    error = json.loads(called.stdout)["error"]
    assert error["code"] == "app_tls_refused", error
    assert "certificate" in error["message"].lower()
    assert REASONS[wrong] in error["message"]
    assert KEY.encode() not in called.stdout + called.stderr
    assert server.heard == []
    own = {"requests with a key": len(server.heard)}
    audit.note("C14", f"TLS: {wrong}", "processes", Tally(tried=1, own=own))


def _tls(folder: Path, wrong: str) -> tuple[ssl.SSLContext, Path]:
    """A server's certificate that is wrong in one way, and the file with the authority that is trusted."""
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])

    def certificate(subject: x509.Name, public, end, *, ca: bool, host: str | None) -> x509.Certificate:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(authority).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - 9 * day).not_valid_after(end)
        made = made.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if host:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return made.sign(authority_key, hashes.SHA256())

    own = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a server")])
    host = "elsewhere.test" if wrong == "another host" else "localhost"
    end = now - day if wrong == "expired" else now + day
    leaf = certificate(own, key.public_key(), end, ca=False, host=host)
    top = certificate(authority, authority_key.public_key(), now + day, ca=True, host=None)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(leaf.public_bytes(pem) + secret)
    trusted = folder / "trusted.pem"
    trusted.write_bytes(b"" if wrong == "unknown authority" else top.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, trusted


TOO_MUCH = {
    "an answer without an end": Harm("flood", 700, FLOOD, old_http=True),
    "a header without an end": Harm("header", 0, FLOOD),
    "gzip that unpacks to hundreds of MB": Harm("bomb", 0, FLOOD),
}
CAP = 32


@pytest.mark.parametrize("name", TOO_MUCH)
def test_C15_too_much(tmp_path: Path, name: str) -> None:
    width = 4
    fake = make_fake(latency_ms=50, jitter_ms=0)
    with (
        serve(fake) as server,
        Proxy(server.port, lambda n: TOO_MUCH[name] if n % 4 == 2 else None) as proxy,
        house(tmp_path, 24, fake=fake, width=width) as place,
    ):
        place.url = proxy.url
        proc = place.begin()
        place.wait_for_runs(2, proc)
        before, peak = proc.peak_memory(), [0.0]
        until(lambda: peak.append(max(peak[-1], proc.peak_memory())) or not proc.running, timeout=180, every=0.02)
        counted = place.end(proc, tried=proxy.struck)
    growth = peak[-1] - before
    assert counted.tried >= 5
    # A buffer is copied once on its way from the socket into the decoder.
    assert growth <= 2 * CAP * width, growth
    counted.own = {"memory, MB more": round(growth), "cap x in flight, MB": CAP * width}
    audit.note("C15", name, "processes, sockets", counted)
