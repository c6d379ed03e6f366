"""How many bytes a model's weights take, and how many of them one token reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from migrate.errors import Refused
from migrate.fit import config as configs
from migrate.fit import parameters, quantization
from migrate.fit.config import Config
from migrate.fit.headers import Headers
from migrate.fit.parameters import Parameters
from migrate.fit.quantization import Scheme

_EXACT, _PACKED = 0.02, 0.10


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of all weights in the GPUs together. `read` is the least that one token of one stream reads: all but the
    rows of the embedding that it does not look up and the experts that it does not use; None where that is unknown.
    `active` are the parameters of the matrices that a token goes through, without the output head."""

    bytes: int
    read: int | None
    parameters: int
    active: int
    scheme: str
    source: str


def weights_bytes(values: Mapping[str, Any], headers: Headers | None = None) -> int:
    """Bytes of the weights of a `config.json`; see `measure`."""
    return measure(configs.read(values), headers).bytes


def measure(config: Config, headers: Headers | None = None, scheme: Scheme | None = None) -> Weights:
    """The weights, from the files' headers where there are any, else counted from the configuration.

    `scheme` is a quantisation to assume instead of the checkpoint's own. Raises Refused where the headers contradict
    the configuration, and for an architecture or a quantisation that is not known where there are no headers either.
    """
    counted = parameters.count(config) if countable(config) else None
    if headers is None or scheme is not None:
        if counted is None:
            raise Refused(
                f"the parameters of {config.architecture} cannot be counted from config.json alone",
                advice="put its *.safetensors beside config.json",
            )
        return _counted(config, counted, scheme or quantization.scheme(config))
    _compare_embedding(config, headers)
    size = headers.bytes if headers.packed else headers.elements * config.dtype_bytes
    stored = _scheme(config)
    if counted is None or stored is None:
        name = stored.name if stored else "unknown"
        return Weights(size, None, headers.elements, 0, name, "safetensors headers")
    expected = _counted(config, counted, stored)
    _compare(config, headers, size, expected)
    read = None if expected.read is None else round(expected.read / expected.bytes * size)
    return replace(expected, bytes=size, read=read, source="safetensors headers")


def countable(config: Config) -> bool:
    """Whether config.json alone tells the weights."""
    return parameters.known(config.architecture) and not config.multimodal


def _counted(config: Config, counted: Parameters, scheme: Scheme) -> Weights:
    plain = config.dtype_bytes
    linear = plain if scheme.linear is None else scheme.linear
    experts = plain if scheme.experts is None else scheme.experts
    fixed = (counted.head + counted.other) * plain + counted.linear * linear
    total = fixed + counted.embedding * plain + counted.experts * experts
    looked_up = counted.embedding * plain if not counted.head else 0
    read = fixed + looked_up + counted.active * experts
    active = counted.linear + counted.active
    return Weights(round(total), round(read), counted.total, active, scheme.name, "config.json")


def _scheme(config: Config) -> Scheme | None:
    try:
        return quantization.scheme(config)
    except Refused:
        return None


def _compare(config: Config, headers: Headers, size: int, expected: Weights) -> None:
    tied_copy = config.vocabulary * config.hidden * config.dtype_bytes
    allowed = expected.bytes * (_PACKED if headers.packed else _EXACT)
    if min(abs(size - expected.bytes), abs(size - tied_copy - expected.bytes)) <= allowed:
        return
    raise Refused(
        f"config.json contradicts the weights: {config.architecture} with {config.layers} layers of {config.hidden} is "
        f"{expected.parameters:,} parameters ({expected.bytes:,} bytes, quantisation {expected.scheme}), "
        f"the safetensors headers hold {headers.elements:,} elements ({size:,} bytes)",
        advice="make config.json and *.safetensors come from the same revision of the model",
    )


def _compare_embedding(config: Config, headers: Headers) -> None:
    for name, shape in headers.shapes.items():
        if not name.endswith("embed_tokens.weight") or "visual" in name or len(shape) != 2:
            continue
        if shape[1] != config.hidden or shape[0] < config.vocabulary:
            raise Refused(
                f"config.json contradicts the weights: vocab_size x hidden_size is {config.vocabulary} x "
                f"{config.hidden}, {name} is {shape[0]} x {shape[1]}",
                advice="make config.json and *.safetensors come from the same revision of the model",
            )
