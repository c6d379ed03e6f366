"""Will it fit: weights, KV cache, reserve and context of a model against a card's memory; promises against physics."""

from __future__ import annotations

from migrate.fit.bounds import Expectations, Judgement, Verdict, bound, judge
from migrate.fit.cards import Card
from migrate.fit.directory import load
from migrate.fit.headers import Headers
from migrate.fit.kv import kv_bytes_per_token
from migrate.fit.memory import Fit, Model, Setting, fit, of, quantised
from migrate.fit.nearest import Change, cards_needed, nearest
from migrate.fit.reserve import Batch
from migrate.fit.strategy import Strategy, strategy
from migrate.fit.weights import weights_bytes

__all__ = [
    "Batch",
    "Card",
    "Change",
    "Expectations",
    "Fit",
    "Headers",
    "Judgement",
    "Model",
    "Setting",
    "Strategy",
    "Verdict",
    "bound",
    "cards_needed",
    "fit",
    "judge",
    "kv_bytes_per_token",
    "load",
    "nearest",
    "of",
    "quantised",
    "strategy",
    "weights_bytes",
]
