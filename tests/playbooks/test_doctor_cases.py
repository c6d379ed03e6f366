"""What hosts said that were broken, or were not: the module that reads them, and the judgement over what it finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from migrate import doctor_judge
from migrate.gate import Outcome, Verdict
from migrate.knowledge import failures

FOLDER = Path(__file__).parents[1] / "cases" / "doctor"
LOGS = Path(__file__).parent / "cases"
CASES = [(path.stem, case) for path in sorted(FOLDER.glob("*.yaml")) for case in yaml.safe_load(path.read_text())]
NOW = datetime.fromtimestamp(1763750400, UTC)
SERVICES = {"triton": "triton-triton-1", "vllm": "vllm-vllm-1", "gateway": "vllm-gateway-1"}
NAMES = {
    "host": "gpu01",
    "triton_container": "triton-triton-1",
    "triton_compose_file": "/opt/triton/docker-compose.yml",
    "triton_compose_project": "triton",
    "triton_compose_service": "triton",
    "vllm_image": "registry.lab:5000/vllm-openai:v9",
    "vllm_memory_limit": "64g",
    "vllm_port": 18000,
    "vllm_weights_path": "/var/lib/migrate/weights/model",
}
TABLE = failures.load().for_host(NAMES)
RUNS = {"Status": "running", "ExitCode": 0, "OOMKilled": False, "Error": "", "StartedAt": "2025-11-20T00:00:00.0Z"}
WELL = {
    "nvidia-smi": "| NVIDIA-SMI 580.95.05    Driver Version: 580.95.05    CUDA Version: 13.0 |\n",
    "docker info": '{"ServerVersion": "28.3.0", "Runtimes": {"runc": {}, "nvidia": {}}}',
}


class Commands:
    """The host's commands: the longest known beginning of a command line answers; nothing else says anything."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        texts = {command: (LOGS / name).read_text() for command, name in case.get("files", {}).items()}
        self.answers: dict[str, Any] = WELL | texts | case.get("outputs", {})
        self.states = {"vllm-vllm-1": "state", "triton-triton-1": "triton", "vllm-gateway-1": "gateway"}
        self.case = case

    def __call__(self, argv: list[str]) -> tuple[int, str]:
        if argv[:3] == ["docker", "container", "inspect"]:
            if self.case.get("absent"):
                return 1, "Cannot connect to the Docker daemon"
            state = RUNS | self.case.get(self.states[argv[3]], {})
            return 0, json.dumps([{"State": state, "RestartCount": state.get("RestartCount", 0)}])
        line = f"docker logs {argv[-1]}" if argv[:2] == ["docker", "logs"] else " ".join(argv)
        told = next((self.answers[known] for known in self.answers if line.startswith(known)), "")
        return (told["rc"], told["out"]) if isinstance(told, dict) else (0, told)


def verdicts(case: Mapping[str, Any]) -> list[Verdict]:
    failed = case.get("fails", {})
    passed = [Verdict(check, Outcome.PASS) for check in doctor_judge.PROOF.values() if check not in failed]
    return passed + [Verdict(check, Outcome.FAIL, "", measured) for check, measured in failed.items()]


@pytest.fixture
def look(library: Callable[[str], ModuleType], tmp_path: Path) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    module = library("doctor_evidence")

    def read(case: Mapping[str, Any]) -> dict[str, Any]:
        wanted = case.get("services", list(SERVICES))
        params = {
            "services": {role: name for role, name in SERVICES.items() if role in wanted},
            "units": [],
            "gpus": True,
            "disks": [str(tmp_path)],
            "run": case.get("run", []),
            "failures": TABLE,
        }
        evidence: dict[str, Any] = module.evidence(params, Commands(case), NOW)
        return evidence

    return read


@pytest.mark.parametrize("case", [case for _, case in CASES], ids=[f"{kind}-{case['name']}" for kind, case in CASES])
def test_what_is_wrong_is_found_and_nothing_else(
    case: Mapping[str, Any], look: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> None:
    found, noticed = doctor_judge.judge(look(case), verdicts(case), [])
    assert [finding.name for finding in found] == case["findings"]
    assert [notice.name for notice in noticed] == case.get("notices", [])
    for part in ("do", "means", "seen"):
        if part in case:
            assert case[part] in getattr(found[0], {"means": "cause"}.get(part, part))
    for finding in found:
        assert "\n" not in finding.seen


def test_there_are_cases_for_each_of_the_titled_troubles() -> None:
    assert len(CASES) >= 40
    titles = {failures.load().title_of(case["findings"][0]) for _, case in CASES if case["findings"]}
    assert {"GPU not detected", "vLLM import fails", "out of memory"} <= titles
    assert all(case["source"] for _, case in CASES)


def test_what_shows_in_other_checks_is_said_once(look: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    case = next(case for _, case in CASES if case["name"] == "context_longer_than_the_cache")
    found, _ = doctor_judge.judge(look(case), verdicts(case), [])
    assert found[0].shows_in == {"vllm_api": "port 18000: connection refused", "gateway_serves": "status 503"}
    assert found[0].where == "docker logs vllm-vllm-1"
    assert found[0].at == "2026-11-21T18:00:09.000000003Z"


def test_a_service_that_is_not_there_is_a_finding(look: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    found, _ = doctor_judge.judge(
        look({"absent": True}), verdicts({"fails": {"vllm_api": "refused", "gateway_serves": ""}}), []
    )
    assert [finding.name for finding in found] == ["vllm-absent", "gateway-absent"]
    assert found[0].shows_in == {"vllm_api": "refused", "gateway_serves": ""}
