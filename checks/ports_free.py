#!/usr/bin/env python3
"""Are the ports that vLLM, the gateway and the switch will listen on free, or theirs already?

Settings: vllm_port, gateway_port, switch_rehearsal_port, switch_ports; ports_free_ours (names of processes of ours).
"""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import Any

from shared.host import run
from shared.verdict import main

_run = partial(run, timeout_s=10)
OURS = {"vllm_port": "vllm", "gateway_port": "vllm", "switch": "migrate-switch"}


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Look each port up among the listening sockets; a port that our own unit or project holds counts as free."""
    wanted = {"vllm_port": settings["vllm_port"], "gateway_port": settings["gateway_port"]}
    wanted["switch_rehearsal_port"] = settings["switch_rehearsal_port"]
    wanted |= {f"switch_ports {public}": port for public, port in (settings.get("switch_ports") or {}).items()}
    taken = listening(settings["ss_output"] if "ss_output" in settings else _run("ss", "-Hltnp")[1])
    clashes = [name for name, port in wanted.items() if int(port) in taken and not _ours(name)]
    told = [f"{name} {wanted[name]} is held by {taken[int(wanted[name])]}" for name in clashes]
    return {
        "verdict": "fail" if clashes else "pass",
        "expected": "free: " + ", ".join(f"{name} {port}" for name, port in wanted.items()),
        "measured": "; ".join(told) or "all free, or held by this migration",
        "advice": f"choose another {clashes[0].split()[0]} in the inventory" if clashes else "",
    }


def listening(text: str) -> dict[int, str]:
    """Port -> process from `ss -Hltnp`."""
    found = {}
    for line in text.splitlines():
        process = re.search(r'"([^"]+)"', line)
        found[int(line.split()[3].rpartition(":")[2])] = process[1] if process else "another process"
    return found


def _ours(name: str) -> bool:
    """Whether the port belongs to what this migration started earlier."""
    if name.startswith("switch"):
        return _run("systemctl", "is-active", "migrate-switch")[1].strip() == "active"
    if _run("systemctl", "is-active", "migrate-vllm")[1].strip() in {"active", "activating"}:
        return True
    label = "label=com.docker.compose.project=vllm"
    return bool(_run("docker", "ps", "--quiet", "--filter", label)[1].strip())


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
