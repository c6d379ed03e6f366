"""Judges what was read from a host: which of it is wrong, what explains the rest, what to type. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from migrate.gate import Outcome, Verdict
from migrate.knowledge import failures

Match = Mapping[str, Any]

# Service -> the check that proves it, and those that cannot pass while it is down.
PROOF = {"vllm": "vllm_api", "gateway": "gateway_serves", "triton": "triton_serving"}
_SHOWN_BY = {
    "vllm": {"vllm_api", "gateway_serves", "port_serves"},
    "gateway": {"gateway_serves", "port_serves"},
    "triton": {"triton_serving", "triton_goldens", "nginx_serves_triton", "port_serves"},
}
_CARDS = {"gpu_driver", "cuda_toolkit", "container_gpu", "torch_gpu", "nccl_allreduce", "vllm_import", "vllm_flags"}
_ENGINE_DOWN = {"engine-down", "unit-docker"}
# What these places say may be long over: it counts only where something is wrong now.
_PAST = {"kernel", "state", "vllm", "gateway", "triton"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: its cause, the line that says so and where, what to do, and the checks that it shows in."""

    name: str
    title: str
    cause: str
    seen: str
    where: str
    at: str
    do: str
    shows_in: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an earlier run left on the host, and the command that ends it."""

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Report:
    """All of it; the likeliest root cause is the first finding. `skipped` is check -> why it was not asked."""

    host: str
    headline: str
    findings: tuple[Finding, ...]
    notices: tuple[Finding, ...]
    leftovers: tuple[Leftover, ...]
    undecided: Mapping[str, str]
    accepted: Mapping[str, str]
    fine: Mapping[str, str]
    skipped: Mapping[str, str]
    services: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


def judge(
    evidence: Mapping[str, Any], verdicts: Sequence[Verdict], others: Sequence[Finding]
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Findings, the likeliest root cause first, and notices.

    `evidence` is the answer of the module doctor_evidence, `others` are findings that came from elsewhere.
    """
    services = evidence.get("services") or {}
    failed = {verdict.check: verdict for verdict in verdicts if verdict.verdict is Outcome.FAIL}
    well = {role for role, check in PROOF.items() if _passes(check, verdicts)}
    found: list[Match] = []
    noticed: list[Match] = []
    for match in _causes(evidence.get("matches") or [], services):
        over = match["role"] in well or (match["place"] in _PAST and not match["role"] and not failed)
        (noticed if match["notice"] or over else found).append(match)
    findings = [_finding({**match, "do": _then(match, services)}, failed) for match in found]
    if not any(match["name"] in _ENGINE_DOWN for match in found):
        gone = [(role, service) for role, service in services.items() if not service.get("exists") and role not in well]
        findings += [_absent(role, service, failed) for role, service in gone]
    explained = {check for finding in findings for check in finding.shows_in}
    findings += [*others, *(_of_check(verdict) for check, verdict in failed.items() if check not in explained)]
    return tuple(findings), tuple(_finding(match, {}) for match in noticed)


def _passes(check: str, verdicts: Sequence[Verdict]) -> bool:
    return any(verdict.check == check and verdict.verdict is Outcome.PASS for verdict in verdicts)


def _causes(matches: Sequence[Match], services: Mapping[str, Any]) -> list[Match]:
    """The matches without repetition; what only says that something failed gives way to the first error of its log."""
    real = [match for match in matches if not match["wrapper"]]
    told = {match["role"] for match in real if match["role"] and not match["notice"]}
    once = {(match["name"], match["role"]): match for match in reversed(real)}
    named = {name for name, role in once if role}
    kept = [m for m in real if once[m["name"], m["role"]] is m and (m["role"] or m["name"] not in named)]
    untold = {match["role"]: match for match in reversed(matches) if match["wrapper"] and match["role"] not in told}
    return kept + [_unknown(match, services.get(role) or {}) for role, match in untold.items()]


def _unknown(match: Match, service: Mapping[str, Any]) -> Match:
    """A failure that the table does not know, by the first error in the log."""
    error = service.get("first_error")
    if not error:
        return match
    means = "it failed with an error that the table does not know"
    do = f"read the FIRST error: {service['where']}; search the release's issues for its text"
    return {**match, "name": "unknown", "means": means, "do": do, "line": error, "where": service["where"], "at": ""}


def _then(match: Match, services: Mapping[str, Any]) -> str:
    """What to do; for a Triton that is down, also how it comes back. Our own servers come back with the run."""
    service = services.get("triton") or {}
    down = match["role"] == "triton" and service.get("exists") and service["status"] != "running"
    return f"{match['do']}; then `docker start {service['name']}`" if down else str(match["do"])


def _finding(match: Match, failed: Mapping[str, Verdict]) -> Finding:
    shows = {check: failed[check].measured for check in sorted(_shown_by(match) & failed.keys())}
    count = f" ({match['count']} lines)" if match["count"] > 1 else ""
    title = failures.load().title_of(match["name"]) or match["role"]
    return Finding(
        match["name"], title, match["means"], match["line"], f"{match['where']}{count}", match["at"], match["do"], shows
    )


def _shown_by(match: Match) -> set[str]:
    """The checks that cannot pass while this is wrong."""
    if match["name"] in _ENGINE_DOWN:
        return {"docker_engine", "image_present", "snapshot_diff"}.union(_CARDS, *_SHOWN_BY.values())
    shown = set(_SHOWN_BY.get(match["role"], ()))
    if failures.load().title_of(match["name"]) == failures.load().titles["gpu"]:
        shown |= _CARDS | _SHOWN_BY["vllm"]
    return shown


def _absent(role: str, service: Mapping[str, Any], failed: Mapping[str, Verdict]) -> Finding:
    name = service.get("name", role)
    do = f"`docker ps --all`, `systemctl status {name}`: who removed it?"
    shows = {check: failed[check].measured for check in sorted(_SHOWN_BY[role] & failed.keys())}
    said, where = f"nothing is named {name}", "docker, systemd"
    return Finding(f"{role}-absent", role, "it is not on the host", said, where, "", do, shows)


def _of_check(verdict: Verdict) -> Finding:
    said = f"{verdict.measured}; {verdict.detail}" if verdict.detail else verdict.measured
    cause = f"expected: {verdict.expected}" if verdict.expected else "the check fails"
    return Finding(verdict.check, "check", cause, said, f"check {verdict.check}", "", verdict.advice)
