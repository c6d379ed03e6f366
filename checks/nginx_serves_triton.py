#!/usr/bin/env python3
"""Is the operator's nginx running, valid, and a proxy to Triton?

Settings: nginx_config_file, nginx_service, triton_http_port.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from shared.host import run
from shared.verdict import main


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read the whole configuration as nginx does, and look for a proxy to Triton's port."""
    main, port = settings["nginx_config_file"], settings["triton_http_port"]
    rc, text, error = run("nginx", "-T", "-c", main)
    active = run("systemctl", "is-active", settings["nginx_service"])[1].strip()
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


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
