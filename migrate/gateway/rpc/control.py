"""The calls that run no model: health, metadata, configuration, statistics, repository, shared memory, settings."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from grpc.aio import AioRpcError
from tritonclient.grpc import service_pb2 as pb

from migrate.gateway.core.models import Registry
from migrate.gateway.errors import Code, TritonError
from migrate.gateway.observe import tracking
from migrate.gateway.rpc.calls import Context, UnaryWork
from migrate.gateway.rpc.messages import chosen, parse, version, written
from migrate.gateway.rpc.passthrough import Passthrough
from migrate.gateway.rpc.settings import log_settings, trace_setting

_log = logging.getLogger("migrate.gateway.grpc")
# grpc.health.v1.HealthCheckResponse: field 1, SERVING or NOT_SERVING.
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"


@dataclass(frozen=True, slots=True)
class Control:
    """Answers for the models of the registry; Triton answers for those that it keeps."""

    registry: Registry
    passthrough: Passthrough
    is_ready: Callable[[], Awaitable[bool]]

    def calls(self) -> Mapping[str, UnaryWork]:
        """Each call of GRPCInferenceService that runs no model, by name."""
        about_models = {
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
            "TraceSetting": self.trace_setting,
        }
        about_the_server = {
            "ServerLive": _answering(pb.ServerLiveRequest, pb.ServerLiveResponse(live=True)),
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "RepositoryIndex": self.repository_index,
            "LogSettings": self.log_settings,
        }
        forwarding = {name: self._or_triton(name, answer) for name, answer in about_models.items()}
        return forwarding | about_the_server | _shared_memory("System") | _shared_memory("Cuda")

    async def health(self, data: bytes, _: Context) -> bytes:
        """grpc.health.v1.Health/Check: Triton gives one answer for every service, known or not."""
        parse(Empty, data)
        return _SERVING if await self.is_ready() else _NOT_SERVING

    async def server_ready(self, data: bytes, _: Context) -> bytes:
        """Whether vLLM answers and the gateway is not about to stop."""
        parse(pb.ServerReadyRequest, data)
        return written(pb.ServerReadyResponse(ready=await self.is_ready()))

    async def server_metadata(self, data: bytes, _: Context) -> bytes:
        """Name, version and extensions."""
        parse(pb.ServerMetadataRequest, data)
        return _from_json(self.registry.server_metadata(), pb.ServerMetadataResponse())

    async def repository_index(self, data: bytes, context: Context) -> bytes:
        """The models here and, where Triton keeps some, those there."""
        request = parse(pb.RepositoryIndexRequest, data)
        _refuse_repository_name(request)
        rows = self.registry.index(ready=request.ready)
        answer = ParseDict({"models": rows}, pb.RepositoryIndexResponse())
        if self.passthrough.is_on:
            own = {row["name"] for row in self.registry.index()}
            theirs = await self._ask_triton("RepositoryIndex", data, context)
            kept = pb.RepositoryIndexResponse.FromString(theirs).models
            answer.models.extend(row for row in kept if row.name not in own)
            answer.models.sort(key=lambda row: row.name)
        return written(answer)

    async def log_settings(self, data: bytes, _: Context) -> bytes:
        """Change and tell Triton's log settings."""
        return log_settings(data, self.registry.server_settings)

    async def model_ready(self, data: bytes) -> bytes:
        """Whether the model and vLLM behind it answer; false also for a model that is not known."""
        request = parse(pb.ModelReadyRequest, data)
        is_ready = self.registry.is_ready(request.name, version(request.version))
        return written(pb.ModelReadyResponse(ready=is_ready))

    async def model_metadata(self, data: bytes) -> bytes:
        """Versions, inputs and outputs."""
        request = parse(pb.ModelMetadataRequest, data)
        model = self.registry.get(request.name, version(request.version))
        return _from_json(model.metadata, pb.ModelMetadataResponse())

    async def model_config(self, data: bytes) -> bytes:
        """The model's config.pbtxt, completed."""
        request = parse(pb.ModelConfigRequest, data)
        model = self.registry.get(request.name, version(request.version))
        return _from_json({"config": model.config}, pb.ModelConfigResponse())

    async def model_statistics(self, data: bytes) -> bytes:
        """What one model has done, or every model where none is named."""
        request = parse(pb.ModelStatisticsRequest, data)
        rows = self.registry.model_statistics(request.name, version(request.version))
        return _from_json({"model_stats": rows}, pb.ModelStatisticsResponse())

    async def load(self, data: bytes) -> bytes:
        """Make a model available."""
        request = parse(pb.RepositoryModelLoadRequest, data)
        _refuse_repository_name(request)
        await self.registry.load(request.model_name, _load_parameters(request.parameters))
        return written(pb.RepositoryModelLoadResponse())

    async def unload(self, data: bytes) -> bytes:
        """Take a model away."""
        request = parse(pb.RepositoryModelUnloadRequest, data)
        _refuse_repository_name(request)
        for name, parameter in request.parameters.items():
            if name == "unload_dependents" and not isinstance(chosen(parameter), bool):
                complaint = "invalid value type for 'unload_dependents' parameter, expected bool_param."
                raise TritonError(Code.INVALID_ARG, complaint)
        await self.registry.unload(request.model_name)
        return written(pb.RepositoryModelUnloadResponse())

    async def trace_setting(self, data: bytes) -> bytes:
        """Change and tell Triton's trace settings, the server's or one model's."""
        return trace_setting(data, self.registry)

    def _or_triton(self, method: str, answer: Callable[[bytes], Awaitable[bytes]]) -> UnaryWork:
        kind = getattr(pb, f"{method}Request")
        field = "name" if "name" in kind.DESCRIPTOR.fields_by_name else "model_name"

        async def work(data: bytes, context: Context) -> bytes:
            name = getattr(parse(kind, data), field)
            tracking.name(name)
            if self.passthrough.takes(name):
                return await self.passthrough.forward(method, data, context)
            return await answer(data)

        return work

    async def _ask_triton(self, method: str, data: bytes, context: Context) -> bytes:
        """Triton's answer, empty when there is none: the gateway's own models are not to vanish with it."""
        try:
            return await self.passthrough.forward(method, data, context)
        except AioRpcError as error:
            _log.warning("Triton did not answer %s: %s", method, error.details())
            return b""


def _shared_memory(kind: str) -> dict[str, UnaryWork]:
    """There is no region and none can be made; taking away what is not there is no error, as on Triton."""
    requests = {call: getattr(pb, f"{kind}SharedMemory{call}Request") for call in ("Status", "Register", "Unregister")}
    status, unregistered = (getattr(pb, f"{kind}SharedMemory{call}Response")() for call in ("Status", "Unregister"))

    async def show(data: bytes, _: Context) -> bytes:
        name = parse(requests["Status"], data).name
        if name:
            complaint = f"Unable to find {kind.lower()} shared memory region: '{name}'"
            raise TritonError(Code.NOT_FOUND, complaint)
        return written(status)

    async def register(data: bytes, _: Context) -> bytes:
        name = parse(requests["Register"], data).name
        complaint = f"failed to register shared memory region '{name}': the gateway shares no memory with its clients"
        raise TritonError(Code.UNSUPPORTED, complaint)

    return {
        f"{kind}SharedMemoryStatus": show,
        f"{kind}SharedMemoryRegister": register,
        f"{kind}SharedMemoryUnregister": _answering(requests["Unregister"], unregistered),
    }


def _answering(kind: Any, answer: Any) -> UnaryWork:
    always = written(answer)

    async def work(data: bytes, _: Context) -> bytes:
        parse(kind, data)
        return always

    return work


def _refuse_repository_name(request: Any) -> None:
    if request.repository_name:
        raise TritonError(Code.UNSUPPORTED, "'repository_name' specification is not supported")


def _load_parameters(given: Any) -> dict[str, Any]:
    found = {}
    for name, parameter in given.items():
        expected = "string_param" if name == "config" else "bytes_param"
        if name != "config" and not name.startswith("file:"):
            raise TritonError(Code.INVALID_ARG, f"unrecognized load parameter '{name}'.")
        if parameter.WhichOneof("parameter_choice") != expected:
            complaint = f"invalid value type for load parameter '{name}', expected {expected}."
            raise TritonError(Code.INVALID_ARG, complaint)
        found[name] = getattr(parameter, expected)
    return found


def _from_json(value: Mapping[str, Any], message: Any) -> bytes:
    return written(ParseDict(value, message, ignore_unknown_fields=True))
