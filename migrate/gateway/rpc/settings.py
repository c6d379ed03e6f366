"""TraceSetting and LogSettings: the settings that HTTP's clients see too, with gRPC's own checks and complaints.

Measured on Triton 2.51; the order of the checks is that of its `src/grpc/grpc_server.cc`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from migrate.gateway.core.models import Registry
from migrate.gateway.core.server_settings import ServerSettings
from migrate.gateway.errors import Code, TritonError
from migrate.gateway.rpc.messages import chosen, parse, written

_NUMBER = re.compile(r"\s*([+-]?[0-9]+)", re.ASCII)
_UINT32_MAX = 2**32 - 1
_LOG_KINDS = {
    "log_file": str,
    "log_info": bool,
    "log_warning": bool,
    "log_error": bool,
    "log_verbose_level": int,
    "log_format": str,
}
_LOG_FIELDS = {bool: ("bool_param", "boolean"), int: ("uint32_param", "int32"), str: ("string_param", "string")}


def trace_setting(data: bytes, registry: Registry) -> bytes:
    """Change and tell the trace settings, the server's or one model's. Raises TritonError, with nothing changed."""
    request = parse(pb.TraceSettingRequest, data)
    if request.model_name and not registry.is_ready(request.model_name):
        raise TritonError(Code.INVALID_ARG, f"Request for unknown model : {request.model_name}")
    changes: dict[str, Any] = {"trace_file": None} if "trace_file" in request.settings else {}
    for name, read in _TRACE_READERS.items():
        if name in request.settings:
            given = request.settings[name].value
            changes[name] = read(name, given) if given else None
    answer = pb.TraceSettingResponse()
    for name, value in registry.server_settings.trace(changes, model=request.model_name).items():
        answer.settings[name].value.extend([value] if isinstance(value, str) else value)
    return written(answer)


def log_settings(data: bytes, settings: ServerSettings) -> bytes:
    """Change and tell the log settings; those before a wrong one stay changed, as on Triton. Raises TritonError."""
    given = parse(pb.LogSettingsRequest, data).settings
    for name, kind in _LOG_KINDS.items():
        if name in given:
            settings.log({name: _logged(name, chosen(given[name]), kind)})
    answer = pb.LogSettingsResponse()
    for name, value in settings.log().items():
        setattr(answer.settings[name], _LOG_FIELDS[type(value)][0], value)
    return written(answer)


def _logged(name: str, value: Any, kind: type[Any]) -> Any:
    if name == "log_file":
        return value
    if type(value) is not kind:
        raise TritonError(Code.INVALID_ARG, f"expect {_LOG_FIELDS[kind][1]} for '{name}'")
    if name == "log_format" and value not in ("default", "ISO8601"):
        raise TritonError(Code.INVALID_ARG, f"invalid argument for log_format, got: {value}")
    return value


def _levels(_: str, given: Sequence[str]) -> list[str]:
    if "OFF" in given and len(given) > 1:
        raise TritonError(Code.INVALID_ARG, "Expect only one trace level 'OFF' is specified")
    return list(given)


def _unsigned(name: str, given: Sequence[str]) -> str:
    value, text = _number(name, given)
    if abs(value) > _UINT32_MAX:
        complaint = f"Unable to parse '{name}', value is out of range [ 0, {_UINT32_MAX} ], got: {text}"
        raise TritonError(Code.INVALID_ARG, complaint)
    return str(value % (_UINT32_MAX + 1))


def _count(name: str, given: Sequence[str]) -> str:
    value, text = _number(name, given)
    if value < -1:
        raise TritonError(Code.INVALID_ARG, f"Unable to parse '{name}'. Expecting value >= -1, got: {text}")
    return str(value)


def _number(name: str, given: Sequence[str]) -> tuple[int, str]:
    if len(given) > 1:
        raise TritonError(Code.INVALID_ARG, f"expect only 1 value for '{name}'")
    found = _NUMBER.match(given[0][:18])
    if found is None:
        raise TritonError(Code.INVALID_ARG, f"Unable to parse '{name}', got: {given[0]}")
    return int(found[1]), given[0]


_TRACE_READERS: Mapping[str, Callable[[str, Sequence[str]], Any]] = {
    "trace_level": _levels,
    "trace_rate": _unsigned,
    "trace_count": _count,
    "log_frequency": _unsigned,
}
