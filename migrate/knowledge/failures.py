"""What goes wrong on a GPU host, by the text that says so: reads `failures.yaml`, and fills it in for one host."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("failures.yaml")
_NAME = re.compile(r"\{([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Failure:
    """One row; `failures.yaml` says what each field means. `do` and `means` hold {1} for the pattern's first group."""

    name: str
    title: str
    places: tuple[str, ...]
    says: str
    pattern: str
    means: str
    do: str
    source: str
    quiet: bool = False
    notice: bool = False
    wrapper: bool = False
    last_line: bool = False
    max_age_h: float | None = None


@dataclass(frozen=True, slots=True)
class Failures:
    """The table: its headings (key to words), and its rows in the order of blame."""

    titles: Mapping[str, str]
    rows: tuple[Failure, ...]

    def for_host(self, names: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows as modules of Ansible take them: JSON types, with the host's settings in what is to be done.

        `names` holds `host` and the settings under their inventory names; a value is quoted as a shell wants it.
        """
        return [_plain(row, names) for row in self.rows]

    def title_of(self, name: str) -> str:
        """The heading of a row, "" for a name that is none."""
        return next((self.titles[row.title] for row in self.rows if row.name == name), "")


@cache
def load(path: Path = FILE) -> Failures:
    """Read the table."""
    data = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    return Failures(titles=data["titles"], rows=tuple(map(_row, data["failures"])))


def _row(entry: Mapping[str, Any]) -> Failure:
    own = {key: value for key, value in entry.items() if key != "in"}
    return Failure(**({"pattern": re.escape(entry["says"])} | own | {"places": tuple(entry["in"])}))


def _plain(row: Failure, names: Mapping[str, Any]) -> dict[str, Any]:
    texts = {key: _filled(getattr(row, key), names) for key in ("means", "do")}
    flags = {key: True for key in ("quiet", "notice", "wrapper", "last_line") if getattr(row, key)}
    age = {} if row.max_age_h is None else {"max_age_h": row.max_age_h}
    return {"name": row.name, "in": list(row.places), "pattern": row.pattern} | texts | flags | age


def _filled(text: str, names: Mapping[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        return shlex.quote(str(names[match[1]])) if match[1] in names else match[0]

    return _NAME.sub(value, text)
