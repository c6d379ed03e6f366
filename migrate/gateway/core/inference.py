"""One inference, free of the protocol it came by: what HTTP and gRPC both make of a request, and write of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from migrate.gateway.core.tensors import RawTensor, Tensor

Parameter = bool | int | float | str


@dataclass(frozen=True, slots=True)
class InferRequest:
    """`version` is empty for any, `id` for none; `outputs` are those asked for, all when empty.

    Inputs may still be in binary form: the engine decodes them in the order in which Triton complains.
    """

    model: str
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    inputs: tuple[Tensor | RawTensor, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InferResponse:
    """One answer of a model; a decoupled model gives any number of them to one request.

    `is_last`: no other will follow. A model that stops early can end without one.
    """

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    is_last: bool = False
