#!/usr/bin/env python3
"""Is the operator's nginx running, valid, and a proxy to Triton?

Settings: nginx_config_file, nginx_service, triton_http_port.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

CHECK = "nginx_serves_triton"

TIMEOUT_S = 20


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read the whole configuration as nginx does, and look for a proxy to Triton's port."""
    main, port = settings["nginx_config_file"], settings["triton_http_port"]
    rc, text, error = _run("nginx", "-T", "-c", main)
    active = _run("systemctl", "is-active", settings["nginx_service"])[1].strip()
    leads = proxies(text, int(port))
    good = rc == 0 and active == "active" and leads
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"nginx active, {main} valid, proxying to Triton's port {port}",
        "measured": f"{active or 'no unit'}, {'valid' if rc == 0 else 'invalid'}, {'proxies' if leads else 'no proxy'}",
        "detail": "" if rc == 0 else error.strip()[:300],
        "advice": "" if good else f"nginx -t -c {main}; set nginx_config_file and triton_http_port in the inventory",
    }


def proxies(text: str, port: int) -> bool:
    """Whether a proxy_pass, or the server of an upstream, names the port."""
    bare = re.sub(r"#[^\n]*", "", text)
    return re.search(rf"(?:proxy_pass\s+https?://|\bserver\s+)[^\s;/]+:{port}\b", bare) is not None


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
