"""A stand-in for vLLM, as a wheel of its name: the command line, the API and the `LLM` class as far as `migrate` uses
them, and no model behind. A process is installed and run with it in seconds; uv, systemd and the host are real."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

VERSION = "0.31.0"
METADATA = f"""Metadata-Version: 2.1
Name: vllm
Version: {VERSION}
Summary: A stand-in for vLLM, for tests
Requires-Dist: aiohttp>=3.11,<4
Requires-Dist: fastapi>=0.115,<1
Requires-Dist: httptools>=0.6,<1
Requires-Dist: prometheus-client>=0.21,<1
Requires-Dist: pydantic>=2.10,<3
Requires-Dist: PyYAML>=6.0,<7
Requires-Dist: starlette>=0.46,<2
Requires-Dist: uvicorn>=0.34,<1
Requires-Dist: uvloop>=0.21,<1
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
ENTRY_POINTS = "[console_scripts]\nvllm = vllm.server:main\n"

ARGUMENTS = """
import argparse
from argparse import BooleanOptionalAction


class EngineArgs:
    def __init__(self, **given):
        self.__dict__.update(given)

    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--model")
        parser.add_argument("--dtype", default="auto")
        parser.add_argument("--max-model-len", type=int)
        parser.add_argument("--max-num-seqs", type=int)
        parser.add_argument("--generation-config")
        parser.add_argument("--enforce-eager", action=BooleanOptionalAction)
        return parser

    @classmethod
    def from_cli_args(cls, found):
        return cls(**vars(found))


FlexibleArgumentParser = argparse.ArgumentParser
"""
# Each answer says how its prompt goes on; the host's file system shows whether weights and caches can be used.
LLM = """
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

__version__ = "VERSION"


def load(model):
    json.loads((Path(model) / "config.json").read_text())
    Path(os.environ["HOME"], "compiled").touch()


@dataclass
class SamplingParams:
    max_tokens: int = 16
    temperature: float = 1.0


@dataclass
class Completion:
    text: str
    token_ids: list
    finish_reason: str = "length"


@dataclass
class Output:
    prompt_token_ids: list
    outputs: list


class LLM:
    def __init__(self, model, **arguments):
        load(model)
        time.sleep(SECONDS)

    def generate(self, prompts, sampling, use_tqdm):
        return [Output([1], [Completion(f"{p} and so on", [2] * s.max_tokens)]) for p, s in zip(prompts, sampling)]
"""
SERVER = """
import argparse
import json
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from vllm import __version__, load
from vllm.engine.arg_utils import EngineArgs


def main():
    parser = EngineArgs.add_cli_args(argparse.ArgumentParser("vllm", add_help=False))
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--help", nargs="?", const="all")
    parser.add_argument("--served-model-name")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    given = parser.parse_args()
    if given.help:
        return parser.print_help()
    load(given.model_tag)
    uvicorn.run(application(given), host=given.host, port=given.port)


def application(given):
    async def health(request):
        return PlainTextResponse("")

    async def version(request):
        return JSONResponse({"version": __version__})

    async def models(request):
        return JSONResponse({"data": [{"id": given.served_model_name, "max_model_len": given.max_model_len}]})

    async def completions(request):
        asked = await request.json()
        count = asked.get("max_tokens", 16)
        choice = {"index": 0, "text": " so", "finish_reason": "length", "logprobs": None}
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
        if not asked.get("stream"):
            return JSONResponse({"choices": [choice], "usage": usage})
        chunks = [{"choices": [choice | {"finish_reason": None}]}] * count + [{"choices": [choice | {"text": ""}]}]
        events = [*map(json.dumps, chunks), "[DONE]"]
        return StreamingResponse((f"data: {event}\\n\\n" for event in events), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/version", version),
            Route("/v1/models", models),
            Route("/v1/completions", completions, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
"""


def wheel(folder: Path, load_s: float) -> Path:
    """The wheel, written into `folder`; `LLM` takes `load_s` seconds to load."""
    info = f"vllm-{VERSION}.dist-info"
    contents = {
        "vllm/__init__.py": LLM.replace("VERSION", VERSION).replace("SECONDS", str(load_s)),
        "vllm/server.py": SERVER,
        "vllm/engine/__init__.py": "",
        "vllm/engine/arg_utils.py": ARGUMENTS,
        "vllm/utils/__init__.py": "",
        "vllm/utils/argparse_utils.py": "from vllm.engine.arg_utils import FlexibleArgumentParser\n",
        f"{info}/METADATA": METADATA,
        f"{info}/WHEEL": WHEEL,
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    rows = [f"{name},sha256={_digest(text)},{len(text.encode())}" for name, text in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    path = folder / f"vllm-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
