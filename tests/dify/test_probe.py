"""What stands behind an address and a key, and what to say if it is not an app."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rowmill.dify import probe as module
from rowmill.dify.client import Deadlines
from rowmill.dify.probe import probe
from rowmill.domain.errors import AppError
from rowmill.domain.form import Mode
from rowmill.ports.dify import Recovery
from tests.dify.wire import KEY, Script, Talk, reply, serving

INFO = {"name": "Echo", "description": "says it again", "mode": "workflow"}
FORM = {"user_input_form": [{"text-input": {"variable": "q", "required": True}}], "system_parameters": {"limit": 10}}
GOOD = {"info": reply(200, INFO, X_Version="1.15.0"), "parameters": reply(200, FORM)}
MISSING = reply(404, {"code": "not_found", "message": "m", "status": 404})
PAGE = reply(404, b"<html>404</html>", "text/html")


def routes(prefix: str = "/v1", otherwise: bytes = MISSING, **answers: Any) -> Script:
    """An answer for each last word of a path under the prefix; None: no answer."""

    async def script(talk: Talk) -> None:
        path = talk.path.partition("?")[0]
        inside = path.startswith(prefix + "/") and path.count("/") == prefix.count("/") + 1
        answer = answers.get(path.rsplit("/", 1)[1], MISSING) if inside or path.endswith("/logs") else otherwise
        if answer is None:
            await talk.gone()
        elif answer == b"reset":
            talk.reset()
        else:
            await talk.send(answer)

    return script


async def error_of(script: Script, base: str = "/v1", key: str = KEY) -> AppError:
    async with serving(script) as wire:
        url = wire.url.removesuffix("/v1") + base
        with pytest.raises(AppError) as caught:
            await probe(url, key)
    assert KEY not in f"{caught.value} {caught.value!r} {caught.value.params} {caught.value.__cause__!r}"
    assert caught.value.params.get("url", url) == url
    return caught.value


async def test_an_app() -> None:
    async with serving(routes(**GOOD)) as wire:
        app = await probe(wire.url + "/", KEY)
    assert (app.name, app.mode, app.version, app.description) == ("Echo", Mode.WORKFLOW, "1.15.0", "says it again")
    assert [field.variable for field in app.form.fields] == ["q"]
    assert app.recovery == Recovery(True, True, True)
    assert app.system_limits == {"limit": 10}
    assert len(wire.requests) == 2
    assert all(b"GET /v1/" in request for request in wire.requests)


@pytest.mark.parametrize("mode", list(Mode))
async def test_every_mode(mode: Mode) -> None:
    info = reply(200, {"name": None, "mode": mode.value})
    async with serving(routes(info=info, parameters=reply(200, {}))) as wire:
        app = await probe(wire.url, KEY)
    assert (app.name, app.mode, app.version, app.description, app.system_limits) == ("", mode, None, "", {})
    assert (app.form.field("sys.query") is not None) is mode.is_chat
    assert app.recovery == Recovery(False, False, False)


@pytest.mark.parametrize(
    ("logs", "mode"),
    [
        (reply(200, {"data": []}), Mode.WORKFLOW),
        (reply(400, {"code": "not_workflow_app", "message": "m"}), Mode.CHATFLOW),
        (MISSING, Mode.CHATFLOW),
    ],
)
async def test_a_server_that_does_not_tell_the_mode(logs: bytes, mode: Mode) -> None:
    script = routes(info=reply(200, {"name": "x"}), parameters=reply(200, FORM), logs=logs)
    async with serving(script) as wire:
        assert (await probe(wire.url, KEY)).mode is mode
    assert b"limit=1" in wire.requests[1]


@pytest.mark.parametrize(
    "url", ["", "dify.test/v1", "ftp://x/v1", "http://me:pw@x/v1", "http://x/v1?a=b", "http://x:y/v1"]
)
async def test_no_url(url: str) -> None:
    with pytest.raises(AppError) as caught:
        await probe(url, KEY)
    assert (caught.value.code, caught.value.params) == ("app_url_invalid", {"url": url})


@pytest.mark.parametrize("key", ["app-é", "app-x\r\nX-Evil: 1", "app x", "Bearer app-x", "app-\x00", "app-x\n"])
async def test_no_key(key: str) -> None:
    async with serving(routes(**GOOD)) as wire:
        with pytest.raises(AppError) as caught:
            await probe(wire.url, key)
    assert (caught.value.code, caught.value.params) == ("app_key_malformed", {})
    assert wire.connections == 0


BROKEN = reply(500, {"code": "unknown", "message": "Internal Server Error"})
RESET = {"reason": "reply_lost", "detail": "ClientOSError"}
UNPUBLISHED = reply(400, {"code": "app_unavailable", "message": "m"})


@pytest.mark.parametrize(
    ("answers", "code", "params"),
    [
        ({"info": reply(401, {"code": "unauthorized", "message": "m"})}, "app_key_wrong", {}),
        ({"info": reply(401, b"<html>", "text/html")}, "app_key_wrong", {}),
        ({"info": reply(403, {"code": "forbidden", "message": "disabled"})}, "app_forbidden", {"message": "disabled"}),
        ({"info": reply(308, b"", Location="https://x.test/v1/info")}, "app_url_redirects", {"to": "https://x.test"}),
        ({"info": UNPUBLISHED}, "app_unpublished", {"app": ""}),
        ({"info": BROKEN}, "app_server_error", {"status": 500, "message": "Internal Server Error"}),
        ({"info": reply(502, b"<html>502 Bad Gateway", "text/html")}, "app_server_error",
         {"status": 502, "message": "502 Bad Gateway"}),
        ({"info": reply(503, {"message": "soon"})}, "app_server_error", {"status": 503, "message": "soon"}),
        ({"info": MISSING}, "app_not_dify", {"status": 404}),
        ({"info": PAGE}, "app_not_dify", {"status": 404}),
        ({"info": reply(200, b"<html>", "text/html")}, "app_not_dify", {"status": 200}),
        ({"info": reply(200, b"hello", "text/plain")}, "app_not_dify", {"status": 200}),
        ({"info": reply(200, [1])}, "app_not_dify", {"status": 200}),
        ({"info": b"reset"}, "app_unreachable", RESET),
        (GOOD | {"parameters": b"reset"}, "app_unreachable", RESET),
        ({"info": reply(200, INFO | {"mode": "agent"})}, "app_mode_unsupported", {"mode": "agent", "app": "Echo"}),
        ({"info": reply(200, INFO | {"mode": ""})}, "app_mode_unsupported", {"mode": "", "app": "Echo"}),
        (GOOD | {"parameters": UNPUBLISHED}, "app_unpublished", {"app": "Echo"}),
        (GOOD | {"parameters": reply(400, {"code": "agent_not_published"})}, "app_unpublished", {"app": "Echo"}),
        (GOOD | {"parameters": BROKEN}, "app_server_error", {"status": 500, "message": "Internal Server Error"}),
        (GOOD | {"parameters": reply(502, b"<html>", "text/html")}, "app_server_error", {"status": 502, "message": ""}),
        (GOOD | {"parameters": MISSING}, "app_not_dify", {"status": 404}),
        (GOOD | {"parameters": reply(200, [1])}, "app_not_dify", {"status": 200}),
        ({"info": reply(200, {"name": "x"}), "logs": BROKEN}, "app_server_error",
         {"status": 500, "message": "Internal Server Error"}),
        ({"info": reply(200, {"hello": "world"})}, "app_not_dify", {"status": 404}),
    ],
)  # fmt: skip
async def test_what_is_wrong(answers: dict[str, Any], code: str, params: dict[str, Any]) -> None:
    error = await error_of(routes(**answers))
    assert error.code == code
    assert {name: value for name, value in error.params.items() if name != "url"} == params


@pytest.mark.parametrize("name", ["info", "parameters"])
async def test_no_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEADLINES", Deadlines(connect=1, answer=0.1))
    assert (await error_of(routes(**GOOD | {name: None}))).code == "app_no_answer"


async def test_nobody_there() -> None:
    async with serving(b"") as gone:
        pass
    with pytest.raises(AppError) as caught:
        await probe(gone.url, KEY)
    assert caught.value.code == "app_unreachable"
    assert caught.value.params["reason"] == "connection_refused"
    with pytest.raises(AppError) as caught:
        await probe("http://no-such-host.invalid/v1", KEY)
    assert caught.value.params["reason"] == "name_unknown"


@pytest.mark.parametrize(
    ("answers", "otherwise", "code"),
    [
        (GOOD, PAGE, "app_url_without_v1"),
        (GOOD, reply(200, b"<html>", "text/html"), "app_url_without_v1"),
        (GOOD, BROKEN, "app_url_without_v1"),
        ({"info": reply(401, {"code": "unauthorized"})}, PAGE, "app_url_without_v1"),
        ({"info": reply(401, b"<html>", "text/html")}, PAGE, "app_not_dify"),
        ({"info": MISSING}, PAGE, "app_not_dify"),
        ({"info": BROKEN}, BROKEN, "app_server_error"),
    ],
)
@pytest.mark.parametrize("base", ["", "/", "/dify"])
async def test_an_address_without_v1(answers: dict[str, bytes], otherwise: bytes, code: str, base: str) -> None:
    error = await error_of(routes(base.rstrip("/") + "/v1", otherwise, **answers), base)
    assert error.code == code
    if code == "app_url_without_v1":
        assert str(error.params["better"]).endswith(base.rstrip("/") + "/v1")


async def test_an_address_with_v1_is_not_tried_twice() -> None:
    async with serving(routes(info=PAGE)) as wire:
        with pytest.raises(AppError):
            await probe(wire.url + "/", KEY)
    assert wire.connections == 1


def test_every_error_has_a_text() -> None:
    from importlib import resources

    texts = json.loads(resources.files("rowmill.texts").joinpath("en.json").read_text())
    codes = ["url_invalid", "key_malformed", "key_wrong", "forbidden", "url_redirects", "unpublished", "unreachable"]
    codes += ["no_answer", "url_without_v1", "server_error", "not_dify", "mode_unsupported"]
    assert [code for code in codes if f"error.app_{code}" not in texts] == []
