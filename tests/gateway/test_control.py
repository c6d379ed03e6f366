"""Paths around inference: statuses and texts as a Triton 2.51 server gave them to the same requests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from migrate.gateway.core.models import Registry
from migrate.gateway.errors import ConfigError, TritonError

from .conftest import Client, VllmServer, client_of
from .every_style import config_of_every_style

LOG = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
NO_INTEGER = "failed to get model version from specified version string '99999999999999999999' (details: stol), version"
EMPTY = "failed to parse the request JSON buffer: The document is empty. at 0"


@pytest.fixture
async def styles(vllm: VllmServer) -> AsyncIterator[Client]:
    async with client_of(config_of_every_style(vllm.url)) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        *[
            ("GET", path, 404, "Not Found")
            for path in (
                "/v2/",
                "/v3",
                "//v2",
                "/v2/health",
                "/v2/health/live/",
                "/v2/models",
                "/v2/models/",
                "/v2/models/phi2/",
                "/v2/models/phi2/zzz",
                "/v2/models/phi2/versions/x",
                "/v2/models/phi2/versions/-1",
                "/v2/repository",
                "/v2/repository/models/phi2/zzz",
                "/v2/systemsharedmemory",
            )
        ],
        *[
            (method, path, 405, "Method Not Allowed")
            for method, path in (
                ("POST", "/v2"),
                ("DELETE", "/v2"),
                ("OPTIONS", "/v2"),
                ("PATCH", "/v2/health/live"),
                ("POST", "/v2/models/phi2"),
                ("POST", "/v2/models/phi2/ready"),
                ("POST", "/v2/models/stats"),
                ("GET", "/v2/models/none/infer"),
                ("PUT", "/v2/logging"),
                ("PUT", "/v2/trace/setting"),
                ("GET", "/v2/repository/index"),
                ("GET", "/v2/repository/models/phi2/load"),
                ("POST", "/v2/systemsharedmemory/status"),
                ("GET", "/v2/cudasharedmemory/unregister"),
            )
        ],
        ("GET", "/v2/models/none", 404, "Request for unknown model: 'none' is not found"),
        ("GET", "/v2/models/none/config", 404, "Request for unknown model: 'none' is not found"),
        ("GET", "/v2/models/none/ready", 400, "Model version not ready"),
        ("GET", "/v2/models/none/stats", 400, "requested model 'none' is not available"),
        ("GET", "/v2/models/asleep", 404, "Request for unknown model: 'asleep' is not found"),
        ("GET", "/v2/models/%70hi2", 404, "Request for unknown model: '%70hi2' is not found"),
        ("GET", "/v2/models/phi2/versions/2", 404, "Request for unknown model: 'phi2' version 2 is not found"),
        ("GET", "/v2/models/phi2/versions/0", 404, "Request for unknown model: 'phi2' version 0 is not found"),
        ("GET", "/v2/models/phi2/versions/2/ready", 400, "Model version not ready"),
        ("GET", "/v2/models/phi2/versions/2/stats", 400, "requested model version is not available for model 'phi2'"),
        ("GET", "/v2/models/phi2/versions/99999999999999999999", 400, NO_INTEGER),
        ("GET", "/v2/models/phi2/versions/99999999999999999999/ready", 400, NO_INTEGER),
        ("POST", "/v2/models/phi2/versions/99999999999999999999/infer", 400, NO_INTEGER),
        ("GET", "/v2/models/none/trace/setting", 400, "Request for unknown model : none"),
        ("GET", "/v2/systemsharedmemory/region/x/status", 404, "Unable to find system shared memory region: 'x'"),
        (
            "POST",
            "/v2/cudasharedmemory/register",
            400,
            "'region name' is necessary to register cuda shared memory region",
        ),
        ("POST", "/v2/systemsharedmemory/region/x/register", 500, EMPTY),
        ("POST", "/v2/repository/x/models/phi2/load", 501, "'repository_name' specification is not supported"),
        (
            "POST",
            "/v2/repository/models/none/load",
            500,
            "failed to load 'none', failed to poll from model repository",
        ),
    ],
)
async def test_refusals(styles: Client, method: str, path: str, status: int, text: str) -> None:
    async with styles.session.request(method, URL(styles.url + path, encoded=True)) as response:
        assert response.status == status
        assert json.loads(await response.text())["error"].startswith(text)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v2/repository/index", "{", 500, "failed to parse the request JSON buffer: Missing a name"),
        ("/v2/repository/index", '{"ready":5}', 500, "attempt to access JSON non-boolean as boolean"),
        ("/v2/repository/models/phi2/load", '{"parameters":5}', 500, "attempt to get members for non-object"),
        (
            "/v2/repository/models/phi2/load",
            '{"parameters":{"foo":"x"}}',
            500,
            "unexpected error on creating Triton parameter",
        ),
        ("/v2/repository/models/phi2/load", '{"parameters":{"config":5}}', 500, "attempt to access JSON non-string as"),
        (
            "/v2/repository/models/phi2/load",
            '{"parameters":{"config":"{"}}',
            500,
            "failed to load 'phi2', failed to poll",
        ),
        (
            "/v2/repository/models/phi2/load",
            '{"parameters":{"config":"[]"}}',
            500,
            "failed to load 'phi2', failed to poll",
        ),
        (
            "/v2/repository/models/phi2/load",
            '{"parameters":{"config":"{\\"input\\":[5]}"}}',
            500,
            "failed to load 'phi2', failed to poll",
        ),
        (
            "/v2/repository/models/phi2/load",
            '{"parameters":{"file:1/model.py":"eA=="}}',
            501,
            "failed to load 'phi2', the",
        ),
        ("/v2/logging", "", 500, EMPTY),
        ("/v2/logging", '{"log_info":5}', 500, "attempt to access JSON non-boolean as boolean"),
        (
            "/v2/logging",
            '{"log_verbose_level":-1}',
            500,
            "attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        ("/v2/logging", '{"log_format":"x"}', 503, "invalid argument for --log_format, got: x"),
        ("/v2/logging", '{"log_file":"/x"}', 501, "log file location can not be updated through network protocol"),
        ("/v2/trace/setting", "", 500, EMPTY),
        ("/v2/trace/setting", '{"trace_level":"OFF"}', 500, "attempt to access JSON non-array as array"),
        ("/v2/trace/setting", '{"trace_level":[5]}', 500, "attempt to access JSON non-string as string"),
        (
            "/v2/trace/setting",
            '{"trace_level":["TIMESTAMPS"]}',
            400,
            "Attempting to set invalid trace setting :trace file",
        ),
        ("/v2/trace/setting", '{"trace_level":["OFF","X"]}', 400, "Expect only one trace level 'OFF' is specified"),
        ("/v2/trace/setting", '{"trace_file":"/x"}', 501, "trace file location can not be updated through network"),
        ("/v2/trace/setting", '{"trace_rate":5}', 500, "attempt to access JSON non-string as string"),
        ("/v2/trace/setting", '{"trace_rate":"x"}', 400, "Unable to parse 'trace_rate', got: x"),
        (
            "/v2/trace/setting",
            '{"trace_rate":"4294967296"}',
            400,
            "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: 4294967296",
        ),
        (
            "/v2/trace/setting",
            '{"trace_count":"-2"}',
            400,
            "Unable to parse 'trace_count'. Expecting value >= -1, got:-2",
        ),
        (
            "/v2/systemsharedmemory/region/x/register",
            "{}",
            400,
            "Shared memory register request has no 'key' field",
        ),
        (
            "/v2/cudasharedmemory/region/x/register",
            "{}",
            400,
            "Shared memory register request has no 'raw_handle' field",
        ),
        (
            "/v2/systemsharedmemory/region/x/register",
            '{"key":"/k","byte_size":4}',
            501,
            "system shared memory is not supported",
        ),
    ],
)
async def test_wrong_bodies(styles: Client, path: str, body: str, status: int, text: str) -> None:
    found, answer = await styles.ask("POST", path, data=body)
    assert (found, answer["error"][: len(text)]) == (status, text)
    assert await styles.ask("GET", "/v2/models/phi2/ready") == (200, None), "what was loaded stays"


@pytest.mark.parametrize(
    ("path", "status"), [("/v2", 405), ("/v2/health/live", 405), ("/v2/models/phi2/ready", 405), ("/zzz", 404)]
)
async def test_head(styles: Client, path: str, status: int) -> None:
    async with styles.session.head(styles.url + path) as response:
        assert (response.status, await response.read()) == (status, b"")


async def test_server_metadata(styles: Client) -> None:
    _, answer = await styles.ask("GET", "/v2?x=1")
    assert (answer["name"], answer["version"]) == ("triton", "2.51.0")
    assert "binary_tensor_data" in answer["extensions"]
    assert not any("shared_memory" in name for name in answer["extensions"])


async def test_model_metadata(styles: Client) -> None:
    assert (await styles.ask("GET", "/v2/models/phi2"))[1] == {
        "name": "phi2",
        "versions": ["1"],
        "platform": "python",
        "inputs": [
            {"name": "text_input", "datatype": "BYTES", "shape": [1]},
            {"name": "max_tokens", "datatype": "INT32", "shape": [1]},
            {"name": "temperature", "datatype": "FP32", "shape": [1]},
            {"name": "return_log_probs", "datatype": "BOOL", "shape": [1]},
        ],
        "outputs": [
            {"name": "text_output", "datatype": "BYTES", "shape": [1]},
            {"name": "output_ids", "datatype": "INT32", "shape": [-1]},
            {"name": "log_probs", "datatype": "FP32", "shape": [-1]},
        ],
    }
    _, batched = await styles.ask("GET", "/v2/models/batched/versions/01")
    assert batched["inputs"][0] == {"name": "text_input", "datatype": "BYTES", "shape": [-1, 1]}
    _, ensemble = await styles.ask("GET", "/v2/models/ensemble/versions/3")
    assert (ensemble["platform"], ensemble["versions"]) == ("ensemble", ["3"])


async def test_config(styles: Client) -> None:
    _, config = await styles.ask("GET", "/v2/models/phi2_stream/config")
    assert (config["backend"], config["max_batch_size"]) == ("vllm", 0)
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert config["input"][2]["data_type"] == "TYPE_BOOL"
    assert "model_transaction_policy" not in (await styles.ask("GET", "/v2/models/phi2/config"))[1]
    assert (await styles.ask("GET", "/v2/models/batched/config"))[1]["max_batch_size"] == 4


async def test_statistics(styles: Client) -> None:
    _, before = await styles.ask("GET", "/v2/models/phi2/stats")
    assert before["model_stats"][0]["inference_stats"]["success"] == {"count": 0, "ns": 0}
    await styles.generate("phi2", {"text_input": "x"})
    await styles.generate("phi2", {"text_input": ""})
    await styles.generate("phi2", {})
    body = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [3, 1], "data": ["a", "b", "c"]}]}
    await styles.ask("POST", "/v2/models/batched/infer", json=body)
    _, everything = await styles.ask("GET", "/v2/models/stats")
    found = {entry["name"]: entry for entry in everything["model_stats"]}
    assert list(found) == ["batched", "ensemble", "phi2", "phi2_stream"]
    counts = {name: value["count"] for name, value in found["phi2"]["inference_stats"].items()}
    assert (counts["success"], counts["fail"], counts["compute_infer"], counts["cache_hit"]) == (1, 1, 1, 0)
    assert found["phi2"]["last_inference"] > 1_600_000_000_000
    assert (found["batched"]["inference_count"], found["batched"]["execution_count"]) == (3, 1)
    assert found["batched"]["batch_stats"][0]["batch_size"] == 3


async def test_unloading_and_loading(styles: Client) -> None:
    index = "/v2/repository/index"
    ready = {"name": "phi2", "version": "1", "state": "READY"}
    _, listed = await styles.ask("POST", index)
    assert ready in listed
    assert {"name": "asleep"} in listed
    assert await styles.ask("POST", "/v2/repository/models/phi2/unload", data="{") == (200, None)
    assert await styles.ask("POST", "/v2/repository/models/none/unload") == (200, None)
    _, listed = await styles.ask("POST", index)
    assert {"name": "phi2", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"} in listed
    _, listed = await styles.ask("POST", index, data='{"ready":true}')
    assert "phi2" not in [entry["name"] for entry in listed]
    for path, status, text in (
        ("", 404, "Request for unknown model: 'phi2' has no available versions"),
        ("/versions/1", 503, "Request for unknown model: 'phi2' version 1 is not at ready state"),
        ("/versions/2", 404, "Request for unknown model: 'phi2' version 2 is not found"),
        ("/stats", 400, "requested model 'phi2' is not available"),
    ):
        assert await styles.ask("GET", f"/v2/models/phi2{path}") == (status, {"error": text})
    assert (await styles.generate("phi2", {"text_input": "x"}))[0] == 404
    assert await styles.ask("POST", "/v2/repository/models/phi2/load") == (200, None)
    assert (await styles.generate("phi2", {"text_input": "x"}))[0] == 200
    assert await styles.ask("POST", "/v2/repository/models/asleep/load", data="{}") == (200, None)
    assert (await styles.generate("asleep", {"text_input": "x"}))[0] == 200


async def test_a_model_that_vllm_does_not_serve_is_not_loaded(vllm: VllmServer) -> None:
    config = config_of_every_style(vllm.url, upstream_model="other")
    async with client_of(config) as client:
        status, answer = await client.ask("POST", "/v2/repository/models/phi2_stream/load")
        assert status == 400
        assert answer["error"].startswith("load failed for model 'phi2_stream': version 1 is at UNAVAILABLE state: ")


async def test_loading_with_another_config(styles: Client) -> None:
    config = json.dumps({"max_batch_size": 2})
    body = {"parameters": {"config": config}}
    assert await styles.ask("POST", "/v2/repository/models/phi2/load", json=body) == (200, None)
    assert (await styles.ask("GET", "/v2/models/phi2"))[1]["inputs"][0]["shape"] == [-1, 1]


async def test_the_file_is_read_again_when_a_model_is_loaded() -> None:
    config = config_of_every_style("http://127.0.0.1:9")
    models = dict(config.models)
    registry = Registry(config, lambda: models)
    models["new"] = models["phi2"].model_copy(update={"version": "7"})
    await registry.load("new")
    assert registry.get("new", "7").version == "7"
    del models["phi2"]
    with pytest.raises(TritonError, match="failed to poll"):
        await registry.load("phi2")
    assert registry.is_ready("phi2"), "what was loaded stays until it is unloaded"


async def test_a_file_that_became_wrong_loads_nothing() -> None:
    def broken() -> Any:
        raise ConfigError("gateway.yaml: models: wrong")

    registry = Registry(config_of_every_style("http://127.0.0.1:9"), broken)
    with pytest.raises(TritonError, match="failed to load 'phi2', gateway.yaml: models: wrong"):
        await registry.load("phi2")


async def test_settings_are_kept(styles: Client) -> None:
    assert await styles.ask("GET", "/v2/logging") == (200, LOG)
    assert await styles.ask("POST", "/v2/logging", data='{"log_info":false,"zzz":1,"log_error":null}') == (
        200,
        LOG | {"log_info": False},
    )
    assert await styles.ask("POST", "/v2/logging", data="[]") == (200, LOG | {"log_info": False})
    assert await styles.ask("GET", "/v2/trace/setting") == (200, TRACE)
    changed = TRACE | {"trace_rate": "7"}
    assert await styles.ask("POST", "/v2/models/phi2/trace/setting", data='{"trace_rate":" 7x"}') == (200, changed)
    assert await styles.ask("GET", "/v2/models/phi2/trace/setting") == (200, changed)
    assert await styles.ask("GET", "/v2/trace/setting") == (200, TRACE)
    assert await styles.ask("POST", "/v2/models/phi2/trace/setting", data='{"trace_rate":null}') == (200, TRACE)
    _, wrapped = await styles.ask("POST", "/v2/trace/setting", data='{"log_frequency":"-2"}')
    assert wrapped["log_frequency"] == "4294967294"


@pytest.mark.parametrize("kind", ["system", "cuda"])
async def test_no_shared_memory(styles: Client, kind: str) -> None:
    assert await styles.ask("GET", f"/v2/{kind}sharedmemory/status") == (200, [])
    assert await styles.ask("POST", f"/v2/{kind}sharedmemory/unregister") == (200, None)
    assert await styles.ask("POST", f"/v2/{kind}sharedmemory/region/x/unregister") == (200, None)
