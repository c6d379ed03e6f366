"""Facts of hosts that lack parts, and of captured output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SS = """\
LISTEN 0 4096 127.0.0.1:8090 0.0.0.0:* users:(("docker-proxy",pid=7,fd=4))
LISTEN 0 4096 127.0.0.11:32791 0.0.0.0:*
LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=1,fd=4))
"""
PARAMS = {
    "triton_container": "triton",
    "triton_http_port": 1,
    "triton_model_repository": "/none/models",
    "nginx_config_file": "/none/nginx.conf",
    "nginx_service": "nginx",
    "vllm_image": "registry.lab:5000/vllm-openai:v1",
    "vllm_weights_source": "/none/weights",
}


@pytest.fixture
def facts(library: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = library("host_facts")
    monkeypatch.setattr(module, "DOCKER_SOCKET", str(tmp_path / "none"))
    return module


def test_a_host_that_lacks_everything_is_described(facts: ModuleType) -> None:
    found = facts.read_host(PARAMS, lambda argv: (127, "", f"{argv[0]}: not found"))
    assert json.dumps(found)
    assert (found["docker"]["server_ok"], found["docker"]["reason"]) == (False, "docker: not found")
    assert (found["triton"]["container"], found["triton"]["live"]) == (None, False)
    assert found["triton"]["reason"] == "no container is named triton"
    assert (found["nginx"]["running"], found["nginx"]["version"]) == (False, None)
    assert found["vllm_image"]["digest"] is None
    assert "engine" in found["vllm_image"]["error"]
    assert (found["weights"]["exists"], found["model_repository"]["exists"], found["gpus"]) == (False, False, [])
    assert found["hostctl"] == {"installed": False, "status": None}


def test_listening_sockets(facts: ModuleType) -> None:
    assert facts.listening(SS) == [
        {"address": "127.0.0.1", "port": 8090, "process": "docker-proxy"},
        {"address": "127.0.0.11", "port": 32791, "process": None},
        {"address": "[::]", "port": 22, "process": "sshd"},
    ]


def test_gpus(facts: ModuleType) -> None:
    line = "0, NVIDIA H200, 143771, 143000, 580.159.04, 9.0\n"
    assert facts.gpus(lambda argv: (9, "NVIDIA-SMI has failed", "")) == []
    assert facts.gpus(lambda argv: (0, line, ""))[0]["memory.total"] == "143771"


def test_a_tree_has_one_digest_whatever_wrote_it(facts: ModuleType, module_utils: ModuleType, tmp_path: Path) -> None:
    for folder, names in (("a", ["x", "y"]), ("b", ["y", "x"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(name)
    first, second = facts.tree(str(tmp_path / "a")), facts.tree(str(tmp_path / "b"))
    assert (first["digest"], first["files"], first["bytes"]) == (second["digest"], 2, 2)
    (tmp_path / "b" / "x").write_text("z")
    assert facts.tree(str(tmp_path / "b"))["digest"] != first["digest"]
    files = module_utils.manifest(tmp_path / "a")
    assert module_utils.parse_manifest(module_utils.manifest_text(files)) == files


def test_the_lab_says_that_it_is_one(facts: ModuleType, tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n')
    assert facts.operating_system(release)["lab_note"] is None
    release.write_text('ID=ubuntu\nLAB_NOTE="a Debian system"\n')
    assert facts.operating_system(release)["lab_note"] == "a Debian system"
