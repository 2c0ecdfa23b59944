"""`rowmill demo` and `rowmill fake-dify`: a Dify that needs no Dify."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowmill.cli import options
from rowmill.cli.run import run
from rowmill.cli.session import Session
from rowmill.domain.errors import UsageError, os_detail

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rowmill.testing.fake_dify import FakeApp

DEMO_KEY = "app-demo"

Port = Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="help.port")]
Host = Annotated[str, typer.Option("--host", metavar="HOST", help="help.host")]
Latency = Annotated[int, typer.Option("--latency-ms", metavar="MS", min=0, help="help.latency")]
Jitter = Annotated[int, typer.Option("--jitter-ms", metavar="MS", min=0, help="help.jitter")]
Hold = Annotated[int | None, typer.Option("--hold-ms", metavar="MS", min=0, help="help.hold")]
CelerySlots = Annotated[int | None, typer.Option("--celery-slots", metavar="N", min=0, help="help.celery_slots")]
FailRate = Annotated[float, typer.Option("--fail-rate", metavar="0-1", min=0.0, max=1.0, help="help.fail_rate")]
Profile = Annotated[str, typer.Option("--profile", metavar="VERSION", help="help.profile")]
Ledger = Annotated[Path | None, typer.Option("--ledger", metavar="FILE", help="help.ledger")]
Folder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="help.demo_folder")]


def fake_dify(
    context: typer.Context,
    port: Port = 5050,
    host: Host = "127.0.0.1",
    latency_ms: Latency = 200,
    jitter_ms: Jitter = 0,
    hold_ms: Hold = None,
    celery_slots: CelerySlots = None,
    fail_rate: FailRate = 0.0,
    profile: Profile = "1.14",
    ledger: Ledger = None,
    as_json: options.AsJson = False,
) -> None:
    session: Session = context.obj
    session.json = as_json
    from rowmill.testing.fake_dify import PROFILES, FakeDify, run_forever  # noqa: PLC0415 -- costs a start

    if profile not in PROFILES:
        raise UsageError("profile_unknown", profile=profile, known=tuple(PROFILES))
    fake = FakeDify(
        profile=profile,
        latency_ms=latency_ms,
        jitter_ms=jitter_ms,
        hold_ms=hold_ms,
        celery_slots=celery_slots,
        fail_rate=fail_rate,
        ledger_path=ledger,
    )

    def ready(port: int) -> None:
        url = f"http://{host}:{port}/v1"
        session.answer({"url": url, "keys": {app.key: app.name for app in _apps()}})
        for line in _introduction(session, url, profile):
            session.show(line)

    try:
        run_forever(fake, host, port, ready)
    except OSError as error:
        raise UsageError("port_taken", host=host, port=port, detail=os_detail(error)) from None


def _apps() -> Iterable[FakeApp]:
    from rowmill.testing.fake_dify import default_apps  # noqa: PLC0415 -- as above

    return default_apps().values()


def _introduction(session: Session, url: str, profile: str) -> Iterator[str]:
    yield session.say("fake_running", url=url, profile=profile)
    for app in _apps():
        yield session.say("fake_app", key=app.key, name=app.name, mode=app.mode)
    yield session.say("fake_stop")


def demo(context: typer.Context, folder: Folder = Path("rowmill-demo"), as_json: options.AsJson = False) -> None:
    """The whole path on bundled data: fake Dify, 200 rows, a results workbook."""
    from rowmill.testing.fake_dify import FakeDify, serve  # noqa: PLC0415 -- as above

    session: Session = context.obj
    session.json = as_json
    folder.mkdir(parents=True, exist_ok=True)
    fake = FakeDify(latency_ms=250, jitter_ms=400, celery_slots=0, seed=7)
    with serve(fake) as server, as_file(files("rowmill.testing.demo") / "products.xlsx") as sheet:
        session.environ = {**session.environ, "ROWMILL_API_KEY": DEMO_KEY}
        session.tell("demo_begins", url=server.url)
        run(
            context,
            sheet=sheet,
            base_url=server.url,
            output=folder / "results.xlsx",
            concurrency=12,
            data_dir=folder / "data",
            new=True,
            yes=True,
            as_json=as_json,
        )
