"""What would start a stopped Triton again: restart policy, systemd units, timers, cron, configuration management."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.migrate_host import Run

MAX_TEXT = 64 << 10
# Units of packages in /usr/lib name no operator's container; quadlets are generated below /run.
_UNIT_FOLDERS = (
    "etc/systemd/system",
    "run/systemd/system",
    "run/systemd/generator",
    "run/systemd/transient",
    "usr/local/lib/systemd/system",
)
_CRON = ("etc/crontab", "etc/anacrontab", "etc/cron.*/*", "var/spool/cron/crontabs/*", "var/spool/cron/root")
_OURS = "migrate-"
_COMMAND = re.compile(r"^\s*Exec(?:Start|StartPre|StartPost|Reload)\s*=\s*[-@:+!|]*(.+)$", re.MULTILINE)
_FOLDER = re.compile(r"^\s*WorkingDirectory\s*=\s*-?(\S+)", re.MULTILINE)
_TRIGGERS = re.compile(r"^\s*Unit\s*=\s*(\S+)", re.MULTILINE)
_ENGINES = re.compile(r"\b(docker|podman|nerdctl|compose)\b")
_STARTS = re.compile(r"\b(run|start|restart|up|create)\b")
_FILE = re.compile(r"(?<![\w./-])/[\w./-]+")
_AGENTS = {
    "puppet": "Puppet",
    "pe-puppet": "Puppet",
    "chef-client": "Chef",
    "salt-minion": "Salt",
    "cf-execd": "CFEngine",
    "ansible-pull": "Ansible",
}
_MANAGED = re.compile(
    r"ansible[ _]managed|(?:managed|generated|maintained|controlled|deployed)\s+(?:by|with|via)\s+"
    r"(?:ansible|puppet|chef|salt(?:stack)?|cfengine|terraform)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Unit:
    """A unit file with what it starts (drop-ins are units of their own path)."""

    name: str
    path: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The command lines that run when the unit starts, with the folder that they run in."""
        folder = _FOLDER.search(self.text)
        place = f" # in {folder[1]}" if folder else ""
        return [found[1] + place for found in _COMMAND.finditer(self.text)]


def revivers(
    container: str, files: list[str], inspected: dict[str, Any] | None, run: Run, root: Path
) -> list[dict[str, str]]:
    """`{"kind", "what", "where"}` of everything that was found, in the order in which it would act."""
    found = []
    policy = ((inspected or {}).get("HostConfig") or {}).get("RestartPolicy", {}).get("Name")
    if policy and policy != "no":
        found.append({"kind": "restart policy", "what": policy, "where": f"container {container}"})
    known = list(units(root))
    mine = {unit.name: unit for unit in known if matched(unit.commands, container, files, root)}
    for unit in mine.values():
        found.append({"kind": "systemd unit", "what": state_of(unit.name, run), "where": unit.path})
    for timer in (unit for unit in known if unit.name.endswith(".timer")):
        triggered = _TRIGGERS.search(timer.text)
        started = triggered[1] if triggered else timer.name.removesuffix(".timer") + ".service"
        if started in mine:
            found.append({"kind": "systemd unit", "what": f"{timer.name} starts {started}", "where": timer.path})
    found += _cron(container, files, root)
    return found + _management([*files, *(unit.path for unit in mine.values())], run, root)


def units(root: Path) -> Iterator[Unit]:
    """Unit files of the operator, without this tool's own."""
    seen: set[Path] = set()
    for folder in _UNIT_FOLDERS:
        for path in sorted([*(root / folder).glob("*.service*"), *(root / folder).glob("*.timer")]):
            drop_ins = sorted(path.glob("*.conf")) if path.is_dir() else [path]
            for file in drop_ins:
                text = read_text(file)
                if text and file.resolve() not in seen and not path.name.startswith(_OURS):
                    seen.add(file.resolve())
                    yield Unit(path.name.removesuffix(".d"), _shown(file, root), text.replace("\\\n", " "))


def matched(commands: list[str], container: str, files: list[str], root: Path) -> str:
    """The name, file or folder by which a command, or a script that it runs, starts the container or its project.

    Empty where none does. It is what is shown of a command: whole ones hold secrets.
    """
    texts = [*commands, *(text for command in commands for text in _scripts(command, root))]
    return next((word for text in texts if (word := _started(text, container, files))), "")


def state_of(unit: str, run: Run) -> str:
    """`triton.service: active, enabled, Restart=always`, as far as systemd tells."""
    wanted = ("ActiveState", "UnitFileState", "Restart")
    rc, out, _ = run(["systemctl", "show", unit, *(f"--property={name}" for name in wanted)])
    told = dict(line.split("=", 1) for line in out.splitlines() if "=" in line) if rc == 0 else {}
    said = [told.get("ActiveState"), told.get("UnitFileState"), told.get("Restart") and f"Restart={told['Restart']}"]
    return f"{unit}: {', '.join(part for part in said if part) or 'state unknown'}"


def read_text(path: Path) -> str | None:
    """A small text file, None for anything else."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_TEXT:
            return None
        read = path.read_bytes()
    except OSError:
        return None
    return None if b"\0" in read else read.decode("utf-8", errors="replace")


def _started(text: str, container: str, files: list[str]) -> str:
    """`docker start NAME`, `docker run … --name NAME`, `docker compose -f FILE up`, `cd FOLDER; docker compose up`."""
    said = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    if not _ENGINES.search(said) or not _STARTS.search(said):
        return ""
    folders = [str(Path(file).parent) for file in files]
    return next((word for word in (container, *files, *folders) if _names(said, word)), "")


def _names(line: str, word: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(word)}(?![\w./-])", line) is not None


def _scripts(command: str, root: Path) -> Iterator[str]:
    for name in _FILE.findall(command):
        text = read_text(root / name.lstrip("/"))
        if text:
            yield text.replace("\\\n", " ")


def _cron(container: str, files: list[str], root: Path) -> list[dict[str, str]]:
    found = []
    for path in (path for pattern in _CRON for path in sorted(root.glob(pattern))):
        lines = [line for line in (read_text(path) or "").splitlines() if not line.lstrip().startswith("#")]
        words = (matched([line], container, files, root) for line in lines)
        found += [
            {"kind": "cron", "what": f"names {word}", "where": _shown(path, root)}
            for word in dict.fromkeys(filter(None, words))
        ]
    return found


def _management(paths: list[str], run: Run, root: Path) -> list[dict[str, str]]:
    """Managed files among those that Triton is started from, and agents that run."""
    kind, found = "configuration management", []
    for path in dict.fromkeys(paths):
        mark = _MANAGED.search(read_text(root / path.lstrip("/")) or "")
        if mark:
            found.append({"kind": kind, "what": f"marked {' '.join(mark[0].split())!r}", "where": path})
    out = run(["systemctl", "is-active", *_AGENTS])[1].split()
    active = [name for name, state in zip(_AGENTS, out, strict=False) if state in ("active", "activating")]
    return found + [{"kind": kind, "what": f"agent of {_AGENTS[name]}", "where": f"{name}.service"} for name in active]


def _shown(path: Path, root: Path) -> str:
    return f"/{path.relative_to(root)}"
