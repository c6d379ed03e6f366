"""Figures about speed, as ratios measured in one run; `python -m benchmarks.<name> --json` prints one JSON object."""

import socket


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
