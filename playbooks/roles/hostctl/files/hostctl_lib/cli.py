"""Commands of `hostctl`: arguments in, ONE JSON object out. Every command that changes something asserts the token."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import VERSION, back, deadman, journal, lock, probes, rehearsal, soak, switch, traffic
from .errors import HostctlError
from .system import Paths

Arguments = argparse.Namespace
Handler = Callable[[Paths, Arguments], dict[str, Any]]


def main(arguments: Sequence[str]) -> int:
    """Run one command and print its JSON object. The exit code: 0 ok, 1 error, 3 refused, 4 lock held, 7 not back."""
    asked = _parser().parse_args(arguments)
    paths = Paths.from_environment()
    try:
        if asked.fenced:
            lock.assert_token(paths, asked.token)
        answer, code = asked.handler(paths, asked), 0
    except HostctlError as error:
        answer, code = {"error": str(error), "advice": error.advice} | error.facts, error.exit_code
    except Exception as error:  # noqa: BLE001 - whatever happens, the caller gets its JSON object
        answer, code = {"error": f"{type(error).__name__}: {error}", "advice": "this is a defect of hostctl"}, 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


def version(_paths: Paths, _asked: Arguments) -> dict[str, Any]:
    """The version, the Python that runs it, and a hash over these sources."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return {"version": VERSION, "python": platform.python_version(), "sources": digest.hexdigest()}


def status(paths: Paths, _asked: Arguments) -> dict[str, Any]:
    """Everything at once; a part that cannot be read says why instead."""
    parts: dict[str, Callable[[], Any]] = {
        "lock": lambda: lock.status(paths),
        "switch": lambda: switch.status(paths, paths.config()),
        "deadman": lambda: deadman.status(paths),
        "soak": lambda: soak.status(paths),
        "back": lambda: {"degraded": back.readiness(paths), "history": back.history(paths)[-10:]},
        "journal": lambda: journal.listing(paths)["runs"],
    }
    answer: dict[str, Any] = {"version": VERSION}
    for name, read in parts.items():
        try:
            answer[name] = read()
        except (HostctlError, OSError, ValueError, LookupError) as error:
            answer[name] = {"error": str(error)}
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hostctl", description=__doc__)
    top = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(top, "version", version)
    _add(top, "status", status)
    _lock_commands(_group(top, "lock"))
    _journal_commands(_group(top, "journal"))
    _switch_commands(_group(top, "switch"))
    _watching_commands(top)
    _request_commands(top)
    return parser


def _lock_commands(group: Any) -> None:
    take = _add(group, "acquire", lambda p, a: lock.acquire(p, owner=a.owner, reason=a.reason, lease_s=a.lease_s))
    take.add_argument("--owner", required=True)
    take.add_argument("--reason", required=True)
    renew = _add(group, "renew", lambda p, a: lock.renew(p, lock_id=a.id, lease_s=a.lease_s))
    release = _add(group, "release", lambda p, a: lock.release(p, lock_id=a.id))
    break_ = _add(group, "break", lambda p, a: lock.break_(p, lock_id=a.id, force=a.force))
    break_.add_argument("--force", action="store_true")
    for command in (take, renew):
        command.add_argument("--lease-s", type=float, required=True)
    for command in (renew, release, break_):
        command.add_argument("--id", required=True)
    _add(group, "status", lambda p, _: lock.status(p))


def _journal_commands(group: Any) -> None:
    append = _add(group, "append", _journal_append, fenced=True)
    read = _add(group, "read", lambda p, a: journal.read(p, run=a.run))
    for command in (append, read):
        command.add_argument("--run", required=True)
    _add(group, "list", lambda p, _: journal.listing(p))


def _journal_append(paths: Paths, asked: Arguments) -> dict[str, Any]:
    return journal.append(paths, run=asked.run, token=asked.token, line=sys.stdin.read())


def _switch_commands(group: Any) -> None:
    step = _add(group, "step", lambda p, a: switch.step(p, p.config(), percent=a.percent, scope=a.scope), fenced=True)
    step.add_argument("--percent", type=int, required=True)
    step.add_argument("--scope", choices=switch.SCOPES, default="live")
    redirect = _add(group, "redirect", _redirect, fenced=True)
    redirect.add_argument("to", choices=("on", "off"))
    _add(group, "status", lambda p, _: switch.status(p, p.config()))
    _add(group, "commit", lambda p, _: switch.commit(p, p.config()), fenced=True)
    _add(group, "uncommit", lambda p, _: switch.uncommit(p, p.config()), fenced=True)
    _add(group, "prepare", lambda p, _: switch.prepare(p, p.config()), help_="run by the unit before it starts")
    _add(group, "restore", lambda p, _: switch.restore(p, p.config()), help_="run by the unit when it listens")
    suspend = switch.redirect_off
    _add(group, "suspend", lambda p, _: suspend(p, p.config(), keep_wish=True), help_="run by the unit at its end")


def _redirect(paths: Paths, asked: Arguments) -> dict[str, Any]:
    act = switch.redirect_on if asked.to == "on" else switch.redirect_off
    return act(paths, paths.config())


def _watching_commands(top: Any) -> None:
    dead = _group(top, "deadman")
    arm = _add(dead, "arm", lambda p, a: deadman.arm(p, seconds=a.seconds, token=a.token), fenced=True)
    arm.add_argument("--seconds", type=float, required=True)
    _add(dead, "confirm", lambda p, _: deadman.confirm(p), fenced=True)
    _add(dead, "status", lambda p, _: deadman.status(p))
    watcher = _group(top, "soak")
    watch = _add(watcher, "arm", lambda p, a: soak.arm(p, p.config(), baseline_p95_s=a.baseline_p95_s), fenced=True)
    watch.add_argument("--baseline-p95-s", type=float)
    _add(watcher, "disarm", lambda p, _: soak.disarm(p), fenced=True)
    _add(watcher, "status", lambda p, _: soak.status(p))
    _add(watcher, "watch", lambda p, _: soak.watch(p, p.config()), help_="what the unit migrate-soak runs")
    way_back = _add(top, "back", lambda p, a: back.run_back(p, reason=a.reason), fenced=True)
    way_back.add_argument("--reason", required=True)


def _request_commands(top: Any) -> None:
    token = _group(top, "token")
    _add(token, "assert", lambda p, a: lock.assert_token(p, a.token), fenced=True)
    window = _add(top, "window", lambda p, a: traffic.window(p, p.config(), since=a.since))
    window.add_argument("--since", required=True)
    ids = _add(top, "ids", lambda p, a: traffic.ids(p, p.config(), prefix=a.prefix))
    ids.add_argument("--prefix", required=True)
    synthetic = _add(top, "synthetic", lambda p, a: probes.synthetic(p.config(), count=a.count))
    synthetic.add_argument("--count", type=int, required=True)
    _add(top, "rehearse", lambda p, _: rehearsal.rehearse(p, p.config()), fenced=True)
    probe = _add(top, "probe", lambda p, a: probes.probe(p.config(), target=a.target))
    probe.add_argument("--target", choices=("triton", "gateway", "vllm", "public"), required=True)
    goldens = _group(top, "goldens")
    record = probes.record_goldens
    _add(goldens, "record", lambda p, _: record(p, p.config(), requests=json.load(sys.stdin)), fenced=True)
    _add(goldens, "verify", lambda p, _: probes.verify_goldens(p, p.config()))


def _group(parent: Any, name: str) -> Any:
    return parent.add_parser(name).add_subparsers(required=True, metavar="COMMAND")


def _add(parent: Any, name: str, handler: Handler, *, fenced: bool = False, help_: str = "") -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = parent.add_parser(name, help=help_ or None)
    command.set_defaults(handler=handler, fenced=fenced)
    if fenced:
        command.add_argument("--token", type=int, required=True, help="the fencing token of the lock")
    return command
