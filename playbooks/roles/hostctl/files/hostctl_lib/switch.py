"""Steps of traffic, and the redirect that brings clients to the switch.

A step is a set of flag files that the switch's nginx looks at for each request. The redirect is one nftables table
whose rules touch only the first packet (SYN) of a connection, so that open connections stay where they are.
"""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from . import connections
from .errors import HostctlError, Refused
from .system import Paths, iso, now, run, write_atomic

STEPS = (5, 25, 50, 100)
SCOPES = ("live", "rehearsal")
TABLE = "inet migrate"

# Priority -110 is before Docker's DNAT (-100 of the same hooks). The rule on `ct state` keeps connection tracking on,
# which the kernel starts and stops with the first and last rule that needs it; empty NAT chains do not.
_TRACKING = """
add table inet migrate
add chain inet migrate tracking { type filter hook prerouting priority 0; policy accept; }
add chain inet migrate incoming { type nat hook prerouting priority -110; policy accept; }
add chain inet migrate local { type nat hook output priority -110; policy accept; }
flush chain inet migrate tracking
flush chain inet migrate incoming
flush chain inet migrate local
add rule inet migrate tracking ct state new accept
"""
_CHAINS = ("incoming", "local")
_NEW = "fib daddr type local tcp flags & (fin|syn|rst|ack) == syn"


def ports(config: dict[str, Any]) -> dict[int, int]:
    """Public port -> port of the switch."""
    return {int(public): int(own) for public, own in config["switch"]["ports"].items()}


def step(paths: Paths, config: dict[str, Any], *, percent: int, scope: str) -> dict[str, Any]:
    """Send `percent` of the requests to the gateway: creates the flags up to it and removes those above it."""
    steps = sorted(config["switch"].get("steps", STEPS))
    if percent not in (0, *steps):
        raise Refused(f"{percent} % is no step", f"use one of 0, {', '.join(map(str, steps))}")
    began = time.monotonic()
    flags = paths.flags(scope)
    if percent == 0:
        _drop(paths, scope)
    else:
        flags.mkdir(parents=True, exist_ok=True, mode=0o755)
        for bucket in reversed(steps):
            if bucket > percent:
                (flags / f"b{bucket}").unlink(missing_ok=True)
        for bucket in steps:
            if bucket <= percent:
                (flags / f"b{bucket}").touch()
    return {"percent": percent, "scope": scope, "at": iso(now()), "took_s": round(time.monotonic() - began, 6)}


def percent(paths: Paths, config: dict[str, Any], scope: str) -> int:
    """The share that the flags stand for: the highest step whose flag and every lower one exist."""
    reached = 0
    for bucket in sorted(config["switch"].get("steps", STEPS)):
        if not (paths.flags(scope) / f"b{bucket}").exists():
            break
        reached = bucket
    return reached


def redirect_on(paths: Paths, config: dict[str, Any], *, limit_s: float = 10) -> dict[str, Any]:
    """Lead new connections on the public ports to the switch. Raises Refused while the switch does not listen.

    Connection tracking is turned on first, then every open connection is given `limit_s` to become known. One that
    stays silent longer is safe as well: only a SYN is ever redirected.
    """
    moved = ports(config)
    silent = [own for own in moved.values() if not connections.listening(own)]
    if silent:
        raise Refused(f"the switch does not listen on {silent}", "systemctl status migrate-switch")
    began = time.monotonic()
    if not redirected():
        run(["nft", "-f", "-"], stdin=_TRACKING)
    known = connections.wait_until_known(list(moved), limit_s)
    pairs = [(chain, public, own) for chain in _CHAINS for public, own in moved.items()]
    rules = [
        f"add rule inet migrate {chain} {_NEW} tcp dport {public} dnat to :{own}\n" for chain, public, own in pairs
    ]
    run(["nft", "-f", "-"], stdin=_TRACKING + "".join(rules))
    write_atomic(paths.run / "redirect", "on\n")
    return {"redirect": True, "at": iso(now()), "waited_s": round(time.monotonic() - began, 3)} | known


def redirect_off(paths: Paths, config: dict[str, Any], *, keep_wish: bool = False) -> dict[str, Any]:
    """Lead new connections to the operator's server again.

    Tracking and the empty NAT chains stay while connections to the switch are open: without them the kernel would
    stop translating, and reset them. `keep_wish` remembers that the redirect is wanted when the switch comes back.
    """
    if redirected() is None:
        left = 0
    else:
        run(["nft", "-f", "-"], stdin=_TRACKING)
        left = sum(connections.count(own) for own in ports(config).values())
        if left == 0:
            run(["nft", "delete", "table", *TABLE.split()])
    if not keep_wish:
        (paths.run / "redirect").unlink(missing_ok=True)
    return {"redirect": False, "at": iso(now()), "still_open": left}


def redirected() -> bool | None:
    """Whether new connections are led to the switch; None where there is no table at all."""
    try:
        listed = run(["nft", "-j", "list", "table", *TABLE.split()], check=False)
    except HostctlError:
        return None
    if not listed.strip():
        return None
    return any(item.get("rule", {}).get("chain") in _CHAINS for item in json.loads(listed)["nftables"])


def status(paths: Paths, config: dict[str, Any]) -> dict[str, Any]:
    """Redirect, share, unit, and how many connections the old server and the switch have open."""
    unit = run(["systemctl", "is-active", config["switch"]["unit"]], check=False).strip()
    moved = ports(config)
    return {
        "redirect": bool(redirected()),
        "percent": percent(paths, config, "live"),
        "committed": paths.committed.exists(),
        "unit": "active" if unit == "active" else "inactive",
        "open_connections": {str(public): connections.count(public) for public in moved},
        "switch_connections": {str(own): connections.count(own) for own in moved.values()},
    }


def commit(paths: Paths, config: dict[str, Any]) -> dict[str, Any]:
    """Make the move outlive a reboot: the marker, and the unit enabled. Raises Refused below 100 %."""
    if percent(paths, config, "live") != 100 or not redirected():
        raise Refused("traffic is not at 100 % through the switch", "hostctl switch status")
    paths.committed.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    write_atomic(paths.committed, json.dumps({"at": iso(now())}) + "\n", 0o644)
    run(["systemctl", "enable", config["switch"]["unit"]])
    return {"committed": True}


def uncommit(paths: Paths, config: dict[str, Any]) -> dict[str, Any]:
    """After a reboot Triton serves again: the marker goes, the unit is not started at boot."""
    paths.committed.unlink(missing_ok=True)
    run(["systemctl", "disable", config["switch"]["unit"]], check=False)
    return {"committed": False}


def prepare(paths: Paths, config: dict[str, Any]) -> dict[str, Any]:
    """Before the switch's nginx starts: its directories, and all traffic to the gateway where that was committed."""
    for directory in (paths.run, paths.at("/var/log/migrate")):
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    if paths.committed.exists():
        step(paths, config, percent=100, scope="live")
    return {"percent": percent(paths, config, "live")}


def restore(paths: Paths, config: dict[str, Any]) -> dict[str, Any]:
    """After the switch's nginx listens: the redirect again, where it was committed or on when the switch went down."""
    if paths.committed.exists() or (paths.run / "redirect").exists():
        return redirect_on(paths, config)
    return {"redirect": bool(redirected())}


def _drop(paths: Paths, scope: str) -> None:
    """All flags vanish at once, for every request: one rename, then the old directory is removed at leisure."""
    gone = paths.run / f".{scope}.{time.time_ns()}"
    try:
        paths.flags(scope).rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)
