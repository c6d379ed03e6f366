"""Turns vLLM's answers into Triton's JSON: one output per name, a list of one written as a scalar, names in order."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from migrate.gateway.styles import Question


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of vLLM's answer, or all of it. `prompt_tokens` is known in the first piece, where it was asked for."""

    text: str
    token_ids: Sequence[int] = ()
    log_probs: Sequence[float] = ()
    finish_reason: str | None = None
    prompt_tokens: int | None = None


@dataclass(slots=True)
class Reply:
    """Writes the answers to one request; it counts along, because vllm_backend's log-probability is a running sum."""

    model: str
    version: str
    request_id: str
    question: Question
    _sum: float = field(default=0.0, init=False)
    _prompt_tokens: int = field(default=0, init=False)

    def write(self, chunk: Chunk) -> str:
        """Triton's JSON for one response."""
        self._sum += sum(chunk.log_probs)
        self._prompt_tokens = chunk.prompt_tokens or self._prompt_tokens
        answer: dict[str, Any] = {"model_name": self.model, "model_version": self.version}
        if self.request_id:
            answer["id"] = self.request_id
        answer["text_output"] = self.question.prefix + chunk.text
        answer |= {name: _OUTPUTS[name](self, chunk) for name in self.question.outputs}
        return dumps(answer)

    def sum_so_far(self) -> float:
        """The log-probability of everything generated so far, as a 32-bit float."""
        return _float32(self._sum)

    def prompt_tokens(self) -> int:
        """Tokens of the prompt, as vLLM counted them."""
        return self._prompt_tokens


def dumps(answer: Mapping[str, Any]) -> str:
    """JSON as Triton writes it: names sorted, no spaces, UTF-8."""
    return json.dumps(answer, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _one_or_list(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _float32(value: float) -> float:
    """Triton widens the model's 32-bit floats, so that -0.1 is written as -0.10000000149011612."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


_OUTPUTS: Mapping[str, Callable[[Reply, Chunk], Any]] = {
    "output_ids": lambda _, chunk: _one_or_list(list(chunk.token_ids)),
    "log_probs": lambda _, chunk: _one_or_list([_float32(value) for value in chunk.log_probs]),
    "finish_reason": lambda _, chunk: str(chunk.finish_reason),
    "cumulative_logprob": lambda reply, _: reply.sum_so_far(),
    "num_input_tokens": lambda reply, _: reply.prompt_tokens(),
    "num_output_tokens": lambda _, chunk: len(chunk.token_ids),
}
