"""What several checks ask a host: its commands, its ports, its files, its bus."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import subprocess
from pathlib import Path
from typing import Any

DISPLAY = re.compile(r"\[03(?:00|02)\]")


def run(*argv: str, timeout_s: float = 20) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; 127 where it is not installed. Raises TimeoutExpired."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s)
    except FileNotFoundError:
        return 127, "", f"{argv[0]} is not installed"
    return done.returncode, done.stdout, done.stderr


def answer(*argv: str, timeout_s: float = 60) -> dict[str, Any]:
    """The same as `rc`, `out` and `error`, to be kept in `raw`; 124 where the command did not end in time."""
    try:
        rc, out, error = run(*argv, timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        return {"rc": 124, "out": "", "error": f"{argv[0]} did not end within {timeout_s} s"}
    return {"rc": rc, "out": out, "error": error}


def ask(port: int, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = 30) -> tuple[int, str]:
    """Status and text of a GET, or of a POST where there is a body; status 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        method = "GET" if body is None else "POST"
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except OSError as error:
        return 0, f"port {port}: {error.strerror or error}"
    finally:
        connection.close()


def sha256(path: Path) -> str:
    """Of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text(path: Path) -> str:
    """What a file holds, stripped; nothing where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def cards() -> dict[str, Any]:
    """Display controllers of vendor 10de (NVIDIA), counted by lspci or, without it, in sysfs."""
    found = answer("lspci", "-nn", "-d", "10de:")
    if found["rc"] == 0:
        return found | {"cards": len(DISPLAY.findall(found["out"]))}
    devices = [path for path in Path("/sys/bus/pci/devices").glob("*") if text(path / "vendor") == "0x10de"]
    count = sum(text(path / "class")[:6] in ("0x0300", "0x0302") for path in devices)
    return found | {"rc": 0 if count else found["rc"], "cards": count, "from": "sysfs"}
