"""Weights put in place: from a folder, a hub, a copy brought by hand; proved, resumable, and done once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.playbooks.conftest import PLAYBOOKS
from tests.playbooks.hub import Faults, serving
from tests.playbooks.test_weights_hub import FILES, tensors

SMALL = {"config.json": b"{}", "model.safetensors": tensors(8), "sub/notes.txt": b"x"}
BINS = {"config.json": b"{}", "pytorch_model.bin": b"a pickle", "pytorch_model.bin.index.json": b"{}"}


@pytest.fixture(scope="module")
def files(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("weights_files")


@pytest.fixture(scope="module")
def weights(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_weights")


@pytest.fixture(scope="module")
def trees(utility: Callable[[str], ModuleType]) -> Callable[[], Any]:
    return utility("migrate_models").Trees


def written(folder: Path, content: dict[str, bytes]) -> Path:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder


def summed(folder: Path) -> Path:
    """With the list of sums that `sha256sum` writes."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{name}\n" for name, path in found.items()]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def stage(files: ModuleType, weights: ModuleType, trees: Callable[[], Any], path: Path, **given: Any) -> dict[str, Any]:
    """What the role does: the facts of the plan, the fetch, and the place."""
    params = {name: option.get("default") for name, option in weights.SPEC.items()} | given
    facts = weights.weights(params, trees())
    if not facts["exists"]:
        raise AssertionError(facts["reason"])
    told = {"kind": facts["kind"], "digest": facts["digest"], "commit": facts.get("commit") or ""}
    hashes = facts.get("hashes") or {}
    told["files"] = {name: [facts["listing"][name], hashes[name]] for name in hashes}
    places = files.Places(path)
    found = files.fetched(params | {"weights": told}, places)
    if not found["ready"] and not found["convert"]:
        assert files.placed(places)["changed"]
    return dict(found)


def test_a_folder_is_copied_once(files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path) -> None:
    source = written(tmp_path / "source", SMALL)
    path = tmp_path / "weights" / "phi2"
    assert stage(files, weights, trees, path, vllm_weights_source=str(source))["changed"]
    assert {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()} == SMALL
    assert sorted(p.name for p in path.parent.iterdir()) == ["phi2", "phi2.origin", "phi2.sha256"]
    assert not stage(files, weights, trees, path, vllm_weights_source=str(source))["changed"]
    (path / "config.json").write_bytes(b"[]")
    assert stage(files, weights, trees, path, vllm_weights_source=str(source))["changed"]
    assert (path / "config.json").read_bytes() == b"{}"


def test_weights_of_another_commit_replace_those_in_place(
    files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path
) -> None:
    path = tmp_path / "phi2"
    for content in (SMALL, SMALL | {"config.json": b'{"a": 1}'}):
        with serving(content) as hub:
            given = {"weights_repository": "acme/model", "weights_endpoint": hub.url}
            assert stage(files, weights, trees, path, **given)["changed"]
            assert not stage(files, weights, trees, path, **given)["changed"]
        assert (path / "config.json").read_bytes() == content["config.json"]


def test_a_folder_that_is_not_ours_is_left_alone(
    files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path
) -> None:
    source, path = written(tmp_path / "source", SMALL), written(tmp_path / "models", {"phi2/config.pbtxt": b"Triton's"})
    with pytest.raises(files.WrongWeights, match=f"vllm_weights_path: {path} .* mv {path}"):
        stage(files, weights, trees, path, vllm_weights_source=str(source))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models", "source"]
    written(tmp_path / ".models.new", SMALL)
    written(tmp_path / ".models.part", {"origin": b"x\n"})
    with pytest.raises(files.WrongWeights, match="vllm_weights_path"):
        files.placed(files.Places(path))
    assert (path / "phi2/config.pbtxt").read_bytes() == b"Triton's"


def test_a_crash_while_the_folder_is_moved_locks_nobody_out(
    files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = written(tmp_path / "source", SMALL), tmp_path / "phi2"
    rename = Path.rename

    def cut(self: Path, target: Path) -> None:
        rename(self, target)
        raise OSError("power")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="power"):
        patched.setattr(Path, "rename", cut)
        stage(files, weights, trees, path, vllm_weights_source=str(source))
    assert path.is_dir()
    assert stage(files, weights, trees, path, vllm_weights_source=str(source))["changed"]
    assert not stage(files, weights, trees, path, vllm_weights_source=str(source))["changed"]


def test_what_an_earlier_fetch_left_is_not_staged(
    files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path
) -> None:
    path = tmp_path / "phi2"
    written(tmp_path / ".phi2.new", {"old.safetensors": b"of another commit"})
    with serving(SMALL) as hub:
        stage(files, weights, trees, path, weights_repository="acme/model", weights_endpoint=hub.url)
    assert not (path / "old.safetensors").exists()


def test_checkpoints_of_a_hub_are_left_for_conversion_and_then_gone(
    files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path
) -> None:
    path = tmp_path / "phi2"
    with serving(BINS) as hub:
        found = stage(files, weights, trees, path, weights_repository="acme/model", weights_endpoint=hub.url)
    assert (found["convert"], found["source"]) == (["pytorch_model.bin"], str(tmp_path / ".phi2.new"))
    with pytest.raises(Exception, match="neither"):
        files.placed(files.Places(path))
    (tmp_path / ".phi2.new" / "model.safetensors").write_bytes(tensors(4))
    files.placed(files.Places(path))
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors"]


def test_checkpoints_of_a_folder_are_read_where_they_are(
    files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path
) -> None:
    source = written(tmp_path / "source", BINS)
    found = stage(files, weights, trees, tmp_path / "phi2", vllm_weights_source=str(source))
    assert (found["convert"], found["source"]) == (["pytorch_model.bin"], str(source))
    assert [p.name for p in (tmp_path / ".phi2.new").iterdir()] == ["config.json"]


def test_a_copy_brought_by_hand_must_be_as_its_sums_say(
    files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path
) -> None:
    copy, path = summed(written(tmp_path / "copy", SMALL)), tmp_path / "phi2"
    assert stage(files, weights, trees, path, weights_offline_copy=str(copy))["changed"]
    assert not (path / "SHA256SUMS").exists()
    (copy / "model.safetensors").write_bytes(tensors(9))
    with pytest.raises(AssertionError, match="1 files are not as SHA256SUMS says, first: model.safetensors"):
        stage(files, weights, trees, path, weights_offline_copy=str(copy))
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(AssertionError, match="no SHA256SUMS"):
        stage(files, weights, trees, path, weights_offline_copy=str(copy))


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_an_archive_brought_by_hand_must_have_its_sum(
    files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path, ending: str
) -> None:
    written(tmp_path / "phi-2", SMALL)
    archive, path = tmp_path / f"phi-2{ending}", tmp_path / "phi2"
    with tarfile.open(archive, "w:gz" if ending == ".tar.gz" else "w") as tar:
        tar.add(tmp_path / "phi-2", "phi-2")
    with pytest.raises(AssertionError, match=r"sha256 is not beside it"):
        stage(files, weights, trees, path, weights_offline_copy=str(archive))
    beside = archive.with_name(f"{archive.name}.sha256")
    beside.write_text(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n")
    assert stage(files, weights, trees, path, weights_offline_copy=str(archive))["changed"]
    assert {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()} == SMALL
    with archive.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(AssertionError, match="its sha256 is"):
        stage(files, weights, trees, path, weights_offline_copy=str(archive))


def test_an_archive_cannot_write_outside(weights: ModuleType, trees: Any, tmp_path: Path) -> None:
    archive = tmp_path / "bad.tar"
    (tmp_path / "x").write_text("x")
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "x", "../../etc/x")
    archive.with_name("bad.tar.sha256").write_text(hashlib.sha256(archive.read_bytes()).hexdigest())
    found = weights.weights({"weights_offline_copy": str(archive)}, trees())
    assert (found["exists"], "it holds the path ../../etc/x" in found["reason"]) == (False, True)


def test_a_folder_that_changed_since_the_plan_is_refused(
    files: ModuleType, weights: ModuleType, trees: Any, tmp_path: Path
) -> None:
    copy = summed(written(tmp_path / "copy", SMALL))
    params = {name: option.get("default") for name, option in weights.SPEC.items()}
    told = {"kind": "copy", "digest": "0" * 64, "commit": "", "files": {}}
    with pytest.raises(Exception, match="make a new plan"):
        files.fetched(params | {"weights": told, "weights_offline_copy": str(copy)}, files.Places(tmp_path / "phi2"))


def test_check_mode_fetches_nothing(files: ModuleType, weights: ModuleType, tmp_path: Path) -> None:
    params = {name: option.get("default") for name, option in weights.SPEC.items()}
    told = {"kind": "hub", "digest": "0" * 64, "commit": "c", "files": {"config.json": [2, "git:0"]}}
    with serving(FILES, Faults()) as hub:
        given = {"weights_repository": "acme/model", "weights_endpoint": hub.url, "weights": told}
        assert files.fetched(params | given, files.Places(tmp_path / "phi2"), check=True)["changed"]
        assert hub.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_names_the_setting(files: ModuleType, weights: ModuleType, tmp_path: Path) -> None:
    params = {name: option.get("default") for name, option in weights.SPEC.items()}
    told = {"kind": "directory", "digest": None, "commit": "", "files": {}}
    with pytest.raises(Exception, match="vllm_weights_source"):
        given = {"weights": told, "vllm_weights_source": str(tmp_path / "none")}
        files.fetched(params | given, files.Places(tmp_path / "phi2"))


def test_the_token_lies_in_a_file_only_until_the_fetch_begins(files: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("hf_secret\n")
    assert files.taken(path) == "hf_secret"
    assert not path.exists()
    with pytest.raises(files.WrongWeights, match="migrate continue"):
        files.taken(path)


def test_the_wait_says_how_far_it_is(library: Callable[[str], ModuleType], tmp_path: Path) -> None:
    progress = library("weights_progress")
    job = tmp_path / "job"
    job.write_text(json.dumps({"started": 1, "finished": 0}))
    assert progress.told(tmp_path / "phi2", job) == {"finished": False, "progress": "not begun"}
    (tmp_path / ".phi2.part").mkdir()
    counted = {"done": 5_000_000_000, "total": 10_000_000_000, "rate": 10_000_000, "left_s": 500}
    (tmp_path / ".phi2.part" / "progress.json").write_text(json.dumps(counted))
    said = "5.00 of 10.00 GB, 10.0 MB/s, 8 min left"
    assert progress.told(tmp_path / "phi2", job) == {"finished": False, "progress": said}
    job.write_text(json.dumps({"changed": True, "ready": False}))
    assert progress.told(tmp_path / "phi2", job)["finished"]
    shutil.rmtree(tmp_path / ".phi2.part")
    job.unlink()
    assert progress.told(tmp_path / "phi2", job)["finished"]


def test_a_fetch_that_nobody_works_at_is_not_waited_for(library: Callable[[str], ModuleType], tmp_path: Path) -> None:
    progress, path, job = library("weights_progress"), tmp_path / "phi2", tmp_path / "job"
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    job.write_text(json.dumps({"started": 1, "finished": 0}))
    assert progress.is_dead(path, job, lambda: clock[0], sleep)
    assert clock[0] >= progress.GRACE_S
    with (tmp_path / ".phi2.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not progress.is_dead(path, job, lambda: clock[0], sleep)
    job.write_text(json.dumps({"changed": True, "ready": False}))
    assert not progress.is_dead(path, job, lambda: clock[0], sleep)


@pytest.mark.parametrize("mark", ["", ".origin", ".sha256"])
def test_the_undo_removes_only_what_is_marked(tmp_path: Path, mark: str) -> None:
    tasks = yaml.safe_load((PLAYBOOKS / "roles" / "stage" / "tasks" / "absent.yml").read_text())
    of_weights = [task for task in tasks if "weights" in task["name"]]
    path = written(tmp_path / "phi2", SMALL)
    if mark:
        path.with_name(f"phi2{mark}").write_text("x")
    play = {"hosts": "localhost", "gather_facts": False, "vars": {"vllm_weights_path": str(path)}, "tasks": of_weights}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", "play.yml"]
    argv += ["-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    left = sorted(found.name for found in tmp_path.iterdir())
    assert left == (["play.yml"] if mark else ["phi2", "play.yml"])
