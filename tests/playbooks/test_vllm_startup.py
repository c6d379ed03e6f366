"""vLLM's log tells how far it came and what went wrong first."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from migrate.knowledge import failures

CASES = Path(__file__).parent / "cases"
FAILURES = failures.load().for_host({"vllm_memory_limit": "6g"})


@pytest.fixture
def startup(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("vllm_startup")


@pytest.mark.parametrize(
    ("case", "cause", "advice"),
    [
        ("bad_flag", "unrecognized arguments: --no-such-flag", "vllm_args"),
        ("model_missing", "Repo id must use", "vllm_weights_path"),
        ("no_kv_cache", "KV cache", "max-model-len"),
        ("port_taken", "port is already allocated", "vllm_port"),
        ("cuda_out_of_memory", "CUDA out of memory", "gpu-memory-utilization"),
        ("gpu_held", "Free memory on device", "gpu-memory-utilization"),
        ("unknown_error", "ValueError: Unsupported something", "docker logs"),
    ],
)
def test_the_first_root_cause_is_named(startup: ModuleType, case: str, cause: str, advice: str) -> None:
    told, what_to_do = startup.root_cause((CASES / f"{case}.log").read_text(), FAILURES)
    assert cause in told
    assert advice in what_to_do
    assert not told.startswith(("20", "(", "ERROR"))


def test_an_empty_log_says_so(startup: ModuleType) -> None:
    assert startup.root_cause("\n", FAILURES) == ("the log is empty", "read the container's log: docker logs")


def test_stages_of_a_start_that_broke_off(startup: ModuleType) -> None:
    log = (CASES / "no_kv_cache.log").read_text()
    seconds = startup.seconds_per_stage(log, log.partition(" ")[0])
    assert list(seconds) == ["start", "weights"]
    assert startup.stage_reached(seconds) == "kv_cache"
    assert startup.stage_reached({}) == "start"


def test_stages_of_a_good_start(startup: ModuleType) -> None:
    log = (CASES / "serving_cpu_0.31.log").read_text()
    started = log.partition(" ")[0]
    seconds = startup.seconds_per_stage(log, started)
    assert list(seconds) == ["start", "weights", "kv_cache", "warm_up", "serving"]
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) > 5
    assert startup.stage_reached(seconds) == "serving"


class Docker:
    """Answers `docker container inspect` with one state after the other, and `docker logs` with a text."""

    def __init__(self, states: list[dict[str, object]], log: str) -> None:
        self.states, self.log = states, log

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        import json

        if argv[1] == "logs":
            return 0, self.log, ""
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        base = {"StartedAt": "2026-01-01T00:00:00.0Z", "Running": True, "Restarting": False, "OOMKilled": False}
        inspected = {"Created": "2026-01-01T00:00:00.0Z", "RestartCount": state.pop("RestartCount", 0)}
        return 0, json.dumps([inspected | {"State": base | state}]), ""


def _wait(startup: ModuleType, docker: Docker, timeout_s: int = 30, port: int = 1) -> dict[str, object]:
    result: dict[str, object] = startup.wait(
        {"port": port, "timeout_s": timeout_s, "failures": FAILURES}, startup.Container("v", docker)
    )
    return result


def test_a_container_that_ended_is_explained_at_once(startup: ModuleType) -> None:
    result = _wait(startup, Docker([{"Running": False}], (CASES / "bad_flag.log").read_text()))
    assert result["failed"]
    assert "unrecognized arguments" in str(result["msg"])


def test_a_container_killed_for_memory_is_told_from_others(startup: ModuleType) -> None:
    result = _wait(startup, Docker([{"Running": False, "OOMKilled": True}], ""))
    assert result["advice"] == "raise `vllm_memory_limit` (now 6g)"


def test_a_wait_that_ends_names_its_limit_and_the_stage(startup: ModuleType) -> None:
    result = _wait(startup, Docker([{}], (CASES / "no_kv_cache.log").read_text().splitlines()[0]), timeout_s=0)
    assert "not serving after 0 s" in str(result["msg"])
    assert "vllm_start_timeout_s" in str(result["advice"])


LATE = """
import sys, time
from http.server import HTTPServer, SimpleHTTPRequestHandler
time.sleep(1)
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_port_that_is_closed_while_vllm_loads_is_waited_for(startup: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "health").touch()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    refused = _wait(startup, Docker([{}], ""), timeout_s=0, port=port)
    assert "not serving after 0 s" in str(refused["msg"])
    loading = subprocess.Popen([sys.executable, "-c", LATE, str(port)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        assert _wait(startup, Docker([{}], ""), port=port)["stage"] == "serving"
    finally:
        loading.kill()
        loading.wait(timeout=10)
