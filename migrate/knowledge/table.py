"""`releases.yaml` as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

from migrate.knowledge.release import parse

FILE = Path(__file__).with_name("releases.yaml")


@dataclass(frozen=True, slots=True)
class Row:
    """A name and the releases that have it: from `since` (None: the table's first) to before `until` (None: still)."""

    name: str
    since: Version | None
    until: Version | None
    replacement: str
    source: str

    def covers(self, release: Version) -> bool:
        """Whether the release has it."""
        return (self.since is None or self.since <= release) and (self.until is None or release < self.until)


@dataclass(frozen=True, slots=True)
class Image:
    """The official image of some releases. `variants`: tag suffix to CUDA version; `entrypoint` takes the flags."""

    releases: Row
    cuda: str
    torch: str
    nccl: str
    sm_120: bool
    entrypoint: str
    variants: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that a release gets wrong or differently, and the conditions under which it matters."""

    releases: Row
    kind: str
    severity: str
    problem: str
    flag: str = ""
    value: str = ""
    absent: bool = False
    architecture: str = ""
    driver_above: int | None = None
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Never:
    """A name that is no option of any vLLM release."""

    problem: str
    replacement: str
    source: str


@dataclass(frozen=True, slots=True)
class Table:
    """Everything in `releases.yaml`; the tables of names are complete from release `first` to release `last`."""

    first: Version
    last: Version
    flags: Mapping[str, Row]
    switches: frozenset[str]
    environment: Mapping[str, Row]
    metrics: Mapping[str, Row]
    never: Mapping[str, Never]
    images: tuple[Image, ...]
    rules: tuple[Rule, ...]
    drivers: Mapping[int, int]
    drivers_source: str
    capabilities: Mapping[int, str]
    capabilities_source: str

    def is_switch(self, flag: str) -> bool:
        """Whether a flag of the table is true or false, and so has a --no- form."""
        return flag in self.switches or flag.startswith(("enable-", "disable-"))


@cache
def load(path: Path = FILE) -> Table:
    """Read the table."""
    data = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    return Table(
        first=Version(data["first"]),
        last=Version(data["last"]),
        flags=_rows(data["flags"]),
        switches=frozenset(data["flags"]["switches"]),
        environment=_rows(data["environment"]),
        metrics=_rows(data["metrics"]),
        never={name: Never(**entry) for name, entry in data["never"].items()},
        images=tuple(_image(entry, data["images"]["source"]) for entry in data["images"]["rows"]),
        rules=tuple(_rule(entry) for entry in data["rules"]),
        drivers=data["drivers"]["minimum"],
        drivers_source=data["drivers"]["source"],
        capabilities=data["capabilities"]["minimum"],
        capabilities_source=data["capabilities"]["source"],
    )


def image(version: str, variant: str = "") -> Image | None:
    """The image of a release, its `cuda` that of the tag's variant; None where the table has no such release."""
    release = parse(version)
    table = load()
    found = next((row for row in table.images if release and row.releases.covers(release)), None)
    if found is None or release is None or release > table.last:
        return None
    if not variant:
        return found
    cuda = found.variants.get(variant)
    return None if cuda is None else Image(**{**_fields(found), "cuda": cuda})


def metrics(version: str) -> frozenset[str]:
    """The metrics that a release serves, as they stand on the wire (`vllm:prompt_tokens_total`).

    A release after the table's last counts as the last. Empty for text that is no version.
    """
    release = parse(version)
    return frozenset(f"vllm:{name}" for name, row in load().metrics.items() if release and row.covers(release))


def _rows(part: Mapping[str, Any]) -> dict[str, Row]:
    return {name: _row(name, entry, part["source"]) for name, entry in part["rows"].items()}


def _row(name: str, entry: Mapping[str, Any], source: str) -> Row:
    return Row(
        name=name,
        since=Version(entry["since"]) if "since" in entry else None,
        until=Version(entry["until"]) if "until" in entry else None,
        replacement=entry.get("replacement", ""),
        source=entry.get("source", source),
    )


def _image(entry: Mapping[str, Any], source: str) -> Image:
    return Image(
        releases=_row("image", entry, source),
        cuda=entry["cuda"],
        torch=entry["torch"],
        nccl=entry["nccl"],
        sm_120=entry["sm_120"],
        entrypoint=entry["entrypoint"],
        variants=entry.get("variants", {}),
    )


def _rule(entry: Mapping[str, Any]) -> Rule:
    row = _row(entry["name"], entry, "")
    own = {key: value for key, value in entry.items() if key not in {"name", "since", "until", "replacement", "source"}}
    return Rule(releases=row, **(own | {"unless": tuple(entry.get("unless", ()))}))


def _fields(value: Image) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}
