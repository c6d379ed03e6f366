"""Facts of hosts that lack parts, and of captured output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from migrate.settings import Settings, known_settings
from tests.playbooks.conftest import PLAYBOOKS

SS = """\
LISTEN 0 4096 127.0.0.1:8090 0.0.0.0:* users:(("docker-proxy",pid=7,fd=4))
LISTEN 0 4096 127.0.0.11:32791 0.0.0.0:*
LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=1,fd=4))
"""
PARAMS = {
    "triton_container": "triton",
    "triton_compose_file": "/none/compose.yml",
    "triton_http_port": 1,
    "triton_grpc_port": 2,
    "triton_metrics_port": 3,
    "nginx_access_logs": [],
    "public_ports": [80],
    "window_s": 60,
    "watch_s": 0,
    "gpu_root": "/",
    "triton_model_repository": "/none/models",
    "nginx_config_file": "/none/nginx.conf",
    "nginx_service": "nginx",
    "vllm_image": "registry.lab:5000/vllm-openai:v1",
    "vllm_weights_source": "/none/weights",
}


@pytest.fixture
def facts(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("host_facts")


def test_a_host_that_lacks_everything_is_described(facts: ModuleType, tmp_path: Path) -> None:
    found = facts.read_host(PARAMS, lambda argv: (127, "", f"{argv[0]}: not found"), tmp_path)
    assert json.dumps(found)
    assert (found["docker"]["server_ok"], found["docker"]["version"]) == (False, None)
    assert found["docker"]["reason"] == "the Docker engine does not answer: No such file or directory"
    assert (found["triton"]["container"], found["triton"]["live"]) == (None, False)
    assert found["triton"]["reason"] == "no container is named triton"
    assert (found["nginx"]["running"], found["nginx"]["version"]) == (False, None)
    assert found["vllm_image"]["digest"] is None
    assert "engine" in found["vllm_image"]["error"]
    assert (found["weights"]["exists"], found["model_repository"]["exists"], found["gpus"]) == (False, False, [])
    assert (found["driver"]["version"], found["driver"]["reason"]) == (None, "nvidia-smi: not found")
    assert (found["owner"]["kind"], found["containers"], found["compose_projects"]) == ("unknown", [], [])
    assert (found["os"]["id"], found["listening"]) == (None, None)
    assert found["clients"]["reason"]
    assert found["hostctl"] == {"installed": False, "status": None}
    assert found["nginx"]["reason"] == "nginx: not found"
    assert found["reasons"] == {}


def test_the_host_is_only_asked(facts: ModuleType, tmp_path: Path) -> None:
    ran: list[list[str]] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        ran.append(argv)
        return 0, "", ""

    facts.read_host(PARAMS, run, tmp_path)
    assert list(tmp_path.iterdir()) == []
    words = {word for argv in ran for word in argv[1:]}
    assert not words & {"start", "stop", "restart", "enable", "pull", "run", "rm", "up", "down", "reload", "set-ntp"}


def test_listening_sockets(facts: ModuleType) -> None:
    assert facts.listening((0, SS, "")) == [
        {"address": "127.0.0.1", "port": 8090, "process": "docker-proxy"},
        {"address": "127.0.0.11", "port": 32791, "process": None},
        {"address": "[::]", "port": 22, "process": "sshd"},
    ]
    assert facts.listening((127, "", "ss: not found")) is None
    assert facts.listening((0, "LISTEN 0\n\nLISTEN 0 1 nothing x\nLISTEN 0 1 *:http *:*\n", "")) == []


PARTS = {
    "containers.image_in_registry": ("vllm_image", {"digest": None}),
    "containers.docker": ("docker", {"server_ok": False}),
    "containers.inspected": ("containers", []),
    "containers.compose_projects": ("compose_projects", None),
    "gpu.gpus": ("gpus", None),
    "gpu.driver": ("driver", None),
    "gpu.toolkits_and_nccl": ("cuda_toolkits", None),
    "hostctl": ("hostctl", {"installed": False}),
    "nginx": ("nginx", {"files": {}}),
    "clients": ("clients", {"log": []}),
    "owner": ("owner", {"kind": "unknown"}),
    "triton": ("triton", {"live": False, "container": None}),
    "weights": ("weights", {"digest": None, "path": "/none/weights"}),
    "model_repository": ("model_repository", {"models": {}}),
    "listening": ("listening", None),
    "disks": ("disks", None),
    "operating_system": ("os", None),
    "available_memory": ("memory_available_bytes", None),
}


@pytest.mark.parametrize("reader", PARTS)
def test_a_part_that_raises_ends_nothing_else(
    facts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    def raises(*args: object, **options: object) -> None:
        raise ValueError("hunter2")

    monkeypatch.setattr(f"host_facts.{reader}", raises)
    found = facts.read_host(PARAMS, lambda argv: (127, "", f"{argv[0]}: not found"), tmp_path)
    name, wanted = PARTS[reader]
    assert "hunter2" not in json.dumps(found)
    assert any("ValueError (raises:" in reason for reason in found["reasons"].values()), found["reasons"]
    if isinstance(wanted, dict):
        assert found[name].items() >= wanted.items()
        assert "ValueError" in found[name]["reason"]
    else:
        assert found[name] == wanted


def test_a_program_that_hangs_or_is_missing_ends(facts: ModuleType) -> None:
    run = facts.bounded(0.2)
    assert run(["sleep", "5"])[0] == 124
    assert run(["no-such-program"]) == (127, "", "no-such-program: No such file or directory")
    assert run(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\n", "err\n")


def test_the_kernel_tells_whether_the_clock_is_set(facts: ModuleType) -> None:
    assert facts.clock_is_synchronized() in (True, False)


def test_available_memory(facts: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable:    4 kB\n")
    assert facts.available_memory(tmp_path / "meminfo") == 4096
    assert facts.available_memory(tmp_path / "none") is None


def test_the_roles_defaults_are_those_of_the_settings() -> None:
    role = PLAYBOOKS / "roles" / "discover"
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    options = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert all(defaults[name] == option["default"] for name, option in options.items() if "default" in option)
    for name, (section, field) in known_settings().items():
        if name in options:
            info = Settings.model_fields[section].annotation.model_fields[field]
            # Of the settings that name the weights, any one is enough.
            wanted = info.is_required() and name != "vllm_weights_source"
            assert options[name].get("required", False) is wanted, name
            assert defaults["discover_defaults"].get(name) == (None if info.is_required() else info.default), name


def test_the_lab_says_that_it_is_one(facts: ModuleType, tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n')
    assert facts.operating_system(release)["lab_note"] is None
    release.write_text('ID=ubuntu\nLAB_NOTE="a Debian system"\n')
    assert facts.operating_system(release)["lab_note"] == "a Debian system"
