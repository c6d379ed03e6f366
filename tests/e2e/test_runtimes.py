"""vLLM with Podman and as a process: looked at, done, done again, failed, offline, undone. A process runs a stand-in
for vLLM, which uv installs; Podman runs the lab's own image."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest

from .runtime_host import Deployment, RuntimeHost, started
from .stand_in_vllm import wheel

pytestmark = pytest.mark.e2e
INDEX = "/srv/index"
SETTINGS: dict[str, dict[str, Any]] = {
    "podman": {
        "vllm_runtime": "podman",
        "vllm_mode": "offline",
        "vllm_cache_dir": "/srv/cache",
        "vllm_environment": {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "TORCHDYNAMO_DISABLE": "1",
            # Modules that the image has not compiled are kept over the starts, and `LLM` loads in one process.
            "PYTHONPYCACHEPREFIX": "/cache/python",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        },
    },
    "process": {
        "vllm_runtime": "process",
        "vllm_mode": "offline",
        "vllm_torch_backend": "cpu",
        "vllm_extra_index_urls": ["http://127.0.0.1:8901"],
    },
}
PORTS = {"podman": 2202, "process": 2203}
STAGED = {"podman": ["image_present"], "process": ["image_present", "vllm_flags"]}
# The plan is for offline; after that the same run has a server.
SERVER = {"vllm_mode": "server"}
PHASES = ("stage", "deploy")
UNITS = "migrate-vllm.service migrate-gateway.service"
PROMPTS = [{"prompt": f"def number_{number}(", "id": f"p{number}", "max_tokens": 4} for number in range(5)]


@pytest.fixture(scope="module")
def told(lab_up: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """Each runtime's story on a host of its own, both at once: they mostly wait."""
    with ThreadPoolExecutor() as pool:
        yield {runtime: pool.submit(tell, runtime, tmp_path_factory.mktemp(runtime)) for runtime in SETTINGS}


@pytest.mark.parametrize("runtime", SETTINGS)
def test_from_nothing_and_back(told: dict[str, Future[None]], runtime: str) -> None:
    told[runtime].result()


def tell(runtime: str, folder: Path) -> None:
    """Look, do, fail, generate offline, serve, do again, undo."""
    with started(docker.from_env(timeout=600), runtime, PORTS[runtime], folder) as there:
        serve_index(there)
        with there.planned(**SETTINGS[runtime]) as planned:
            with planned.opened() as run:
                before = there.footprint()
                for phase in PHASES:
                    assert run.must(phase, check=True, **SERVER).changed > 0
                assert there.footprint() == before
                run.must("stage", *STAGED[runtime])
                refused(there, run)
                run.must("deploy")
                run.passed("deploy")
            answered(there)
            with planned.opened() as run:
                run.must("deploy", "vllm_api", "gateway_serves", **SERVER)
                assert [run.must(phase, **SERVER).changes for phase in PHASES] == [[], []]
                assert booted(there) == ["migrate-gateway.service", "migrate-vllm.service"]
                for phase in reversed(PHASES):
                    run.must(f"undo_{phase}")
                assert there.footprint() == before


def serve_index(there: RuntimeHost) -> None:
    """A package index on the host that holds the stand-in alone."""
    there.put(f"{INDEX}/vllm", wheel(there.directory, load_s=5))
    serve = f"python3 -m http.server --bind 127.0.0.1 --directory {INDEX} 8901"
    there.on_host(f"systemd-run --quiet --unit=index {serve}")


def booted(there: RuntimeHost) -> list[str]:
    """Which of the units systemd starts at the next boot."""
    wanted = there.on_host("systemctl show --property=Wants --value multi-user.target").split()
    return sorted(set(wanted) & set(UNITS.split()))


def refused(there: RuntimeHost, run: Deployment) -> None:
    """An argument that vLLM does not know: the reason comes from its log, and nothing is left to start."""
    failed = run.play("deploy", **SERVER, **run.with_args(**{"no-such-option": True}))
    assert "unrecognized arguments: --no-such-option" in failed.failures[0]
    assert booted(there) == []
    assert there.on_host(f"systemctl is-active {UNITS} || true").split() == ["inactive", "inactive"]


def answered(there: RuntimeHost) -> None:
    """Five prompts and a wrong line, over a command that was ended on its way; then all of it again."""
    source, target = there.directory / "prompts.jsonl", there.directory / "answers.jsonl"
    target.unlink(missing_ok=True)
    source.write_text("".join(json.dumps(line) + "\n" for line in PROMPTS) + "no JSON\n")
    command = ["offline-generate", "--host", "gpu01", "--input", str(source), "--output", str(target)]
    cut(there, command)
    assert not target.exists()
    ended = there.migrate(*command)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert (ended.code, [line["id"] for line in lines]) == (5, ["p0", "p1", "p2", "p3", "p4", 6])
    assert "line 6 is no JSON" in lines.pop()["error"]
    assert {line["completion_tokens"] for line in lines} == {4}
    assert all(line["text"] for line in lines)
    source.write_text("".join(json.dumps(line) + "\n" for line in PROMPTS))
    again = there.migrate(*command)
    assert (again.code, "5 need no answer from the host" in again.err) == (0, True), again
    assert there.on_host("ls /var/lib/migrate/offline").split() == ["current", "lock", "offline_generate.py"]


def cut(there: RuntimeHost, command: list[str]) -> None:
    """Begin, and press Ctrl-C while vLLM loads: the work goes on."""
    silent = subprocess.DEVNULL
    running = subprocess.Popen(there.argv(*command), cwd=there.directory, stdout=silent, stderr=silent)
    while "loading" not in there.on_host("cat /var/lib/migrate/offline/*/state.json 2>/dev/null || true"):
        assert running.poll() is None
        time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=60) != 0
