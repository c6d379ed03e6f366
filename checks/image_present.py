#!/usr/bin/env python3
"""Are the vLLM image, by digest, and the gateway's image, built on it, on the host?

Settings: vllm_image_digest, gateway_image; with vllm_runtime podman or process: gateway_dir, vllm_venv.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from shared.host import run
from shared.verdict import main

BASE_LABEL = "migrate.base"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Inspect both images; the gateway's label names the digest that it was built on."""
    if settings.get("vllm_runtime", "docker") != "docker":
        return _elsewhere(settings)
    wanted, gateway = settings["vllm_image_digest"], settings["gateway_image"]
    rc, out, _ = run("docker", "image", "inspect", wanted)
    gateway_rc, built, _ = run("docker", "image", "inspect", gateway)
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
    rc, out, error = run(*ask) if is_process else run("podman", "image", "exists", settings["vllm_image_digest"])
    sources = Path(settings["gateway_dir"], "migrate", "gateway", "__main__.py").is_file()
    return {
        "verdict": "pass" if rc == 0 and sources else "fail",
        "expected": f"{wanted}, and the gateway's sources in {settings['gateway_dir']}",
        "measured": f"{out.strip() or 'there' if rc == 0 else error.strip()[-200:] or 'absent'}, "
        f"the gateway's sources {'there' if sources else 'absent'}",
        "advice": "" if rc == 0 and sources else "migrate continue: the phase stage puts them there",
    }


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
