"""Turns vLLM's answers into the outputs of a Triton model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from migrate.gateway.core.tensors import Tensor, float32
from migrate.gateway.errors import Code, ModelError
from migrate.gateway.mapping.question import Question


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of vLLM's answer, or all of it. `prompt_tokens` is known in the first piece, where it was asked for."""

    text: str
    token_ids: Sequence[int] = ()
    log_probs: Sequence[float] = ()
    finish_reason: str | None = None
    prompt_tokens: int | None = None


Outputs = dict[str, list[Any]]


@dataclass(slots=True)
class Reply:
    """The answers to one prompt; it counts along, because vllm_backend's log-probability is a running sum."""

    question: Question
    _sum: float = field(default=0.0, init=False)
    _prompt_tokens: int = field(default=0, init=False)

    def outputs(self, chunk: Chunk) -> Outputs:
        """The values of each output that this answer has, in the model's order."""
        self._sum += sum(chunk.log_probs)
        self._prompt_tokens = chunk.prompt_tokens or self._prompt_tokens
        return {name: _OUTPUTS[name].read(self, chunk) for name in self.question.outputs}

    def text(self, chunk: Chunk) -> bytes:
        """The text, with the prompt in front where the model puts it there."""
        return (self.question.prefix + chunk.text).encode("utf-8", "replace")

    def sum_so_far(self) -> float:
        """The log-probability of everything generated so far, as a 32-bit float."""
        return float32(self._sum)

    def prompt_tokens(self) -> int:
        """Tokens of the prompt, as vLLM counted them."""
        return self._prompt_tokens


@dataclass(frozen=True, slots=True)
class _Output:
    """`rank`: its dimensions without that of a batch; those before the last are 1, because there is one beam."""

    datatype: str
    read: Callable[[Reply, Chunk], list[Any]]
    rank: int = 1


def tensors(rows: Sequence[Outputs], *, is_batched: bool, asked: Sequence[str]) -> tuple[Tensor, ...]:
    """The outputs of one response: the rows of a batch stacked, only those that were asked for (none named: all).

    Raises ModelError where the rows of an output differ in length: a tensor has no place for that.
    """
    found = []
    for name, first in rows[0].items():
        if asked and name not in asked:
            continue
        if any(len(row[name]) != len(first) for row in rows):
            text = (
                f"output '{name}' has rows of different lengths; send the prompts one by one, or ask for other outputs"
            )
            raise ModelError(Code.UNSUPPORTED, text)
        output = _OUTPUTS[name]
        shape = (*(1,) * (output.rank - 1), len(first))
        values = first if len(rows) == 1 else [value for row in rows for value in row[name]]
        found.append(Tensor(name, output.datatype, (len(rows), *shape) if is_batched else shape, values))
    return tuple(found)


def _log_probs(_: Reply, chunk: Chunk) -> list[float]:
    return [float32(value) for value in chunk.log_probs]


_OUTPUTS: Mapping[str, _Output] = {
    "text_output": _Output("BYTES", lambda reply, chunk: [reply.text(chunk)]),
    "output_ids": _Output("INT32", lambda _, chunk: list(chunk.token_ids)),
    "log_probs": _Output("FP32", _log_probs),
    "finish_reason": _Output("BYTES", lambda _, chunk: [str(chunk.finish_reason).encode()]),
    "cumulative_logprob": _Output("FP32", lambda reply, _: [reply.sum_so_far()]),
    "num_input_tokens": _Output("UINT32", lambda reply, _: [reply.prompt_tokens()]),
    "num_output_tokens": _Output("UINT32", lambda _, chunk: [len(chunk.token_ids)]),
    "cum_log_probs": _Output("FP32", lambda reply, _: [reply.sum_so_far()]),
    "output_log_probs": _Output("FP32", _log_probs, rank=2),
}
