"""Arguments of `vllm serve` that fit a model's size, each with its reason. Pure.

They stand below what Triton's own settings say, and below `vllm_args`: a profile only fills what nobody decided.
Sizes in parameters; what the flags mean: docs.vllm.ai, "Optimization and Tuning", and docs/runtimes.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from migrate import fit
from migrate.errors import Refused
from migrate.fit.headers import from_facts
from migrate.knowledge import version_of
from migrate.settings import Settings

Facts = Mapping[str, Any]
_SMALL, _MEDIUM = 9e9, 24e9
# The releases that split long prompts over steps by default; earlier ones refuse a batch below the context length.
_CHUNKED_SINCE = Version("0.11.0")
_BATCHED, _SEQUENCES, _KV = "max-num-batched-tokens", "max-num-seqs", "kv-cache-dtype"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The profile, why it is this one, and its flags: name -> (value, reason)."""

    name: str
    because: str
    flags: Mapping[str, tuple[Any, str]]


FLAGS: Mapping[str, Mapping[str, tuple[Any, str]]] = {
    "small": {
        _BATCHED: (8192, "a step of a small model is short: more prompt tokens in each raise throughput"),
        _SEQUENCES: (256, "its KV cache is small: many requests run at once"),
    },
    "medium": {
        _BATCHED: (4096, "long prompts are split, so that answers that run keep their pace"),
        _SEQUENCES: (128, "more would be pushed out of the KV cache and computed twice"),
    },
    "large": {
        _BATCHED: (2048, "the weights leave little room for activations, and a step is long as it is"),
        _SEQUENCES: (32, "few fit the KV cache, and CUDA graphs are captured up to this number"),
        _KV: ("fp8", "half the KV cache for a card that the weights nearly fill; answers change a little"),
    },
}


def choose(settings: Settings, facts: Facts) -> Chosen:
    """The profile of `vllm_profile`; auto picks it by the model's parameters, and never one that changes answers."""
    asked = settings.vllm.profile
    if asked == "none":
        return Chosen("none", "vllm_profile is none", {})
    if settings.vllm.gpus == "none":
        return Chosen("none", "without a GPU the profiles say nothing", {})
    if asked != "auto":
        return Chosen(asked, "vllm_profile asks for it", _usable(FLAGS[asked], settings, facts))
    number = parameters(facts)
    if number is None:
        return Chosen("none", "how many parameters the model has cannot be read", {})
    name = "small" if number <= _SMALL else "medium" if number <= _MEDIUM else "large"
    flags = {flag: told for flag, told in FLAGS[name].items() if flag != _KV}
    return Chosen(name, f"the model has {number / 1e9:.1f} billion parameters", _usable(flags, settings, facts))


def flags(chosen: Chosen, decided: Mapping[str, Any]) -> dict[str, Any]:
    """The profile's flags that nobody decided and that go with those that somebody did."""
    free = {name: value for name, (value, _) in chosen.flags.items() if name not in decided}
    together = {**free, **decided}
    if _BATCHED in together and _SEQUENCES in together and not _is_enough(together[_BATCHED], together[_SEQUENCES]):
        return {name: value for name, value in free.items() if name not in {_BATCHED, _SEQUENCES}}
    return free


def _is_enough(tokens: Any, sequences: Any) -> bool:
    """Whether a step has a token for each sequence: vLLM refuses to start otherwise."""
    try:
        return int(str(tokens)) >= int(str(sequences))
    except ValueError:
        return False


def parameters(facts: Facts) -> float | None:
    """How many parameters the model has, None where neither its configuration nor its headers tell."""
    weights = facts.get("weights") or {}
    try:
        config = json.loads((weights.get("texts") or {})["config.json"])
        model = fit.of(config, from_facts(weights.get("safetensors") or {}))
        counted = model.weights
    except (KeyError, ValueError, Refused):
        return None
    # Of packed weights of an architecture that is not known, headers count the packs.
    packs = bool(model.headers and model.headers.packed and not counted.active)
    return None if packs else float(counted.parameters)


def _usable(flags: Mapping[str, tuple[Any, str]], settings: Settings, facts: Facts) -> Mapping[str, tuple[Any, str]]:
    """The flags that this release and these cards take."""
    release, left_out = version_of(settings.vllm.image), set()
    if (release and Version(release) < _CHUNKED_SINCE) or settings.vllm.args.get("enable-chunked-prefill") is False:
        left_out.add(_BATCHED)
    capabilities = [str(gpu.get("compute_capability") or "0") for gpu in facts.get("gpus") or []]
    if not capabilities or any(_number(one) < (8, 9) for one in capabilities):
        left_out.add(_KV)
    return {flag: told for flag, told in flags.items() if flag not in left_out}


def _number(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major or 0), int(minor or 0)
