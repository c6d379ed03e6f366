"""daemon_json: merges, never overwrites, and gives back every byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

OPERATORS = """{
  "insecure-registries": ["registry.lab:5000"],
  "log-opts": {"max-size": "20m"},   "runtimes": {"kata": {"path": "kata"}}
}
"""
RUNTIME = {"runtimes.nvidia": {"path": "nvidia-container-runtime", "args": []}}


def no_dockerd(argv: list[str]) -> tuple[int, str, str]:
    return 127, "", f"{argv[0]}: No such file or directory"


@pytest.fixture
def merge(library: Callable[[str], ModuleType], tmp_path: Path) -> Callable[..., Any]:
    """Run the module's function on tmp_path/daemon.json."""
    module = library("daemon_json")

    def run(*, state: str = "present", dry: bool = False, dockerd: Any = no_dockerd, **more: Any) -> Any:
        params = {"path": str(tmp_path / "daemon.json"), "record": str(tmp_path / "record.json"), "set": {}, "add": {}}
        return getattr(module, state)(params | more, dockerd, dry=dry)

    run.Refused = module.Refused  # type: ignore[attr-defined]
    return run


def test_everything_else_stays_and_the_undo_gives_back_every_byte(merge: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(OPERATORS)
    path.chmod(0o640)
    assert merge(set={"live-restore": True}, add=RUNTIME)[2] == ["runtimes.nvidia", "live-restore"]
    merged = json.loads(path.read_text())
    assert merged["runtimes"] == {"kata": {"path": "kata"}, "nvidia": RUNTIME["runtimes.nvidia"]}
    assert {key: merged[key] for key in ("insecure-registries", "log-opts")} == {
        "insecure-registries": ["registry.lab:5000"],
        "log-opts": {"max-size": "20m"},
    }
    assert path.stat().st_mode & 0o777 == 0o640
    assert merge(set={"live-restore": True}, add=RUNTIME)[2] == []
    merge(state="restored")
    assert path.read_text() == OPERATORS
    assert merge(state="restored")[2] == []


def test_a_runtime_that_the_operator_set_up_is_kept(merge: Callable[..., Any], tmp_path: Path) -> None:
    own = {"runtimes": {"nvidia": {"path": "/opt/nvidia/runtime"}}}
    (tmp_path / "daemon.json").write_text(json.dumps(own))
    assert merge(add=RUNTIME)[2] == []
    assert json.loads((tmp_path / "daemon.json").read_text()) == own


def test_after_an_edit_only_our_keys_go(merge: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text('{"live-restore": false}')
    merge(set={"live-restore": True}, add=RUNTIME)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"debug": True}))
    merge(state="restored")
    assert json.loads(path.read_text()) == {"live-restore": False, "debug": True}


def test_an_absent_file_is_made_and_goes(merge: Callable[..., Any], tmp_path: Path) -> None:
    assert merge(set={"live-restore": True}, dry=True)[2] == ["live-restore"]
    assert not (tmp_path / "daemon.json").exists()
    merge(set={"live-restore": True})
    merge(state="restored")
    assert not (tmp_path / "daemon.json").exists()


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "is no JSON"), ("[]", "no JSON object"), ('{"runtimes": 1}', "no obj")]
)
def test_a_broken_file_is_refused_as_it_is(merge: Callable[..., Any], tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "daemon.json").write_text(text)
    with pytest.raises(merge.Refused, match=reason):  # type: ignore[attr-defined]
        merge(add=RUNTIME)
    assert (tmp_path / "daemon.json").read_text() == text


def test_what_dockerd_does_not_take_is_not_written(merge: Callable[..., Any], tmp_path: Path) -> None:
    def dockerd(argv: list[str]) -> tuple[int, str, str]:
        return (0, "--validate", "") if "--help" in argv else (1, "", "unable to configure the Docker daemon")

    (tmp_path / "daemon.json").write_text(OPERATORS)
    with pytest.raises(merge.Refused, match="unable to configure"):  # type: ignore[attr-defined]
        merge(set={"live-restore": "perhaps"}, dockerd=dockerd)
    assert (tmp_path / "daemon.json").read_text() == OPERATORS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["daemon.json", "record.json"]
