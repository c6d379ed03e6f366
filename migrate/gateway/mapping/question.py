"""What every kind of model needs to turn the inputs of one prompt into a body for vLLM's /v1/completions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from migrate.gateway.config import ModelConfig
from migrate.gateway.errors import Code, InputError, TritonError
from migrate.gateway.mapping import sampling

_LOG_PROBABILITIES = frozenset({"log_probs", "cumulative_logprob", "cum_log_probs", "output_log_probs"})
_WITHOUT_IDS = frozenset({"finish_reason", "cum_log_probs", "output_log_probs"})


@dataclass(frozen=True, slots=True)
class Question:
    """`body` goes to /v1/completions; `prefix` goes before the text; `outputs` are those that the answer will have."""

    body: Mapping[str, Any]
    is_streamed: bool
    prefix: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one prompt: flat values by name, as the model's configuration types them."""

    model: str
    values: Mapping[str, list[Any]]

    def one(self, name: str, default: Any) -> Any:
        """The only value of an input, or the default where it is absent."""
        found = self.values.get(name)
        return found[0] if found else default

    def finite(self, name: str, default: float) -> float:
        """A number as JSON can carry it to vLLM. Raises TritonError for an infinite one or none at all."""
        value = float(self.one(name, default))
        if not math.isfinite(value):
            raise TritonError(Code.INVALID_ARG, f"the value of input '{name}' is out of range")
        return value

    def text(self, name: str) -> str:
        """A string, empty where it is absent. Raises InputError for bytes that are not UTF-8, as Python models do."""
        try:
            return str(self.one(name, b""), "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(Code.INVALID_ARG, str(error)) from None

    def texts(self, name: str) -> list[str]:
        """All strings of an input that are not empty."""
        try:
            return [str(value, "utf-8") for value in self.values.get(name, []) if value]
        except UnicodeDecodeError as error:
            raise InputError(Code.INVALID_ARG, str(error)) from None

    def require_known(self, known: Collection[str], neutral: Mapping[str, Any] | None = None) -> None:
        """Refuse by name each input that is not known, unless it has the value that changes nothing.

        Raises TritonError UNSUPPORTED.
        """
        for name, values in self.values.items():
            if name in known or (neutral and name in neutral and values == [neutral[name]]):
                continue
            raise TritonError(Code.UNSUPPORTED, f"input '{name}' is not supported by the gateway to vLLM")


def body(prompt: str, settings: ModelConfig, sampled: Mapping[str, Any], outputs: Collection[str]) -> dict[str, Any]:
    """The body for vLLM, every sampling parameter named. Raises InputError for an empty prompt."""
    if not prompt:
        raise InputError(Code.INVALID_ARG, "text_input is empty")
    asked = {"model": settings.upstream_model, "prompt": prompt, **sampling.DEFAULTS, **sampled}
    if not _LOG_PROBABILITIES.isdisjoint(outputs):
        asked["logprobs"] = 0
    if not _WITHOUT_IDS.issuperset(outputs):
        asked["return_token_ids"] = True
    return asked
