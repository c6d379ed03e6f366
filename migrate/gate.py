"""Verdicts of checks and judges, and the gate that decides a phase from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What a check, a judge or a gate says. Missing data is never `pass`."""

    PASS = "pass"  # noqa: S105 - the field's word for success, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


_WORST_FIRST = (Outcome.ERROR, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check's answer. `advice` is the next command to type; `duration_s` is in seconds."""

    check: str
    verdict: Outcome
    expected: str = ""
    measured: str = ""
    detail: str = ""
    advice: str = ""
    duration_s: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Verdict:
        """Read the JSON object of a check. Raises KeyError or ValueError where it breaks the contract."""
        text = {key: str(data.get(key, "")) for key in ("expected", "measured", "detail", "advice")}
        versions = {str(k): str(v) for k, v in dict(data.get("versions") or {}).items()}
        duration = float(data.get("duration_s", 0.0))
        return cls(str(data["check"]), Outcome(data["verdict"]), **text, duration_s=duration, versions=versions)

    def problem(self) -> str:
        """The check, what it measured, and what helps to understand that, in one line."""
        told = [text for text in (self.measured, self.detail) if text]
        return f"{self.check}: {'; '.join(dict.fromkeys(told))}"

    def as_json(self) -> dict[str, Any]:
        """The verdict as the JSON object that checks print and reports hold."""
        return asdict(self) | {"verdict": str(self.verdict), "versions": dict(self.versions)}


def decide(verdicts: Iterable[Verdict], wanted: Iterable[str] = ()) -> Outcome:
    """The worst verdict decides; no verdict at all, or a wanted check that did not report, is an error."""
    found = list(verdicts)
    missing = set(wanted) - {verdict.check for verdict in found}
    if missing or not found:
        return Outcome.ERROR
    return next(outcome for outcome in _WORST_FIRST if any(v.verdict is outcome for v in found))


def as_json(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as the journal and the report keep them."""
    return [verdict.as_json() for verdict in verdicts]
