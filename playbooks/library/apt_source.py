#!/usr/bin/python
"""Makes a package repository known to apt, with its key, once: other entries for the same address are moved aside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils import migrate_apt as apt
from ansible.module_utils import migrate_sources as sources
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_apt import Changed, Refused
from ansible.module_utils.migrate_host import Run, runner, write_private
from ansible.module_utils.urls import open_url

DOCUMENTATION = r"""
module: apt_source
short_description: Adds one signed package repository, and only it
description:
  - With O(keyring_package) the repository's own package brings list, key and pin; otherwise O(key_url) and a list of
    one line are written.
  - Two entries for one address with different keys stop all of apt ("Conflicting values set for option Signed-By").
    Files whose only repository is this one, and those in O(obsolete), are moved aside and come back with the undo.
  - Only this repository is read then. If its signature or its index is wrong, everything is put back.
  - In check mode its signature is looked at in a folder of its own.
options:
  name: {type: str, required: true, description: Name of the list file and of the record.}
  state: {type: str, default: present, choices: [present, restored], description: Do, or undo.}
  url: {type: str, required: true, description: Address of the repository, as in a list.}
  suite: {type: str, default: /, description: Suite and components, or the path of a flat repository.}
  key_url: {type: str, default: "", description: Address of the ASCII-armoured key.}
  keyring_package: {type: str, default: "", description: Package that brings list and key.}
  keyring_url: {type: str, default: "", description: Address of that package's file.}
  sha256: {type: str, default: "", description: What the fetched key or package must be; empty trusts the connection.}
  pin: {type: str, default: "", description: "Text of a preferences file, in force before apt knows the repository."}
  obsolete: {type: list, elements: str, default: [], description: Names of list files that were replaced by this one.}
  record_dir: {type: path, required: true, description: Folder of records and of what was moved aside.}
  lock_timeout_s: {type: int, default: 300, description: Longest wait for another apt, in seconds.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Know the container toolkit's repository
  apt_source:
    name: nvidia-container-toolkit
    url: https://nvidia.github.io/libnvidia-container/stable/deb/amd64
    key_url: https://nvidia.github.io/libnvidia-container/gpgkey
    obsolete: [libnvidia-container.list, nvidia-docker.list]
    record_dir: /var/lib/migrate/provision
"""
RETURN = r"""
moved: {type: list, elements: str, returned: always, description: List files that were moved aside.}
"""

FETCH_TIMEOUT_S = 60
Fetch = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Place:
    """Where apt runs: how commands are run, how addresses are fetched, and the root of the file system."""

    run: Run
    fetch: Fetch
    root: Path = Path("/")


def present(params: dict[str, Any], place: Place, *, dry: bool) -> tuple[bool, list[str]]:
    """Add the repository and read its index; returns (changed, files moved aside). Raises Refused."""
    apt.wait_for_locks(place.root, params["lock_timeout_s"])
    apt.refuse_broken(place.run)
    rivals = _rivals(params, place)
    wanted = _wanted(params, place) | _pin(params, place)
    is_new = bool(params["keyring_package"]) and params["keyring_package"] not in apt.installed(place.run)
    changed = bool(is_new or rivals or wanted)
    if dry:
        _look(params, place, wanted, is_new=is_new)
        return changed, [path.name for path in rivals]
    with _put_back_on_failure(params, place, changed=changed):
        if changed:
            _write(params, place, rivals, wanted, is_new=is_new)
        sources.update(place.run, place.root, params["url"], [])
    return changed, [path.name for path in rivals]


def restored(params: dict[str, Any], place: Place, *, dry: bool) -> tuple[bool, list[str]]:
    """Take the repository away and put back what was moved aside; returns (changed, files that came back)."""
    record = _record(params)
    if not record.is_file():
        return False, []
    told = json.loads(record.read_text())
    if not dry:
        if told["package"] and told["package"] in apt.installed(place.run):
            apt.install(place.run, ["--purge", f"{told['package']}-"], lock_timeout_s=params["lock_timeout_s"])
        for name in told["files"]:
            Path(name).unlink(missing_ok=True)
        for name in told["moved"]:
            shutil.move(_aside(params) / Path(name).name, name)
        record.unlink()
    return True, [Path(name).name for name in told["moved"]]


def _rivals(params: dict[str, Any], place: Place) -> list[Path]:
    """Other files that name the address or are obsolete; raises Refused for one that names other repositories too."""
    architecture = sources.architecture(place.run)
    everything = list(sources.entries(place.root / "etc/apt", architecture))
    ours = _own_files(params, place)
    address = sources.bare(params["url"], architecture)
    rivals = {e.path for e in everything if e.address == address or e.path.name in params["obsolete"]} - ours
    for path in sorted(rivals):
        others = {e.address for e in everything if e.path == path} - {address}
        if others and path.name not in params["obsolete"]:
            raise Refused(
                f"{path} names {address} too, beside {', '.join(sorted(others))}: two entries with different keys stop "
                f"all of apt. Take the line of {address} out of it, then go on."
            )
    return sorted(rivals)


def _look(params: dict[str, Any], place: Place, wanted: dict[Path, bytes], *, is_new: bool) -> None:
    """Refuse a repository that the update would refuse. Nothing stays on the host."""
    there = {path: path.read_bytes() for path in _own_files(params, place) if path.is_file()}
    with tempfile.TemporaryDirectory(prefix="migrate-") as name:
        if is_new:
            file = Path(name, f"{params['keyring_package']}.deb")
            file.write_bytes(_fetched(params["keyring_url"], params, place))
            place.run(["dpkg-deb", "--extract", str(file), name])
        sources.look(place.run, place.root, params["url"], there | wanted, Path(name))


def _own_files(params: dict[str, Any], place: Place) -> set[Path]:
    """List and key of the repository, on the host or to be there."""
    if not params["keyring_package"]:
        return {_list(params, place), _key(params, place)}
    listed = place.run(["dpkg-query", "-L", params["keyring_package"]])[1].splitlines()
    return {place.root / name.lstrip("/") for name in listed}


def _wanted(params: dict[str, Any], place: Place) -> dict[Path, bytes]:
    """Files of ours that are absent or differ; none where a package brings them."""
    if params["keyring_package"]:
        return {}
    key = _key(params, place)
    line = f"deb [signed-by=/usr/share/keyrings/{key.name}] {params['url']} {params['suite']}\n".encode()
    listed = _list(params, place)
    files = {} if key.is_file() else {key: _fetched(params["key_url"], params, place)}
    return files if listed.is_file() and listed.read_bytes() == line else files | {listed: line}


def _pin(params: dict[str, Any], place: Place) -> dict[Path, bytes]:
    """The preferences file, where it is absent or differs; an empty text is none, and takes an earlier one away."""
    path, text = place.root / f"etc/apt/preferences.d/migrate-{params['name']}.pref", params["pin"].encode()
    there = path.read_bytes() if path.is_file() else b""
    return {path: text} if there != text else {}


def _fetched(url: str, params: dict[str, Any], place: Place) -> bytes:
    """What the address holds. Raises Refused where it does not answer or the sum is another."""
    try:
        content = place.fetch(url)
    except OSError as error:
        told = f"{url} cannot be fetched: {error}. See that the address is right and the host reaches it, then go on."
        raise Refused(told) from None
    digest = hashlib.sha256(content).hexdigest()
    if params["sha256"] not in ("", digest):
        raise Refused(f"{url} has sha256 {digest}, expected is {params['sha256']}.")
    return content


def _write(
    params: dict[str, Any], place: Place, rivals: list[Path], wanted: dict[Path, bytes], *, is_new: bool
) -> None:
    record = _record(params)
    known = json.loads(record.read_text()) if record.is_file() else {"package": "", "files": [], "moved": []}
    package = params["keyring_package"] if is_new else ""
    told = {
        "package": known["package"] or package,
        "files": sorted({*known["files"], *(str(path) for path in wanted if not path.exists())}),
        "moved": sorted({*known["moved"], *map(str, rivals)}),
    }
    write_private(record, json.dumps(told, indent=1) + "\n")
    _aside(params).mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in rivals:
        shutil.move(path, _aside(params) / path.name)
    for path, content in sorted(wanted.items(), key=lambda item: item[0].suffix != ".pref"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
        if not content:
            path.unlink()
    if package:
        with tempfile.TemporaryDirectory(prefix="migrate-") as folder:
            file = Path(folder, f"{package}.deb")
            file.write_bytes(_fetched(params["keyring_url"], params, place))
            apt.install(place.run, [str(file)], lock_timeout_s=params["lock_timeout_s"])


@contextlib.contextmanager
def _put_back_on_failure(params: dict[str, Any], place: Place, *, changed: bool) -> Iterator[None]:
    was_recorded = _record(params).is_file()
    try:
        yield
    except Refused as error:
        if changed and not was_recorded:
            restored(params, place, dry=False)
            raise Changed(f"{error} The sources are as they were.") from None
        raise


def _list(params: dict[str, Any], place: Place) -> Path:
    return place.root / f"etc/apt/sources.list.d/{params['name']}.list"


def _key(params: dict[str, Any], place: Place) -> Path:
    return place.root / f"usr/share/keyrings/{params['name']}.asc"


def _record(params: dict[str, Any]) -> Path:
    return Path(params["record_dir"], f"source-{params['name']}.json")


def _aside(params: dict[str, Any]) -> Path:
    return Path(params["record_dir"], "sources")


def _over_http(url: str) -> bytes:
    answer: bytes = open_url(url, timeout=FETCH_TIMEOUT_S).read()
    return answer


def main() -> None:
    """Answer Ansible."""
    spec: dict[str, Any] = {name: {"type": "str", "required": True} for name in ("name", "url")}
    spec |= {name: {"type": "str", "default": ""} for name in ("key_url", "keyring_package", "keyring_url", "sha256")}
    spec |= {
        "state": {"type": "str", "default": "present", "choices": ["present", "restored"]},
        "suite": {"type": "str", "default": "/"},
        "pin": {"type": "str", "default": ""},
        "obsolete": {"type": "list", "elements": "str", "default": []},
        "record_dir": {"type": "path", "required": True},
        "lock_timeout_s": {"type": "int", "default": 300},
    }
    module = AnsibleModule(spec, supports_check_mode=True)
    module.run_command_environ_update = apt.ENVIRONMENT
    do = present if module.params["state"] == "present" else restored
    try:
        changed, moved = do(module.params, Place(runner(module), _over_http), dry=module.check_mode)
    except Refused as error:
        module.fail_json(msg=apt.message(error))
    module.exit_json(changed=changed, moved=moved)


if __name__ == "__main__":
    main()
