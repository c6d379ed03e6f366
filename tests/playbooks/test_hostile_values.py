"""Values of the inventory and of the host's files are data: no shell, compose file or template ever runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import runtimes, settings, variables
from migrate.errors import SettingsError
from migrate.playbook import _literal
from tests.core.fakes import VARIABLES
from tests.core.fakes import settings as valid
from tests.playbooks.conftest import PLAYBOOKS

HOSTILE = [
    "; touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "a'b\"c",
    "{{ lookup('pipe', 'touch pwned') }}",
    "${HOME}",
]
TEXT = " ".join(HOSTILE)


def rendered(template: str, place: Path, extra: dict[str, Any]) -> str:
    """A role's template as Ansible renders it."""
    (place / "extra.json").write_text(json.dumps(_literal(extra)))
    argv = [Path(sys.executable).with_name("ansible"), "localhost", "-i", "localhost,", "-c", "local"]
    argv += ["-e", f"@{place / 'extra.json'}", "-e", f"ansible_python_interpreter={sys.executable}"]
    argv += ["-m", "ansible.builtin.template", "-a", f"src={PLAYBOOKS / 'roles' / template} dest={place / 'out'}"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=place, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (place / "pwned").exists()
    return (place / "out").read_text()


def for_templates(**changed: Any) -> dict[str, Any]:
    """What the roles' templates get, from settings with some variables changed."""
    loaded = valid(**changed)
    defaults = {}
    for role in ("deploy", "hostctl"):
        defaults |= yaml.safe_load((PLAYBOOKS / "roles" / role / "defaults" / "main.yml").read_text())
    return (
        defaults
        | loaded.flat()
        | {
            "vllm_image_digest": "registry.lab:5000/vllm@sha256:1",
            "gateway_image": "gateway:1",
            "gateway_config": variables.gateway_config(loaded),
            "hostctl_config": variables.hostctl_config(loaded),
            "runtime_config": runtimes.of(loaded).as_json(),
            "deploy_api_key": "",
        }
    )


def undoubled(value: Any) -> Any:
    """A compose value as the container gets it, once no single dollar is left that compose would replace."""
    text = json.dumps(value)
    assert "$" not in text.replace("$$", "")
    return json.loads(text.replace("$$", "$"))


def test_the_compose_file_carries_hostile_values_as_they_are(tmp_path: Path) -> None:
    extra = for_templates(vllm_args={"chat-template": TEXT}, vllm_environment={"X": TEXT})
    vllm = yaml.safe_load(rendered("deploy/templates/compose.yml.j2", tmp_path, extra))["services"]["vllm"]
    command = undoubled(vllm["command"])
    assert command[command.index("--chat-template") + 1] == TEXT
    assert undoubled(vllm["environment"]) == {"X": TEXT}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_wrong_quote_would_be_seen(text: str) -> None:
    with pytest.raises((AssertionError, json.JSONDecodeError)):
        assert undoubled([f"{text} $HOME"]) == [text]


def test_the_way_back_reads_hostile_values_as_they_are(tmp_path: Path) -> None:
    extra = for_templates(triton_compose_file=f"/opt/{TEXT}/compose.yml")
    text = rendered("hostctl/templates/back.env.j2", tmp_path, extra)
    (tmp_path / "back.env").write_text(text)
    script = '. ./back.env; eval "set -- $BACK_START"; for word; do printf "%s\\n" "$word"; done'
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert f"/opt/{TEXT}/compose.yml" in done.stdout.splitlines()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"vllm_args": {"x; touch pwned": 1}},
        {"vllm_environment": {"A=B": "1"}},
        {"vllm_image": "a;b"},
        {"vllm_served_model_name": "--trust-remote-code"},
        {"vllm_args": {"chat-template": "a\nb"}},
        {"triton_compose_service": "--help"},
        {"nginx_service": "x; reboot"},
        {"migrate_public_http_url": "http://x y"},
        {"vllm_memory_limit": "0g"},
        {"vllm_weights_source": "/a\nb"},
        {"triton_model_repository": "relative"},
    ],
)
def test_a_name_that_cannot_be_one_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(changed))):
        settings.load(VARIABLES | changed)


def tasks(value: Any) -> Iterator[dict[str, Any]]:
    """Every task of a YAML file, those inside blocks too."""
    for item in value if isinstance(value, list) else []:
        yield item
        for part in ("block", "rescue", "always"):
            yield from tasks(item.get(part))


def test_no_task_goes_through_a_shell() -> None:
    found = [task for path in PLAYBOOKS.glob("roles/*/*/*.yml") for task in tasks(yaml.safe_load(path.read_text()))]
    assert len(found) > 30
    assert not [t["name"] for t in found if {"ansible.builtin.shell", "ansible.builtin.raw", "shell", "raw"} & t.keys()]
    commands = [task["ansible.builtin.command"] for task in found if "ansible.builtin.command" in task]
    assert commands
    assert all(isinstance(command, dict) and "argv" in command for command in commands)
