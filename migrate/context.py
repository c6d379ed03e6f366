"""One migration of one host while it is being worked on: what every phase, action and undo may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from migrate.errors import Interrupted, NotProven, Refused, RolledBack
from migrate.gate import Outcome, Verdict, decide
from migrate.journal import GAP, Journal, Kind
from migrate.lock import Hostctl, Lease, outlasting
from migrate.plan import Plan
from migrate.playbook import Playbooks
from migrate.settings import Settings


@dataclass(slots=True)
class Stop:
    """How often the operator asked to stop: once means at the next safe point, twice means now."""

    asked: int = 0
    signal: int = 2

    def at_safe_point(self, where: str) -> None:
        """Raise Interrupted, with the exit code of the signal, at a point where leaving is safe."""
        if self.asked:
            stopped = Interrupted(f"stopped {where}, as asked", advice="migrate continue, or migrate rollback")
            stopped.exit_code = 128 + self.signal
            raise stopped


@dataclass(slots=True)
class Run:
    """One migration of one host while it is being worked on, with everything that a phase may use."""

    id: str
    plan: Plan
    settings: Settings
    host: Hostctl
    playbooks: Playbooks
    journal: Journal
    lease: Lease
    directory: Path
    variables: Mapping[str, Any]
    say: Callable[[str], None]
    clock: Callable[[], str]
    stop: Stop = field(default_factory=Stop)

    def call(self, *arguments: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """A mutating hostctl command, fenced by this run's token."""
        self.lease.assert_held()
        return self.host.call(*arguments, "--token", str(self.lease.token), timeout_s=timeout_s)

    def raw(self, phase: str) -> Path:
        """Where the raw records of a phase are on the controller."""
        return self.directory / "raw" / f"{phase}.jsonl"

    def fenced(self, **extra: Any) -> dict[str, Any]:
        """The extra-vars of a playbook that may change the host. Raises LockHeld once the lease is lost."""
        self.lease.assert_held()
        return {**self.variables, "check_names": [], "migrate_token": self.lease.token, **extra}

    def outlasting_gap(self, phase: str) -> AbstractContextManager[None]:
        """Around a phase, or its undo: where the host may reboot in it, the lock outlasts that."""
        if phase != "provision" or not self.settings.provision.allow_reboot:
            return nullcontext()
        return outlasting(self.host, self.lease, 2.0 * self.settings.provision.reboot_timeout_s)

    def note_gap(self, phase: str, results: Mapping[str, Any]) -> float | None:
        """Journal when nobody answered, as a playbook that rebooted the host reports it; seconds, None without one."""
        if "gap" not in results:
            return None
        began, ended = (str(results["gap"][name]) for name in ("began", "ended"))
        self.journal.append(Kind.NOTE, phase, what=GAP, began=began, ended=ended)
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()

    def prove(self, playbook: str, checks: tuple[str, ...]) -> Proof:
        """Run a playbook with its checks and decide from their verdicts; a failed task is never a pass."""
        result = self.playbooks.run(playbook, self.fenced(check_names=list(checks)), self.say)
        outcome = decide(result.verdicts, wanted=checks) if result.ok else Outcome.ERROR
        return Proof(outcome, tuple(result.verdicts), tuple(result.failures), result.results)


@contextmanager
def changing(run: Run, what: str) -> Iterator[None]:
    """Around what changes who serves: whatever goes wrong inside leaves a state that nobody has proven. NotProven."""
    try:
        yield
    except (NotProven, RolledBack, Interrupted, Refused):
        raise
    except Exception as error:
        raise NotProven(f"{what}: {error}", advice=f"look: migrate status --host {run.plan.host}") from error


@dataclass(frozen=True, slots=True)
class Proof:
    """What a playbook and its checks found; `results` is what the playbook itself reported."""

    outcome: Outcome
    verdicts: tuple[Verdict, ...]
    failures: tuple[str, ...]
    results: Mapping[str, Any]

    def problem(self) -> str:
        """The first thing that is not as it should be, in one line."""
        worst = next((v for v in self.verdicts if v.verdict is not Outcome.PASS), None)
        found = worst.problem() if worst else "; ".join(self.failures)
        return found or "no verdict"
