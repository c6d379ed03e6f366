"""The HTTP side as one ASGI application: which part answers a path, behind what bounds and follows every request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from migrate.gateway.config import LimitsConfig
from migrate.gateway.errors import error_body
from migrate.gateway.observe import metrics
from migrate.gateway.observe.tracking import Tracking
from migrate.gateway.openai import pages
from migrate.gateway.web.bodies import Bodies
from migrate.gateway.web.passthrough import model_of

_DESCRIBED = frozenset({"/docs", "/openapi.json", "/docs/oauth2-redirect"})


@dataclass(frozen=True, slots=True)
class Parts:
    """`triton` answers what nothing else does; `passthrough` gets the models that are not `is_ours`."""

    triton: ASGIApp
    openai: ASGIApp | None = None
    passthrough: ASGIApp | None = None
    is_ours: Callable[[str], bool] = lambda _: True


def build(parts: Parts, limits: LimitsConfig) -> ASGIApp:
    """The application of the main listener."""
    described = pages.Described(title=pages.TITLE, redoc_url=None)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path.startswith("/v1/") and parts.openai is not None:
            await parts.openai(scope, receive, send)
        elif path == "/metrics":
            await page(scope, receive, send)
        elif path in _DESCRIBED:
            await described(scope, receive, send)
        elif parts.passthrough is not None and _names_another(scope, parts.is_ours):
            await parts.passthrough(scope, receive, send)
        else:
            await parts.triton(scope, receive, send)

    return Tracking(Bodies(dispatch, limits))


def _names_another(scope: Scope, is_ours: Callable[[str], bool]) -> bool:
    model = model_of(scope["raw_path"].decode("ascii"))
    return model is not None and not is_ours(model)


async def page(scope: Scope, _: Receive, send: Send) -> None:
    """The metrics; as Triton has it, 405 for what does not read."""
    if scope["method"] in {"GET", "HEAD"}:
        await _send(send, 200, metrics.page())
    else:
        await _send(send, 405, error_body("Method Not Allowed").encode("utf-8"))


async def metrics_only(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of the metrics listener. Any other path is an empty 200, as on Triton 2.51."""
    if scope["path"] == "/metrics" or scope["method"] not in {"GET", "HEAD"}:
        await page(scope, receive, send)
    else:
        await _send(send, 200, b"")


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", metrics.CONTENT_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
