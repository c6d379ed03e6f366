from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from .machine import Machine

RUN = "20261121T110000Z-gpu01-1a2b3c4d"


def line(seq: int, prev: str, token: str, **data: Any) -> str:
    record = {"seq": seq, "at": "2026-11-21T11:00:00Z", "kind": "note", "phase": "", "data": data, "prev": prev}
    return json.dumps(record | {"token": int(token)}, sort_keys=True, separators=(",", ":"))


def append(machine: Machine, text: str, token: str) -> tuple[int, dict[str, Any]]:
    return machine.call("journal", "append", "--run", RUN, "--token", token, stdin=text)


def fill(machine: Machine, token: str, count: int) -> str:
    """Append `count` records; the head's hash."""
    prev = "0" * 64
    for seq in range(count):
        code, answer = append(machine, line(seq, prev, token, text="grün"), token)
        assert code == 0, answer
        prev = answer["hash"]
    return prev


def test_lines_are_kept_byte_for_byte(machine: Machine) -> None:
    token = machine.token()
    text = line(0, "0" * 64, token, number=1.5)
    append(machine, text + "\n", token)
    assert (machine.state / f"journal/{RUN}.jsonl").read_bytes() == text.encode() + b"\n"
    read = machine.ok("journal", "read", "--run", RUN)
    assert read["head"] == hashlib.sha256(text.encode()).hexdigest()
    assert machine.ok("journal", "list")["runs"][0]["records"] == 1


def test_torn_at_every_byte_of_the_last_line(machine: Machine) -> None:
    token = machine.token()
    fill(machine, token, 2)
    path = machine.state / f"journal/{RUN}.jsonl"
    whole = path.read_bytes()
    first, last = whole.splitlines(keepends=True)
    # hostctl as a process for each offset would take minutes; the module's functions are the same code.
    journal, paths = modules(machine)
    for cut in range(len(last)):
        path.write_bytes(first + last[:cut])
        read = journal.read(paths, run=RUN)
        assert len(read["records"]) == 1
        assert read["torn"] is (cut > 0)
        journal.append(paths, run=RUN, token=int(token), line=last.decode())
        assert path.read_bytes() == whole


def modules(machine: Machine) -> tuple[Any, Any]:
    import importlib
    import sys

    from .machine import FILES

    sys.path.insert(0, str(FILES))
    try:
        system = importlib.import_module("hostctl_lib.system")
        return importlib.import_module("hostctl_lib.journal"), system.Paths(str(machine.root))
    finally:
        sys.path.remove(str(FILES))


def test_a_reply_lost_on_the_way_can_be_asked_for_again(machine: Machine) -> None:
    token = machine.token()
    text = line(0, "0" * 64, token)
    assert append(machine, text, token) == append(machine, text, token)
    assert len(machine.ok("journal", "read", "--run", RUN)["records"]) == 1


@pytest.mark.parametrize("wrong", ["prev", "seq", "fork", "token", "kind", "form", "no json"])
def test_wrong_records_are_refused(machine: Machine, wrong: str) -> None:
    token = machine.token()
    head = fill(machine, token, 2)
    right = line(2, head, token)
    text = {
        "prev": line(2, "1" * 64, token),
        "seq": line(3, head, token),
        "fork": line(1, json.loads(right)["prev"], token, other=1),
        "token": line(2, head, "99"),
        "kind": right.replace('"note"', '"rumour"'),
        "form": right.replace(",", ", "),
        "no json": right[:-1],
    }[wrong]
    assert append(machine, text, token)[0] == 3
    assert len(machine.ok("journal", "read", "--run", RUN)["records"]) == 2
    assert append(machine, right, token)[0] == 0


def test_an_edited_journal_is_refused_on_reading(machine: Machine) -> None:
    token = machine.token()
    fill(machine, token, 3)
    path = machine.state / f"journal/{RUN}.jsonl"
    path.write_text(path.read_text().replace("11:00:00", "11:00:01", 1))
    code, answer = machine.call("journal", "read", "--run", RUN)
    assert (code, "record 1" in answer["error"]) == (3, True)


def test_a_run_id_is_no_path(machine: Machine) -> None:
    assert machine.call("journal", "read", "--run", "../lock")[0] == 3


def test_an_unknown_run_is_empty(machine: Machine) -> None:
    assert machine.ok("journal", "read", "--run", RUN)["records"] == []
