"""A trial is one prompt with all its arms; its counts are what the verdicts are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from migrate.evidence import Record
from migrate.parity.compare import Answer, Difference, Kind, compare

TRITON = ("triton_1", "triton_2")
VLLM = ("vllm_1", "vllm_2")
COUNTED = frozenset({Kind.NEAR, Kind.REAL, Kind.LENGTH})
_WORST_FIRST = (Kind.MISSING, Kind.REAL, Kind.LENGTH, Kind.NEAR, Kind.TIE, Kind.FORMAT, Kind.SAME)


@dataclass(frozen=True, slots=True)
class Trial:
    """One prompt, its answers by arm (None for a failed request), and how they differ."""

    prompt_id: int
    prompt: str
    answers: Mapping[str, Answer | None]
    across: Difference
    triton_repeats: bool
    vllm_repeats: bool

    @property
    def mismatch(self) -> bool:
        """Whether the sides differ beyond noise; a missing answer always does."""
        if self.across.kind is Kind.MISSING:
            return True
        return self.across.kind in COUNTED and self.triton_repeats and self.vllm_repeats

    def present(self, arms: Iterable[str]) -> list[Answer]:
        """The answers that arrived in these arms."""
        return [answer for arm in arms if (answer := self.answers.get(arm)) is not None]


def trials_of(records: Iterable[Record], prompts: int) -> list[Trial]:
    """One trial for each of the `prompts` that were asked, also where records are missing."""
    texts: dict[int, str] = {}
    answers: dict[int, dict[str, Answer | None]] = {number: {} for number in range(prompts)}
    for record in records:
        number = int(record["prompt_id"])
        texts.setdefault(number, str(record.get("prompt", "")))
        answers.setdefault(number, {})[str(record["arm"])] = Answer.of(record)
    return [_trial(number, texts.get(number, ""), arms) for number, arms in sorted(answers.items())]


def kinds(trials: Iterable[Trial]) -> str:
    """How often each class occurred across the sides, worst first."""
    counts = Counter(trial.across.kind for trial in trials)
    return ", ".join(f"{kind} {counts[kind]}" for kind in _WORST_FIRST if counts[kind])


def _trial(number: int, prompt: str, arms: Mapping[str, Answer | None]) -> Trial:
    cross = [compare(arms.get(one), arms.get(other), prompt) for one, other in product(TRITON, VLLM)]
    worst = min(cross, key=lambda difference: _WORST_FIRST.index(difference.kind))
    repeats = [_repeats(arms, side, prompt) for side in (TRITON, VLLM)]
    return Trial(number, prompt, arms, worst, *repeats)


def _repeats(arms: Mapping[str, Answer | None], side: tuple[str, str], prompt: str) -> bool:
    found = compare(arms.get(side[0]), arms.get(side[1]), prompt)
    return found.kind in (Kind.SAME, Kind.MISSING)
