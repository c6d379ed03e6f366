"""Each runtime's files as Ansible renders them: what compose, podman's generator and systemd then read of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.playbooks.conftest import PLAYBOOKS
from tests.playbooks.test_hostile_values import TEXT, for_templates, rendered

HOSTILE = f'{TEXT} %h %% $$ \\ "q"'
KEY = "k3y._~+/=-"


def of(runtime: str, template: str, place: Path, **changed: Any) -> str:
    extra = for_templates(vllm_runtime=runtime, **changed)
    return rendered(f"deploy/templates/{template}.j2", place, extra)


def values(text: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def words(text: str) -> list[str]:
    """Double-quoted words of a unit file as systemd gives them to a command (systemd.service(5), "COMMAND LINES")."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    undone = [word.replace("%%", "%").replace("$$", "$") for word in found]
    return [re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], word) for word in undone]


def test_a_unit_carries_hostile_values_as_they_are(tmp_path: Path) -> None:
    text = of("process", "migrate-vllm.service", tmp_path, vllm_args={"chat-template": HOSTILE})
    command = words(values(text, "ExecStart")[0])
    assert command[:2] == ["/var/lib/migrate/venv/bin/vllm", "serve"]
    assert command[command.index("--chat-template") + 1] == HOSTILE


def test_a_quadlet_carries_hostile_values_as_they_are(tmp_path: Path) -> None:
    text = of("podman", "migrate-vllm.container", tmp_path, vllm_args={"chat-template": HOSTILE})
    command = words(values(text, "Exec")[0])
    assert command[command.index("--chat-template") + 1] == HOSTILE


def test_the_lab_gets_the_compose_file_that_it_had(tmp_path: Path) -> None:
    changed = {"vllm_ulimits": {}, "vllm_args": {"dtype": "float32", "max-model-len": 512, "enforce-eager": True}}
    vllm = yaml.safe_load(of("docker", "compose.yml", tmp_path, **changed))["services"]["vllm"]
    assert vllm.pop("ulimits") == {}
    assert vllm["command"] == (
        "/model --served-model-name phi2 --host 0.0.0.0 --port 8000 --dtype float32 --max-model-len 512 --enforce-eager"
    ).split(" ")
    assert (vllm["shm_size"], vllm["restart"], vllm["environment"]) == ("1g", "unless-stopped", {})
    assert not {"ipc", "env_file", "entrypoint", "init"} & vllm.keys()


def test_limits_and_shared_memory(tmp_path: Path) -> None:
    own = yaml.safe_load(of("docker", "compose.yml", tmp_path))["services"]["vllm"]
    assert own["ulimits"] == {"memlock": -1, "stack": 67108864}
    shared = yaml.safe_load(of("docker", "compose.yml", tmp_path, vllm_ipc="host"))["services"]["vllm"]
    assert shared["ipc"] == "host"
    assert "shm_size" not in shared
    unit = of("process", "migrate-vllm.service", tmp_path, vllm_memory_limit="6g", vllm_cpu_limit=1.5)
    assert values(unit, "LimitMEMLOCK") == ["infinity"]
    assert values(unit, "LimitSTACK") == ["67108864"]
    assert (values(unit, "MemoryMax"), values(unit, "CPUQuota")) == (["6G"], ["150%"])
    quadlet = of("podman", "migrate-vllm.container", tmp_path)
    limits = [words for words in values(quadlet, "PodmanArgs") if "ulimit" in words]
    assert limits == ["--ulimit=memlock=-1:-1", "--ulimit=stack=67108864:67108864"]


@pytest.mark.parametrize("template", ["migrate-vllm.container", "migrate-gateway.container"])
def test_podman_4_9_takes_only_the_last_of_what_it_knows_once(template: str, tmp_path: Path) -> None:
    text = of("podman", template, tmp_path, vllm_environment={"A": "1", "B": "2"}, vllm_cache_dir="/c")
    keys = [line.partition("=")[0] for line in text.splitlines() if "=" in line and not line.startswith("#")]
    repeated = {key for key in keys if keys.count(key) > 1}
    assert repeated <= {"Volume", "Environment", "EnvironmentFile", "PodmanArgs", "AddDevice", "After", "Wants"}


@pytest.mark.parametrize(
    ("asked", "compose", "unit"),
    [("unless-stopped", "unless-stopped", "always"), ("on-failure", "on-failure", "on-failure"), ("no", "no", "no")],
)
def test_what_brings_it_back(tmp_path: Path, asked: str, compose: str, unit: str) -> None:
    services = yaml.safe_load(of("docker", "compose.yml", tmp_path, vllm_restart=asked))["services"]
    assert {service["restart"] for service in services.values()} == {compose}
    for template in ("migrate-vllm.service", "migrate-gateway.service"):
        assert values(of("process", template, tmp_path, vllm_restart=asked), "Restart") == [unit]


def test_the_card_comes_by_name(tmp_path: Path) -> None:
    assert values(of("podman", "migrate-vllm.container", tmp_path, vllm_gpus="all"), "AddDevice") == [
        "nvidia.com/gpu=all"
    ]
    assert values(of("podman", "migrate-vllm.container", tmp_path), "AddDevice") == []


@pytest.mark.parametrize("runtime", ["podman", "process"])
def test_on_the_hosts_network_all_is_on_the_loopback(runtime: str, tmp_path: Path) -> None:
    extra = for_templates(vllm_runtime=runtime)
    assert extra["gateway_config"]["listen"] == {"host": "127.0.0.1", "port": 18100}
    assert extra["gateway_config"]["upstream"]["url"] == "http://127.0.0.1:18000"
    arguments = extra["runtime_config"]["arguments"]
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert extra["runtime_config"]["environment"]["VLLM_HOST_IP"] == "127.0.0.1"


TEMPLATES = [
    ("docker", "compose.yml"),
    ("podman", "migrate-vllm.container"),
    ("podman", "migrate-gateway.container"),
    ("process", "migrate-vllm.service"),
    ("process", "migrate-gateway.service"),
]


@pytest.mark.parametrize(("runtime", "template"), TEMPLATES)
def test_the_key_is_in_no_file_but_its_own(runtime: str, template: str, tmp_path: Path) -> None:
    extra = for_templates(vllm_runtime=runtime) | {"deploy_api_key": KEY}
    text = rendered(f"deploy/templates/{template}.j2", tmp_path, extra)
    assert KEY not in text
    assert "/opt/migrate/vllm/vllm.env" in text
    assert KEY not in json.dumps(for_templates(vllm_runtime=runtime, vllm_api_key=KEY))


@pytest.mark.parametrize(("runtime", "template"), TEMPLATES[:2])
def test_offline_idles_without_port_and_gateway(runtime: str, template: str, tmp_path: Path) -> None:
    text = of(runtime, template, tmp_path, vllm_mode="offline")
    if runtime == "docker":
        services = yaml.safe_load(text)["services"]
        assert list(services) == ["vllm"]
        assert services["vllm"]["entrypoint"] == ["sleep", "infinity"]
        assert not {"ports", "healthcheck"} & services["vllm"].keys()
    assert "--served-model-name" not in text
    assert "/offline" in text


def said(place: Path, extra: dict[str, Any], message: str, given: dict[str, Any]) -> Any:
    """What Ansible makes of an expression beside a task's variables."""
    copy = {"content": "{{ (" + message + ") | to_json }}", "dest": str(place / "said")}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.copy": copy, "vars": given}]}
    (place / "play.yml").write_text(json.dumps([play]))
    (place / "extra.json").write_text(json.dumps(extra))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "play.yml"]
    argv += ["-e", "@extra.json", "-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=place, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((place / "said").read_text())


def test_offline_as_a_process_has_a_user_and_limits(tmp_path: Path) -> None:
    role = PLAYBOOKS / "roles" / "offline"
    changed = {"vllm_mode": "offline", "vllm_memory_limit": "6g", "vllm_cpu_limit": 1.5, "vllm_cache_dir": "/c d"}
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    given = yaml.safe_load((role / "vars" / "main.yml").read_text())
    extra = defaults | for_templates(vllm_runtime="process", **changed)
    argv = said(tmp_path, extra, "__offline_python['process']", given)
    assert {"--uid=migrate-vllm", "--property=MemoryMax=6G", "--property=CPUQuota=150%"} <= set(argv)
    assert '--property=ReadWritePaths="/var/lib/migrate/offline" "/c d"' in argv
    assert argv[-1] == "/var/lib/migrate/venv/bin/python"


@pytest.mark.parametrize("runtime", ["docker", "process"])
def test_a_conversion_has_neither_network_nor_the_host(runtime: str, tmp_path: Path) -> None:
    tasks = yaml.safe_load((PLAYBOOKS / "roles" / "stage" / "tasks" / "weights.yml").read_text())
    task = next(task for task in tasks if task["name"] == "Finish the weights")["block"][0]
    message = task["ansible.builtin.command"]["argv"].removeprefix("{{ ").removesuffix(" }}")
    fetched = {"source": "/s $x", "working": "/w", "convert": ["pytorch_model.bin"]}
    given = task["vars"] | {"__stage_program": "program", "__stage_fetched": fetched}
    argv = said(tmp_path, for_templates(vllm_runtime=runtime), message, given)
    if runtime == "docker":
        assert {"--network=none", "--cpu-shares=512", "--oom-score-adj=1000"} <= set(argv)
        assert argv[-5:] == ["-c", "program", "/source", "/target", "pytorch_model.bin"]
    else:
        unit = {"PrivateNetwork=yes", "ProtectSystem=strict", 'ReadWritePaths="/w"', "MemoryMax=64G"}
        assert {f"--property={name}" for name in unit} <= set(argv)
        assert argv[-4:] == ["-", "/s $$x", "/w", "pytorch_model.bin"]


@pytest.mark.parametrize(("backend", "words"), [("cpu", ["--torch-backend", "cpu"]), ("index", [])])
def test_torch_is_of_a_backend_or_of_the_index(backend: str, words: list[str], tmp_path: Path) -> None:
    tasks = yaml.safe_load((PLAYBOOKS / "roles" / "stage" / "tasks" / "runtime_process.yml").read_text())
    block = next(task for task in tasks if task["name"] == "Install vLLM")
    message = block["block"][1]["ansible.builtin.command"]["argv"].removeprefix("{{ ").removesuffix(" }}")
    extra = for_templates(vllm_runtime="process", vllm_torch_backend=backend) | {
        "stage_uv_dir": "/u",
        "stage_venv": "/v",
    }
    argv = said(tmp_path, extra, message, block["vars"])
    assert argv == ["/u/bin/uv", "pip", "install", "--python", "/v/bin/python", *words, "vllm==0.31.0"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not on this machine")
@pytest.mark.parametrize("template", ["migrate-vllm.service", "migrate-gateway.service"])
def test_systemd_takes_the_units_and_not_broken_ones(template: str, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for program in ("vllm", "python"):
        (venv / "bin" / program).write_text("#!/bin/sh\n")
        (venv / "bin" / program).chmod(0o755)
    extra = for_templates(vllm_runtime="process", vllm_args={"chat-template": HOSTILE}) | {"deploy_venv": str(venv)}
    text = rendered(f"deploy/templates/{template}.j2", tmp_path, extra)
    assert verified(text, template, tmp_path) == ""
    assert "is not executable" in verified(text.replace("ExecStart=", "ExecStart=relative "), template, tmp_path)


def verified(text: str, name: str, place: Path) -> str:
    """What `systemd-analyze verify` says of a unit itself."""
    (place / name).write_text(text)
    argv = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(place / name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return "".join(line for line in done.stderr.splitlines() if name in line)


def test_a_quoted_path_ends_before_the_colon(tmp_path: Path) -> None:
    """systemd takes no colon inside quotes for the one between source and target."""
    text = of("process", "migrate-gateway.service", tmp_path)
    assert '"/opt/migrate/vllm/gateway.yaml":/run/migrate-gateway.yaml' in text
