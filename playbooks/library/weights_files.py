#!/usr/bin/python
"""Puts a model's weights in place: from a hub, a folder, or a copy brought by hand; every file proved."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils import migrate_weights as found_weights
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_fetch import Folders, WrongWeights, alone, fetch
from ansible.module_utils.migrate_host import manifest, manifest_text, parse_manifest, tree_digest, write_private
from ansible.module_utils.migrate_hub import HubError, RemoteFile

DOCUMENTATION = r"""
module: weights_files
short_description: Puts a model's weights in place, each file proved
description:
  - C(state=fetched) fills a folder beside O(path) from where O(weights) says, and goes on with what is there already.
    Where O(path) holds these weights already, nothing is done and RV(ready) is true.
  - C(state=placed) takes checkpoints away that were converted, writes the manifest O(path).sha256, and moves the
    folder to O(path) in one rename.
  - Refuses an O(path) that is there with neither C(.origin) nor C(.sha256) beside it; somebody else made it.
options:
  path: {type: path, required: true, description: Where vLLM reads the weights.}
  state: {type: str, required: true, choices: [fetched, placed], description: Which half is done.}
  weights: {type: dict, required: true, description: "What the plan says of them: kind, digest, commit, files."}
  vllm_weights_source: {type: path, default: "", description: The folder to copy from.}
  vllm_weights_path: {type: path, default: "", description: The same as O(path); not looked at.}
  weights_repository: {type: str, default: "", description: Repository on the hub.}
  weights_revision: {type: str, default: "", description: The commit.}
  weights_hub: {type: str, default: huggingface, choices: [huggingface, modelscope], description: The hub.}
  weights_endpoint: {type: str, default: "", description: Address of a mirror of the hub.}
  weights_proxy: {type: str, default: "", description: HTTP proxy on the way there.}
  weights_allow: {type: list, elements: str, default: [], description: Not looked at; the plan has the files.}
  weights_offline_copy: {type: path, default: "", description: Folder or tar archive brought by hand.}
  weights_token: {type: str, default: "", description: Token for the hub.}
  weights_token_file: {type: path, default: "", description: File with the token instead; it is removed at once.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Fetch the weights
  weights_files:
    path: /var/lib/migrate/weights/phi2
    state: fetched
    weights: {kind: directory, digest: null, commit: "", files: {}}
    vllm_weights_source: /srv/triton/models/phi2/1/weights
"""
RETURN = r"""
ready: {type: bool, returned: always, description: Whether the weights are in place and proved.}
convert: {type: list, elements: str, returned: fetched, description: Checkpoints that are to be converted.}
source: {type: path, returned: fetched, description: Folder that holds them.}
working: {type: path, returned: fetched, description: Folder that is filled.}
"""


class Places:
    """The files beside the weights' folder: what is being filled, what was begun, and what is known of the weights."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.working = path.with_name(f".{path.name}.new")
        self.begun = path.with_name(f".{path.name}.part")
        self.lock = path.with_name(f".{path.name}.lock")
        self.manifest = path.with_name(f"{path.name}.sha256")
        self.origin = path.with_name(f"{path.name}.origin")

    def holds(self, origin: str) -> bool:
        """Whether the weights of this origin are in place, every file as its manifest says."""
        if not (self.path.is_dir() and self.manifest.is_file() and self.origin.is_file()):
            return False
        same = self.origin.read_text() == origin
        return same and manifest(self.path) == parse_manifest(self.manifest.read_text())

    def refuse_others(self) -> None:
        """Raise WrongWeights where something is in place that no run of ours put there."""
        if os.path.lexists(self.path) and not (self.origin.is_file() or self.manifest.is_file()):
            raise WrongWeights(
                f"vllm_weights_path: {self.path} is there, and migrate did not make it; nothing was changed. "
                f"Set another vllm_weights_path, or move it away: mv {self.path} {self.path}.before"
            )


def fetched(params: Mapping[str, Any], places: Places, *, check: bool = False) -> dict[str, Any]:
    """Fill the working folder. Raises WrongWeights, HubError, OSError, ValueError or TarError."""
    places.refuse_others()
    told = params["weights"]
    source = Path(params["vllm_weights_source"] or "/")
    sums = _sums(source) if told["kind"] == "directory" else {}
    origin = f"{tree_digest(sums) if sums else told['digest']}\n"
    if places.holds(origin):
        return {"changed": False, "ready": True, "convert": [], "source": "", "working": ""}
    from_bins = {"changed": True, "ready": False, "source": str(places.working), "working": str(places.working)}
    if check:
        return from_bins | {"convert": []}
    if sums:
        names = _copy(source, sums, places)
        from_bins["source"] = str(source)
    else:
        names = _FILL[told["kind"]](params, places)
    kind = found_weights.form(names)
    write_private(places.begun / "origin", origin)
    return from_bins | {"convert": found_weights.bins(names) if kind == "bin" else []}


def placed(places: Places) -> dict[str, Any]:
    """Move the filled folder into place. Raises WrongWeights where it holds no weights, or another is in place."""
    places.refuse_others()
    if not places.working.is_dir():
        return {"changed": False, "ready": True}
    names = [path.relative_to(places.working).as_posix() for path in places.working.rglob("*") if path.is_file()]
    if found_weights.form(names) not in {"safetensors", "gguf"}:
        raise WrongWeights(f"{places.working} holds neither *.safetensors nor *.gguf")
    for name in found_weights.replaced(names) if any(name.endswith(".safetensors") for name in names) else []:
        (places.working / name).unlink()
    origin = (places.begun / "origin").read_text()
    wanted = manifest_text(manifest(places.working))
    # From here to the end the folder is marked as ours, by an origin that no weights have.
    write_private(places.origin, "")
    places.manifest.unlink(missing_ok=True)
    if places.path.is_dir():
        shutil.rmtree(places.path)
    places.working.chmod(0o755)
    places.working.rename(places.path)
    write_private(places.manifest, wanted)
    write_private(places.origin, origin)
    shutil.rmtree(places.begun)
    return {"changed": True, "ready": True}


def taken(path: Path) -> str:
    """The token in a file, which is removed: Ansible keeps what it gives a job on disk for as long as that runs."""
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        raise WrongWeights(f"weights_token: {path} is gone; migrate continue") from None
    path.unlink()
    return token


def _sums(source: Path) -> dict[str, str]:
    if not source.is_dir():
        raise WrongWeights(f"{source} is missing on the host; set vllm_weights_source")
    if found := manifest(source):
        return found
    raise WrongWeights(f"{source} holds no files; set vllm_weights_source")


def _copy(source: Path, sums: Mapping[str, str], places: Places) -> list[str]:
    """Copy all but the checkpoints that are converted: these are read where they are."""
    names = list(sums)
    left_out = set(found_weights.replaced(names)) if found_weights.form(names) == "bin" else set()
    wanted = {name: digest for name, digest in sums.items() if name not in left_out}
    _fresh(places)
    for name in wanted:
        target = places.working / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
    _require(manifest(places.working), wanted, source)
    return names


def _from_hub(params: Mapping[str, Any], places: Places) -> list[str]:
    told = params["weights"]
    files = {name: RemoteFile(size, digest) for name, (size, digest) in told["files"].items()}
    # What an earlier fetch of another commit left would be staged with this one.
    for path in places.working.rglob("*"):
        if path.is_file() and path.relative_to(places.working).as_posix() not in files:
            path.unlink()
    fetch(found_weights.hub(params), told["commit"], files, Folders(places.working, places.begun))
    return list(files)


def _from_copy(params: Mapping[str, Any], places: Places) -> list[str]:
    copy, digest = Path(params["weights_offline_copy"]), params["weights"]["digest"]
    if params["weights_offline_copy"].endswith(found_weights.ARCHIVES):
        return _unpack(copy, digest, places)
    sums = _sums(copy)
    sums.pop(found_weights.SUMS, None)
    if wrong := found_weights.differing(found_weights.sums(copy), sums):
        raise WrongWeights(f"weights_offline_copy: {wrong}")
    if tree_digest(sums) != digest:
        raise WrongWeights(f"{copy} is not as the plan saw it; make a new plan")
    _fresh(places)
    for name in sums:
        target = places.working / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(copy / name, target)
    _require(manifest(places.working), sums, copy)
    return list(sums)


def _unpack(archive: Path, digest: str, places: Places) -> list[str]:
    if found_weights.proved(archive) != digest:
        raise WrongWeights(f"{archive} is not as the plan saw it; make a new plan")
    _fresh(places)
    with tarfile.open(archive) as tar:
        members = found_weights.inside(tar)
        for name, member in members.items():
            target = places.working / name
            target.parent.mkdir(parents=True, exist_ok=True)
            file = tar.extractfile(member)
            with target.open("wb") as out:
                shutil.copyfileobj(file, out)
    return list(members)


def _fresh(places: Places) -> None:
    shutil.rmtree(places.working, ignore_errors=True)
    Folders(places.working, places.begun).make()


def _require(found: Mapping[str, str], wanted: Mapping[str, str], source: Path) -> None:
    if wrong := sorted(name for name, digest in wanted.items() if found.get(name) != digest):
        raise WrongWeights(f"{len(wrong)} of {len(wanted)} files differ from {source}, first: {', '.join(wrong[:5])}")


_FILL = {"hub": _from_hub, "copy": _from_copy}


def main() -> None:
    """Answer Ansible."""
    spec: dict[str, Any] = found_weights.SPEC | {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "required": True, "choices": ["fetched", "placed"]},
        "weights": {"type": "dict", "required": True},
        "weights_token_file": {"type": "path", "default": "", "no_log": False},
    }
    module = AnsibleModule(spec, supports_check_mode=True)
    places = Places(Path(module.params["path"]))
    try:
        if module.params["state"] == "placed":
            module.exit_json(**({"changed": True, "ready": False} if module.check_mode else placed(places)))
        if module.check_mode:
            module.exit_json(**fetched(module.params, places, check=True))
        if module.params["weights_token_file"]:
            token = taken(Path(module.params["weights_token_file"]))
            module.no_log_values.add(token)
            module.params["weights_token"] = token
        with alone(places.lock):
            module.exit_json(**fetched(module.params, places))
    except (WrongWeights, HubError, OSError, ValueError, tarfile.TarError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
