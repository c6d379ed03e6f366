"""Compares settings with what a vLLM release knows. Every finding names what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from packaging.version import Version

from migrate.knowledge import names
from migrate.knowledge.release import parse
from migrate.knowledge.table import Image, Row, Rule, Table, image, load

_NO_SUCCESSOR = "leave it out: it has no successor"
_ASK = "nothing, if the image knows it: stage compares it with the image's own --help"
_HARD = "fail-on-environ-validation"
_PREFIX = "VLLM_"
_SM_120 = 12


class Severity(StrEnum):
    """`error`: vLLM does not start with it, or ignores it; `review`: for a human, or for `stage`, to judge."""

    ERROR = "error"
    REVIEW = "review"


@dataclass(frozen=True, slots=True)
class Finding:
    """One wrong or doubtful setting. `kind`: flag, environment, metric, default, image or model."""

    name: str
    kind: str
    problem: str
    replacement: str
    source: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is checked: the release (None: not known), and the settings under their normal names."""

    table: Table
    release: Version | None
    flags: Mapping[str, Any]
    environment: Mapping[str, str]

    @property
    def has(self) -> Version:
        """The release whose tables apply: the last one where it is not known."""
        return self.release or self.table.last


def check(
    version: str | None,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    variant: str = "",
    architecture: str | None = None,
    driver: str | None = None,
) -> list[Finding]:
    """What is wrong with the flags (names as in `vllm_args`) and variables for a release, errors first.

    `version` is `version_of(image)`, `variant` is `variant_of(image)`; without a version only names that no release has
    are errors, the rest is left to `stage`. `architecture` is that of the model's config.json, `driver` the NVIDIA
    driver's version; without it (a host without a GPU) the driver is not judged. A flag whose value is None is not
    passed to vLLM and not looked at.
    """
    release = parse(version) if version else None
    passed = {_normal(name): value for name, value in flags.items() if value is not None}
    asked = _Asked(load(), release, passed, environment)
    found = [
        *_known(asked),
        *(finding for name in passed for finding in _flag(name, asked)),
        *(finding for name in environment for finding in _variable(name, asked)),
        *_rules(asked, architecture, _branch(driver)),
        *_driver(version, variant, driver, environment),
    ]
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


def check_metrics(version: str | None, names: Iterable[str]) -> list[Finding]:
    """The metrics among `names` (dashboards', alerts') that a release does not serve; empty where it is not known."""
    release = parse(version) if version else None
    table = load().metrics
    found = []
    for name in names:
        series = re.sub(r"_(bucket|sum|count)$", "", name.removeprefix("vllm:"))
        row = table.get(name.removeprefix("vllm:"), table.get(series))
        if name.startswith("vllm:") and release and not (row and row.covers(release)):
            found.append(_metric(name, row, release, table))
    return found


def check_capability(version: str | None, capability: str, variant: str = "") -> list[Finding]:
    """Whether a release's image has code for a GPU's compute capability (`12.0`); empty where the table cannot tell."""
    known = image(version, variant) if version else None
    major = _branch(capability)
    if known is None or major is None:
        return []
    if older := _too_old(known, capability):
        return [older]
    if known.sm_120 or major < _SM_120:
        return []
    problem = (
        f"the image of vLLM {version} has no code for compute capability {capability}: no kernel image is available"
    )
    return [Finding("vllm_image", "image", problem, "vllm_image of 0.9.2 or later", "vllm#19794", Severity.ERROR)]


def _too_old(known: Image, capability: str) -> Finding | None:
    """A finding where the image's CUDA compiles for no card as old as this one."""
    table = load()
    oldest = table.capabilities[int(known.cuda.partition(".")[0])]
    if Version(capability) >= Version(oldest):
        return None
    problem = f"the image's CUDA {known.cuda} compiles for {oldest} and later, the card has {capability}"
    other = f"image_strategy source with an image_base of CUDA 12 and image_arch_list {capability}"
    return Finding("vllm_image", "image", problem, other, table.capabilities_source, Severity.ERROR)


def _known(asked: _Asked) -> Iterator[Finding]:
    table = asked.table
    if asked.release is None:
        problem = "the image's tag does not name its release; names are compared with all releases"
    elif asked.release > table.last:
        problem = f"vLLM {asked.release} is newer than the table, which ends at {table.last}"
    elif asked.release < table.first:
        problem = f"vLLM {asked.release} is older than the table, which starts at {table.first}"
    else:
        return
    yield Finding("vllm_image", "image", problem, _ASK, "releases.yaml", Severity.REVIEW)


def _flag(name: str, asked: _Asked) -> Iterator[Finding]:
    never = asked.table.never.get(name) or asked.table.never.get(name.lower())
    if never:
        yield Finding(name, "flag", never.problem, never.replacement, never.source, Severity.ERROR)
        return
    plain = name.removeprefix("no-")
    row = asked.table.flags.get(name) or asked.table.flags.get(plain)
    if row and row.name != name and not asked.table.is_switch(plain):
        problem, other = "no option of vLLM: only a switch has a no- form", f"leave it out, or give {plain} a value"
        yield Finding(name, "flag", problem, other, row.source, Severity.ERROR)
        return
    if row:
        yield from _outside(name, "flag", row, asked)
        return
    if near := names.flag(plain, asked.table.flags, asked.has):
        negation = name[: len(name) - len(plain)]
        yield _meant(Finding(name, "flag", "no option of vLLM", negation, "", Severity.ERROR), near, asked)
    else:
        problem = "not known to this project's table; stage asks the image"
        yield Finding(name, "flag", problem, _ASK, "releases.yaml", Severity.REVIEW)


def _variable(name: str, asked: _Asked) -> Iterator[Finding]:
    if not name.startswith(_PREFIX):
        return
    row = asked.table.environment.get(name)
    if row:
        yield from _outside(name, "environment", row, asked)
        return
    near = names.variable(name, asked.table.environment, asked.has)
    hard = bool(asked.flags.get(_HARD))
    if near:
        problem = f"no variable of vLLM, which {'ends' if hard else 'warns and ignores it'}"
        yield _meant(Finding(name, "environment", problem, "", "", Severity.ERROR), near, asked)
        return
    problem = (
        f"vLLM takes every {_PREFIX} name for its own and {'ends at' if hard else 'warns of'} one that it does not know"
    )
    other = f"a name with another prefix, such as SITE_{name.removeprefix(_PREFIX)}"
    severity = Severity.ERROR if hard else Severity.REVIEW
    yield Finding(name, "environment", problem, other, "vllm/envs.py: validate_environ", severity)


def _meant(finding: Finding, near: Row, asked: _Asked) -> Finding:
    """The finding with what to write: the near name, or what follows from it where the release does not have it."""
    if near.covers(asked.has):
        return replace(finding, replacement=f"did you mean {finding.replacement}{near.name}?", source="releases.yaml")
    outside = next(_outside(near.name, finding.kind, near, asked))
    problem = f"{finding.problem}; nearest is {near.name}, {outside.problem}"
    return replace(finding, problem=problem, replacement=outside.replacement, source=outside.source)


def _outside(name: str, kind: str, row: Row, asked: _Asked) -> Iterator[Finding]:
    """A finding where the release does not have the row."""
    if row.covers(asked.has):
        return
    gone = row.until is not None and asked.has >= row.until
    if gone:
        problem, other = f"gone since vLLM {row.until}", row.replacement or _NO_SUCCESSOR
    else:
        problem, other = f"new in vLLM {row.since}", f"vllm_image of {row.since} or later, or leave it out"
    if kind == "environment" and gone:
        problem += ", which ignores it"
    severity = Severity.REVIEW if asked.release is None else Severity.ERROR
    yield Finding(name, kind, problem, other, row.source, severity)


def _rules(asked: _Asked, architecture: str | None, branch: int | None) -> Iterator[Finding]:
    for rule in asked.table.rules:
        if asked.release and rule.releases.covers(asked.release) and _holds(rule, asked, architecture, branch):
            row = rule.releases
            yield Finding(row.name, rule.kind, rule.problem, row.replacement, row.source, Severity(rule.severity))


def _holds(rule: Rule, asked: _Asked, architecture: str | None, branch: int | None) -> bool:
    name = rule.releases.name
    return (
        (not rule.flag or str(asked.flags.get(rule.flag, "")).lower() == rule.value.lower())
        and not (rule.absent and (name in asked.flags or name in asked.environment))
        and rule.architecture in ("", architecture)
        and (rule.driver_above is None or (branch is not None and branch > rule.driver_above))
        and not any(other in asked.environment or other in asked.flags for other in rule.unless)
    )


def _driver(version: str | None, variant: str, driver: str | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    known: Image | None = image(version, variant) if version else None
    branch = _branch(driver)
    if known is None or branch is None:
        return
    table = load()
    needed = table.drivers[int(known.cuda.partition(".")[0])]
    if branch >= needed:
        return
    older = ", ".join(
        f"the tag with -{name} (CUDA {cuda})" for name, cuda in known.variants.items() if cuda < known.cuda
    )
    other = " or ".join(filter(None, (f"driver {needed} or later", older)))
    found = Finding("driver", "image", "", other, table.drivers_source, Severity.ERROR)
    if environment.get("VLLM_ENABLE_CUDA_COMPATIBILITY", "0") != "0":
        found = replace(found, severity=Severity.REVIEW)
    yield replace(found, problem=f"the image's CUDA {known.cuda} needs driver {needed}, the host has {driver}")


def _metric(name: str, row: Row | None, release: Version, table: Mapping[str, Row]) -> Finding:
    if row is None:
        near = names.metric(name.removeprefix("vllm:"), table, release)
        other = f"did you mean vllm:{near.name}?" if near else "a name that vLLM's /metrics shows"
        return Finding(name, "metric", "no metric of vLLM", other, "releases.yaml", Severity.REVIEW)
    if row.until is not None and release >= row.until:
        return Finding(name, "metric", f"gone since vLLM {row.until}", row.replacement, row.source, Severity.ERROR)
    other = f"vllm_image of {row.since} or later"
    return Finding(name, "metric", f"new in vLLM {row.since}", other, row.source, Severity.ERROR)


def _normal(name: str) -> str:
    """An option's name as argparse compares it: dashes, without the path into its JSON value."""
    return name.lstrip("-").partition(".")[0].rstrip("+").replace("_", "-")


def _branch(driver: str | None) -> int | None:
    head = (driver or "").partition(".")[0]
    return int(head) if head.isdigit() else None
