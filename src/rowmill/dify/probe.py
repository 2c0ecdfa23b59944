"""What stands behind an address and a key. Costs nothing: no run is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rowmill.dify.client import Deadlines, DifyClient, is_http_url
from rowmill.dify.form import read_form
from rowmill.dify.versions import recovery
from rowmill.domain.errors import AppError, DifyFailureError
from rowmill.domain.form import Mode
from rowmill.domain.verdict import FailureKind
from rowmill.ports.dify import AppInfo

if TYPE_CHECKING:
    from rowmill.domain.verdict import Failure

_ENDPOINTS = (
    "/workflows/run", "/workflows/logs", "/chat-messages", "/completion-messages", "/files/upload", "/conversations",
    "/messages", "/parameters", "/info", "/meta", "/site",
)  # fmt: skip
_DEADLINES = Deadlines(connect=10.0, answer=20.0)


async def probe(base_url: str, api_key: str) -> AppInfo:
    """Raises AppError: wrong address, wrong key, not published, a mode that cannot be run."""
    if not is_http_url(base_url):
        raise AppError("app_url_invalid", url=base_url)
    if (better := _without_endpoint(base_url)) is not None:
        raise AppError("app_url_is_endpoint", url=base_url, better=better)
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise AppError("app_key_malformed")
    async with DifyClient(base_url, api_key, deadlines=_DEADLINES) as client:
        try:
            info, version = await client.info()
        except DifyFailureError as error:
            raise await _explain(base_url, api_key, error.failure) from None
        try:
            mode = await _mode(client, info)
            parameters = await client.parameters()
        except DifyFailureError as error:
            raise _explain_parameters(base_url, info, error.failure) from None
    return AppInfo(
        name=str(info.get("name") or ""),
        mode=mode,
        version=version,
        form=read_form(parameters, mode),
        recovery=recovery(version, mode),
        description=str(info.get("description") or ""),
        system_limits=parameters.get("system_parameters") or {},
    )


def _without_endpoint(base_url: str) -> str | None:
    """Dify's API page shows the address of each call; what is wanted is what all of them begin with."""
    plain = base_url.rstrip("/")
    endpoint = next((end for end in _ENDPOINTS if plain.endswith(end)), None)
    return plain.removesuffix(endpoint) if endpoint else None


async def _mode(client: DifyClient, info: dict[str, Any]) -> Mode:
    name = info.get("mode")
    if name is None:
        return await _guess_mode(client)
    try:
        return Mode(str(name))
    except ValueError:
        raise AppError("app_mode_unsupported", mode=str(name), app=str(info.get("name"))) from None


async def _guess_mode(client: DifyClient) -> Mode:
    """Before 1.4 `/info` does not say: only workflow apps have a workflow log."""
    try:
        await client.logs(limit="1")
    except DifyFailureError as error:
        if error.failure.kind is not FailureKind.REFUSED:
            raise
        return Mode.CHATFLOW
    return Mode.WORKFLOW


async def _explain(base_url: str, api_key: str, failure: Failure) -> AppError:
    if failure.status == 401 or failure.code == "unauthorized":  # noqa: PLR2004
        return AppError("app_key_wrong", url=base_url)
    if failure.status == 403:  # noqa: PLR2004
        return AppError("app_forbidden", message=failure.message)
    if failure.code == "redirected":
        return AppError("app_url_redirects", url=base_url, to=failure.message)
    if failure.code == "app_unavailable":
        return AppError("app_unpublished", app="")
    if failure.kind is FailureKind.NOT_SENT or failure.code == "no_answer":
        return _explain_rest(base_url, failure)
    better = base_url.rstrip("/") + "/v1"
    if not base_url.rstrip("/").endswith("/v1") and await _answers(better, api_key):
        return AppError("app_url_without_v1", url=base_url, better=better)
    return _explain_rest(base_url, failure)


async def _answers(base_url: str, api_key: str) -> bool:
    """Whether Dify's API is there, even if it does not like the key."""
    async with DifyClient(base_url, api_key, deadlines=_DEADLINES) as client:
        try:
            await client.info()
        except DifyFailureError as error:
            return error.failure.code == "unauthorized"
        return True


def _explain_parameters(base_url: str, info: dict[str, Any], failure: Failure) -> AppError:
    if failure.code in ("app_unavailable", "agent_not_published"):
        return AppError("app_unpublished", app=str(info.get("name") or ""))
    return _explain_rest(base_url, failure)


def _explain_rest(base_url: str, failure: Failure) -> AppError:
    if failure.kind is FailureKind.NOT_SENT or failure.code == "reply_lost":
        if failure.code == "tls_refused":
            return AppError("app_tls_refused", url=base_url, detail=failure.message)
        return AppError("app_unreachable", url=base_url, reason=failure.code, detail=failure.message)
    if failure.code == "no_answer":
        return AppError("app_no_answer", url=base_url)
    # Also a proxy's 502: how a Dify looks whose API is just starting.
    if failure.status is not None and failure.status >= 500:  # noqa: PLR2004
        return AppError("app_server_error", url=base_url, status=failure.status, message=failure.message)
    return AppError("app_not_dify", url=base_url, status=failure.status)
