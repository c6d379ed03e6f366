"""What Triton's HTTP side has besides models: server metadata, repository, settings, shared memory (2.51, measured)."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from migrate.gateway.core.json_text import Members, attempt, members, parse
from migrate.gateway.core.models import Registry
from migrate.gateway.errors import Code, TritonError, error_body
from migrate.gateway.web.answers import Answer, json_answer

_INDEX = re.compile(r"/v2/repository(?:/[^/]+)?/index")
_LOAD = re.compile(r"/v2/repository(?:/(?P<repository>[^/]+))?/models/(?P<name>[^/]+)/(?P<action>load|unload)")
_SHARED = re.compile(
    r"/v2/(?P<kind>system|cuda)sharedmemory(?:/region/(?P<region>[^/]+))?/(?P<action>status|register|unregister)"
)
_HANDLES = {"system": "key", "cuda": "raw_handle"}
_Body = Callable[[], Awaitable[bytes]]
# The index, ready models alone or all, of the Triton that keeps what the gateway does not know.
Elsewhere = Callable[[bool], Awaitable[list[dict[str, str]]]]


class Control:
    """Answers by method and path; the body is read only where Triton reads it."""

    def __init__(self, registry: Registry, elsewhere: Elsewhere | None = None) -> None:
        self.registry = registry
        self._elsewhere = elsewhere

    async def answer(self, method: str, path: str, body: _Body) -> Answer:
        """The answer of any path that is no model's, 404 for unknown ones. Raises TritonError."""
        match path:
            case "/v2":
                return _get(method, self.registry.server_metadata())
            case "/v2/models/stats":
                return _get(method, {"model_stats": self.registry.model_statistics()})
            case "/v2/logging":
                return await self._logging(method, body)
            case "/v2/trace/setting":
                return await self.trace(method, body)
        if _INDEX.fullmatch(path):
            return await self._index(body) if method == "POST" else _not_allowed()
        if found := _LOAD.fullmatch(path):
            return await self._load(found, body) if method == "POST" else _not_allowed()
        if found := _SHARED.fullmatch(path):
            return await _shared_memory(method, found, body)
        return json_answer(error_body("Not Found"), 404)

    async def trace(self, method: str, body: _Body, model: str = "") -> Answer:
        """The trace settings of the server, or of a model. Raises TritonError."""
        if method not in ("GET", "POST"):
            return _not_allowed()
        if model and not self.registry.is_ready(model):
            raise TritonError(Code.INVALID_ARG, f"Request for unknown model : {model}")
        changes = members(parse(await body())) if method == "POST" else None
        return _json(self.registry.server_settings.trace(changes, model=model))

    async def _logging(self, method: str, body: _Body) -> Answer:
        if method not in ("GET", "POST"):
            return _not_allowed()
        changes = members(parse(await body())) if method == "POST" else None
        return _json(self.registry.server_settings.log(changes))

    async def _index(self, body: _Body) -> Answer:
        content = await body()
        ready = members(parse(content)).get("ready", False) if content else False
        if not isinstance(ready, bool):
            raise TritonError(Code.INTERNAL, attempt("boolean"))
        rows = self.registry.index(ready=ready)
        if self._elsewhere is not None:
            own = {row["name"] for row in self.registry.index()}
            rows += [row for row in await self._elsewhere(ready) if row["name"] not in own]
            rows.sort(key=lambda row: row["name"])
        return _json(rows)

    async def _load(self, found: re.Match[str], body: _Body) -> Answer:
        if found["repository"]:
            raise TritonError(Code.UNSUPPORTED, "'repository_name' specification is not supported")
        content = await body()
        if found["action"] == "load":
            await self.registry.load(found["name"], _load_parameters(content) if content else {})
        else:
            await self.registry.unload(found["name"])
        return Answer(content_type="application/json")


def _load_parameters(content: bytes) -> dict[str, Any]:
    given = members(parse(content)).get("parameters")
    if given is None:
        return {}
    if not isinstance(given, Members):
        raise TritonError(Code.INTERNAL, "attempt to get members for non-object")
    parameters = given.first()
    for name, value in parameters.items():
        if not isinstance(value, str):
            raise TritonError(Code.INTERNAL, attempt("string"))
        if name != "config" and not name.startswith("file:"):
            raise TritonError(Code.INTERNAL, "unexpected error on creating Triton parameter")
    return parameters


async def _shared_memory(method: str, found: re.Match[str], body: _Body) -> Answer:
    """There is never a region: a client's memory is not that of this machine."""
    kind, region, action = found["kind"], found["region"], found["action"]
    if method != ("GET" if action == "status" else "POST"):
        return _not_allowed()
    if action == "status" and not region:
        return _json([])
    if action == "status":
        raise TritonError(Code.NOT_FOUND, f"Unable to find {kind} shared memory region: '{region}'")
    if action == "unregister":
        return Answer(content_type="application/json")
    if not region:
        raise TritonError(Code.INVALID_ARG, f"'region name' is necessary to register {kind} shared memory region")
    if _HANDLES[kind] not in members(parse(await body())):
        text = f"Shared memory register request has no '{_HANDLES[kind]}' field"
        raise TritonError(Code.INVALID_ARG, text)
    raise TritonError(Code.UNSUPPORTED, f"{kind} shared memory is not supported by the gateway to vLLM")


def _get(method: str, document: Mapping[str, Any]) -> Answer:
    return _json(document) if method == "GET" else _not_allowed()


def _json(document: object) -> Answer:
    return json_answer(json.dumps(document, separators=(",", ":"), ensure_ascii=False))


def _not_allowed() -> Answer:
    return json_answer(error_body("Method Not Allowed"), 405)
