"""What moving traffic costs clients: one flag renamed, as the switch does, against `nginx -s reload`, as usual.

    python -m benchmarks.switching --json

One nginx and two small upstreams on the loopback, keep-alive POST clients without a pause or a retry. Rounds of both
ways of moving alternate in one run; failures are counted, and latencies given as the median over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks import free_port

CLIENTS = 40
ROUNDS = 3
MOVES = 10
MOVE_EVERY_S = 0.2

CONFIG = """
daemon off; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/f;
    uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
    upstream old {{ server 127.0.0.1:{old}; keepalive 32; }}
    upstream new {{ server 127.0.0.1:{new}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            set $up {default};
            if (-f {root}/flags/on) {{ set $up new; }}
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass http://$up;
        }}
    }}
}}
"""


@dataclass
class Round:
    """What the clients saw: latencies in seconds, and how many requests failed."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0

    def percentile_ms(self, share: float) -> float:
        """A latency percentile in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


@dataclass(frozen=True)
class Nginx:
    """A private nginx: where its files are, its ports, and how to move its traffic."""

    root: Path
    port: int
    old: int
    new: int

    def write(self, default: str) -> None:
        """Write a configuration that leads to `default` while no flag is there."""
        text = CONFIG.format(root=self.root, port=self.port, old=self.old, new=self.new, default=default)
        (self.root / "nginx.conf").write_text(text, encoding="utf-8")

    async def by_flag(self, to_new: bool) -> None:
        """Move by creating or removing the flag's directory with one rename."""
        names = ("off", "flags") if to_new else ("flags", "off")
        (self.root / names[0]).rename(self.root / names[1])

    async def by_reload(self, to_new: bool) -> None:
        """Move by another configuration and a reload."""
        self.write("new" if to_new else "old")
        command = ["nginx", "-c", self.root / "nginx.conf", "-s", "reload"]
        await (await asyncio.create_subprocess_exec(*map(str, command), stderr=subprocess.DEVNULL)).wait()


async def measure() -> dict[str, Any]:
    """Both ways in turn, `ROUNDS` times; figures and bars."""
    seen: dict[str, list[Round]] = {"flag": [], "reload": []}
    for _ in range(ROUNDS):
        for way in seen:
            seen[way].append(await _round(way))
    figures: dict[str, Any] = {}
    for way, rounds in seen.items():
        p99 = [r.percentile_ms(0.99) for r in rounds]
        figures[way] = {
            "requests": sum(len(r.latencies) + r.failed for r in rounds),
            "failed": sum(r.failed for r in rounds),
            "p99_ms": round(statistics.median(p99), 2),
            "p99_ms_spread": [round(min(p99), 2), round(max(p99), 2)],
            "moves": ROUNDS * MOVES,
        }
    failed = figures["flag"]["failed"]
    return {
        "benchmark": "switching",
        "figures": figures,
        "bars": {"requests failed by moving with the flag": {"value": failed, "limit": 0, "holds": failed == 0}},
    }


async def _round(way: str) -> Round:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "off").mkdir()
        (root / "off" / "on").touch()
        old, stop_old = await _upstream(b"old")
        new, stop_new = await _upstream(b"new")
        nginx = Nginx(root, free_port(), old, new)
        nginx.write("old")
        process = await asyncio.create_subprocess_exec(
            "nginx", "-c", str(root / "nginx.conf"), stderr=subprocess.DEVNULL
        )
        try:
            return await _clients(nginx, nginx.by_flag if way == "flag" else nginx.by_reload)
        finally:
            process.terminate()
            await process.wait()
            await stop_old()
            await stop_new()


async def _clients(nginx: Nginx, move: Callable[[bool], Awaitable[None]]) -> Round:
    seen, done = Round(), asyncio.Event()
    url = f"http://127.0.0.1:{nginx.port}/"
    await _listening(nginx.port)
    clients = [asyncio.create_task(_client(url, seen, done)) for _ in range(CLIENTS)]
    for number in range(MOVES):
        await asyncio.sleep(MOVE_EVERY_S)
        await move(number % 2 == 0)
    await asyncio.sleep(MOVE_EVERY_S)
    done.set()
    await asyncio.gather(*clients)
    return seen


async def _client(url: str, seen: Round, done: asyncio.Event) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as session:
        while not done.is_set():
            began = time.perf_counter()
            try:
                async with session.post(url, data=b"x" * 200) as response:
                    await response.read()
                    response.raise_for_status()
                seen.latencies.append(time.perf_counter() - began)
            except aiohttp.ClientError:
                seen.failed += 1


async def _upstream(name: bytes) -> tuple[int, Callable[[], Awaitable[None]]]:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=name)

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, keepalive_timeout=75)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return int(runner.addresses[0][1]), runner.cleanup


async def _listening(port: int) -> None:
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit(f"nginx does not listen on port {port}")


def main() -> int:
    """Print the figures; exit 1 where a bar does not hold, 64 without nginx."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the JSON object alone")
    asked = parser.parse_args()
    if shutil.which("nginx") is None:
        print("nginx is not installed; next: lab/system-packages.sh", file=sys.stderr)
        return 64
    result = asyncio.run(measure())
    if not asked.json:
        for way, figures in result["figures"].items():
            print(f"{way:7} {figures['failed']} of {figures['requests']} failed, p99 {figures['p99_ms']} ms")
    print(json.dumps(result))
    return 0 if all(bar["holds"] for bar in result["bars"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
