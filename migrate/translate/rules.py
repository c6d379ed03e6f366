"""The table of what becomes of each field of ModelConfig (`rules.yaml`), and the rule that fits a field."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from migrate.translate.leaves import Leaf, Token
from migrate.translate.records import Outcome, Sure

UNKNOWN_REASON = "not in the table of known fields: look at what it does in Triton"
DOCUMENTS = {
    "proto": "model_config.proto",
    "config": "model_configuration.md",
    "vllm": "vllm_backend src/model.py",
    "trtllm": "tensorrtllm_backend docs/model_config.md",
    "flags": "vllm/engine/arg_utils.py",
    "python": "python_backend README.md",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table; `rules.yaml` explains its columns."""

    path: str
    outcome: Outcome
    reason: str
    kinds: tuple[str, ...] = ()
    values: tuple[str, ...] | None = None
    target: str = ""
    flag: str = ""
    reads: str = ""
    constant: Any = None
    compute: str = ""
    sure: Sure = Sure.NONE
    document: str = ""

    def fits(self, kind: str, value: Any) -> bool:
        """Whether the rule is for this kind of model and this value of the field."""
        is_kind = not self.kinds or kind in self.kinds
        return is_kind and (self.values is None or _text(value) in {_text(known) for known in self.values})


UNKNOWN = Rule("", Outcome.LOSSY, UNKNOWN_REASON, sure=Sure.REVIEW)


def rule_for(leaf: Leaf, kind: str) -> Rule:
    """The rule of the longest path that covers the field and fits; UNKNOWN where the table has none."""
    table = _by_path()
    found = (rule for path in _covering(leaf.tokens) for rule in table.get(path, ()) if rule.fits(kind, leaf.value))
    return next(found, UNKNOWN)


@cache
def table() -> tuple[Rule, ...]:
    """All rows of `rules.yaml`, in the file's order."""
    rows = yaml.load(files(__package__).joinpath("rules.yaml").read_text("utf-8"), yaml.CSafeLoader)
    return tuple(_rule(row) for row in rows)


def as_markdown(rules: Iterable[Rule]) -> str:
    """The table as docs/translate.md shows it."""
    lines = ["| Triton's field | of | becomes | in vLLM | sure | because |", "|---|---|---|---|---|---|"]
    for rule in rules:
        value = "" if rule.values is None else f" = {' or '.join(repr(known) for known in rule.values)}"
        where = f"`{rule.target}`" if rule.target else ""
        cells = (f"`{rule.path}`{value}", ", ".join(rule.kinds) or "all", rule.outcome, where, rule.sure, rule.reason)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _rule(row: dict[str, Any]) -> Rule:
    known = {"path", "for", "values", "outcome", "target", "flag", "as", "with", "compute", "sure", "from", "reason"}
    if set(row) - known or row["from"] not in DOCUMENTS:
        raise ValueError(f"rules.yaml: {row.get('path')}: unknown column or document in {sorted(row)}")
    flag = row.get("flag", "")
    return Rule(
        path=row["path"],
        outcome=Outcome(row["outcome"]),
        reason=row["reason"],
        kinds=tuple(row.get("for", ())),
        values=tuple(row["values"]) if "values" in row else None,
        target=row.get("target", f"--{flag}" if flag else ""),
        flag=flag,
        reads=row.get("as", ""),
        constant=row.get("with"),
        compute=row.get("compute", ""),
        sure=Sure(row.get("sure", "")),
        document=DOCUMENTS[row["from"]],
    )


@cache
def _by_path() -> dict[str, tuple[Rule, ...]]:
    rules = sorted(table(), key=lambda rule: rule.path)
    return {path: tuple(group) for path, group in itertools.groupby(rules, key=lambda rule: rule.path)}


def _covering(tokens: tuple[Token, ...]) -> Iterator[str]:
    """The paths that cover a field, the longest first; at each length a named key before any key before none."""
    for length in range(len(tokens), 0, -1):
        choices = [_spellings(token) for token in tokens[:length]]
        yield from (".".join(choice) for choice in itertools.product(*choices))


def _spellings(token: Token) -> tuple[str, ...]:
    name, index = token
    indices = dict.fromkeys([index, "[]", ""]) if index else [""]
    return tuple(name + known for known in indices)


def _text(value: Any) -> str:
    return str(value or "").strip().lower()
