"""What the GPU checks say of captures from real machines, and of the same captures with one thing broken."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.checks.conftest import SmallHost

CASES = Path(__file__).parents[1] / "cases"
REAL = sorted((CASES / "real-h200").glob("*.json"))
BROKEN = [
    (path.stem, case) for path in sorted((CASES / "checks").glob("*.yaml")) for case in yaml.safe_load(path.read_text())
]
EXIT = {"pass": 0, "fail": 1, "inconclusive": 2}
ON_GPUS = (
    "gpu_driver",
    "cuda_toolkit",
    "nccl_host",
    "container_gpu",
    "torch_gpu",
    "nccl_allreduce",
    "vllm_import",
    "image_abi",
    "vllm_api",
)


def module(name: str) -> ModuleType:
    """A check; pytest's `pythonpath` has their folder."""
    return importlib.import_module(name)


def captured(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CASES / "real-h200" / f"{name}.json").read_text())
    return found


def changed(raw: Any, path: str, value: Any) -> None:
    """Set a dotted path; a key may hold dots itself, so the longest that is there is taken."""
    if isinstance(raw, list):
        head, _, rest = path.partition(".")
        key: Any = int(head)
    else:
        heads = [name for name in raw if path == name or path.startswith(f"{name}.")]
        key = max(heads, key=len) if heads else path
        rest = path[len(key) + 1 :]
    if rest:
        changed(raw[key], rest, value)
    else:
        raw[key] = value


def broken(case: dict[str, Any]) -> dict[str, Any]:
    raw: dict[str, Any] = captured(case["from"])["raw"]
    if "tries" in case:
        raw["tries"] = [captured(name)["raw"]["tries"][0] for name in case["tries"]]
    for path, value in (case.get("set") or {}).items():
        changed(raw, path, value)
    return raw


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_capture_from_a_real_machine_is_judged_as_it_was_there(path: Path, host: SmallHost) -> None:
    case = json.loads(path.read_text())
    rc, found = host.check(case["check"], **case["settings"], raw=str(path))
    assert found["verdict"] == case["verdict"], found
    assert (found["measured"], found["advice"]) == (case["measured"], case["advice"])
    assert (rc, found["versions"]) == (EXIT[case["verdict"]], case["versions"])


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_capture_says_when_and_on_what_and_nothing_that_names_a_machine(path: Path) -> None:
    case = json.loads(path.read_text())
    assert case["date"] == "2026-11-21"
    assert "580.159.04" in case["machine"]
    named = re.search(r"GPU-[0-9a-f]{8}|[0-9a-f]{8}-[0-9a-f]{4}-|serial|hostname", path.read_text(), re.IGNORECASE)
    assert named is None


@pytest.mark.parametrize(("check", "case"), BROKEN, ids=[f"{check}: {case['name']}" for check, case in BROKEN])
def test_one_thing_broken(check: str, case: dict[str, Any]) -> None:
    found = module(check).judge(broken(case), case.get("settings") or {})
    assert found["verdict"] == case["verdict"], found
    assert case.get("advice", "") in found["advice"]
    assert bool(found["advice"]) == (case["verdict"] != "pass")
    assert case.get("detail", "") in found["detail"]


@pytest.mark.parametrize("check", ON_GPUS)
def test_every_check_was_run_on_a_real_machine_and_fails_in_three_ways(check: str) -> None:
    assert [path for path in REAL if json.loads(path.read_text())["check"] == check]
    failing = [case for name, case in BROKEN if name == check and case["verdict"] == "fail"]
    failing += [
        case
        for case in map(json.loads, map(Path.read_text, REAL))
        if case["check"] == check and case["verdict"] == "fail"
    ]
    assert len(failing) >= 3


@pytest.mark.parametrize("check", ON_GPUS)
def test_the_answer_can_hold_what_was_read(check: str, host: SmallHost) -> None:
    path = next(path for path in REAL if json.loads(path.read_text())["check"] == check)
    settings = json.loads(path.read_text())["settings"]
    found = host.check(check, **settings, raw=str(path), show_raw=True)[1]
    assert found["raw"] == json.loads(path.read_text())["raw"]
    assert host.check(check, **settings, raw=found["raw"])[1]["measured"] == found["measured"]
