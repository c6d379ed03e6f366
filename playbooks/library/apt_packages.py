#!/usr/bin/python
"""Brings packages to asked versions in one transaction that is looked at first, and takes it back from kept files."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils import migrate_apt as apt
from ansible.module_utils import migrate_debs as debs
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_apt import Candidate, Change, Changed, Refused
from ansible.module_utils.migrate_host import Run, runner

DOCUMENTATION = r"""
module: apt_packages
short_description: Installs packages at asked versions, with a record of what was there before
description:
  - Versions are looked up first; one that no source offers fails with the candidates.
  - The transaction is simulated. It is refused where it would change or remove an installed package that O(may_change)
    does not name, or bring one that O(never) names. Everything is downloaded, and the .deb files of what is replaced
    are kept, before anything is changed.
  - A package that is there at a fitting version is left as it is, even where a newer one would fit too.
  - C(state=restored) brings every package of the record back to its version, and removes what was absent. With O(undo)
    it takes back just these changes, and the record stays.
  - In check mode the transaction is only simulated.
options:
  packages:
    type: list
    elements: str
    default: []
    description: C(name) for whatever version there is, C(name=1.2-1) for one, C(name=1.2*) for the newest that fits.
  state: {type: str, default: present, choices: [present, restored], description: Do, or undo.}
  undo: {type: list, elements: dict, default: [], description: The changes that an earlier task returned.}
  record: {type: path, required: true, description: File that keeps the versions before, for the undo.}
  keep_dir: {type: path, required: true, description: Folder of the kept .deb files.}
  origin: {type: str, default: "", description: Label, origin or address that the asked packages must come from.}
  one_origin:
    type: list
    elements: str
    default: []
    description: Patterns of packages of which none may be, or come, from another origin than O(origin).
  may_change: {type: list, elements: str, default: [], description: Patterns of packages that may change or go.}
  never: {type: list, elements: str, default: [], description: Patterns of packages that must not be brought along.}
  boot_free_mib: {type: int, default: 0, description: Room that /boot must have, in MiB.}
  lock_timeout_s: {type: int, default: 300, description: Longest wait for another apt, in seconds.}
  may_be_unknown: {type: bool, default: false, description: Check mode looks nothing up in an unknown origin.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Install NCCL
  apt_packages:
    packages: [libnccl2=2.26.5-1+cuda12.9, libnccl-dev=2.26.5-1+cuda12.9]
    origin: NVIDIA CUDA
    may_change: [libnccl*]
    record: /var/lib/migrate/provision/nccl.json
    keep_dir: /var/lib/migrate/provision/debs
"""
RETURN = r"""
changes: {type: list, elements: dict, returned: always, description: Name, version before and after of each package.}
"""

_OLD_LISTS = "Lists that are old do not know the newest: sudo apt-get update."


@dataclass(frozen=True, slots=True)
class Place:
    """Where apt runs: how commands are run, and the root of the file system."""

    run: Run
    root: Path = Path("/")


def present(params: dict[str, Any], place: Place, *, dry: bool) -> list[Change]:
    """Install what is asked for; returns the changes. Raises Refused."""
    there = apt.installed(place.run)
    asked = [request.partition("=")[::2] for request in params["packages"]]
    missing = [(name, version) for name, version in asked if not _fits(there.get(name), version)]
    _refuse_crossing(params, place.run, there, changes=bool(missing))
    if not missing:
        return []
    apt.wait_for_locks(place.root, params["lock_timeout_s"])
    apt.refuse_broken(place.run)
    offered = apt.candidates(place.run, [name for name, _ in missing])
    if dry and params["may_be_unknown"] and not apt.knows(place.run, params["origin"]):
        return [Change(name, there.get(name), version or "newest") for name, version in missing]
    arguments = [f"{name}={_choose(place.run, name, version, offered[name], params)}" for name, version in missing]
    changes = _simulated(params, place.run, arguments, {name for name, _ in asked})
    _refuse_changes(params, place, changes, {name for name, _ in asked})
    if not dry:
        _carry_out(params, place, arguments, changes)
    return changes


def restored(params: dict[str, Any], place: Place, *, dry: bool) -> list[Change]:
    """Bring the record's packages back to the versions before; returns the changes. Raises Refused."""
    record = Path(params["record"])
    if params["undo"]:
        changes = _back({change["name"]: change["before"] for change in params["undo"]}, params, place, dry=dry)
        if not dry:
            debs.prune_record(record, place.run)
        return changes
    if not record.is_file():
        return []
    told = json.loads(record.read_text())
    changes = _back(told["before"], params, place, dry=dry)
    if not dry:
        again = sorted(set(told["automatic"]) & set(apt.installed(place.run)))
        if again:
            place.run(["apt-mark", "auto", *again])
        record.unlink()
    return changes


def _fits(there: str | None, wanted: str) -> bool:
    return there is not None and (not wanted or fnmatch.fnmatchcase(there, wanted))


def _refuse_crossing(params: dict[str, Any], run: Run, there: dict[str, str], *, changes: bool) -> None:
    """Two origins of one driver give libraries that do not fit the module; one that cannot be told may be another."""
    guarded = [name for name in there if apt.matches(name, params["one_origin"])]
    for name, offers in apt.candidates(run, guarded).items():
        theirs = [offer for offer in offers if offer.version == there[name]]
        if theirs and not any(offer.is_from(params["origin"]) for offer in theirs):
            raise Refused(
                f"{name} {there[name]} is from {_whence(theirs[0])}, asked for is {params['origin']!r}: a driver never "
                "crosses from one origin to another. Set provision_driver_source to the origin "
                f"that is there, or remove that driver in a maintenance window first: sudo apt-get purge {name}"
            )
        others = [offer for offer in offers if not offer.is_from(params["origin"])]
        if changes and others and not theirs:
            raise Refused(
                f"{name} {there[name]} cannot be told where it came from: no source offers that version any more, and "
                f"beside {params['origin']!r} {_whence(others[0])} has a package of that name. A driver never crosses "
                f"from one origin to another: remove it in a maintenance window first: sudo apt-get purge {name}"
            )


def _choose(run: Run, name: str, wanted: str, offers: list[Candidate], params: dict[str, Any]) -> str:
    """The newest offer that fits; raises Refused with those that there are."""
    fitting = [o for o in offers if fnmatch.fnmatchcase(o.version, wanted or "*") and o.is_from(params["origin"])]
    if fitting:
        return fitting[0].version
    origin = f" from {params['origin']!r}" if params["origin"] else ""
    if offers:
        there = ", ".join(dict.fromkeys(f"{o.version} ({_whence(o)})" for o in offers))
        raise Refused(
            f"{name} {wanted or 'of any version'}{origin} is not to be had. Candidates: {there}. {_OLD_LISTS}"
        )
    # What a release or a version ends, the kernel's with its flavour: linux-modules-…-6.8.0-51-generic.
    stem = re.sub(r"-\d+\.\d.*$|[\d.-]+$", "", name)
    alike = ", ".join(apt.known_names(run, stem)[:20]) or "none"
    raise Refused(f"no source knows a package {name}{origin}. Names that begin with {stem}: {alike}. {_OLD_LISTS}")


def _whence(offer: Candidate) -> str:
    return offer.release.get("l") or offer.release.get("o") or offer.source.split(" ")[0]


def _simulated(params: dict[str, Any], run: Run, arguments: list[str], asked: set[str]) -> list[Change]:
    """What apt would do. A hold that is in the way is named instead of what apt makes of it."""
    try:
        return apt.simulate(run, arguments)
    except Refused:
        _refuse_held({name for name in apt.held(run) if name in asked or apt.matches(name, params["may_change"])})
        raise


def _refuse_held(names: set[str]) -> None:
    if names:
        told = " ".join(sorted(names))
        raise Refused(f"on hold: {told}; somebody meant it. To let them change: sudo apt-mark unhold {told}.")


def _refuse_changes(params: dict[str, Any], place: Place, changes: list[Change], asked: set[str]) -> None:
    """Raise Refused for a transaction that touches what it must not, or for which there is no room."""
    names = {change.name for change in changes}
    _refuse_held(apt.held(place.run) & (names | asked))
    brought = sorted(c.name for c in changes if c.after and not c.before and apt.matches(c.name, params["never"]))
    if brought:
        raise Refused(f"{', '.join(sorted(asked))} would bring {', '.join(brought)}, which is not asked for.")
    others = [c for c in changes if c.before and c.name not in asked and not apt.matches(c.name, params["may_change"])]
    if others:
        told = ", ".join(f"{c.name} {c.before} → {c.after or 'removed'}" for c in others)
        raise Refused(f"{', '.join(sorted(asked))} would change what others need: {told}.")
    _refuse_other_origin(params, place.run, changes)
    _refuse_full_boot(params["boot_free_mib"], place.root / "boot")


def _refuse_other_origin(params: dict[str, Any], run: Run, changes: list[Change]) -> None:
    guarded = {c.name: c.after for c in changes if c.after and apt.matches(c.name, params["one_origin"])}
    for name, offers in apt.candidates(run, guarded).items():
        if not any(offer.is_from(params["origin"]) for offer in offers if offer.version == guarded[name]):
            raise Refused(f"{name} {guarded[name]} would not come from {params['origin']!r}.")


def _refuse_full_boot(needed_mib: int, boot: Path) -> None:
    free_mib = shutil.disk_usage(boot).free >> 20 if boot.is_dir() else needed_mib
    if free_mib < needed_mib:
        raise Refused(
            f"{boot} has {free_mib} MiB free, an initramfs needs {needed_mib}. Remove kernels that "
            "are no longer used: sudo apt-get autoremove --purge"
        )


def _carry_out(params: dict[str, Any], place: Place, arguments: list[str], changes: list[Change]) -> None:
    """Keep the old files, fetch the new ones, write the record, install; put back what a failure left."""
    keep, before = Path(params["keep_dir"]), {change.name: change.before for change in changes}
    keep.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, version in before.items():
        if version:
            debs.keep_file(place.run, place.root, keep, name, version)
    apt.install(place.run, arguments, lock_timeout_s=params["lock_timeout_s"], download_only=True)
    record = Path(params["record"])
    debs.write_record(record, before, apt.automatic(place.run) & set(before))
    try:
        apt.install(place.run, arguments, lock_timeout_s=params["lock_timeout_s"])
        _prove(place.run, {change.name: change.after for change in changes})
    except Refused as error:
        _put_back(error, before, params, place)


def _put_back(error: Refused, before: dict[str, str | None], params: dict[str, Any], place: Place) -> NoReturn:
    """After a failed installation: the versions before, or a message that says that they are not there."""
    place.run(["dpkg", "--configure", "-a"])
    try:
        _back(before, params, place, dry=False)
    except Refused as second:
        raise Changed(f"{error} Going back failed too: {second}") from None
    debs.prune_record(Path(params["record"]), place.run)
    raise Changed(f"{error} The packages were put back to their versions before.") from None


def _back(before: dict[str, str | None], params: dict[str, Any], place: Place, *, dry: bool) -> list[Change]:
    there = apt.installed(place.run, half_done=True)
    moved = {name: version for name, version in before.items() if there.get(name) != version}
    if not moved:
        return []
    apt.wait_for_locks(place.root, params["lock_timeout_s"])
    keep = Path(params["keep_dir"])
    files = [str(debs.kept(keep, name, version) or f"{name}={version}") for name, version in moved.items() if version]
    arguments = ["--purge", *files, *(f"{name}-" for name, version in moved.items() if not version)]
    changes = apt.simulate(place.run, arguments)
    others = [c for c in changes if c.name not in before and c.before and not apt.matches(c.name, params["may_change"])]
    if others:
        told = ", ".join(f"{c.name} {c.before} → {c.after or 'removed'}" for c in others)
        raise Refused(f"going back would change what came later: {told}. Decide on these by hand first.")
    if not dry:
        try:
            apt.install(place.run, arguments, lock_timeout_s=params["lock_timeout_s"])
            _prove(place.run, before)
        except Refused as error:
            # apt stops before it purges, and a pin is configuration.
            place.run(["dpkg", "--purge", *(name for name, version in moved.items() if not version)])
            raise Changed(f"{error} Repair the cause, then: sudo apt-get install --fix-broken") from None
    return changes


def _prove(run: Run, wanted: dict[str, str | None]) -> None:
    """Raise Changed where a package is not at its version: dpkg may skip one, and apt ends with 0 all the same."""
    there = apt.installed(run, half_done=True)
    wrong = [f"{name} {there.get(name) or 'absent'}" for name, v in wanted.items() if there.get(name) != v]
    if wrong:
        raise Changed(f"apt ended without an error, and yet there is: {', '.join(wrong)}.")


def main() -> None:
    """Answer Ansible."""
    spec: dict[str, Any] = {name: {"type": "path", "required": True} for name in ("record", "keep_dir")}
    lists = ("packages", "one_origin", "may_change", "never")
    spec |= {name: {"type": "list", "elements": "str", "default": []} for name in lists}
    spec |= {
        "undo": {"type": "list", "elements": "dict", "default": []},
        "state": {"type": "str", "default": "present", "choices": ["present", "restored"]},
        "origin": {"type": "str", "default": ""},
        "boot_free_mib": {"type": "int", "default": 0},
        "lock_timeout_s": {"type": "int", "default": 300},
        "may_be_unknown": {"type": "bool", "default": False},
    }
    module = AnsibleModule(spec, supports_check_mode=True)
    module.run_command_environ_update = apt.ENVIRONMENT
    do = present if module.params["state"] == "present" else restored
    try:
        run = apt.looking(runner(module)) if module.check_mode else runner(module)
        changes = do(module.params, Place(run), dry=module.check_mode)
    except Refused as error:
        module.fail_json(msg=apt.message(error))
    told = [{"name": c.name, "before": c.before, "after": c.after} for c in changes]
    lines = {key: "".join(f"{c['name']} {c[key] or 'absent'}\n" for c in told) for key in ("before", "after")}
    module.exit_json(changed=bool(changes), changes=told, diff=lines if told else {})


if __name__ == "__main__":
    main()
