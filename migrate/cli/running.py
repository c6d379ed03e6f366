"""Carries a run out under its lock, with signals handled, and says where it ended: shared by the migrating commands."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from migrate import run as running
from migrate import runtimes, session, status
from migrate.cli.output import Output
from migrate.context import Run, Stop
from migrate.errors import MigrateError
from migrate.phases import NAMES
from migrate.plan import Plan
from migrate.session import Target


@dataclass(frozen=True, slots=True)
class Going:
    """A way forward: the run, its last phase, the command's word, and the facts accepted in place of the plan's."""

    run: str
    through: str
    verb: str
    accepted: Mapping[str, Any]


def forward(target: Target, plan: Plan, going: Going, output: Output) -> None:
    """Run the phases that are left, and say where it ended. Raises what `migrate.run.forward` raises."""
    runtimes.refuse_beyond_deploy(str(plan.settings.get("vllm_mode", "server")), going.through, NAMES)
    with opened(target, plan, going.run, going.verb) as going_on:
        running.accept_drift(going_on, going.accepted)
        running.forward(going_on, going.through)
    say_report(target, going.run, output, going.verb)


@contextmanager
def opened(target: Target, plan: Plan, run: str, verb: str) -> Iterator[Run]:
    """The run under the host's lock; a failure is followed by the line that says who serves."""
    stop = Stop()
    try:
        with _signals(stop, target.say), session.open_run(target, plan, run, verb, stop) as going_on:
            yield going_on
    except MigrateError:
        target.say(headline(target))
        raise


@contextmanager
def _signals(stop: Stop, say: Callable[[str], None]) -> Iterator[None]:
    def asked(number: int, frame: FrameType | None) -> None:
        stop.asked, stop.signal = stop.asked + 1, number
        if stop.asked > 2:
            sys.exit(128 + number)
        say(
            "stopping at the next safe point"
            if stop.asked == 1
            else "stopping now; traffic goes back where it had moved"
        )

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def headline(target: Target) -> str:
    """SERVING · BACK · NEXT, as the host says it now."""
    try:
        migration = session.latest(target)
        answer = target.host.call("status") if target.host.installed() else None
    except MigrateError as error:
        return f"SERVING unknown: {error}"
    return status.headline(target.name, answer, migration.records if migration else (), session.now())


def say_report(target: Target, run: str, output: Output, verb: str) -> None:
    """The result of a command that ran to its end, and where its report is."""
    directory = target.state / run
    line = headline(target)
    data = {"run": run, "report": str(directory / "report.html"), "headline": line}
    output.result(verb, data, f"{line}\nreport: {directory / 'report.html'}")
