"""Triton's log and trace settings, which its clients can read and change; here they change nothing but themselves.

Names, defaults and complaints are those of Triton 2.51, measured on the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from migrate.gateway.core.json_text import attempt
from migrate.gateway.errors import Code, TritonError

_LOG_DEFAULTS: Mapping[str, Any] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
_TRACE_DEFAULTS: Mapping[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
_LOG_FORMATS = ("default", "ISO8601")
_TRACE_LEVELS = ("TIMESTAMPS", "TENSORS")
_INTEGER = re.compile(r"\s*([+-]?[0-9]+)", re.ASCII)
_MOST_DIGITS = 20
_TOO_LARGE = 2**64


class ServerSettings:
    """The settings of one server; names that Triton does not know are passed over, as it does."""

    def __init__(self) -> None:
        self._log = dict(_LOG_DEFAULTS)
        self._trace = dict(_TRACE_DEFAULTS)
        self._of_models: dict[str, dict[str, Any]] = {}

    def log(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The log settings, after these changes. Raises TritonError, with nothing changed."""
        given = (changes or {}).items()
        known = {name: value for name, value in given if name in _LOG_DEFAULTS and value is not None}
        for name, value in known.items():
            _check_log(name, value)
        self._log |= known
        return dict(self._log)

    def trace(self, changes: Mapping[str, Any] | None = None, *, model: str = "") -> dict[str, Any]:
        """The trace settings of the server or of a model, after these changes; None sets a value back.

        Raises TritonError, with nothing changed; also for a level that would trace, because there is no file for it.
        """
        given = (changes or {}).items()
        known = {name: _trace_value(name, value) for name, value in given if name in _TRACE_DEFAULTS}
        own = self._of_models.setdefault(model, {}) if model and known else self._of_models.get(model, {})
        target = own if model else self._trace
        for name, value in known.items():
            if value is None and model:
                target.pop(name, None)
            elif name not in ("trace_level", "trace_mode"):
                target[name] = _TRACE_DEFAULTS[name] if value is None else value
        return self._trace | own


def _check_log(name: str, value: Any) -> None:
    if name == "log_file":
        raise TritonError(Code.UNSUPPORTED, "log file location can not be updated through network protocol")
    if name == "log_verbose_level":
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise TritonError(Code.INTERNAL, attempt("unsigned-integer"))
    elif name == "log_format":
        _require_string(value)
        if value not in _LOG_FORMATS:
            raise TritonError(Code.UNAVAILABLE, f"invalid argument for --log_format, got: {value}")
    elif not isinstance(value, bool):
        raise TritonError(Code.INTERNAL, attempt("boolean"))


def _trace_value(name: str, value: Any) -> Any:
    if name == "trace_file":
        raise TritonError(Code.UNSUPPORTED, "trace file location can not be updated through network protocol")
    if value is None:
        return None
    if name == "trace_level":
        _check_levels(value)
        return value
    _require_string(value)
    return value if name == "trace_mode" else _number(name, value)


def _number(name: str, text: str) -> str:
    """As C's strtol reads it; a negative rate wraps around, like an unsigned integer of 32 bits."""
    found = _INTEGER.match(text)
    if found is None:
        raise TritonError(Code.INVALID_ARG, f"Unable to parse '{name}', got: {text}")
    value = int(found[1]) if len(found[1]) <= _MOST_DIGITS else _TOO_LARGE
    lowest, highest = (-1, 2**31 - 1) if name == "trace_count" else (0, 2**32 - 1)
    if lowest < 0 and value < lowest:
        raise TritonError(Code.INVALID_ARG, f"Unable to parse 'trace_count'. Expecting value >= -1, got:{text}")
    if abs(value) > highest:
        complaint = f"Unable to parse '{name}', value is out of range [ {lowest}, {highest} ], got: {text}"
        raise TritonError(Code.INVALID_ARG, complaint)
    return str(value if lowest < 0 else value % (highest + 1))


def _check_levels(value: Any) -> None:
    if not isinstance(value, list):
        raise TritonError(Code.INTERNAL, attempt("array"))
    for level in value:
        _require_string(level)
    if "OFF" in value and len(value) > 1:
        raise TritonError(Code.INVALID_ARG, "Expect only one trace level 'OFF' is specified")
    if any(level in _TRACE_LEVELS for level in value):
        raise TritonError(Code.INVALID_ARG, "Attempting to set invalid trace setting :trace file name is not given")


def _require_string(value: Any) -> None:
    if not isinstance(value, str):
        raise TritonError(Code.INTERNAL, attempt("string"))
