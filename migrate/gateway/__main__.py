"""`python -m migrate.gateway /etc/gateway.yaml` serves until it is told to stop, and then finishes what it began.

`--check` only reads the file; `--healthcheck` asks the gateway that runs with it, for a container's health check.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NoReturn

import uvloop

from migrate.gateway.config import GatewayConfig
from migrate.gateway.errors import ConfigError
from migrate.gateway.observe import log
from migrate.gateway.openai import keys
from migrate.gateway.serving import Configuration, serve
from migrate.gateway.workers import supervise

_USAGE = 64
_HEALTH_TIMEOUT_S = 3


def main(arguments: list[str]) -> int:
    """The process's exit status: 64 when the command line or the configuration file cannot be used.

    vLLM's key comes from the environment, as for vLLM itself: VLLM_API_KEY.
    """
    try:
        asked = _parser().parse_args(arguments)
        configuration = Configuration(asked.config)
        config = configuration.current
        keys.load(config.openai)
        if asked.check:
            print(f"{asked.config}: {len(config.models)} models, {len(config.servers)} upstreams, in order")
            return 0
        if asked.healthcheck:
            return _health(config)
        log.set_up(config.logging)
        return _run(configuration, asked)
    except (ConfigError, _UsageError) as error:
        print(error, file=sys.stderr)
        return _USAGE


def _run(configuration: Configuration, asked: argparse.Namespace) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if configuration.current.workers > 1 and asked.worker is None:
            command = [sys.executable, "-m", "migrate.gateway", str(asked.config), "--worker"]
            return runner.run(supervise(lambda number: [*command, str(number)], configuration.current.workers, _USAGE))
        runner.run(serve(configuration, os.environ.get("VLLM_API_KEY", ""), asked.worker or 0))
    return 0


def _health(config: GatewayConfig) -> int:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.listen.host, config.listen.host)  # noqa: S104
    address = f"[{host}]" if ":" in host else host
    try:
        with urllib.request.urlopen(  # noqa: S310 -- the address is the configuration's own
            f"http://{address}:{config.listen.port}/v2/health/live", timeout=_HEALTH_TIMEOUT_S
        ):
            return 0
    except (urllib.error.URLError, TimeoutError) as error:
        print(f"{address}:{config.listen.port} is not live: {error}", file=sys.stderr)
        return 1


class _UsageError(Exception):
    """The command line cannot be used."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{self.format_usage()}{message}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m migrate.gateway", description=__doc__)
    parser.add_argument("config", type=Path, help="the gateway's YAML file")
    parser.add_argument("--check", action="store_true", help="only say whether the file can be used")
    parser.add_argument("--healthcheck", action="store_true", help="only ask whether the gateway is live")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
