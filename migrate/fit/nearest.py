"""The nearest settings with which a model fits after all, and how many cards it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from migrate.errors import MigrateError
from migrate.fit import weights
from migrate.fit.cards import Card
from migrate.fit.kv import BLOCK
from migrate.fit.memory import Fit, Model, Setting, divides, fit
from migrate.fit.quantization import AWQ, FP8

_GROUPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Change:
    """One change that makes it fit: what to write, and the fit that it gives."""

    what: str
    result: Fit


def nearest(model: Model, vram: int, setting: Setting, card: Card | None = None) -> tuple[Change, ...]:
    """Changes that make the model fit, nearest first; empty where it fits, or where nothing here helps.

    Nearest is what keeps most of what was asked: an 8-bit KV cache, a context of at least a quarter, 8-bit and 4-bit
    weights, more cards, then any shorter context. A context above the model's own is first cut to that.
    """
    asked = fit(model, vram, setting)
    if asked.fits:
        return ()
    if asked.context > asked.own_context:
        setting = replace(setting, context=asked.own_context)
        cut = fit(model, vram, setting)
        if cut.fits:
            return (Change(f"--max-model-len {cut.context}", cut),)
    return tuple(change for change in _candidates(model, vram, setting, card) if change.result.fits)


def cards_needed(model: Model, vram: int, setting: Setting) -> int | None:
    """The smallest tensor-parallel group of such cards, without a pipeline, that holds the model and its context; None
    up to 16."""
    for gpus in _GROUPS:
        if divides(model.config, gpus, model.scheme):
            if fit(model, vram, replace(setting, tensor_parallel=gpus, pipeline_parallel=1)).fits:
                return gpus
    return None


def _candidates(model: Model, vram: int, setting: Setting, card: Card | None) -> Iterator[Change]:
    fp8 = card is None or card.fp8
    if fp8 and setting.kv_dtype == "auto":
        yield Change("--kv-cache-dtype fp8", fit(model, vram, replace(setting, kv_dtype="fp8")))
    asked = fit(model, vram, setting)
    shorter = asked.largest_context // BLOCK * BLOCK
    cut = replace(setting, context=shorter) if shorter else setting
    if shorter * 4 >= asked.context:
        yield Change(f"--max-model-len {shorter}", fit(model, vram, cut))
    yield from _quantised(model, vram, setting, fp8)
    gpus = cards_needed(model, vram, setting)
    if gpus and gpus > setting.cards:
        result = fit(model, vram, replace(setting, tensor_parallel=gpus, pipeline_parallel=1))
        alone = " --pipeline-parallel-size 1" if setting.pipeline_parallel > 1 else ""
        yield Change(f"--tensor-parallel-size {gpus}{alone} ({gpus} such cards)", result)
    if 0 < shorter * 4 < asked.context:
        yield Change(f"--max-model-len {shorter}", fit(model, vram, cut))


def _quantised(model: Model, vram: int, setting: Setting, fp8: bool) -> Iterator[Change]:
    if not weights.countable(model.config):
        return
    present = model.weights
    for scheme, what in (
        (FP8, "FP8 weights (--quantization fp8)"),
        (AWQ, "a 4-bit AWQ or GPTQ checkpoint of the model"),
    ):
        smaller = replace(model, scheme=scheme)
        if smaller.weights.bytes < 0.9 * present.bytes and (fp8 or scheme is not FP8):
            try:
                yield Change(what, fit(smaller, vram, setting))
            except MigrateError:
                continue
