"""Every case of cases.yaml, asked of the lab's real Triton and of the gateway: what a client sees is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway.asking import ask
from tests.e2e.gateway.case import ANY, Accepted, Case, accepted, table
from tests.e2e.gateway.compare import at, differences, is_under
from tests.e2e.gateway.conftest import Servers
from tests.e2e.gateway.servers import NotServing, Server

CASES, ACCEPTED = table()
_ATTEMPTS = 3
CLIENTS_PAGE = Path(__file__).parents[3] / "docs" / "clients.md"


# tritonclient.http.aio does not read the body of an answer that says no.
@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
@pytest.mark.e2e
@pytest.mark.parametrize(
    ("case", "client"), [pytest.param(case, kind, id=f"{case.id}-{kind}") for case in CASES for kind in case.clients]
)
async def test_the_gateway_answers_as_triton_does(both: Servers, case: Case, client: str) -> None:
    found, answer = await _compared(both, client, case)
    allowed = accepted(case, client)
    assert {path: pair for path, pair in found.items() if not any(is_under(path, whole) for whole in allowed)} == {}
    for whole, expected in allowed.items():
        assert any(is_under(path, whole) for path in found), f"an accepted difference is gone: {whole}"
        assert expected in (ANY, at(answer, whole))


async def _compared(both: Servers, client: str, case: Case) -> tuple[dict[str, tuple[Any, Any]], Any]:
    """What differs, and the gateway's answer; asked again where Triton died of the question."""
    for _ in range(_ATTEMPTS):
        try:
            expected = await ask(both.triton, client, case)
            answer = await ask(both.passing if case.passthrough else both.alone, client, case)
        except Exception:
            if not both.triton_died():
                raise
            continue
        if not both.triton_died():
            return differences(expected, answer), answer
    raise NotServing(f"Triton died {_ATTEMPTS} times of the same question")


def test_there_are_enough_cases_for_every_kind_of_client() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 120
    kinds = [kind for case in CASES for kind in case.clients]
    assert all(kinds.count(kind) >= 20 for kind in ("http", "http.aio", "grpc", "grpc.aio", "http_request", "rpc"))


def test_a_server_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(NotServing):
        Server("triton", "127.0.0.1:1", "127.0.0.1:1").require_ready()


@pytest.mark.parametrize("difference", ACCEPTED, ids=lambda difference: difference.what)
def test_an_accepted_difference_is_documented_and_belongs_to_cases(difference: Accepted) -> None:
    ids = {case.id for case in CASES} | {
        f"{case.id}-{client.split('.')[0]}" for case in CASES for client in case.clients
    }
    assert set(difference.cases) <= ids
    assert difference.row() in CLIENTS_PAGE.read_text(encoding="utf-8")
