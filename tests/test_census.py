"""Verdicts on callers, from case files; the table that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from migrate.census import Client, How, Verdict, as_dicts, as_text, census, notes
from migrate.errors import SettingsError
from migrate.settings import Settings, load

CASES = sorted((Path(__file__).parent / "cases" / "census" / "verdicts").glob("*.yaml"))
MAIN = "/etc/nginx/nginx.conf"
SITE = """
upstream triton { server 127.0.0.1:8000; }
server { listen 80; listen [::]:443 ssl; location / { proxy_pass http://triton; } }
server { listen 8081 http2; location / { grpc_pass grpc://127.0.0.1:8001; } }
"""
EMPTY: dict[str, Any] = {
    "window_s": 86_400,
    "watch_s": 0,
    "since": "2026-11-20T12:00:00Z",
    "log": [],
    "logs": [],
    "inferences": {"since": None, "logged": 0},
    "sockets": [],
    "tracking": "/proc/net/nf_conntrack",
    "networks": [],
    "balancers": [],
    "reason": None,
}
LOGGED = {
    "peer": "10.0.0.7",
    "listener": "/var/log/nginx/access.log",
    "method": "POST",
    "protocol": "http",
    "version": "",
    "user_agent": "curl/8.5.0",
    "witness": False,
    "count": 1,
    "status_5xx": 0,
    "last": "2026-11-21T11:00:00Z",
}
CONNECTED = {"process": None, "container": None, "family": "ipv4", "count": 1, "source": "sockets"}


def settings() -> Settings:
    return load(
        {
            "migrate_public_http_url": "http://gpu01",
            "triton_container": "triton-triton-1",
            "triton_model_repository": "/srv/triton/models",
            "triton_models": {"phi2": {"style": "python"}, "phi2_stream": {"style": "vllm"}},
            "triton_probe_model": "phi2",
            "vllm_weights_source": "/srv/triton/models/phi2/1/weights",
            "vllm_served_model_name": "phi2",
            "switch_ports": {80: 18080, 443: 18443},
        }
    )


def facts(case: dict[str, Any]) -> dict[str, Any]:
    site = case.get("nginx", SITE)
    files = {MAIN: f"events {{}} http {{ {site} }}"} if site else {}
    found: dict[str, Any] = {
        "nginx": {"main": MAIN, "files": files},
        "triton": {"shared_memory": {}} | (case.get("triton") or {}),
    }
    given = case["clients"]
    if given is not None:
        found["clients"] = EMPTY | given
        found["clients"]["log"] = [_logged(row) for row in given.get("log") or []]
        found["clients"]["sockets"] = [CONNECTED | row for row in given.get("sockets") or []]
    return found


def _logged(row: dict[str, Any]) -> dict[str, Any]:
    words = ("grpc" if row.get("protocol") == "grpc" else "", row["model"], row["verb"])
    return LOGGED | {"route": " ".join(word for word in words if word)} | row


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_case(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    found = facts(case)
    rows = as_dicts(census(found, settings()))
    assert len(rows) == len(case["expect"]), rows
    for row, expected in zip(rows, case["expect"], strict=True):
        for name, value in expected.items():
            if isinstance(value, str) and name not in ("how", "verdict", "protocol"):
                assert value in row[name], (name, row)
            else:
                assert row[name] == value, (name, row)
    said = "\n".join(notes(found, settings()))
    assert not [note for note in case.get("notes", []) if note not in said], said


def test_every_verdict_and_way_has_a_case() -> None:
    rows = [row for path in CASES for row in yaml.safe_load(path.read_text())["expect"]]
    assert {row.get("verdict") for row in rows} == set(Verdict)
    assert {row.get("how") for row in rows} - {None} == set(How)


def test_what_bypasses_nginx_always_has_a_next_action() -> None:
    found = [row for path in CASES for row in census(facts(yaml.safe_load(path.read_text())), settings())]
    assert all(row.because for row in found)
    assert all(row.next for row in found if row.verdict is not Verdict.UNCHANGED)
    assert {row.bypasses_nginx for row in found if row.how is How.NGINX} == {False}
    assert all(row.verdict in (Verdict.FAILS, Verdict.UNCLEAR) for row in found if row.bypasses_nginx)


def test_nginx_that_is_not_understood_is_named() -> None:
    with pytest.raises(SettingsError, match=r"nginx\.conf:1"):
        census(facts({"nginx": "server {", "clients": {}}), settings())


def row(**changed: Any) -> Client:
    fields = {"who": "10.0.0.7", "how": How.NGINX, "protocol": "http", "asks": "phi2 generate"}
    return Client(**{**fields, "verdict": Verdict.UNCHANGED, "because": "as it is", **changed})


def test_the_table_is_aligned_and_says_each_reason_once() -> None:
    rows = [
        row(who="10.0.0.9", how=How.DIRECT, verdict=Verdict.FAILS, because="past nginx", next="lead it", connections=2),
        row(agent="curl/8.5.0", requests=1_200, errors=3, last="2026-11-21T11:00:00Z"),
        row(who="10.0.0.8", requests=1, last="2026-11-21T11:00:00Z"),
    ]
    lines = as_text(rows, ["looked once"]).splitlines()
    assert lines[0] == "Clients of Triton: 1 will fail, 2 unchanged; 1 past nginx"
    head = lines[2]
    assert all(line[head.index("how") :].startswith(("direct", "via nginx")) for line in lines[3:6])
    assert lines[4].split() == "unchanged 10.0.0.7 curl/8.5.0 via nginx phi2 generate 1,200 3 11-21 11:00 [2]".split()
    assert lines[7:] == ["[1] past nginx → lead it", "[2] as it is", "note: looked once"]


def test_an_empty_table_says_so() -> None:
    assert as_text([], ["not read: docker"]) == "Clients of Triton: none was seen.\nnote: not read: docker"


def test_the_best_rows_are_left_out_of_a_long_table() -> None:
    rows = [row(who="worst", verdict=Verdict.FAILS)] + [row(who=f"10.0.0.{n}") for n in range(60)]
    text = as_text(rows)
    assert "worst" in text
    assert "… and 21 more, no worse than these" in text


TEXTS = st.text(max_size=60) | st.sampled_from(["\x1b[2J\x1b]0;x\x07", "a\nb\rc", "\u202e", "x" * 300])


@given(st.lists(st.builds(row, who=TEXTS, asks=TEXTS, agent=TEXTS, because=TEXTS, next=TEXTS), max_size=5), TEXTS)
def test_no_text_breaks_the_table(rows: list[Client], note: str) -> None:
    text = as_text(rows, [note])
    assert all(len(line) <= 120 and line.isprintable() for line in text.split("\n"))
    assert json.loads(json.dumps(as_dicts(rows))) == as_dicts(rows)
