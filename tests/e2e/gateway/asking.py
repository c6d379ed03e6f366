"""Asks one server one case of the table, whatever its kind."""

from __future__ import annotations

from typing import Any

from tests.e2e.gateway import clients, raw_grpc, raw_http, scenarios
from tests.e2e.gateway.case import Case
from tests.e2e.gateway.compare import structure
from tests.e2e.gateway.servers import Server


async def ask(server: Server, client: str, case: Case) -> Any:
    """The answer, or the list of answers of a case with `steps`."""
    if "steps" in case.body:
        answer: Any = [await _one(server, client, step) for step in case.body["steps"]]
    else:
        answer = await _one(server, client, case.body)
    return structure(answer) if case.compare == "structure" else answer


async def _one(server: Server, client: str, body: dict[str, Any]) -> dict[str, Any]:
    if "http_request" in body:
        return raw_http.ask(server.http, body)
    if "rpc" in body:
        return raw_grpc.ask(server.grpc, body)
    if "scenario" in body:
        return await scenarios.ask(client, server.address(client), body)
    return await clients.ask(client, server.address(client), body)
