"""`python -m migrate.gateway /etc/gateway.yaml` serves until it is told to stop, and then finishes what it began."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvicorn

from migrate.gateway.app import build_app
from migrate.gateway.config import load
from migrate.gateway.errors import ConfigError

# Longer than nginx keeps its own connections to it (60 s): only the side that sends requests may close a quiet one.
_KEEP_ALIVE_S = 75
_DRAIN_S = 30
_USAGE = 64


def main(arguments: list[str]) -> int:
    """Serve with the configuration file given as the only argument; 64 when it cannot be used.

    vLLM's key comes from the environment, as for vLLM itself: VLLM_API_KEY.
    """
    if len(arguments) != 1:
        print("usage: python -m migrate.gateway CONFIG.yaml", file=sys.stderr)
        return _USAGE
    try:
        config = load(Path(arguments[0]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return _USAGE
    uvicorn.run(
        build_app(config, os.environ.get("VLLM_API_KEY", "")),
        host=config.listen.host,
        port=config.listen.port,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
