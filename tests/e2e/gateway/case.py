"""The acceptance's table: what is asked of Triton and of the gateway, and the differences that are accepted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_name("cases.yaml")
HTTP_CLIENTS = ("http", "http.aio")
GRPC_CLIENTS = ("grpc", "grpc.aio")
ANY = "*"
_RAW = ("http_request", "rpc")
_SETS = {"all": HTTP_CLIENTS + GRPC_CLIENTS, "http": HTTP_CLIENTS, "grpc": GRPC_CLIENTS}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A difference that clients may see: in these cases, the gateway's answer at each path is the one given."""

    what: str
    triton: str
    gateway: str
    reason: str
    cases: dict[str, dict[str, Any]]

    def row(self) -> str:
        """Its row in docs/clients.md."""
        return f"| {self.what} | {self.triton} | {self.gateway} | {self.reason} |"


@dataclass(frozen=True, slots=True)
class Case:
    """One question. `body` holds what its kind of client needs; see the head of cases.yaml.

    With `passthrough` it is asked of the gateway that has the Triton behind it.
    """

    id: str
    clients: tuple[str, ...]
    body: dict[str, Any]
    compare: str
    passthrough: bool


@cache
def table() -> tuple[tuple[Case, ...], tuple[Accepted, ...]]:
    """Every case, and every accepted difference."""
    loaded = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return tuple(_case(entry) for entry in loaded["cases"]), tuple(Accepted(**entry) for entry in loaded["accepted"])


def accepted(case: Case, client: str) -> dict[str, Any]:
    """The gateway's answers, by path, that may differ in this case; `ANY` says that no text is fixed."""
    keys = (case.id, f"{case.id}-{client.split('.')[0]}")
    return {path: answer for entry in table()[1] for key in keys for path, answer in entry.cases.get(key, {}).items()}


def _case(entry: dict[str, Any]) -> Case:
    body = dict(entry)
    through = body.pop("through", "all")
    asked = body["steps"][0] if "steps" in body else body
    clients = tuple(kind for kind in _RAW if kind in asked) or _SETS.get(str(through)) or tuple(through)
    return Case(
        id=body.pop("id"),
        clients=clients,
        compare=body.pop("compare", "values"),
        passthrough=body.pop("passthrough", False),
        body=body,
    )
