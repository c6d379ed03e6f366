#!/usr/bin/env python3
"""Does the vLLM image know every planned option? A throwaway container without network prints its own --help.

Settings: vllm_image_digest, vllm_args, vllm_gpus (a CUDA image prints no help where it finds no GPU), vllm_runtime
(docker, podman or process), vllm_venv (for process), and vllm_flags_timeout_s, 600 unless given.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from typing import Any

from shared.host import run
from shared.verdict import main

TIMEOUT_S = 600
REMOVE_TIMEOUT_S = 30
ALWAYS = ("served-model-name", "host", "port")
# In every release's full help, and in none that is cut down to groups or to a keyword.
SENTINEL = "max-model-len"
# argparse indents an option by two columns and its help by more; two blanks end what it accepts.
OPTION_LINE = re.compile(r"^ {2}(-\S.*?)(?: {2,}.*)?$", re.MULTILINE)
OPTION = re.compile(r"--([a-z0-9][a-z0-9_-]*)")


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare the options that the container will be started with, with those that its image knows."""
    is_process = settings.get("vllm_runtime") == "process"
    image, args = settings["vllm_venv" if is_process else "vllm_image_digest"], settings["vllm_args"]
    wanted = [*ALWAYS, *(_option(name, value) for name, value in args.items() if value is not None)]
    known, why = _known(image, settings)
    expected = f"{len(wanted)} planned options, all known to {image}"
    if not known:
        run = f"{settings.get('vllm_runtime', 'docker')} run --rm --network none {' '.join(_gpus(settings))} {image}"
        advice = f"{f'{image}/bin/vllm serve' if is_process else run} --help=all".replace("  ", " ")
        return {"verdict": "error", "expected": expected, "measured": f"no help: {why}", "advice": advice}
    unknown = [name for name in wanted if name not in known]
    nearest = {name: difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5) for name in unknown}
    hints = [
        f"--{name}: nearest is --{near[0]}" if near else f"--{name}: none like it" for name, near in nearest.items()
    ]
    return {
        "verdict": "fail" if unknown else "pass",
        "expected": expected,
        "measured": f"unknown to the image: {', '.join(f'--{name}' for name in unknown)}"
        if unknown
        else f"all {len(wanted)} are among the image's {len(known)}",
        "detail": "; ".join(hints),
        "advice": "mend vllm_args, then migrate plan again" if unknown else "",
    }


def _option(name: str, value: Any) -> str:
    """An option as the compose file passes it, spelled as vLLM compares it: `a_b.c` is `a-b`, false is `--no-`."""
    bare = name.partition(".")[0].rstrip("+").replace("_", "-")
    return f"no-{bare}" if value is False else bare


def _known(image: str, settings: dict[str, Any]) -> tuple[set[str], str]:
    """The image's options, or none and why. Releases before 0.11 have no --help=all and print all for --help."""
    why = ""
    for ask in ("--help=all", "--help"):
        rc, out, error = _asked(image, ask, settings)
        lines = OPTION_LINE.findall(out)
        known = {name.replace("_", "-") for line in lines for name in OPTION.findall(line)}
        if rc == 0 and SENTINEL in known:
            return known, ""
        last = (error or out).strip().splitlines()[-1:]
        why = f"{ask} ended with {rc}: {last[0] if last else 'nothing printed'}"
        if rc in (124, 125, 127):
            break
    return set(), why


def _asked(image: str, ask: str, settings: dict[str, Any]) -> tuple[int, str, str]:
    name, engine = f"migrate-vllm-flags-{os.getpid()}", settings.get("vllm_runtime", "docker")
    limit = settings.get("vllm_flags_timeout_s", TIMEOUT_S)
    argv = [engine, "run", "--rm", "--name", name, "--network", "none", "--env", "COLUMNS=200", *_gpus(settings), image]
    if engine == "process":
        argv = ["env", "COLUMNS=200", f"{image}/bin/vllm", "serve"]
    try:
        return run(*argv, ask, timeout_s=limit)
    except subprocess.TimeoutExpired:
        if engine != "process":
            run(engine, "rm", "--force", name, timeout_s=REMOVE_TIMEOUT_S)
        return 124, "", f"no answer within {limit} s"


def _gpus(settings: dict[str, Any]) -> list[str]:
    gpus = settings.get("vllm_gpus", "none")
    podman = settings.get("vllm_runtime") == "podman"
    return [] if gpus == "none" else ["--device", f"nvidia.com/gpu={gpus}"] if podman else ["--gpus", str(gpus)]


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
