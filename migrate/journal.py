"""The journal of one migration: append-only JSON lines, each carrying the hash of the line before.

The host's copy is the truth and the controller's a cache. A record is written to the host first, then to the
cache; an intent is therefore on the host before the change that it announces. An intent without an outcome
means that nobody knows what happened: the host has to be probed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from migrate.errors import NotProven

GENESIS = "0" * 64
GAP = "gap"


class Kind(StrEnum):
    """What a record says."""

    START = "start"
    INTENT = "intent"
    OUTCOME = "outcome"
    NOTE = "note"
    ROLLBACK = "rollback"
    FINISH = "finish"


class State(StrEnum):
    """What the journal knows of a phase."""

    NOT_STARTED = "not started"
    UNKNOWN = "unknown"
    PASSED = "passed"
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `at` is UTC ISO-8601, `prev` the sha256 of the line before, `token` the writer's fencing token."""

    seq: int
    at: str
    kind: Kind
    phase: str
    data: Mapping[str, Any]
    prev: str
    token: int

    def line(self) -> str:
        """The canonical JSON of the record, without the newline."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def digest(self) -> str:
        """sha256 of the line, which the next record carries."""
        return hashlib.sha256(self.line().encode()).hexdigest()


class HostJournal(Protocol):
    """The host's copy, reached through hostctl."""

    def read(self, run: str) -> list[dict[str, Any]]:
        """All records of a run, oldest first."""

    def append(self, run: str, line: str, token: int) -> None:
        """Append one line durably, or raise."""


class Journal:
    """The journal of one run, open for writing under one fencing token."""

    def __init__(self, run: str, host: HostJournal, cache: Path, token: int, clock: Callable[[], str]) -> None:
        self.run = run
        self.records = reconcile(read_cache(cache), parse(host.read(run)))
        self._host = host
        self._cache = cache
        self._token = token
        self._clock = clock
        _write_cache(cache, self.records)

    def append(self, kind: Kind, phase: str, **data: Any) -> Record:
        """Write one record to the host, then to the cache; what the host's copy raises passes through."""
        prev = self.records[-1].digest() if self.records else GENESIS
        record = Record(len(self.records), self._clock(), kind, phase, data, prev, self._token)
        self._host.append(self.run, record.line(), self._token)
        self.records.append(record)
        _append_cache(self._cache, record.line())
        return record


def parse(objects: Iterable[Mapping[str, Any]]) -> list[Record]:
    """Records out of JSON objects. Raises NotProven where the chain is broken."""
    records: list[Record] = []
    for data in objects:
        record = Record(**{**data, "kind": Kind(data["kind"])})
        expected = records[-1].digest() if records else GENESIS
        if record.prev != expected or record.seq != len(records):
            raise NotProven(
                f"journal record {record.seq} does not follow the one before it",
                advice="compare /var/lib/migrate/journal on the host with the copy in the state directory",
            )
        records.append(record)
    return records


def read_cache(path: Path) -> list[Record]:
    """The records of a journal file; a torn last line (a crash while writing) is ignored."""
    if not path.exists():
        return []
    *lines, last = path.read_text(encoding="utf-8").split("\n")
    return parse(json.loads(line) for line in lines if line)


def reconcile(cache: Sequence[Record], host: Sequence[Record]) -> list[Record]:
    """The longer of two chains with a common beginning. Raises NotProven for a fork."""
    for ours, theirs in zip(cache, host, strict=False):
        if ours.line() != theirs.line():
            raise NotProven(
                f"the journal on the host and the controller's copy differ from record {ours.seq} on",
                advice="nothing was changed; keep both files and compare them",
            )
    return list(host if len(host) >= len(cache) else cache)


def states(records: Iterable[Record], phases: Sequence[str]) -> dict[str, State]:
    """What is known of each phase, from the last intent, outcome or rollback that names it."""
    known = dict.fromkeys(phases, State.NOT_STARTED)
    for record in records:
        if record.phase not in known:
            continue
        if record.kind is Kind.INTENT:
            known[record.phase] = State.UNKNOWN
        elif record.kind is Kind.OUTCOME:
            passed = record.data.get("verdict") == "pass" or bool(record.data.get("accepted"))
            known[record.phase] = State.PASSED if passed else State.FAILED
        elif record.kind is Kind.ROLLBACK:
            _take_back(known, list(phases)[phases.index(record.phase) :], undone=bool(record.data.get("undone")))
    return known


def _take_back(known: dict[str, State], voided: Sequence[str], *, undone: bool) -> None:
    """A way back voids its phase and all that was built on it; until it is proven, nobody knows how they stand."""
    for name in voided:
        if known[name] is not State.NOT_STARTED:
            known[name] = State.UNDONE if undone else State.UNKNOWN


def gaps(records: Iterable[Record]) -> list[dict[str, str]]:
    """When nobody answered, as announced by the plan: `began` and `ended`, UTC ISO-8601."""
    notes = [r.data for r in records if r.kind is Kind.NOTE and r.data.get("what") == GAP]
    return [{"began": str(note["began"]), "ended": str(note["ended"])} for note in notes]


def finished(records: Sequence[Record]) -> str:
    """How the run ended: "" while it has not, and again once a way back began, else its last record's `result`."""
    ends = [r for r in records if r.kind in {Kind.START, Kind.FINISH} or _is_way_back(r)]
    return str(ends[-1].data.get("result", "")) if ends else ""


def _is_way_back(record: Record) -> bool:
    return record.kind is Kind.ROLLBACK and record.data.get("step") == "intent"


def _append_cache(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def _write_cache(path: Path, records: Sequence[Record]) -> None:
    if records == read_cache(path) and path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, "".join(record.line() + "\n" for record in records))


def replace(path: Path, text: str) -> None:
    """Put `text` at `path` so that a crash leaves the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
