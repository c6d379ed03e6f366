"""Who owns Triton and what brings it back: a host of files, inspected containers and commands for each case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

CASES = sorted((Path(__file__).parents[1] / "cases" / "discover" / "owner").glob("*.yml"))


@pytest.fixture
def module(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_owner")


def container(written: dict[str, Any]) -> dict[str, Any]:
    """`docker container inspect` in its own form."""
    return {
        "Name": written["Name"],
        "Id": written.get("Id", "0" * 64),
        "Config": {"Image": written.get("image", "tritonserver"), "Labels": written.get("labels")},
        "State": {"Status": written.get("state", "running")},
        "HostConfig": {"RestartPolicy": {"Name": written["restart"]}},
    }


def answers(commands: dict[str, str]) -> Callable[[list[str]], tuple[int, str, str]]:
    def run(argv: list[str]) -> tuple[int, str, str]:
        line = " ".join(argv)
        found = next((out for begins, out in commands.items() if line.startswith(begins)), None)
        return (0, found, "") if found is not None else (127, "", f"{argv[0]}: not found")

    return run


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_owner_and_revivers(module: ModuleType, path: Path, tmp_path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    for name, text in (case.get("files") or {}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    known = [container(written) for written in case.get("containers") or []]
    names = [c["Name"].lstrip("/") for c in known]
    wanted = case["expect"]
    named = "triton-triton-1" if "triton-triton-1" in names else "triton"
    params = {"triton_container": named, "triton_compose_file": ""}
    found = module.owner(params, known, answers(case.get("commands") or {}), tmp_path)
    assert (found["kind"], found["name"]) == (wanted["kind"], wanted["name"])
    for line in wanted.get("evidence", []):
        assert any(told.startswith(line) for told in found["evidence"]), found["evidence"]
    if "revivers" in wanted:
        assert found["revivers"] == wanted["revivers"]


def test_binary_and_huge_files_are_not_read(utility: Callable[[str], ModuleType], tmp_path: Path) -> None:
    revivers = utility("migrate_revivers")
    (tmp_path / "binary").write_bytes(b"\x7fELF\0docker start triton")
    (tmp_path / "huge").write_text("docker start triton\n" * 10_000)
    (tmp_path / "small").write_text("docker start triton\n")
    assert [revivers.read_text(tmp_path / name) for name in ("binary", "huge", "none")] == [None, None, None]
    assert not revivers.matched(["/binary", "/huge"], "triton", [], tmp_path)
    assert revivers.matched(["/small"], "triton", [], tmp_path) == "triton"
