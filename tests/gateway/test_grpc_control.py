"""The calls that run no model, answered as Triton 2.51 does, and what its metadata promise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tritonclient.grpc import service_pb2 as pb

from .conftest import VllmServer
from .grpc_serving import Stub, config_of, infer, serving, stub_of

NO_NAMES = "'repository_name' specification is not supported"
ONE_OFF = "Expect only one trace level 'OFF' is specified"


@pytest.fixture
async def gateway(vllm: VllmServer) -> AsyncIterator[Stub]:
    async with serving(config_of(vllm.url)) as address, stub_of(address) as stub:
        yield stub


def load(**more: Any) -> Any:
    return pb.RepositoryModelLoadRequest(model_name="phi2", **more)


def with_parameter(message: Any, name: str, field: str, value: Any) -> Any:
    setattr(message.parameters[name], field, value)
    return message


def trace(model: str = "", **settings: list[str]) -> Any:
    message = pb.TraceSettingRequest(model_name=model)
    for name, values in settings.items():
        message.settings[name].value.extend(values)
    return message


def log(**settings: tuple[str, Any]) -> Any:
    message = pb.LogSettingsRequest()
    for name, (field, value) in settings.items():
        setattr(message.settings[name], field, value)
    return message


@pytest.mark.parametrize(
    ("call", "message", "code", "text"),
    [
        (
            "ModelMetadata",
            pb.ModelMetadataRequest(name="no"),
            "NOT_FOUND",
            "Request for unknown model: 'no' is not found",
        ),
        (
            "ModelConfig",
            pb.ModelConfigRequest(name="phi2", version="3"),
            "NOT_FOUND",
            "Request for unknown model: 'phi2' version 3 is not found",
        ),
        (
            "ModelConfig",
            pb.ModelConfigRequest(name="phi2", version="-2"),
            "INVALID_ARGUMENT",
            "invalid model version specified '-2' , version should be an integral value > 0",
        ),
        (
            "ModelReady",
            pb.ModelReadyRequest(name="phi2", version="x"),
            "INVALID_ARGUMENT",
            "failed to get model version"
            " from specified version string 'x' (details: stol), version should be an integral value > 0",
        ),
        (
            "ModelStatistics",
            pb.ModelStatisticsRequest(name="no"),
            "INVALID_ARGUMENT",
            "requested model 'no' is not available",
        ),
        (
            "ModelStatistics",
            pb.ModelStatisticsRequest(name="phi2", version="2"),
            "INVALID_ARGUMENT",
            "requested model version is not available for model 'phi2'",
        ),
        ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x"), "UNIMPLEMENTED", NO_NAMES),
        ("RepositoryModelLoad", load(repository_name="x"), "UNIMPLEMENTED", NO_NAMES),
        (
            "RepositoryModelLoad",
            pb.RepositoryModelLoadRequest(model_name="no"),
            "INTERNAL",
            "failed to load 'no', failed to poll from model repository",
        ),
        (
            "RepositoryModelLoad",
            with_parameter(load(), "foo", "string_param", "x"),
            "INVALID_ARGUMENT",
            "unrecognized load parameter 'foo'.",
        ),
        (
            "RepositoryModelLoad",
            with_parameter(load(), "config", "int64_param", 3),
            "INVALID_ARGUMENT",
            "invalid value type for load parameter 'config', expected string_param.",
        ),
        (
            "RepositoryModelLoad",
            with_parameter(load(), "file:a", "string_param", "x"),
            "INVALID_ARGUMENT",
            "invalid value type for load parameter 'file:a', expected bytes_param.",
        ),
        (
            "RepositoryModelLoad",
            with_parameter(load(), "config", "string_param", "{"),
            "INTERNAL",
            "failed to load 'phi2', failed to poll from model repository",
        ),
        (
            "RepositoryModelUnload",
            with_parameter(pb.RepositoryModelUnloadRequest(model_name="no"), "unload_dependents", "string_param", "x"),
            "INVALID_ARGUMENT",
            "invalid value type for 'unload_dependents' parameter, expected bool_param.",
        ),
        (
            "SystemSharedMemoryStatus",
            pb.SystemSharedMemoryStatusRequest(name="x"),
            "NOT_FOUND",
            "Unable to find system shared memory region: 'x'",
        ),
        (
            "CudaSharedMemoryStatus",
            pb.CudaSharedMemoryStatusRequest(name="x"),
            "NOT_FOUND",
            "Unable to find cuda shared memory region: 'x'",
        ),
        (
            "SystemSharedMemoryRegister",
            pb.SystemSharedMemoryRegisterRequest(name="x"),
            "UNIMPLEMENTED",
            "failed to register shared memory region 'x': the gateway shares no memory with its clients",
        ),
        (
            "CudaSharedMemoryRegister",
            pb.CudaSharedMemoryRegisterRequest(name="x"),
            "UNIMPLEMENTED",
            "failed to register shared memory region 'x': the gateway shares no memory with its clients",
        ),
        ("TraceSetting", trace("no"), "INVALID_ARGUMENT", "Request for unknown model : no"),
        (
            "TraceSetting",
            trace(trace_file=["x"]),
            "UNIMPLEMENTED",
            "trace file location can not be updated through network protocol",
        ),
        (
            "TraceSetting",
            trace(trace_level=["TIMESTAMPS"]),
            "INVALID_ARGUMENT",
            "Attempting to set invalid trace setting :trace file name is not given",
        ),
        ("TraceSetting", trace(trace_level=["OFF", "TENSORS"]), "INVALID_ARGUMENT", ONE_OFF),
        ("TraceSetting", trace(trace_rate=["a"]), "INVALID_ARGUMENT", "Unable to parse 'trace_rate', got: a"),
        ("TraceSetting", trace(trace_rate=["1", "2"]), "INVALID_ARGUMENT", "expect only 1 value for 'trace_rate'"),
        (
            "TraceSetting",
            trace(trace_rate=["99999999999"]),
            "INVALID_ARGUMENT",
            "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: 99999999999",
        ),
        (
            "TraceSetting",
            trace(trace_count=["-5"]),
            "INVALID_ARGUMENT",
            "Unable to parse 'trace_count'. Expecting value >= -1, got: -5",
        ),
        (
            "LogSettings",
            log(log_file=("string_param", "x")),
            "UNIMPLEMENTED",
            "log file location can not be updated through network protocol",
        ),
        ("LogSettings", log(log_info=("uint32_param", 3)), "INVALID_ARGUMENT", "expect boolean for 'log_info'"),
        (
            "LogSettings",
            log(log_verbose_level=("bool_param", True)),
            "INVALID_ARGUMENT",
            "expect int32 for 'log_verbose_level'",
        ),
        ("LogSettings", log(log_format=("uint32_param", 3)), "INVALID_ARGUMENT", "expect string for 'log_format'"),
        (
            "LogSettings",
            log(log_format=("string_param", "zz")),
            "INVALID_ARGUMENT",
            "invalid argument for log_format, got: zz",
        ),
    ],
)
async def test_refusals(gateway: Stub, call: str, message: Any, code: str, text: str) -> None:
    asked = await gateway.ask(call, message)
    assert (asked.code, asked.details) == (code, text)


async def test_a_model_that_is_not_known_is_not_ready(gateway: Stub) -> None:
    for request in (pb.ModelReadyRequest(name="no"), pb.ModelReadyRequest(name="phi2", version="2")):
        assert not (await gateway.ask("ModelReady", request)).answer.ready
    assert (await gateway.ask("ModelReady", pb.ModelReadyRequest(name="phi2", version="1"))).answer.ready


async def test_health(gateway: Stub, vllm: VllmServer) -> None:
    check = "/grpc.health.v1.Health/Check"
    assert (await gateway.ask("ServerLive", pb.ServerLiveRequest())).answer.live
    assert (await gateway.ask("ServerReady", pb.ServerReadyRequest())).answer.ready
    assert await gateway.raw(check, b"\x0a\x01x") == ("OK", b"\x08\x01")
    vllm.is_healthy = False
    assert not (await gateway.ask("ServerReady", pb.ServerReadyRequest())).answer.ready
    assert await gateway.raw(check, b"") == ("OK", b"\x08\x02")


async def test_metadata_and_config(gateway: Stub) -> None:
    server = (await gateway.ask("ServerMetadata", pb.ServerMetadataRequest())).answer
    assert server.name == "triton"
    assert "binary_tensor_data" in server.extensions
    metadata = (await gateway.ask("ModelMetadata", pb.ModelMetadataRequest(name="phi2"))).answer
    assert (metadata.name, list(metadata.versions), metadata.inputs[0].datatype) == ("phi2", ["1"], "BYTES")
    config = (await gateway.ask("ModelConfig", pb.ModelConfigRequest(name="phi2_stream"))).answer.config
    assert (config.name, config.model_transaction_policy.decoupled) == ("phi2_stream", True)


async def test_statistics_count(gateway: Stub) -> None:
    await gateway.ask("ModelInfer", infer())
    await gateway.ask("ModelInfer", infer(outputs=["foo"]))
    everything = (await gateway.ask("ModelStatistics", pb.ModelStatisticsRequest())).answer.model_stats
    assert [(row.name, row.inference_count) for row in everything] == [("phi2", 1), ("phi2_stream", 0)]
    (one,) = (await gateway.ask("ModelStatistics", pb.ModelStatisticsRequest(name="phi2"))).answer.model_stats
    assert (one.version, one.inference_stats.success.count) == ("1", 1)


async def test_models_come_and_go(gateway: Stub) -> None:
    unload = pb.RepositoryModelUnloadRequest(model_name="phi2")
    assert (await gateway.ask("RepositoryModelUnload", unload)).code == "OK"
    ready = (await gateway.ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))).answer.models
    assert [row.name for row in ready] == ["phi2_stream"]
    asked = await gateway.ask("ModelInfer", infer(model_version="1"))
    assert (asked.code, asked.details[-23:]) == ("UNAVAILABLE", "1 is not at ready state")
    assert (await gateway.ask("RepositoryModelLoad", load())).code == "OK"
    known = (await gateway.ask("RepositoryIndex", pb.RepositoryIndexRequest())).answer.models
    assert [(row.name, row.version, row.state) for row in known][0] == ("phi2", "1", "READY")
    assert (await gateway.ask("ModelInfer", infer())).code == "OK"


@pytest.mark.parametrize("kind", ["System", "Cuda"])
async def test_no_region_is_no_error(gateway: Stub, kind: str) -> None:
    for call in ("Status", "Unregister"):
        request = getattr(pb, f"{kind}SharedMemory{call}Request")
        asked = await gateway.ask(f"{kind}SharedMemory{call}", request())
        assert (asked.code, asked.answer.ListFields()) == ("OK", [])


async def test_trace_settings_of_a_model(gateway: Stub) -> None:
    async def told(message: Any) -> str:
        settings = (await gateway.ask("TraceSetting", message)).answer.settings
        return " ".join(settings[name].value[0] for name in ("trace_rate", "trace_count", "log_frequency"))

    assert await told(trace()) == "1000 -1 0"
    assert await told(trace("phi2", trace_rate=["9x"], unknown=["1"])) == "9 -1 0"
    assert await told(trace(trace_count=[" 4"], log_frequency=["-1"])) == "1000 4 4294967295"
    assert await told(trace("phi2")) == "9 4 4294967295"
    assert await told(trace("phi2", trace_rate=[])) == "1000 4 4294967295"
    assert await told(trace(trace_count=[], log_frequency=[], trace_level=["OFF"])) == "1000 -1 0"


async def test_log_settings_before_a_wrong_one_stay(gateway: Stub) -> None:
    wrong = log(log_info=("bool_param", False), log_error=("string_param", "x"))
    assert (await gateway.ask("LogSettings", wrong)).code == "INVALID_ARGUMENT"
    right = log(log_verbose_level=("uint32_param", 2), log_format=("string_param", "ISO8601"))
    settings = (await gateway.ask("LogSettings", right)).answer.settings
    assert (settings["log_info"].bool_param, settings["log_error"].bool_param) == (False, True)
    assert (settings["log_verbose_level"].uint32_param, settings["log_format"].string_param) == (2, "ISO8601")


async def test_request_ids(gateway: Stub, vllm: VllmServer) -> None:
    asked = await gateway.ask("ModelInfer", infer(), metadata=(("x-request-id", "abc-1"),))
    assert asked.trailing["x-request-id"] == "abc-1"
    refused = await gateway.ask("ModelInfer", infer("no"), metadata=(("x-request-id", "abc-2"),))
    assert refused.trailing["x-request-id"] == "abc-2"
    assert len((await gateway.ask("ModelInfer", infer())).trailing["x-request-id"]) == 32
