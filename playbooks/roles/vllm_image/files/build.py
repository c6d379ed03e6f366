#!/usr/bin/env python3
"""Builds the image out of its folder, one build at a time, and leaves log and result beside the Dockerfile.

`build.py FOLDER` reads build.json (tag, arguments, secrets, network, timeout_s) and writes `began`, build.log and, at
its end, `ended` with Docker's exit status; `build.py --look` only says whether a client with BuildKit is here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

TIMED_OUT = 124
# From this release of the client on, BuildKit is a plugin of its own.
PLUGIN_SINCE = 23
MISSING = "no BuildKit: apt-get install docker-buildx-plugin (Docker's packages) or docker-buildx (Ubuntu's)"


def main(argument: str) -> int:
    """0 where the image was built, or where another build of this folder is running already."""
    client = _client()
    if argument == "--look" or not client:
        print(client or MISSING)
        return 0 if client else 1
    folder = Path(argument)
    with (folder / "lock").open("w") as lock:
        if not _locked(lock):
            return 0
        (folder / "began").touch()
        code = _build(client, folder, json.loads((folder / "build.json").read_text()))
        (folder / "ended.new").write_text(str(code))
        (folder / "ended.new").rename(folder / "ended")
    return code


def _locked(lock: IO[str]) -> bool:
    """Whether this is the only build of the folder; a look at its progress holds the lock for a moment too."""
    for _ in range(10):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return True
    return False


def _build(client: str, folder: Path, asked: dict) -> int:  # type: ignore[type-arg]
    argv = [client, "build", "--progress", "plain", "--network", asked["network"], "--tag", asked["tag"]]
    for name, value in asked["arguments"].items():
        argv += ["--build-arg", f"{name}={value}"]
    for name, path in asked["secrets"].items():
        argv += ["--secret", f"id={name},src={path}"] if path else []
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    with (folder / "build.log").open("wb") as log:
        try:
            done = subprocess.run(  # noqa: S603 - argv is ours
                [*argv, str(folder / "context")],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                timeout=asked["timeout_s"],
            )
        except subprocess.TimeoutExpired:
            return TIMED_OUT
    return done.returncode


def _client() -> str:
    """Path of the first `docker` that can build with BuildKit, empty where there is none."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, "docker")
        if not os.access(path, os.X_OK):
            continue
        told = _said([path, "--version"])[1]
        release = re.search(r"version (\d+)\.", told)
        has_plugin = _said([path, "buildx", "version"])[0] == 0
        if has_plugin or (release and int(release[1]) < PLUGIN_SINCE):
            return path
    return ""


def _said(argv: list[str]) -> tuple[int, str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)  # noqa: S603 - argv is ours
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
