"""What `migrate plan` costs: its time against `ansible -m setup` on the same host, and what it writes there.

    python -m benchmarks.plan_cost --json

Needs the lab. Rounds of both alternate in one run over one kept ssh connection, as Ansible keeps it; times are medians.
The host's files (name, kind, mode, owner, size, time of change) are listed before and after a plan; logs, what systemd,
Docker and any login keep below /run, and what changes in as long a time without a plan, are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from migrate import bundled
from migrate import inventory as inventories

HOST = "gpu01"
CONTAINER = f"migrate-lab-{HOST}"
LIMIT = 1.5
# A file that is in every listing: without it, the listing failed.
KNOWN = "/etc/hostname"
_MOVING = ("/run/systemd", "/run/user", "/run/sudo", "/run/log", "/run/utmp", "/run/docker", "/run/containerd")
_LEFT_OUT = ("/proc", "/sys", "/dev", "/var/log", *_MOVING)
_LIST = (
    rf"find / -ignore_readdir_race \( {' -o '.join(f'-path {path}' for path in _LEFT_OUT)} \) -prune -o "
    r"! -name '*.log' \( -type d -printf '%y %m %U %G - - %p\n' -o -printf '%y %m %U %G %s %T@ %p\n' \)"
)


def measure(rounds: int) -> dict[str, Any]:
    """Both in turn, `rounds` times; then the files. Raises CalledProcessError where one of them fails."""
    arms = {"setup": _setup(), "plan": [sys.executable, "-m", "migrate", "plan", "--host", HOST, "--json"]}
    with tempfile.TemporaryDirectory() as directory:
        for command in arms.values():
            _timed(command, directory)
        seen: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(rounds):
            for name in sorted(arms, reverse=bool(number % 2)):
                seen[name].append(_timed(arms[name], directory))
        written = _written(arms["plan"], directory)
    figures = {f"{name}_s": _summary(times) for name, times in seen.items()}
    ratio = round(statistics.median(seen["plan"]) / statistics.median(seen["setup"]), 2)
    return {
        "benchmark": "plan_cost",
        "rounds": rounds,
        "figures": {**figures, "written": written},
        "bars": {
            "plan / setup": {"value": ratio, "limit": LIMIT, "holds": ratio <= LIMIT},
            "files written on the host": {"value": len(written), "limit": 0, "holds": not written},
        },
    }


def _setup() -> list[str]:
    inventory = inventories.find(bundled.root() / "inventory" / "lab")
    vault = ["--vault-password-file", str(inventory.vault_password_file)]
    return [
        bundled.tool("ansible"),
        *("-i", str(inventory.path), *vault, HOST, "--become", "--module-name", "ansible.builtin.setup"),
    ]


def _timed(command: list[str], directory: str) -> float:
    """Seconds of one run; the operator's directory holds nothing but what is named."""
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(bundled.root() / "ansible.cfg"),
        "MIGRATE_INVENTORY": str(bundled.root() / "inventory" / "lab"),
    }
    began = time.perf_counter()
    subprocess.run(  # noqa: S603 - a list, no shell
        command, cwd=directory, env=environment, check=True, capture_output=True, timeout=300
    )
    return time.perf_counter() - began


def _written(plan: list[str], directory: str) -> list[str]:
    """Files that a plan created, changed or removed on the host, but for those that change without one too."""
    idle = _files()
    time.sleep(_timed(plan, directory))
    time.sleep(1)
    moving = _changed(idle, before := _files())
    _timed(plan, directory)
    return sorted(_changed(before, _files()) - moving)


def _files() -> set[str]:
    """Raises CalledProcessError, or RuntimeError for a listing that lacks what is surely there."""
    listed = subprocess.run(  # noqa: S603 - a fixed command of the lab
        ["docker", "exec", CONTAINER, "sh", "-c", _LIST],  # noqa: S607
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        timeout=300,
    )
    found = set(listed.stdout.splitlines())
    if KNOWN not in _paths(found):
        raise RuntimeError(f"{KNOWN} is not in the listing of {HOST}'s files")
    return found


def _changed(before: set[str], after: set[str]) -> set[str]:
    return _paths(before ^ after)


def _paths(lines: set[str]) -> set[str]:
    return {line.split(" ", 6)[-1] for line in lines}


def _summary(times: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(times), 2),
        "least": round(min(times), 2),
        "most": round(max(times), 2),
    }


def main() -> int:
    """Print the figures; exit 1 where a bar does not hold, 64 without the lab."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the JSON object alone")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    running = ["docker", "container", "inspect", "--format", "{{.State.Running}}", CONTAINER]
    if subprocess.run(running, capture_output=True, text=True, check=False).stdout.strip() != "true":  # noqa: S603
        print("the lab is not up; next: migrate lab up", file=sys.stderr)
        return 64
    result = measure(asked.rounds)
    if not asked.json:
        for name in ("setup", "plan"):
            seen = result["figures"][f"{name}_s"]
            print(f"{name:6} {seen['median']} s ({seen['least']} to {seen['most']})")
        print("written on the host:", ", ".join(result["figures"]["written"]) or "nothing")
    print(json.dumps(result))
    return 0 if all(bar["holds"] for bar in result["bars"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
