"""Where the weights come from: settings, refusals, the pinned commit, room and steps of the plan."""

from __future__ import annotations

import copy
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import inventory, planner, playbook, variables, weights
from migrate import plan as planning
from migrate import settings as settings_module
from migrate.errors import GateFailed, Refused, SettingsError
from migrate.plan import Plan
from migrate.playbook import AnsiblePlaybooks
from tests.playbooks.hub import COMMIT as COMMIT_OF_HUB
from tests.playbooks.hub import Faults, serving

from .fakes import PHI_2, VARIABLES, facts

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COMMIT = "ef382358ec9e382308935a992d908de099b64c23"
HUB = {key: value for key, value in VARIABLES.items() if key != "vllm_weights_source"} | {
    "weights_repository": "microsoft/phi-2",
    "weights_revision": "main",
}


def hub_facts(**changed: Any) -> dict[str, Any]:
    found = copy.deepcopy(facts())
    listing = {"config.json": 735, "model.safetensors": 5_563_000_000, "tokenizer.json": 2_000_000}
    found["weights"] = {
        "path": f"microsoft/phi-2@{COMMIT}",
        "exists": True,
        "kind": "hub",
        "format": "safetensors",
        "hub": "huggingface.co",
        "commit": COMMIT,
        "bytes": sum(listing.values()),
        "digest": "d" * 64,
        "listing": listing,
        "hashes": {name: f"sha256:{'0' * 64}" for name in listing},
        "texts": {"config.json": json.dumps(PHI_2)},
        "reason": None,
    } | changed
    return found


def made(found: dict[str, Any], given: dict[str, Any] = HUB) -> Plan:
    return planner.make("gpu01", settings_module.load(given), found, "t" * 64, NOW)


def test_one_setting_alone_says_where_the_weights_come_from() -> None:
    with pytest.raises(SettingsError, match="vllm_weights_source and weights_repository: each says"):
        settings_module.load(VARIABLES | {"weights_repository": "microsoft/phi-2"})
    with pytest.raises(SettingsError, match="vllm_weights_source"):
        settings_module.load({key: value for key, value in VARIABLES.items() if key != "vllm_weights_source"})
    with pytest.raises(SettingsError, match="vllm_weights_source: missing"):
        settings_module.load(VARIABLES | {"vllm_weights_source": ""})


@pytest.mark.parametrize(
    "changed",
    [
        {"weights_repository": "../etc"},
        {"weights_repository": "a/b/c"},
        {"weights_revision": "main?x=1"},
        {"weights_endpoint": "file:///etc"},
        {"weights_proxy": "http://me:secret@proxy:3128"},
        {"weights_hub": "github"},
        {"weights_offline_copy": "copy"},
    ],
)
def test_a_bad_setting_is_named(changed: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(changed))):
        settings_module.load(HUB | changed)


def test_the_token_is_let_through_and_kept_nowhere() -> None:
    settings = settings_module.load(HUB | {"weights_token": "hf_secret"})
    assert "hf_secret" not in json.dumps(settings.flat())
    assert not re.match(inventory.SETTING_NAMES, "weights_token")
    assert re.match(inventory.SETTING_NAMES, "weights_repository")
    with pytest.raises(SettingsError, match="weights_tokn: unknown setting"):
        settings_module.load(HUB | {"weights_tokn": "x"})


def test_the_plan_pins_the_commit_and_holds_every_hash() -> None:
    plan = made(hub_facts())
    assert plan.settings["weights_revision"] == COMMIT
    assert plan.weights and plan.weights["files"]["model.safetensors"] == [5_563_000_000, f"sha256:{'0' * 64}"]
    steps = [step for phase in plan.phases if phase.phase == "stage" for step in phase.steps]
    told = "weights: microsoft/phi-2@ef382358ec9e, 5.6 GB from huggingface.co, 3 files, sha256 verified"
    assert told in [step.after for step in steps]
    assert planning.from_json(json.loads(plan.text())).text() == plan.text()
    loaded = settings_module.load(plan.settings)
    extra = variables.for_run(plan, loaded, "r1", Path("/tmp/raw"), "")
    assert (extra["stage_weights"]["commit"], extra["weights_revision"]) == (COMMIT, COMMIT)


def test_a_hub_that_moved_on_is_drift_until_the_weights_are_there() -> None:
    plan = made(hub_facts())
    moved = hub_facts(digest="e" * 64)
    assert [one.key for one in planning.drift(plan, moved)] == ["weights.digest"]
    assert planning.drift(plan, moved, passed={"stage"}) == []
    silent = hub_facts(exists=False, digest=None)
    assert planning.drift(plan, silent, passed={"stage"}) == []


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"exists": False, "reason": "weights_revision: no such"}, Refused, "weights_revision: no such"),
        ({"exists": False, "silent": True, "reason": "weights_endpoint: silent"}, GateFailed, "weights_endpoint"),
        ({"format": "none"}, Refused, "weights_repository: .*holds neither"),
        ({"format": "engines"}, Refused, "TensorRT engines alone"),
        ({"texts": {}}, Refused, "no config.json"),
        ({"bytes": 60 << 30}, Refused, "too little room"),
        ({"bytes": 26 << 30, "format": "bin"}, Refused, "too little room"),
    ],
)
def test_weights_that_cannot_be_are_refused(changed: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        made(hub_facts(**changed))


def test_weights_that_just_fit_are_not_refused() -> None:
    assert made(hub_facts(bytes=26 << 30)).weights


def test_engines_are_refused_with_what_to_fetch() -> None:
    with pytest.raises(Refused) as refused:
        made(hub_facts(format="engines", bases=["microsoft/phi-2"]))
    assert "weights_repository: microsoft/phi-2" in refused.value.advice


@pytest.mark.parametrize(
    ("image", "accepted"),
    [
        ("vllm/vllm-openai:v0.23.0", True),
        ("vllm/vllm-openai:v0.26.0", False),
        ("registry.lab:5000/vllm@sha256:" + "0" * 64, False),
    ],
)
def test_gguf_goes_by_the_release(image: str, accepted: bool) -> None:
    settings = settings_module.load(HUB | {"vllm_image": image})
    found = hub_facts(format="gguf")
    if accepted:
        weights.refuse_unfit(settings, found)
        return
    with pytest.raises(Refused, match="holds GGUF alone"):
        weights.refuse_unfit(settings, found)


def test_a_folder_of_checkpoints_says_that_they_are_converted() -> None:
    found = copy.deepcopy(facts())
    found["weights"] |= {"format": "bin", "kind": "directory"}
    plan = made(found, VARIABLES)
    steps = [step for phase in plan.phases if phase.phase == "stage" for step in phase.steps]
    assert any("written from pytorch_model*.bin" in step.after for step in steps)
    assert weights.needed(found) == found["weights"]["bytes"]


def test_another_disk_is_looked_at_for_itself() -> None:
    given = HUB | {"vllm_weights_path": "/data/weights/phi2"}
    found = hub_facts()
    found["disks"]["/data"] = {"total": 1 << 40, "free": 1 << 40}
    needed = {p.key: p.value for p in made(found, given).read_set if p.key.startswith("disks.")}
    assert needed["disks./data/weights"] == found["weights"]["bytes"]
    found["disks"]["/data"]["free"] = 1
    with pytest.raises(Refused, match="disks./data/weights"):
        made(found, given)


def test_the_token_reaches_the_hub_and_nothing_else(tmp_path: Path) -> None:
    """The whole discovery on this machine: real Ansible, the stand-in hub that asks for a token."""
    token, files = "hf_verySecretToken123", {"config.json": json.dumps(PHI_2).encode(), "model.safetensors": b"x"}
    with serving(files, Faults(token=token)) as hub:
        given = HUB | {
            "weights_repository": "acme/model",
            "weights_endpoint": hub.url,
            "weights_token": "{{ vault_token }}",
            "vault_token": token,
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
        }
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"h": given}}}), encoding="utf-8")
        said: list[str] = []
        playbooks = AnsiblePlaybooks(inventory.Inventory(tmp_path), tmp_path / "kept")
        wanted = {"migrate_target": "h", "discover_settings": inventory.SETTING_NAMES}
        result = playbooks.run("discover", wanted, said.append)
    assert (result.facts["weights"]["commit"], result.facts["weights"]["format"]) == (COMMIT_OF_HUB, "safetensors")
    assert result.results["settings"]["weights_repository"] == "acme/model"
    kept = "".join(path.read_text() for path in (tmp_path / "kept").iterdir())
    assert kept
    assert token not in json.dumps([result.facts, result.results, result.failures, said, kept])


def test_a_task_that_is_tried_again_tells_how_far_it_is() -> None:
    said: list[str] = []
    collect = playbook._collector(playbook.PlaybookResult(), said.append)
    data = {"task": "Fetch the weights so far", "res": {"progress": "3.10 of 5.57 GB, 84.0 MB/s, 29 s left"}}
    collect({"event": "runner_retry", "event_data": data})
    collect({"event": "runner_retry", "event_data": {"task": "Wait for vLLM", "res": {}}})
    assert said == ["Fetch the weights so far: 3.10 of 5.57 GB, 84.0 MB/s, 29 s left"]
