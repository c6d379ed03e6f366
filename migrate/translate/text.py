"""A translation for the terminal: one line per field, and nothing in it that a terminal would obey."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from migrate.translate.records import Entry, Outcome, Translation

_WIDTH = 46


def as_text(translation: Translation) -> str:
    """What moves and what does not, then a line for each field: outcome, setting, source, how sure, and why.

    Lossy fields come first; fields that are dropped for one reason share a line. Control characters are shown escaped.
    """
    lines = [_headline(translation)]
    lines += [f"  note: {_safe(note)}" for note in translation.notes]
    for outcome in (Outcome.LOSSY, Outcome.MAPPED):
        lines += [_line(entry) for entry in translation.entries if entry.outcome is outcome]
    lines += _dropped([entry for entry in translation.entries if entry.outcome is Outcome.DROPPED])
    return "\n".join(lines) + "\n"


def _headline(translation: Translation) -> str:
    name = _safe(translation.model)
    if not translation.moves:
        return f"{name}: stays on Triton: {_safe(translation.why_not)}"
    return f"{name}: moves to vLLM ({translation.backend} backend, weights: {_safe(translation.weights) or 'not said'})"


def _dropped(entries: Sequence[Entry]) -> list[str]:
    by_reason: dict[str, list[Entry]] = {}
    for entry in entries:
        by_reason.setdefault(entry.reason, []).append(entry)
    return [_line(same[0], len(same) - 1) for same in by_reason.values()]


def _line(entry: Entry, more: int = 0) -> str:
    setting = f"{entry.target} {_shown(entry.result)}".strip() if entry.target else "-"
    source = f"{_safe(entry.source)} = {_shown(entry.value)}" + (f" (and {more} more)" if more else "")
    sure = f" [{entry.sure}]" if entry.sure else ""
    return f"  {entry.outcome:<7} {_fill(setting)} {_fill(source)}{sure} {_safe(entry.reason)}"


def _fill(text: str) -> str:
    return f"{text:<{_WIDTH}}"


def _shown(value: Any) -> str:
    return _safe(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _safe(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
