"""tritonclient's four clients, called alike: what each returns or raises, as plain values."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from google.protobuf import json_format
from google.protobuf.message import Message
from tritonclient.utils import InferenceServerException

from tests.e2e.gateway import tensors

MODULES = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}


async def ask(kind: str, address: str, case: dict[str, Any]) -> dict[str, Any]:
    """The result of `call`, or the exception that the client raised."""
    module = MODULES[kind]
    client = module.InferenceServerClient(address)
    arguments = _infer_arguments(module, case) if case["call"] == "infer" else {}
    try:
        # tritonclient.http writes its own headers into the caller's.
        result = getattr(client, case["call"])(**arguments, **deepcopy(case.get("arguments", {})))
        return {"result": plain(await result if inspect.isawaitable(result) else result)}
    except InferenceServerException as error:
        return {"error": error.message(), "status": error.status()}
    finally:
        closing = client.close()
        if inspect.isawaitable(closing):
            await closing


def _infer_arguments(module: Any, case: dict[str, Any]) -> dict[str, Any]:
    is_http = "http" in module.__name__
    inputs = [infer_input(module, name, value, case.get("binary", True)) for name, value in case["inputs"].items()]
    outputs = None
    if "outputs" in case:
        how = {"binary_data": case.get("binary_output", True)} if is_http else {}
        outputs = [module.InferRequestedOutput(name, **how) for name in case["outputs"]]
    return {"model_name": case["model"], "inputs": inputs, "outputs": outputs}


def infer_input(module: Any, name: str, tensor: list[Any], binary: bool = True) -> Any:
    """InferInput of this module, filled."""
    datatype, shape, data = tensor
    value = module.InferInput(name, shape, datatype)
    how = {"binary_data": binary} if "http" in module.__name__ else {}
    value.set_data_from_numpy(tensors.array(datatype, shape, data), **how)
    return value


def plain(result: Any) -> Any:
    """A result as lists, dicts and scalars."""
    if isinstance(result, Message):
        return json_format.MessageToDict(
            result, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    return infer_result(result) if hasattr(result, "as_numpy") else result


def infer_result(result: Any) -> dict[str, Any]:
    """Everything that InferResult offers; `missing` is what it says of an output that is not there."""
    response = result.get_response()
    described = response if isinstance(response, dict) else tensors.infer_response(response)
    outputs = {}
    for output in described.get("outputs", []):
        values = result.as_numpy(output["name"])
        read = [value.decode() if isinstance(value, bytes) else value for value in values.reshape(-1).tolist()]
        outputs[output["name"]] = [output["datatype"], list(values.shape), str(values.dtype), read]
    rest = {key: described[key] for key in ("model_name", "model_version", "id", "parameters") if key in described}
    return rest | {"outputs": outputs, "missing": result.as_numpy("no_such_output")}
