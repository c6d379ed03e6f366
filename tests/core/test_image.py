"""Which image vLLM comes from: what the plan says for each strategy, what it refuses, and the tag of a build."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from migrate import image, image_source, knowledge, planner, variables
from migrate import settings as settings_module
from migrate.errors import MigrateError, Refused, SettingsError
from migrate.plan import Plan

from .fakes import facts, gpu_facts, settings

NOW = datetime(2026, 11, 21, tzinfo=UTC)
DIGEST = "sha256:" + "c" * 64
SOURCE = {"image_strategy": "source"}
NIGHTLY = {"image_strategy": "nightly", "vllm_image": "vllm/vllm-openai:nightly"}


def on_card(capability: str, driver: str = "580.95.05") -> dict[str, Any]:
    found = gpu_facts()
    found["gpus"][0]["compute_capability"] = capability
    roomy = {"/": {"free": 1 << 40}, "/var/lib/docker": {"free": 1 << 40}}
    memory = {"cpus": 16, "memory_available_bytes": 64 << 30}
    return found | memory | {"driver": {"version": driver}, "disks": roomy}


def made(found: dict[str, Any], **changed: Any) -> Plan:
    return planner.make("gpu01", settings(**changed), found, "t", NOW)


def stage(plan: Plan) -> list[dict[str, str]]:
    steps = next(phase.steps for phase in plan.phases if phase.phase == "stage")
    return [{"kind": step.kind, "what": step.what, "after": step.after, "why": step.why} for step in steps]


@pytest.mark.parametrize(
    ("reference", "floor"),
    [
        ("vllm/vllm-openai:v0.26.0", {"gpu_driver_min_major": 580}),
        ("vllm/vllm-openai:v0.26.0-cu129", {"gpu_driver_min_major": 525}),
        ("registry.lab:5000/vllm:mine", {}),
    ],
)
def test_the_driver_that_the_image_needs_is_what_the_host_is_held_to(reference: str, floor: dict[str, int]) -> None:
    assert image.driver_floor(settings(vllm_image=reference)) == floor


def test_official_says_why() -> None:
    first = stage(made(on_card("12.0"), vllm_image="vllm/vllm-openai:v0.26.0"))[0]
    assert first["what"] == f"vllm/vllm-openai:v0.26.0 ({DIGEST[:19]})"
    assert "official: pulled by digest; official images cover sm_120 since 0.9.2" in first["why"]
    assert "CUDA 13.0 needs driver 580, the host has 580.95.05" in first["why"]
    assert "torch 2.11.0, NCCL 2.28.9" in first["why"]
    assert "sm_90" in image.why(settings(vllm_image="vllm/vllm-openai:v0.26.0"), on_card("9.0"))
    assert "no card" in image.why(settings(), facts())


@pytest.mark.parametrize(
    ("reference", "capability", "driver", "told", "advice"),
    [
        ("vllm/vllm-openai:v0.8.5", "12.0", "580.95.05", "no code for compute capability 12.0", "0.9.2 or later"),
        ("vllm/vllm-openai:v0.26.0", "9.0", "575.51.03", "CUDA 13.0 needs driver 580", "-cu129 (CUDA 12.9)"),
        ("vllm/vllm-openai:v0.26.0", "7.0", "580.95.05", "compiles for 7.5 and later", "image_strategy source"),
    ],
)
def test_an_image_that_card_or_driver_cannot_run_is_refused_with_one_that_they_can(
    reference: str, capability: str, driver: str, told: str, advice: str
) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        made(on_card(capability, driver), vllm_image=reference)
    assert str(caught.value).startswith("vllm_image")
    assert advice in caught.value.advice


@pytest.mark.parametrize(
    ("reference", "capability", "driver"),
    [
        ("vllm/vllm-openai:v0.26.0-cu129", "9.0", "575.51.03"),
        ("vllm/vllm-openai:v0.26.0-cu129", "7.0", "580.95.05"),
        ("vllm/vllm-openai:v0.9.2", "12.0", "580.95.05"),
    ],
)
def test_the_image_that_was_advised_is_taken(reference: str, capability: str, driver: str) -> None:
    made(on_card(capability, driver), vllm_image=reference)


def test_a_nightly_is_pinned_and_a_copy_of_it_is_kept() -> None:
    plan = made(on_card("12.0"), **NIGHTLY, image_keep_registry="registry.example.net:5000/vllm")
    assert plan.vllm_image_digest == DIGEST
    told = [step["what"] for step in stage(plan)]
    assert told[:2] == [f"vllm/vllm-openai:nightly ({DIGEST[:19]})", "registry.example.net:5000/vllm (a registry)"]
    assert image.kept(
        settings(**NIGHTLY, image_keep_registry="registry.example.net:5000/vllm"), DIGEST, NOW.isoformat()
    ) == {
        "repository": "registry.example.net:5000/vllm",
        "tag": "nightly-20261121-" + "c" * 12,
        "file": "",
    }
    file = image.kept(settings(**NIGHTLY), DIGEST, NOW.isoformat())
    assert file["repository"] == "vllm/vllm-openai"
    assert file["file"] == f"/var/lib/migrate/images/vllm-openai-nightly-20261121-{'c' * 12}.tar"
    room = {p.key: p.value for p in made(on_card("12.0"), **NIGHTLY).read_set}
    less = {p.key: p.value for p in plan.read_set}
    assert room["disks./var/lib/migrate"] > less["disks./var/lib/migrate"]


def test_a_release_is_no_nightly_and_a_nightly_wants_a_copy() -> None:
    with pytest.raises(SettingsError, match="is release 0.31.0"):
        made(on_card("12.0"), image_strategy="nightly")
    found = made(on_card("12.0"), vllm_image="vllm/vllm-openai:nightly").findings
    assert any("image_strategy: nightly" in finding["replacement"] for finding in found)


def test_a_build_is_planned_with_everything_that_it_takes() -> None:
    plan = made(on_card("12.0"), **SOURCE)
    named = plan.settings["vllm_image"]
    assert named.startswith("migrate-vllm:v0.26.0-cu129-")
    assert knowledge.version_of(named) == "0.26.0"
    assert knowledge.variant_of(named) == "cu129"
    assert plan.vllm_image_digest == ""
    assert plan.settings["image_base"] == f"nvidia/cuda:12.9.1-devel-ubuntu24.04@{DIGEST}"
    assert plan.settings["image_arch_list"] == "12.0"
    assert plan.settings["image_max_jobs"] == 10, "64 GiB free, 4 kept, 6 a compiler; 16 processors"
    first = stage(plan)[0]
    assert first == first | {"kind": "image", "what": named, "after": "built for 12.0, 10 jobs"}
    assert "source: vLLM 0.26.0" in first["why"]
    assert "official images cover sm_120 since 0.9.2" in first["why"]
    assert next(phase.estimate_s for phase in plan.phases if phase.phase == "stage") > 3600
    assert {p.key: p.value for p in plan.read_set}["disks./var/lib/docker"] == 100 << 30


def test_what_is_built_is_what_is_run() -> None:
    plan = made(on_card("12.0"), **SOURCE)
    planned = settings_module.load(plan.settings)
    assert image.reference(planned, plan.vllm_image_digest) == plan.settings["vllm_image"]
    build = image_source.build(planned)
    assert build["tag"] == plan.settings["vllm_image"]
    assert build["arguments"] == build["arguments"] | {
        "BASE_IMAGE": f"nvidia/cuda:12.9.1-devel-ubuntu24.04@{DIGEST}",
        "TORCH": "torch==2.11.0",
        "TORCH_INDEX_URL": "https://download.pytorch.org/whl/cu129",
        "TORCH_CUDA_ARCH_LIST": "12.0",
        "MAX_JOBS": "10",
        "NVCC_THREADS": "1",
    }
    assert {"image_abi.py", "vllm_import.py"} < set(build["checks"])
    assert variables.for_run(plan, planned, "r", Path("/r"), "")["vllm_image_build"] == build


def test_the_tag_follows_what_the_image_holds_and_nothing_else(tmp_path: Path) -> None:
    def tag(**changed: Any) -> str:
        return image.chosen(settings(**SOURCE, **changed), on_card("12.0")).vllm.image

    (tmp_path / "01-first.patch").write_text("--- a/x\n+++ b/x\n")
    patched = tag(image_patches_dir=str(tmp_path))
    same = [tag(), tag(image_max_jobs=2), tag(image_network="host"), tag(image_pip_config="/etc/pip.conf")]
    assert len(set(same)) == 1
    others = [patched, tag(image_arch_list="12.0;9.0"), tag(image_torch="nightly"), tag(image_vllm_sha256="0" * 64)]
    assert len({*same, *others}) == 1 + len(others)
    (tmp_path / "01-first.patch").write_text("--- a/y\n+++ b/y\n")
    assert tag(image_patches_dir=str(tmp_path)) != patched
    assert "patched: 01-first.patch" in image.why(settings(**SOURCE, image_patches_dir=str(tmp_path)), on_card("12.0"))


def test_patches_that_are_gone_do_not_stop_the_way_back(tmp_path: Path) -> None:
    (tmp_path / "a.patch").write_text("x")
    planned = image.chosen(settings(**SOURCE, image_patches_dir=str(tmp_path)), on_card("12.0"))
    (tmp_path / "a.patch").unlink()
    assert image_source.build(planned)["tag"] == ""


@pytest.mark.parametrize(
    ("changed", "capability", "error", "told"),
    [
        ({"image_arch_list": "9.0"}, "12.0", Refused, "image_arch_list: 9.0 has no code for the host's card"),
        ({"image_arch_list": "12.0a"}, "12.1", Refused, "no code for the host's card"),
        ({"image_base": "nvidia/cuda:12.6.3-devel-ubuntu24.04"}, "12.0", SettingsError, "12.8 is the first"),
        ({"image_base": "nvidia/cuda:13.0.2-devel-ubuntu24.04"}, "7.0", SettingsError, "not for 7.0"),
        ({"image_base": "registry.lab/base:1"}, "12.0", SettingsError, "names no CUDA"),
        ({"image_vllm_version": "0.99.0"}, "12.0", SettingsError, "no torch is known"),
        ({"image_patches_dir": "/no/such/folder"}, "12.0", SettingsError, "no \\*.patch in /no/such/folder"),
        ({"vllm_runtime": "podman"}, "12.0", MigrateError, "podman"),
        ({"vllm_runtime": "process"}, "12.0", SettingsError, "vllm_runtime is process"),
    ],
)
def test_a_build_that_cannot_end_well_is_refused(
    changed: dict[str, Any], capability: str, error: type[MigrateError], told: str
) -> None:
    with pytest.raises(error, match=told):
        made(on_card(capability), **SOURCE, **changed)


def test_a_host_without_a_card_builds_for_the_cards_that_are_named_or_for_none() -> None:
    with pytest.raises(Refused, match="no card to compile for"):
        image.chosen(settings(**SOURCE), facts())
    named = image.chosen(settings(**SOURCE, image_arch_list="9.0"), facts())
    assert named.image.arch_list == "9.0"
    base = "registry.lab:5000/vllm-openai:v0.31.0"
    chosen = settings(**SOURCE, image_target_device="empty", image_torch="base", image_base=base)
    assert image.chosen(chosen, facts()).vllm.image.startswith("migrate-vllm:v0.26.0-empty-")


def test_a_silent_registry_is_asked_for_the_base() -> None:
    found = on_card("12.0") | {"vllm_image": {"error": "connection refused"}}
    with pytest.raises(MigrateError, match="image_base: stage could not fetch nvidia/cuda:12.9.1"):
        made(found, **SOURCE)


def test_nightly_torch_and_the_torch_of_the_base() -> None:
    nightly = image.chosen(settings(**SOURCE, image_torch="nightly"), on_card("12.0"))
    assert image_source.arguments(nightly)["TORCH_INDEX_URL"].endswith("/nightly/cu129")
    assert image_source.arguments(nightly)["TORCH"].startswith("--pre torch")
    base = image.chosen(settings(**SOURCE, image_torch="base", image_base="own/base:1"), on_card("12.0"))
    assert image_source.arguments(base)["TORCH"] == ""
    assert image_source.variant(base) == "cuda"
