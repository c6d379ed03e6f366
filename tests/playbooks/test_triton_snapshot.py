"""A recorded stack: the same host gives the same record, secrets stay out of it, and a change is seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.playbooks.conftest import PLAYBOOKS, _load

CAPTURED = Path(__file__).parent / "cases" / "triton_inspect.json"
SECRET = "lab-not-a-real-token-5f1c9a7e"


class Host:
    """Answers the commands of the module for one container; `tags` are the names of its image."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tags, self.inspected = folder, set[str](), json.loads(CAPTURED.read_text())

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        known = self.tags | {self.inspected[0]["Image"]}
        match argv:
            case ["docker", "container", "inspect", "triton-triton-1"]:
                return 0, json.dumps(self.inspected), ""
            case ["docker", "image", "inspect", name] if name in known:
                return 0, json.dumps([{"RepoDigests": ["registry.lab:5000/tritonserver@sha256:1"]}]), ""
            case ["docker", "image", "tag", _, tag]:
                self.tags.add(tag)
                return 0, "", ""
            case ["docker", "image", "ls", *_]:
                return 0, "\n".join(self.tags), ""
            case ["docker", "image", "rm", _, tag]:
                self.tags.remove(tag)
                return 0, "", ""
            case ["dpkg-query", "-W"]:
                return 0, "docker.io\t26.1\n", ""
        return 1, "", "no such thing"


@pytest.fixture
def snapshot(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("triton_snapshot")


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "models" / "phi2" / "1" / "__pycache__").mkdir(parents=True)
    (tmp_path / "models" / "phi2" / "1" / "model.py").write_text("model\n")
    (tmp_path / "models" / "phi2" / "1" / "__pycache__" / "model.pyc").touch()
    (tmp_path / "compose.yml").write_text(f"services:\n  triton:\n    environment: {{LAB_API_TOKEN: {SECRET}}}\n")
    (tmp_path / "nginx.conf").write_text("events {}\n")
    return {
        "path": str(tmp_path / "snapshot"),
        "container": "triton-triton-1",
        "compose_file": str(tmp_path / "compose.yml"),
        "compose_project": "triton",
        "compose_service": "triton",
        "model_repository": str(tmp_path / "models"),
        "nginx_config_file": str(tmp_path / "nginx.conf"),
    }


@pytest.mark.parametrize("gone", ["compose_file", "model_repository", "container"])
def test_a_missing_part_names_its_setting(
    snapshot: ModuleType, params: dict[str, Any], tmp_path: Path, gone: str
) -> None:
    with pytest.raises(snapshot.CannotRecord, match=f"triton_{gone}"):
        snapshot.record(params | {gone: str(tmp_path / "gone")}, Host(tmp_path))


def test_recorded_once_and_again_only_after_a_change(
    snapshot: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    host, root = Host(tmp_path), tmp_path / "snapshot"
    changed, index = snapshot.record(params, host)
    assert changed
    assert index["triton"]["keep_tag"] in host.tags
    assert {"container.json", "models.tar", "models.sha256", "packages.txt", "compose/compose.yml"} <= set(
        index["files"]
    )
    assert snapshot.record(params, host) == (False, index)
    (tmp_path / "models" / "phi2" / "1" / "model.py").write_text("model\n#")
    changed, after = snapshot.record(params, host)
    assert changed
    assert after["files"]["models.tar"] != index["files"]["models.tar"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in root.rglob("*") if path.is_file())


def test_nginx_is_copied_as_it_is_and_only_what_it_includes(
    snapshot: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "sub").mkdir()
    (tmp_path / "other.conf").write_bytes(b"# caf\xe9\r\n")
    main = tmp_path / "nginx.conf"
    main.write_text(f"# configuration file {tmp_path}/secret:\nevents {{}} include sub/../other.conf;\n")
    snapshot.record(params, Host(tmp_path))
    copied = tmp_path / "snapshot" / "nginx" / str(tmp_path).lstrip("/")
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == {
        "nginx.conf": main.read_bytes(),
        "other.conf": b"# caf\xe9\r\n",
    }
    main.write_text("include gone.conf;")
    with pytest.raises(snapshot.CannotRecord, match=r"gone\.conf: No such file.*nginx_config_file"):
        snapshot.record(params, Host(tmp_path))


def test_a_restart_of_the_container_is_no_change(snapshot: ModuleType, params: dict[str, Any], tmp_path: Path) -> None:
    host = Host(tmp_path)
    snapshot.record(params, host)
    host.inspected[0]["State"] |= {"StartedAt": "2030-01-01T00:00:00Z", "Pid": 1}
    host.inspected[0]["Config"]["Hostname"] = "another"
    assert not snapshot.record(params, host)[0]


def test_no_secret_leaves_the_copy_of_the_compose_file(
    snapshot: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    _, index = snapshot.record(params, Host(tmp_path))
    assert SECRET not in json.dumps(index)
    assert [path.name for path in (tmp_path / "snapshot").rglob("*") if path.is_file() and _holds(path)] == [
        "compose.yml"
    ]


def _holds(path: Path) -> bool:
    return SECRET.encode() in path.read_bytes()


def test_dropped_with_its_tag(snapshot: ModuleType, params: dict[str, Any], tmp_path: Path) -> None:
    host = Host(tmp_path)
    snapshot.record(params, host)
    assert snapshot.drop(tmp_path / "snapshot", host)
    assert (host.tags, (tmp_path / "snapshot").exists()) == (set(), False)
    assert not snapshot.drop(tmp_path / "snapshot", host)


def test_the_check_reads_a_container_as_the_snapshot_wrote_it(module_utils: ModuleType) -> None:
    check = _load("snapshot_diff", PLAYBOOKS.parent / "checks" / "snapshot_diff.py")
    inspected = json.loads(CAPTURED.read_text())[0]
    spec = module_utils.container_spec(inspected, "machine")
    assert check.spec(inspected, "machine") == spec
    assert spec["Config"]["Env"]["LAB_API_TOKEN"] != module_utils.container_spec(inspected, "other")["Config"]["Env"]
    assert [mount["Destination"] for mount in spec["Mounts"] if "Source" in mount] == ["/models"]


def test_an_archive_is_proved_before_it_counts(snapshot: ModuleType, tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "a").write_text("a")
    archive = tmp_path / "models.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "a", arcname="./a")
    for files in ({"a": "0" * 64}, {"a": snapshot.sha256_of(tmp_path / "a"), "b": "0"}):
        with pytest.raises(snapshot.CannotRecord, match="again"):
            snapshot._verify_archive(archive, files)
    shutil.rmtree(tmp_path / "models", ignore_errors=True)
