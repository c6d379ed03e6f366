"""What was there before a change of packages: a record of their versions, and their .deb files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ansible.module_utils import migrate_apt as apt
from ansible.module_utils.migrate_apt import Refused
from ansible.module_utils.migrate_host import Run, write_private


def keep_file(run: Run, root: Path, keep: Path, name: str, version: str) -> None:
    """Have the .deb of an installed version; raises Refused where it is nowhere to be had."""
    if kept(keep, name, version):
        return
    for path in _files(root / "var/cache/apt/archives", name, version):
        shutil.copy(path, keep)
        return
    run(["env", "-C", str(keep), "apt-get", "download", "-q", f"{name}={version}"])
    if not kept(keep, name, version):
        raise Refused(
            f"the file of {name} {version}, which is installed, is in no source any more: no way back. "
            f"Put it into {keep}, or build it there from what is installed: "
            f"sudo apt-get install dpkg-repack && cd {keep} && sudo dpkg-repack {name}"
        )


def kept(keep: Path, name: str, version: str) -> Path | None:
    """The kept file of a package at a version."""
    return next(iter(_files(keep, name, version)), None)


def write_record(path: Path, before: dict[str, str | None], automatic: set[str]) -> None:
    """Add to the record what it does not know yet: the first version seen is the one to go back to."""
    known = json.loads(path.read_text()) if path.is_file() else {"before": {}, "automatic": []}
    first = {name for name in automatic if name not in known["before"]}
    told = {"before": before | known["before"], "automatic": sorted(first | set(known["automatic"]))}
    write_private(path, json.dumps(told, indent=1, sort_keys=True) + "\n")


def prune_record(path: Path, run: Run) -> None:
    """Forget what is at its version before; without anything left there is nothing to undo."""
    if not path.is_file():
        return
    told, there = json.loads(path.read_text()), apt.installed(run, half_done=True)
    told["before"] = {name: version for name, version in told["before"].items() if there.get(name) != version}
    if told["before"]:
        write_private(path, json.dumps(told, indent=1, sort_keys=True) + "\n")
    else:
        path.unlink()


def _files(folder: Path, name: str, version: str) -> list[Path]:
    stem = f"{name.partition(':')[0]}_{version}_"
    found = folder.glob("*.deb") if folder.is_dir() else []
    return sorted(path for path in found if path.name.replace("%3a", ":").startswith(stem))
