"""Planning a fleet from recorded facts: seconds, memory, and whether both grow no faster than the number of hosts.

    python -m benchmarks.plan_scale --json

The facts of one host, recorded in the lab, are read as JSON, planned and written as a plan file, once for each host.
Every size runs in a process of its own, sizes in turn and several times; figures are medians with their spread.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrate import planner, settings

RECORDED = Path(__file__).parent / "recorded" / "gpu01.json"
HOSTS = 1000
SIZES = (250, HOSTS)
ROUNDS = 3


def main() -> int:
    """Run the benchmark; the last line of stdout is its JSON. Exit 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="nothing but the JSON line")
    parser.add_argument("--hosts", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hosts:
        print(json.dumps(plan_hosts(arguments.hosts)))
        return 0
    figures = measure()
    if not arguments.json:
        print(json.dumps(figures, indent=2), file=sys.stderr)
    bars = judge(figures)
    print(json.dumps({"benchmark": "plan_scale", "figures": figures, "bars": bars}))
    return 0 if all(bar["holds"] for bar in bars.values()) else 1


def measure() -> dict[str, Any]:
    """Seconds and MiB for each number of hosts: median, lowest and highest of the rounds."""
    rounds: dict[int, list[dict[str, float]]] = {size: [] for size in SIZES}
    for _ in range(ROUNDS):
        for size in SIZES:
            argv = [sys.executable, "-m", "benchmarks.plan_scale", "--hosts", str(size)]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=True)  # noqa: S603
            rounds[size].append(json.loads(done.stdout))
    return {
        f"{size} hosts, {what}": _spread([seen[what] for seen in rounds[size]])
        for size in SIZES
        for what in ("seconds", "mib")
    }


def judge(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The bars: a minute, 400 MB, and at most a quarter more a host when the fleet is four times as large."""
    small, large = (figures[f"{size} hosts, seconds"]["median"] / size for size in SIZES)
    values = {
        f"{HOSTS} hosts, seconds": (figures[f"{HOSTS} hosts, seconds"]["median"], 60),
        f"{HOSTS} hosts, MB": (figures[f"{HOSTS} hosts, mib"]["median"] * 1.048576, 400),
        "seconds a host, large fleet / small": (large / small, 1.25),
    }
    return {
        name: {"value": round(value, 3), "limit": limit, "holds": value <= limit}
        for name, (value, limit) in values.items()
    }


def plan_hosts(count: int) -> dict[str, float]:
    """Plan `count` hosts one after the other; wall seconds and the peak memory of this process in MiB."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    chosen = settings.load(recorded["settings"])
    began, moment, written = time.monotonic(), datetime.now(UTC), 0
    for number in range(count):
        facts = json.loads(_of_host(recorded["facts"], f"gpu{number:04d}"))
        written += len(planner.make(f"gpu{number:04d}", chosen, facts, "0" * 64, moment).text())
    if written < count * 1000:
        raise SystemExit("the plans are too short to be plans")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": time.monotonic() - began, "mib": peak}


def _of_host(facts: dict[str, Any], host: str) -> str:
    """The recorded facts as another host would have them: no nginx configuration is another's byte for byte."""
    files = {path: f"# {host}\n{text}" for path, text in facts["nginx"]["files"].items()}
    return json.dumps(facts | {"nginx": facts["nginx"] | {"files": files}})


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
