"""The command for releases whose server is broken: offline-generate."""

from __future__ import annotations

import getpass
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from migrate import inventory as inventories
from migrate import lock as locks
from migrate import offline, runtimes, session
from migrate import settings as settings_module
from migrate.cli.app import STATE, HostOption, InventoryOption, JsonOption, VaultOption, app
from migrate.cli.output import Output
from migrate.errors import GateFailed, Refused, UsageError
from migrate.journal import State, replace, states
from migrate.offline import Request
from migrate.phases import NAMES
from migrate.playbook import PlaybookResult
from migrate.session import Target
from migrate.settings import Settings

_GROUP = "Maintain"
_ENDED = {"finished", "failed"}
Run = Callable[..., PlaybookResult]


@app.command("offline-generate", rich_help_panel=_GROUP)
def offline_generate(
    host: HostOption,
    source: Annotated[Path, typer.Option("--input", help='JSON lines: {"prompt": …, "id": …, "max_tokens": …}.')],
    target_file: Annotated[
        Path, typer.Option("--output", help="JSON lines of answers; what it has is not made again.")
    ],
    inventory: InventoryOption = None,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate with vLLM's LLM class over a file, where vllm_mode is offline. Exit 5 where a line has an error.

    Example: migrate offline-generate --host gpu01 --input prompts.jsonl --output answers.jsonl
    """
    output = Output(as_json=as_json)
    requests, known = _read(source, target_file)
    waiting = offline.pending(requests, known)
    output.say(f"{len(requests)} requests, {len(requests) - len(waiting)} need no answer from the host")
    if waiting:
        with session.target(host, inventories.find(inventory, vault), STATE, output.say) as target:
            known |= _generated(target, waiting, output)
    replace(target_file, offline.output(requests, known))
    told = offline.counts(requests, known)
    text = f"{told['answered']} of {told['requests']} answered, {told['errors']} with an error: {target_file}"
    output.result("offline-generate", told | {"output": str(target_file)}, text)
    if told["errors"]:
        raise GateFailed(f"{told['errors']} lines have an error", advice=f"grep '\"error\"' {target_file}; then again")


def _read(source: Path, target_file: Path) -> tuple[list[Request], dict[str, dict[str, Any]]]:
    """Requests, and the answers that the output has already."""
    if source.resolve() == target_file.resolve():
        raise UsageError("--input and --output are the same file")
    try:
        requests = offline.read(source.read_text(encoding="utf-8"))
        known = offline.answered(target_file.read_text(encoding="utf-8")) if target_file.exists() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--input {source}, --output {target_file}: {error}") from None
    if not target_file.parent.is_dir():
        raise UsageError(f"--output: {target_file.parent} is no directory", advice=f"mkdir -p {target_file.parent}")
    return requests, known


def _generated(target: Target, waiting: list[Request], output: Output) -> dict[str, dict[str, Any]]:
    """The host's answers, by the request's digest; those that it has where it failed on the way."""
    settings = _deployed(target)
    runtime = runtimes.of(settings)
    engine = {"model": runtimes.weights(settings), "arguments": runtimes.flags(settings)}
    name = offline.job(waiting, engine)
    with tempfile.TemporaryDirectory(prefix="migrate-") as private:
        asked, got = Path(private, "requests.jsonl"), Path(private, "answers.jsonl")
        asked.write_text(offline.requests_file(waiting), encoding="utf-8")
        files = {"offline_requests_file": str(asked), "offline_answers_file": str(got), "offline_engine": engine}
        shared = settings.flat() | {"runtime_config": runtime.as_json(), "offline_job": name} | files
        with locks.hold(target.host, f"{getpass.getuser()}@{socket.gethostname()}", "offline-generate") as lease:

            def run(state: str) -> PlaybookResult:
                lease.assert_held()
                extra = target.with_target(shared | {"offline_state": state, "migrate_token": lease.token})
                result = target.playbooks().run("offline", extra, lambda task: None)
                if result.failures:
                    raise Refused(f"offline-generate: {result.failures[-1]}", advice=f"{runtime.logs}, there")
                return result

            run("started")
            ended = _followed(run, output)
            run("fetched")
        if ended["state"] != "finished":
            output.say(f"vLLM ended: {ended['error'] or ended['last'] or 'killed, perhaps for want of memory'}")
        return offline.answered(got.read_text(encoding="utf-8")) if got.exists() else {}


def _followed(run: Run, output: Output) -> Mapping[str, Any]:
    """Say how far it is until it ended, or until nobody works at it."""
    told, idle = "", 0
    while True:
        found = run("waited").results["offline"]
        line = f"{found['state']}: {found['done']} of {found['total']}"
        if line != told:
            output.say(line)
        told, idle = line, 0 if found["running"] else idle + 1
        # One look may fall between the start of the command and its lock.
        if found["state"] in _ENDED and not found["running"] or idle > 1:
            return dict(found)


def _deployed(target: Target) -> Settings:
    """The settings that the host was deployed with. Raises Refused where they are none for this."""
    found = session.latest(target)
    passed = found is not None and states(found.records, NAMES)["deploy"] is State.PASSED
    settings = settings_module.load(found.plan.settings) if found else target.settings
    if not passed or settings.vllm.mode != "offline":
        why = f"it was deployed with vllm_mode: {settings.vllm.mode}" if passed else "deploy has not passed there"
        raise Refused(
            f"{target.name} is not deployed for offline-generate: {why}",
            advice=f"vllm_mode: offline, then migrate apply --host {target.name} --through {runtimes.LAST_OFFLINE}",
        )
    return settings
