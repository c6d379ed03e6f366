"""What the gateway costs: added latency at 200 requests a second, and how much one core of it carries.

    python -m benchmarks.gateway_overhead --json

Needs nginx, wrk and taskset. The gateway has core 0 to itself; an nginx that answers at once as vLLM would, and the
clients, have core 1. Rounds of all arms alternate in one run; figures are medians over the rounds, with their spread.
Latency is measured in an open loop: arrivals follow a Poisson process and count from when they were due. A figure "a
core" is requests over seconds of processor time, which a client that is the limit does not lower.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import yaml
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks import free_port

ROUNDS, ROUND_S, CONNECTIONS, EVENTS = 3, 6, 32, 256
RATE, LATENCY_S = 200, 10
GATEWAY_CORE, OTHER_CORE = "0", "1"
PROMPT = {"text_input": "def add(a, b):", "max_tokens": 16}
QUESTION = {"model": "phi-2", "prompt": "def add(a, b):", "max_tokens": 16}
ANSWER = {
    "id": "cmpl-1",
    "object": "text_completion",
    "model": "phi-2",
    "choices": [{"index": 0, "text": "\n    return a + b", "logprobs": None, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14},
}
CHUNK = {"id": "cmpl-1", "choices": [{"index": 0, "text": " a", "logprobs": None, "finish_reason": None}]}
LAST = {"id": "cmpl-1", "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]}
NGINX = """
daemon off; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000; keepalive_timeout 75s;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/f;
    uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
    server {{
        listen 127.0.0.1:{port};
        root {root}/answers; default_type application/json;
        error_page 405 =200 $uri;
        location = /health {{ return 200; }}
        location = /v1/models {{ return 200 '{{"data":[{{"id":"phi-2","max_model_len":2048}}]}}'; }}
        location = /v1/completions {{ default_type {kind}; }}
    }}
}}
"""
POST = 'wrk.method = "POST"; wrk.headers["Content-Type"] = "application/json"; wrk.body = [[{body}]]'


@dataclass(frozen=True)
class Place:
    """A running gateway: its process, and where it answers."""

    pid: int
    http: int
    grpc: int
    upstream: int

    def url(self, path: str) -> str:
        """An address of the gateway."""
        return f"http://127.0.0.1:{self.http}{path}"

    def processor_s(self) -> float:
        """Seconds of processor time that the gateway has used so far (proc(5): fields 14 and 15)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure() -> dict[str, Any]:
    """All arms; figures and bars."""
    with _place("application/json", json.dumps(ANSWER)) as whole:
        latency = asyncio.run(_latencies(whole))
        arms: dict[str, Callable[[], float]] = {
            "http generate": lambda: _wrk(whole, "/v2/models/phi2/generate", PROMPT),
            "http /v1/completions": lambda: _wrk(whole, "/v1/completions", QUESTION),
            "grpc ModelInfer": lambda: asyncio.run(_grpc(whole)),
        }
        figures = _alternating(arms)
    events = "".join(f"data: {json.dumps(CHUNK)}\n\n" for _ in range(EVENTS - 1))
    stream = f"{events}data: {json.dumps(LAST)}\n\ndata: [DONE]\n\n"
    with _place("text/event-stream", stream) as streamed:
        asked = {"text_input": PROMPT["text_input"], "stream": True, "sampling_parameters": '{"max_tokens": 256}'}
        path = "/v2/models/phi2_stream/generate_stream"
        figures |= _alternating({"http generate_stream, tokens": lambda: EVENTS * _wrk(streamed, path, asked)})
    bars = {
        "added p50 at 200/s, ms": _bar(latency["added_p50_ms"], most=1.5),
        "added p99 at 200/s, ms": _bar(latency["added_p99_ms"], most=6.0),
        "HTTP generate a second and core": _bar(figures["http generate"]["a_core"], least=1500),
        "gRPC ModelInfer a second and core": _bar(figures["grpc ModelInfer"]["a_core"], least=800),
        "tokens streamed a second and core": _bar(figures["http generate_stream, tokens"]["a_core"], least=20000),
    }
    return {"benchmark": "gateway_overhead", "latency": latency, "figures": figures, "bars": bars}


def _bar(value: float, *, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    holds = value >= least if least is not None else value <= (most or 0.0)
    return {"value": value, "limit": least if least is not None else most, "holds": holds}


def _alternating(arms: dict[str, Callable[[], float]]) -> dict[str, Any]:
    """Requests a second and core of each arm, one round of each in turn; a first round is thrown away."""
    seen: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS + 1):
        for name, arm in arms.items():
            seen[name].append(arm())
    kept = {name: sorted(values[1:]) for name, values in seen.items()}
    return {
        name: {"a_core": round(statistics.median(values)), "spread": [round(values[0]), round(values[-1])]}
        for name, values in kept.items()
    }


def _wrk(place: Place, path: str, body: dict[str, Any]) -> float:
    """Requests for each second of the gateway's processor time. Raises SystemExit where one did not get 200."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(POST.format(body=json.dumps(body)))
        script.flush()
        before = place.processor_s()
        command = ["taskset", "-c", OTHER_CORE, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{ROUND_S}s", "-s", script.name]
        said = subprocess.run([*command, place.url(path)], capture_output=True, text=True, check=True).stdout  # noqa: S603
    counted = re.search(r"(\d+) requests in", said)
    if counted is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{path}: {said}")
    return int(counted[1]) / (place.processor_s() - before)


async def _grpc(place: Place) -> float:
    """As `_wrk`, over gRPC; the client is this process."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[1])
    text = PROMPT["text_input"].encode()  # type: ignore[attr-defined]
    raw = len(text).to_bytes(4, "little") + text
    message = service_pb2.ModelInferRequest(model_name="phi2", inputs=[tensor], raw_input_contents=[raw])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{place.grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        end, before = time.monotonic() + ROUND_S, place.processor_s()

        async def client() -> int:
            count = 0
            while time.monotonic() < end:
                await stub.ModelInfer(message)
                count += 1
            return count

        done = sum(await asyncio.gather(*(client() for _ in range(CONNECTIONS))))
    return done / (place.processor_s() - before)


async def _latencies(place: Place) -> dict[str, Any]:
    """Percentiles straight to nginx and through the gateway, in alternating rounds, and what the gateway adds."""
    targets = {
        "direct": (f"http://127.0.0.1:{place.upstream}/v1/completions", QUESTION),
        "gateway": (place.url("/v2/models/phi2/generate"), PROMPT),
    }
    seen: dict[str, list[float]] = {name: [] for name in targets}
    added: dict[int, list[float]] = {50: [], 99: []}
    for number in range(ROUNDS + 1):
        rounds = {name: await _open_loop(*target) for name, target in targets.items()}
        if number:
            for share, values in added.items():
                values.append(_percentile(rounds["gateway"], share) - _percentile(rounds["direct"], share))
            for name, values in rounds.items():
                seen[name] += values
    told = {f"{name}_p{p}_ms": round(_percentile(values, p), 2) for name, values in seen.items() for p in added}
    told |= {f"added_p{p}_ms": round(statistics.median(values), 2) for p, values in added.items()}
    return told | {f"added_p{p}_ms_spread": [round(min(v), 2), round(max(v), 2)] for p, v in added.items()}


async def _open_loop(url: str, body: dict[str, Any]) -> list[float]:
    """Latencies in milliseconds, each from when its request was due."""
    clock = random.Random(7)  # noqa: S311 - arrivals, not secrets
    due, dues = time.perf_counter() + 0.1, []
    while len(dues) < RATE * LATENCY_S:
        due += clock.expovariate(RATE)
        dues.append(due)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(due: float) -> float:
            await asyncio.sleep(due - time.perf_counter())
            async with session.post(url, json=body) as response:
                await response.read()
                response.raise_for_status()
            return (time.perf_counter() - due) * 1000

        return await asyncio.gather(*map(one, dues))


def _percentile(values: list[float], share: int) -> float:
    return statistics.quantiles(values, n=100)[share - 1]


@contextmanager
def _place(kind: str, answer: str) -> Iterator[Place]:
    """nginx that gives this answer to every completion, and the gateway in front of it."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "answers" / "v1").mkdir(parents=True)
        (root / "answers" / "v1" / "completions").write_text(answer, encoding="utf-8")
        upstream, http, rpc = free_port(), free_port(), free_port()
        (root / "nginx.conf").write_text(NGINX.format(root=root, port=upstream, kind=kind), encoding="utf-8")
        models = {name: {"style": style, "upstream_model": "phi-2"} for name, style in _MODELS.items()}
        config = {
            "listen": {"port": http},
            "grpc": {"port": rpc},
            "upstream": {"url": f"http://127.0.0.1:{upstream}"},
            "models": models,
            "logging": {"level": "warning", "requests": False},
        }
        (root / "gateway.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with (
            _running(OTHER_CORE, ["nginx", "-c", str(root / "nginx.conf")], upstream),
            _running(GATEWAY_CORE, [sys.executable, "-m", "migrate.gateway", str(root / "gateway.yaml")], http) as pid,
        ):
            yield Place(pid, http, rpc, upstream)


_MODELS = {"phi2": "python", "phi2_stream": "vllm"}


@contextmanager
def _running(core: str, command: list[str], port: int) -> Iterator[int]:
    """A program on one core, once its port is open; its process id."""
    process = subprocess.Popen(["taskset", "-c", core, *command], stderr=subprocess.DEVNULL)  # noqa: S603, S607
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise SystemExit(f"{' '.join(command)} does not listen on port {port}")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    """Print the figures; 0 where every bar holds, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    for program in ("nginx", "wrk", "taskset"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not installed: sudo apt-get install nginx-light wrk util-linux")
    os.sched_setaffinity(0, {int(OTHER_CORE)})
    found = measure()
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, bar in found["bars"].items():
            print(f"{name}: {bar['value']} (limit {bar['limit']}) {'holds' if bar['holds'] else 'DOES NOT HOLD'}")
    return 0 if all(bar["holds"] for bar in found["bars"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
