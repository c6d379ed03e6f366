"""Opens what a command works on: the host's settings, its connection, its plan, its run."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrate import bundled, report, survey, variables
from migrate import lock as locks
from migrate import plan as planning
from migrate import settings as settings_module
from migrate.context import Run, Stop
from migrate.errors import Held, MigrateError, Refused
from migrate.inventory import Inventory
from migrate.journal import Journal, Kind, Record, finished, parse, replace
from migrate.lock import Hostctl
from migrate.plan import Plan
from migrate.playbook import AnsiblePlaybooks
from migrate.settings import Settings
from migrate.survey import Say, Target, discover, preview, target

__all__ = [
    "Migration",
    "Target",
    "before",
    "discover",
    "latest",
    "make_plan",
    "open_run",
    "preview",
    "surveyed",
    "target",
]


@dataclass(frozen=True, slots=True)
class Migration:
    """The latest migration that the host knows of."""

    run: str
    records: tuple[Record, ...]

    @property
    def plan(self) -> Plan:
        """The plan that the migration was started with."""
        return planning.from_json(self.records[0].data["plan"], any_version=True)

    @property
    def result(self) -> str:
        """How it ended: "" unfinished, "migrated", "retired" or "rolled back"."""
        return finished(self.records)


class HostctlJournal:
    """The host's copy of the journal, through hostctl."""

    def __init__(self, host: Hostctl) -> None:
        self._host = host

    def read(self, run: str) -> list[dict[str, Any]]:
        """All records of a run, oldest first; none for a run that the host does not know."""
        return list(self._host.call("journal", "read", "--run", run)["records"])

    def append(self, run: str, line: str, token: int) -> None:
        """Append one line durably."""
        self._host.call("journal", "append", "--run", run, "--token", str(token), stdin=line + "\n")


def now() -> datetime:
    """The present moment, UTC."""
    return datetime.now(UTC)


def clock() -> str:
    """The present moment as UTC ISO-8601 with milliseconds and `Z`."""
    return now().isoformat(timespec="milliseconds").replace("+00:00", "Z")


def surveyed(
    name: str, inventory: Inventory, state: Path, say: Say
) -> AbstractContextManager[tuple[Target, dict[str, Any]]]:
    """Open a host and read its facts, with one start of Ansible for both; raises what `target` and `discover` raise."""
    return survey.surveyed(name, inventory, state, say, meanwhile=_load_planner)


def _load_planner() -> None:
    """Load what computing a plan takes, which is long in coming: grpc for Triton's messages, the tables."""
    from tritonclient.grpc import model_config_pb2  # noqa: F401

    from migrate import knowledge, planner  # noqa: F401
    from migrate.translate import rules

    knowledge.load()
    rules.table()


def make_plan(target: Target, facts: Mapping[str, Any]) -> Plan:
    """The plan for this host as it is now."""
    from migrate import planner

    return planner.make(target.name, target.settings, facts, playbooks_digest(), now())


def playbooks_digest() -> str:
    """What a plan is bound to: sha256 over every playbook, role and check."""
    return bundled.tree_digest("playbooks", "checks")


def runs(target: Target) -> list[str]:
    """The runs that the host's own journal knows, oldest first."""
    if not target.host.installed():
        return []
    return [str(entry["run"]) for entry in target.host.call("journal", "list")["runs"]]


def latest(target: Target) -> Migration | None:
    """The latest migration in the host's own journal, None where there is none."""
    known = runs(target)
    if not known:
        return None
    records = parse(HostctlJournal(target.host).read(known[-1]))
    return Migration(known[-1], tuple(records)) if records else None


def before(target: Target, facts: Mapping[str, Any]) -> tuple[str, str] | None:
    """Run and result of the host's latest migration, None where there is none.

    What the facts hold of hostctl's journals is enough but for a run that is not over, which is read from the host.
    """
    hostctl = facts.get("hostctl") or {}
    known = (hostctl.get("status") or {}).get("journal")
    if not hostctl.get("installed") or known == []:
        return None
    newest = known[-1] if isinstance(known, list) else {}
    last = newest.get("last") or {}
    if last.get("kind") == Kind.FINISH:
        return str(newest["run"]), str(last["data"].get("result", ""))
    migration = latest(target)
    return (migration.run, migration.result) if migration else None


def used_by(target: Target, plan: Plan) -> str:
    """The run that used this plan, "" where none did: a plan is used once."""
    return next((run for run in runs(target) if run.endswith(f"-{plan.id[:8]}")), "")


def run_id(plan: Plan) -> str:
    """`<utc>-<host>-<plan8>`, the name of the run and of its directory."""
    return f"{now():%Y%m%dT%H%M%SZ}-{plan.host}-{plan.id[:8]}"


@contextmanager
def open_run(target: Target, plan: Plan, run: str, reason: str, stop: Stop) -> Iterator[Run]:
    """Take the host's lock and open the run's journal; the report is written again at the end, whatever happens.

    The facts that the switch's configuration is made from are `facts.json` of the run's directory; where the directory
    is new, as on another controller, they are read again.
    """
    directory = target.state / run
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    (directory / "raw").mkdir(exist_ok=True, mode=0o700)
    replace(directory / "plan.json", plan.text())
    settings = _planned(plan, target.settings)
    playbooks = target.playbooks(directory / "ansible")
    shared = target.with_target(_variables(target, plan, settings, run, directory))
    missing = not target.host.installed()
    if missing:
        _install(target, playbooks, shared)
    with locks.hold(target.host, f"{getpass.getuser()}@{socket.gethostname()}", reason) as lease:
        journal = Journal(run, HostctlJournal(target.host), directory / "journal.jsonl", lease.token, clock)
        if not journal.records:
            _refuse_second(target)
            if not missing:
                _install(target, playbooks, shared)
            journal.append(Kind.START, "", plan=plan.as_json(), result="")
        opened = Run(
            run, plan, settings, target.host, playbooks, journal, lease, directory, shared, target.say, clock, stop
        )
        try:
            yield opened
        finally:
            _report(directory, target.say)


def _refuse_second(target: Target) -> None:
    """Under the lock, look once more whether somebody else began meanwhile. Raises Held."""
    found = latest(target)
    if found and found.result != "rolled back":
        raise Held(
            f"{target.name} was taken up by run {found.run} meanwhile", advice=f"migrate status --host {target.name}"
        )


def _report(directory: Path, say: Say) -> None:
    """Write the report; where that fails, what the run ended with matters more."""
    try:
        report.write(directory)
    except (OSError, ValueError) as error:
        say(f"the report could not be written: {error}; try: migrate report")


def keep_facts(target: Target, run: str, facts: Mapping[str, Any]) -> None:
    """Keep the facts that a run starts from in its directory."""
    directory = target.state / run
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace(directory / "facts.json", json.dumps(facts, indent=1, sort_keys=True))


def _planned(plan: Plan, present: Settings) -> Settings:
    """The plan's settings; what the operator accepts is taken from the inventory as it is now."""
    planned = settings_module.load(plan.settings)
    accepted = {"accept_inconclusive": present.migrate.accept_inconclusive}
    migrate = planned.migrate.model_copy(update=accepted)
    return planned.model_copy(update={"migrate": migrate, "retire": present.retire})


def _variables(target: Target, plan: Plan, settings: Settings, run: str, directory: Path) -> dict[str, Any]:
    return variables.for_run(plan, settings, run, (directory / "raw").resolve(), _switch(target, settings, run))


def _switch(target: Target, settings: Settings, run: str) -> str:
    """The switch's configuration, "" where it cannot be made: the role refuses that, and the way back needs none."""
    saved = target.state / run / "facts.json"
    try:
        if not saved.exists():
            keep_facts(target, run, survey.read(target))
        from migrate import planner

        return planner.switch_config(settings, json.loads(saved.read_text(encoding="utf-8")))
    except MigrateError as error:
        target.say(f"the switch's configuration cannot be made: {error}")
        return ""


def _install(target: Target, playbooks: AnsiblePlaybooks, shared: Mapping[str, Any]) -> None:
    target.say("hostctl: installing the lock, the journal and the way back on the host")
    result = playbooks.run("hostctl", shared, target.say)
    if not result.ok:
        raise Refused(f"hostctl could not be installed: {result.failures[0]}")
