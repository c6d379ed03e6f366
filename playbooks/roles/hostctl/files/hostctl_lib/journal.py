"""The host's copy of a run's journal: append-only JSON lines, each with the SHA-256 of the line before.

A line is `json.dumps(record, sort_keys=True, separators=(",", ":"))`; its hash covers these bytes without the newline.
The first record has seq 0 and `prev` of 64 zeros.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from . import lock
from .errors import Refused
from .system import Paths, exclusive, sync_directory

FIRST_PREV = "0" * 64
_FIELDS = {"seq", "at", "kind", "phase", "data", "prev", "token"}
_KINDS = {"start", "intent", "outcome", "note", "rollback", "finish"}


def append(paths: Paths, *, run: str, token: int, line: str) -> dict[str, Any]:
    """Append one record durably. Raises Refused for a stale token, a wrong prev or seq, or a line in another form.

    The line that is already the last one is accepted again, so that a reply lost on the way can be asked for again.
    """
    with exclusive(paths):
        lock.assert_token(paths, token)
        path = _path(paths, run)
        lines, whole_bytes = _whole_lines(path)
        data = line.strip().encode()
        record = _parse(data, token)
        if not lines or lines[-1] != data:
            _check_link(record, lines)
            _write(path, data, whole_bytes)
        return {"run": run, "seq": record["seq"], "hash": hashlib.sha256(data).hexdigest()}


def read(paths: Paths, *, run: str) -> dict[str, Any]:
    """Every whole record, the head's hash, and whether a torn line follows. Raises Refused on a broken chain."""
    path = _path(paths, run)
    lines, whole_bytes = _whole_lines(path)
    records = _verified(lines, path)
    size = path.stat().st_size if path.exists() else 0
    head = hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST_PREV
    return {"run": run, "records": records, "head": head, "torn": size > whole_bytes}


def listing(paths: Paths) -> dict[str, Any]:
    """Every run that has a journal on this host, with its last record."""
    runs = []
    for path in sorted((paths.state / "journal").glob("*.jsonl")):
        lines, _ = _whole_lines(path)
        runs.append({"run": path.stem, "records": len(lines), "last": json.loads(lines[-1]) if lines else None})
    return {"runs": runs}


def _path(paths: Paths, run: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run):
        raise Refused(f"{run!r} is no run id")
    return paths.state / "journal" / f"{run}.jsonl"


def _whole_lines(path: Path) -> tuple[list[bytes], int]:
    """The lines that end in a newline, and how many bytes they fill; what follows was torn by a crash."""
    content = path.read_bytes() if path.exists() else b""
    whole, newline, _torn = content.rpartition(b"\n")
    return (whole.split(b"\n") if newline else []), len(whole) + len(newline)


def _parse(line: bytes, token: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise Refused(f"the record is no JSON: {error}") from error
    if not isinstance(record, dict) or set(record) != _FIELDS or record["kind"] not in _KINDS:
        raise Refused(f"a record has the fields {', '.join(sorted(_FIELDS))} and a kind of {', '.join(sorted(_KINDS))}")
    if json.dumps(record, sort_keys=True, separators=(",", ":")).encode() != line:
        raise Refused("the record is not in canonical form")
    if record["token"] != token:
        raise Refused(f"the record carries token {record['token']}, the command {token}")
    return record


def _check_link(record: dict[str, Any], lines: list[bytes]) -> None:
    prev = hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST_PREV
    if record["prev"] != prev or record["seq"] != len(lines):
        ends = f"the journal has {len(lines)} records and ends with {prev[:12]}"
        raise Refused(
            f"record {record['seq']} follows {record['prev'][:12]}, but {ends}",
            "read the host's journal again: it is the truth",
            head=prev,
            records=len(lines),
        )


def _verified(lines: list[bytes], path: Path) -> list[dict[str, Any]]:
    prev = FIRST_PREV
    records = []
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise Refused(f"{path}: record {number} is no JSON") from error
        if record.get("prev") != prev or record.get("seq") != number:
            raise Refused(
                f"{path}: the chain breaks at record {number}",
                "the journal was edited: compare it with the controller's",
            )
        prev = hashlib.sha256(line).hexdigest()
        records.append(record)
    return records


def _write(path: Path, line: bytes, whole_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(handle, whole_bytes)
        os.pwrite(handle, line + b"\n", whole_bytes)
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_directory(path.parent)
