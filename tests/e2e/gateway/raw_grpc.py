"""gRPC by the stub alone, as a client in another language would use it: any message, any metadata, any bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.e2e.gateway import tensors
from tests.e2e.gateway.compare import joined

_TIMEOUT_S = 60
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def ask(address: str, case: dict[str, Any]) -> dict[str, Any]:
    """The response, or the code and its text."""
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        try:
            return _call(channel, case)
        except grpc.RpcError as error:
            return status(error)


def status(error: Any) -> dict[str, Any]:
    """How a call ended."""
    return {"code": error.code().name, "details": error.details()}


def _call(channel: grpc.Channel, case: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"timeout": case.get("timeout_s", _TIMEOUT_S)}
    options["metadata"] = [(name, str(value)) for name, value in case.get("metadata", {}).items()]
    if "compression" in case:
        options["compression"] = grpc.Compression[case["compression"].capitalize()]
    name = case["rpc"]
    if "bytes" in case:
        path = name if name.startswith("/") else f"/inference.GRPCInferenceService/{name}"
        return {"bytes": channel.unary_unary(path)(bytes.fromhex(case["bytes"]), **options).hex()}
    method = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), name)
    if name == "ModelStreamInfer":
        return _stream(method, [tensors.infer_request(request) for request in case["requests"]], options)
    if name == "ModelInfer":
        return tensors.infer_response(method(_repeated(tensors.infer_request(case["request"]), case), **options))
    request = json_format.ParseDict(case.get("request", {}), getattr(service_pb2, f"{name}Request")())
    found: dict[str, Any] = json_format.MessageToDict(method(request, **options), preserving_proto_field_name=True)
    return found


def _repeated(request: Any, case: dict[str, Any]) -> Any:
    if "repeat" in case:
        request.id = request.id.replace("@", case["repeat"]["text"] * case["repeat"]["times"])
    return request


def _stream(method: Any, requests: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """What came for each id, and the code that the stream ended with."""
    seen: dict[str, list[dict[str, Any]]] = {}
    end: dict[str, Any] = {"code": "OK"}
    responses: Iterator[Any] = method(iter(requests), **options)
    try:
        for response in responses:
            found = tensors.infer_response(response.infer_response)
            if response.error_message:
                found["error_message"] = response.error_message
            seen.setdefault(response.infer_response.id, []).append(found)
    except grpc.RpcError as error:
        end = status(error)
    return {"by_id": {identity: joined(pieces) for identity, pieces in seen.items()}, **end}
