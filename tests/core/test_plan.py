import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import plan as planning
from migrate import planner
from migrate.errors import GateFailed, Refused

from .fakes import facts, plan, settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def changed(path: str, value: Any) -> dict[str, Any]:
    found = facts()
    *parents, last = path.split(".")
    node = found
    for parent in parents:
        node = node[parent]
    node[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        ("triton.container", None, Refused, "triton_container"),
        ("triton.live", False, Refused, "triton_http_port"),
        ("triton.models", [], Refused, "triton_models: Triton does not serve phi2"),
        ("triton.models", [{"name": "phi2"}], Refused, "triton_models: Triton does not serve phi2"),
        ("owner", {"kind": "kubernetes", "evidence": ["cgroup kubepods"]}, Refused, "kubernetes.*kubepods"),
        ("owner", {"kind": "unknown", "evidence": ["Docker Swarm"]}, Refused, "owned by unknown.*Docker Swarm"),
        ("owner", {"kind": "systemd", "name": "triton.service"}, Refused, "owned by systemd triton.service"),
        ("model_repository.exists", False, Refused, "triton_model_repository"),
        ("weights.exists", False, Refused, "vllm_weights_source"),
        ("vllm_image", {"error": "connection refused"}, GateFailed, "vllm_image.*connection refused"),
    ],
)
def test_a_host_that_cannot_be_migrated_is_refused_by_setting(path: str, value: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        planner.make("gpu01", settings(), changed(path, value), "t", NOW)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("triton.container.image_id", "sha256:2"),
        ("model_repository.digest", "0" * 64),
        ("nginx.files", {"/etc/nginx/nginx.conf": "events {}"}),
        ("os.version_id", "22.04"),
        ("vllm_image.digest", "sha256:" + "d" * 64),
        ("weights.digest", None),
    ],
)
def test_drift_is_seen_and_named(path: str, value: Any) -> None:
    moved = planning.drift(plan(), changed(path, value))
    assert [drift.key for drift in moved] == [{"nginx.files": "nginx.digest"}.get(path, path)]


def test_less_free_disk_than_needed_is_drift_and_a_little_less_is_not() -> None:
    made = plan()
    assert planning.drift(made, changed("disks./", {"free": 1 << 20}))
    assert not planning.drift(made, changed("disks./", {"free": 40 << 30}))


def test_a_silent_registry_is_left_to_the_phases_that_need_it() -> None:
    assert not planning.drift(plan(), changed("vllm_image.digest", None))


def test_a_host_without_room_is_refused_by_the_plan_itself() -> None:
    with pytest.raises(Refused, match="too little room: disks./var/lib/docker"):
        planner.make("gpu01", settings(), changed("disks./", {"total": 1, "free": 10}), "t", NOW)


def test_room_is_looked_for_where_it_is_needed() -> None:
    found = facts()
    found["disks"]["/var/lib/docker"] = {"total": 100 << 30, "free": 60 << 30}
    made = planner.make("gpu01", settings(), found, "t", NOW)
    assert not planning.drift(made, found)
    found["disks"]["/var/lib/docker"]["free"] = 1 << 30
    assert [drift.key for drift in planning.drift(made, found)] == ["disks./var/lib/docker"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("docker", {"server_ok": False, "reason": "no such socket"}, "Docker engine does not answer: no such socket"),
        ("nginx.reason", "no such file", "nginx could not be read: no such file"),
        ("weights.reason", "Permission denied", "weights could not be read: Permission denied"),
    ],
)
def test_a_plan_does_not_rest_on_what_could_not_be_read(path: str, value: Any, message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        planner.make("gpu01", settings(), changed(path, value), "t", NOW)
    assert refused.value.advice


def test_a_port_that_somebody_has_is_in_the_plan() -> None:
    taken = changed("listening", [{"address": "0.0.0.0", "port": 18000, "process": "java"}])
    findings = planner.make("gpu01", settings(), taken, "t", NOW).findings
    assert [(f["name"], f["problem"]) for f in findings if f["kind"] == "port"] == [("port 18000", "used by java")]


def test_what_a_phase_of_this_run_changed_is_no_drift_after_it_and_is_before() -> None:
    taken = facts()
    taken["listening"] = [{"address": "127.0.0.1", "port": 18000, "process": "docker-proxy"}]
    taken["vllm_image"]["digest"] = "sha256:" + "d" * 64
    made = plan()
    assert {drift.key for drift in planning.drift(made, taken)} == {"ports.18000", "vllm_image.digest"}
    assert not planning.drift(made, taken, passed={"stage", "deploy"})


def test_a_port_that_was_taken_is_left_to_preflight() -> None:
    taken = facts()
    taken["listening"] = [{"address": "127.0.0.1", "port": 18000, "process": "python3"}]
    made = planner.make("gpu01", settings(), taken, "t", NOW)
    assert not [predicate for predicate in made.read_set if predicate.key == "ports.18000"]


def test_an_accepted_drift_is_none_until_the_value_moves_again() -> None:
    made, moved = plan(), changed("model_repository.digest", "0" * 64)
    accepted = {"model_repository.digest": "0" * 64}
    assert not planning.drift(made, moved, accepted=accepted)
    moved["model_repository"]["digest"] = "1" * 64
    assert planning.drift(made, moved, accepted=accepted)


def test_drift_is_refused_with_a_diff_and_the_line_to_paste() -> None:
    moved = planning.drift(plan(), changed("os.version_id", "22.04"))
    with pytest.raises(Refused) as refused:
        planning.refuse_drift(moved, "gpu01", "migrate apply p.json", otherwise="plan again")
    assert "- 24.04\n    + 22.04" in str(refused.value)
    assert "migrate apply p.json --accept-drift os.version_id" in refused.value.advice


def test_a_plan_of_an_older_schema_still_leads_back() -> None:
    data = json.loads(plan().text())
    for name in ("translation", "findings", "memory", "clients", "expectations", "id"):
        del data[name]
    data |= {"schema": 1, "tool_version": "0.0.1"}
    for phase in data["phases"]:
        phase["steps"] = [{key: step[key] for key in step if key != "kind"} for step in phase["steps"]]
    data["id"] = hashlib.sha256(planning.canonical(data).encode()).hexdigest()
    with pytest.raises(Refused, match="of version 0.0.1"):
        planning.from_json(data)
    assert planning.from_json(data, any_version=True).host == "gpu01"


def test_a_saved_plan_reads_back() -> None:
    made = plan()
    assert planning.from_json(json.loads(made.text())).id == made.id


def test_an_edited_plan_is_refused() -> None:
    data = json.loads(plan().text())
    data["host"] = "gpu02"
    with pytest.raises(Refused, match="edited"):
        planning.from_json(data)


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(Refused, match="not a plan"):
        planning.from_json({"schema": 1})


def test_an_expired_plan_is_refused() -> None:
    made = plan()
    planning.refuse_expired(made, NOW + timedelta(hours=71))
    with pytest.raises(Refused, match="expired"):
        planning.refuse_expired(made, NOW + timedelta(hours=72))


@given(st.text(max_size=40))
def test_any_value_of_a_setting_survives_the_plan_file(text: str) -> None:
    made = plan(vllm_environment={"NOTE": text})
    assert planning.from_json(json.loads(made.text())).settings["vllm_environment"]["NOTE"] == text
