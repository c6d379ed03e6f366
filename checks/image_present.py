#!/usr/bin/env python3
"""Are the vLLM image, by digest, and the gateway's image, built on it, on the host?

Settings: vllm_image_digest, gateway_image; with vllm_runtime podman or process: gateway_dir, vllm_venv.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECK = "image_present"

TIMEOUT_S = 20
BASE_LABEL = "migrate.base"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Inspect both images; the gateway's label names the digest that it was built on."""
    if settings.get("vllm_runtime", "docker") != "docker":
        return _elsewhere(settings)
    wanted, gateway = settings["vllm_image_digest"], settings["gateway_image"]
    rc, out, _ = _run("docker", "image", "inspect", wanted)
    gateway_rc, built, _ = _run("docker", "image", "inspect", gateway)
    missing = ([wanted] if rc != 0 else []) + ([gateway] if gateway_rc != 0 else [])
    base = "" if gateway_rc != 0 else (json.loads(built)[0]["Config"].get("Labels") or {}).get(BASE_LABEL, "")
    good = not missing and base == wanted
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"{wanted}, and {gateway} built on it",
        "measured": f"missing: {', '.join(missing)}"
        if missing
        else f"both, the gateway built on {base or 'another image'}",
        "advice": "" if good else f"docker image rm {gateway}; then migrate continue",
        "versions": {} if rc != 0 else {"vllm image": json.loads(out)[0]["Id"]},
    }


def _elsewhere(settings: dict[str, Any]) -> dict[str, Any]:
    """Podman's image, or the virtual environment of a process; the gateway's sources stand for its image."""
    is_process = settings["vllm_runtime"] == "process"
    wanted = f"vllm in {settings['vllm_venv']}" if is_process else settings["vllm_image_digest"]
    ask = [f"{settings['vllm_venv']}/bin/python", "-c", "from importlib.metadata import version as v; print(v('vllm'))"]
    rc, out, error = _run(*ask) if is_process else _run("podman", "image", "exists", settings["vllm_image_digest"])
    sources = Path(settings["gateway_dir"], "migrate", "gateway", "__main__.py").is_file()
    return {
        "verdict": "pass" if rc == 0 and sources else "fail",
        "expected": f"{wanted}, and the gateway's sources in {settings['gateway_dir']}",
        "measured": f"{out.strip() or 'there' if rc == 0 else error.strip()[-200:] or 'absent'}, "
        f"the gateway's sources {'there' if sources else 'absent'}",
        "advice": "" if rc == 0 and sources else "migrate continue: the phase stage puts them there",
    }


def _run(*argv: str) -> tuple[int, str, str]:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        return 127, "", f"{argv[0]} is not installed"
    return done.returncode, done.stdout, done.stderr


def main(argv: list[str]) -> int:
    """Print the verdict; 0 pass, 1 fail, 2 could not tell."""
    start = time.monotonic()
    try:
        found = check(json.loads(argv[1]))
    except Exception as error:
        found = {"verdict": "error", "measured": f"{type(error).__name__}: {error}", "advice": f"run {argv[0]} by hand"}
    told = {"check": CHECK, "expected": "", "measured": "", "detail": "", "advice": "", "versions": {}} | found
    print(json.dumps(told | {"duration_s": round(time.monotonic() - start, 3)}))
    return {"pass": 0, "fail": 1}.get(found["verdict"], 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
