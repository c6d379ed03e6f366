"""NVIDIA cards: memory, bandwidth, compute capability, peak arithmetic and power, out of `cards.yaml`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from migrate.errors import UsageError
from migrate.fit.units import MIB


@dataclass(frozen=True, slots=True)
class Card:
    """One card. `memory_mib` as nvidia-smi shows it, `bandwidth_gbs` in 10^9 bytes a second, peak arithmetic in dense
    TFLOPS without sparsity, 0 where the tensor cores do not have the format."""

    key: str
    name: str
    memory_mib: int
    bandwidth_gbs: float
    capability: str
    power_w: int
    fp16_tflops: float
    fp8_tflops: float
    source: str

    @property
    def memory(self) -> int:
        return self.memory_mib * MIB

    @property
    def fp8(self) -> bool:
        """FP8 tensor cores: compute capability 8.9 and later (CUDA C++ Programming Guide, "Compute Capabilities")."""
        return self._version >= (8, 9)

    @property
    def fp4(self) -> bool:
        """FP4 tensor cores: compute capability 10.0 and later."""
        return self._version >= (10, 0)

    @property
    def _version(self) -> tuple[int, int]:
        major, minor = self.capability.split(".")
        return int(major), int(minor)


@cache
def every() -> tuple[Card, ...]:
    """All known cards."""
    text = (resources.files("migrate.fit") / "cards.yaml").read_text(encoding="utf-8")
    return tuple(Card(key=key, **row) for key, row in yaml.load(text, yaml.CSafeLoader).items())


def get(key: str) -> Card:
    """A card by its key, such as `rtx-5090`. Raises UsageError that names the nearest keys."""
    wanted = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-").removeprefix("nvidia-").removeprefix("geforce-")
    known = {card.key: card for card in every()}
    if wanted in known:
        return known[wanted]
    if found := find(key):
        return found
    family = sorted(k for k in known if k.startswith(f"{wanted}-")) if wanted else []
    close = family or difflib.get_close_matches(wanted, known, n=3, cutoff=0.4) or sorted(known)
    raise UsageError(
        f"card {key!r} is not in migrate/fit/cards.yaml", advice=f"--card {close[0]}; near: {', '.join(close)}"
    )


def find(name: str, memory: int = 0) -> Card | None:
    """The card of a name that nvidia-smi shows, such as `NVIDIA GeForce RTX 5090`; None where it is not known.

    `memory`, in bytes, tells variants of one name apart: A100 of 40 and 80 GB, V100 of 16 and 32.
    """
    same = [card for card in every() if card.name.lower() == " ".join(name.split()).lower()]
    return min(same, key=lambda card: abs(card.memory - memory)) if same else None
