"""Looks for what is wrong on a host: chooses the checks that make sense for its state, runs them, reads its logs.

Nothing is changed, and no lock is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrate import doctor_judge, runtimes, session, status, variables
from migrate import settings as settings_module
from migrate.doctor_judge import Finding, Leftover, Report
from migrate.errors import MigrateError, NotProven, SettingsError
from migrate.gate import Outcome, Verdict
from migrate.journal import Kind, Record, State, finished, states
from migrate.phases import NAMES, PHASES
from migrate.playbook import PlaybookResult
from migrate.session import Migration, Target
from migrate.settings import Settings

_SAID_LINES = 20
_GONE = {State.NOT_STARTED, State.UNDONE}


@dataclass(frozen=True, slots=True)
class Need:
    """When a check makes sense: once phase `after` has begun, until phase `until` has passed, while Triton is there or
    not, on a host with GPUs, with a server. `deep` ones run in the image or read all weights."""

    after: str = ""
    until: str = ""
    triton: bool | None = None
    gpu: bool = False
    server: bool = False
    deep: bool = False


CHECKS: Mapping[str, Need] = {
    "host_os": Need(),
    "clock": Need(),
    "docker_engine": Need(),
    "disk_space": Need(until="stage"),
    "ports_free": Need(),
    "gpu_driver": Need(gpu=True),
    "cuda_toolkit": Need(gpu=True),
    "nccl_host": Need(gpu=True),
    "triton_serving": Need(triton=True),
    "nginx_serves_triton": Need(triton=True),
    "port_serves": Need(),
    "registry_image": Need(after="preflight", until="stage"),
    "snapshot_complete": Need(after="snapshot"),
    "snapshot_diff": Need(after="snapshot", triton=True),
    "triton_goldens": Need(after="snapshot", triton=True),
    "image_present": Need(after="stage"),
    "container_gpu": Need(after="stage", gpu=True),
    "vllm_api": Need(after="deploy", server=True),
    "gateway_serves": Need(after="deploy", server=True),
    "triton_gone": Need(triton=False),
    "weights_verified": Need(after="stage", deep=True),
    "vllm_flags": Need(after="stage", deep=True),
    "image_abi": Need(after="stage", deep=True),
    "vllm_import": Need(after="stage", deep=True),
    "torch_gpu": Need(after="stage", gpu=True, deep=True),
    "nccl_allreduce": Need(after="stage", gpu=True, deep=True),
}


def examine(target: Target, *, deep: bool) -> Report:
    """Everything that is known to be wrong with the host, the likeliest root cause first.

    Raises HostUnreachable, or MigrateError where the host could be reached and not be looked at.
    """
    others: list[Finding] = []
    answer = target.host.call("status") if target.host.installed() else None
    migration = _migration(target, others)
    records = migration.records if migration else ()
    settings = _settings(target, migration)
    chosen = choose(records, settings, deep=deep)
    names = [name for name, why in chosen.items() if not why]
    target.say(f"{len(names)} checks on {target.name}: {', '.join(names)}")
    result = _run(target, _extra(target.name, settings, migration, names))
    evidence = result.results["doctor"]
    others += _way_back(answer, states(records, NAMES), target.name)
    findings, notices = doctor_judge.judge(evidence, result.verdicts, others)
    undecided, accepted = _undecided(result, names, settings)
    unread = {part: f"could not be read: {why}" for part, why in (evidence.get("unread") or {}).items()}
    return Report(
        target.name,
        status.headline(target.name, answer, records, session.now()),
        findings,
        (*notices, *_notes(answer)),
        tuple(leftovers(answer, records, evidence.get("leftovers") or [], target.name)),
        undecided | unread,
        accepted,
        {v.check: v.measured for v in result.verdicts if v.verdict is Outcome.PASS},
        {name: why for name, why in chosen.items() if why},
        evidence.get("services") or {},
    )


def _run(target: Target, extra: Mapping[str, Any]) -> PlaybookResult:
    result = target.playbooks().run("doctor", target.with_target(extra), target.say)
    if "doctor" not in result.results:
        raise MigrateError(
            f"{target.name} could not be looked at: {'; '.join(result.failures)}",
            advice=f"try: ansible -m ping --become {target.name}",
        )
    return result


def choose(records: Sequence[Record], settings: Settings, *, deep: bool) -> dict[str, str]:
    """Check -> why it is not asked, "" for those that are."""
    known = states(records, NAMES)
    retired = finished(records) == "retired"
    return {name: _why_not(need, known, settings, retired=retired, deep=deep) for name, need in CHECKS.items()}


def _why_not(need: Need, known: Mapping[str, State], settings: Settings, *, retired: bool, deep: bool) -> str:
    if need.triton is not None and need.triton is retired:
        return "Triton is retired" if retired else "not yet: Triton is not retired"
    if need.gpu and settings.vllm.gpus == "none":
        return "vllm_gpus is none"
    if need.server and settings.vllm.mode != "server":
        return f"vllm_mode is {settings.vllm.mode}"
    if need.after and known[need.after] is State.NOT_STARTED:
        return f"not yet: {need.after} has not run"
    if need.after and known[need.after] is State.UNDONE:
        return f"{need.after} was taken back"
    if need.until and known[need.until] is State.PASSED:
        return f"{need.until} has passed"
    return "only with --deep" if need.deep and not deep else ""


def _migration(target: Target, others: list[Finding]) -> Migration | None:
    """The latest migration; a journal that cannot be trusted is a finding of its own."""
    try:
        return session.latest(target)
    except NotProven as error:
        cause = "the host's journal is damaged, so what follows knows no phase"
        others.append(Finding("journal", "check", cause, str(error), "/var/lib/migrate/journal", "", error.advice))
        return None


def _settings(target: Target, migration: Migration | None) -> Settings:
    """The settings that the host was changed with; the inventory's where nothing of it is left, or they do not load."""
    if migration is None or (migration.result == "rolled back" and not _is_there(migration.records)):
        return target.settings
    try:
        return settings_module.load(migration.plan.settings)
    except SettingsError as error:
        target.say(f"the run's settings cannot be read any more, so the inventory's are used: {error}")
        return target.settings


def _is_there(records: Sequence[Record]) -> bool:
    """Whether an image or vLLM itself is on the host as the plan had it; rolling traffic back leaves both."""
    known = states(records, NAMES)
    return any(known[phase] not in _GONE for phase in ("stage", "deploy"))


def _extra(host: str, settings: Settings, migration: Migration | None, names: Sequence[str]) -> dict[str, Any]:
    runtime = runtimes.of(settings)
    records = migration.records if migration else ()
    known = states(records, NAMES)
    services = {} if finished(records) == "retired" else {"triton": settings.triton.container}
    if known["deploy"] not in _GONE:
        # A process that is no server is started by each offline job and ends with it.
        services |= {} if settings.vllm.mode == "offline" and runtime.kind == "process" else {"vllm": runtime.vllm}
        services |= {"gateway": runtime.gateway} if settings.vllm.mode == "server" else {}
    units = [] if runtime.kind == "docker" else [role for role in ("vllm", "gateway") if role in services]
    return variables.for_doctor(host, settings, migration.plan if migration else None) | {
        "check_names": list(names),
        "doctor_services": services,
        "doctor_units": units,
        "doctor_run": said_by_failed_phase(records),
    }


def said_by_failed_phase(records: Sequence[Record]) -> list[str]:
    """What the checks of the phase that failed last said, where it has not passed or been undone since."""
    known = states(records, NAMES)
    outcomes = [record for record in records if record.kind is Kind.OUTCOME]
    if not outcomes or known.get(outcomes[-1].phase) is not State.FAILED:
        return []
    verdicts = [v for v in outcomes[-1].data.get("verdicts") or [] if v.get("verdict") != Outcome.PASS]
    lines = [f"{v.get('check')}: {v.get('measured', '')} {v.get('detail', '')}" for v in verdicts]
    return [" ".join(line.split()) for line in lines][:_SAID_LINES]


def _undecided(
    result: PlaybookResult, names: Sequence[str], settings: Settings
) -> tuple[dict[str, str], dict[str, str]]:
    """What told nothing, and what of that the operator has accepted, each with its reason."""
    open_, accepted = {}, {}
    reasons = settings.migrate.accept_inconclusive
    for verdict in result.verdicts:
        if verdict.verdict in {Outcome.INCONCLUSIVE, Outcome.ERROR}:
            phase = next((p.name for p in PHASES if verdict.check in p.checks and p.name in reasons), "")
            if phase and verdict.verdict is Outcome.INCONCLUSIVE:
                accepted[verdict.check] = f"{verdict.measured} (accepted: {reasons[phase]})"
            else:
                open_[verdict.check] = _told(verdict)
    silent = set(names) - {verdict.check for verdict in result.verdicts}
    return open_ | {name: "gave no verdict" for name in sorted(silent)}, accepted


def _told(verdict: Verdict) -> str:
    return "; ".join(part for part in (verdict.measured, verdict.detail, verdict.advice) if part)


def _way_back(answer: Mapping[str, Any] | None, known: Mapping[str, State], host: str) -> list[Finding]:
    """A way back that would not work now, once there has been one."""
    back = (answer or {}).get("back") or {}
    degraded = back.get("degraded") or back.get("error")
    if not degraded or known["snapshot"] is not State.PASSED:
        return []
    do = f"keep Triton running; docs/back.md; before deploy: migrate rollback --host {host} and plan again"
    return [Finding("way-back", "the way back", "it would not work now", str(degraded), "hostctl status", "", do)]


def _notes(answer: Mapping[str, Any] | None) -> list[Finding]:
    """What hostctl knows that explains what is seen and is nothing wrong."""
    lock = (answer or {}).get("lock") or {}
    fired = ((answer or {}).get("deadman") or {}).get("fired") or []
    notes = [
        Finding("deadman", "hostctl", "the dead-man switch took traffic back", str(e), "hostctl", "", "") for e in fired
    ]
    if lock.get("held"):
        held = lock["lock"]
        said = f"{held['owner']}, {held['reason']}, until {held['expires']}"
        notes.append(
            Finding(
                "lock", "hostctl", "a run is under way: what it is changing may look wrong", said, "hostctl", "", ""
            )
        )
    return notes


def leftovers(
    answer: Mapping[str, Any] | None, records: Sequence[Record], others: Sequence[Mapping[str, str]], host: str
) -> list[Leftover]:
    """What earlier runs left, where no run is under way."""
    lock = (answer or {}).get("lock") or {}
    if lock.get("held"):
        return []
    found = []
    if lock.get("expired"):
        held = lock["lock"]
        what = f"the lock of {held['owner']} ({held['reason']}), whose lease ended {held['expires']}"
        found.append(Leftover(what, f"migrate lock break {held['id']} --host {host}"))
    if records and not finished(records):
        last = next((record.phase for record in reversed(records) if record.phase), "the beginning")
        do = f"migrate continue --host {host}, or migrate rollback --host {host}"
        found.append(Leftover(f"an unfinished run, at {last}: {states(records, NAMES).get(last, 'not started')}", do))
    deadman = (answer or {}).get("deadman") or {}
    if deadman.get("armed"):
        what = f"the dead-man switch is armed and takes traffic back at {deadman.get('fires_at')}"
        found.append(Leftover(what, f"let it, or: migrate rollback --host {host}"))
    # What finishes a reboot's work is the run itself; one that has ended is asked by its way back.
    finish = f"rollback --host {host} --to before-provision" if finished(records) else f"continue --host {host}"
    for one in others:
        do = f"migrate {finish}" if one["kind"] == "file" else f"docker rm --force {one['name']}"
        found.append(Leftover(f"{one['kind']} {one['name']}: {one['detail']}", do))
    return found
