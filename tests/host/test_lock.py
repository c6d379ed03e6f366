from __future__ import annotations

import json

import pytest

from .machine import Machine

ACQUIRE = ("lock", "acquire", "--owner", "me", "--reason", "test", "--lease-s")


def test_of_twenty_at_once_one_wins(machine: Machine) -> None:
    processes = [machine.start(*ACQUIRE, "60") for _ in range(20)]
    answers = [process.communicate(timeout=60)[0] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes == [0] + [4] * 19
    assert {json.loads(answer).get("token") for answer in answers} == {1, None}


def test_who_is_turned_away_learns_who_holds_it(machine: Machine) -> None:
    machine.ok(*ACQUIRE, "60")
    code, answer = machine.call(*ACQUIRE, "60")
    assert code == 4
    assert (answer["lock"]["owner"], answer["lock"]["reason"]) == ("me", "test")
    assert answer["lock"]["id"] in answer["advice"]


def test_expired_lease_is_taken_over_and_the_old_token_is_stale(machine: Machine) -> None:
    old = machine.ok(*ACQUIRE, "0")
    new = machine.ok(*ACQUIRE, "60")
    assert new["token"] > old["token"]
    assert new["took_over"]["id"] == old["id"]
    assert machine.call("token", "assert", "--token", str(old["token"]))[0] == 3
    assert machine.call("lock", "renew", "--id", old["id"], "--lease-s", "60")[0] == 3
    assert machine.call("lock", "release", "--id", old["id"])[0] == 3
    machine.ok("token", "assert", "--token", str(new["token"]))


def test_an_expired_lease_that_nobody_took_is_renewed(machine: Machine) -> None:
    lock = machine.ok(*ACQUIRE, "0")
    machine.ok("lock", "renew", "--id", lock["id"], "--lease-s", "60")
    assert machine.call(*ACQUIRE, "60")[0] == 4


def test_tokens_are_never_used_twice(machine: Machine) -> None:
    tokens = []
    for _ in range(3):
        lock = machine.ok(*ACQUIRE, "60")
        tokens.append(lock["token"])
        machine.ok("lock", "release", "--id", lock["id"])
    assert tokens == [1, 2, 3]
    assert machine.call("token", "assert", "--token", "3")[0] == 3


def test_breaking_needs_the_id_and_force_while_the_lease_runs(machine: Machine) -> None:
    lock = machine.ok(*ACQUIRE, "60")
    assert machine.call("lock", "break", "--id", "another", "--force")[0] == 3
    assert machine.call("lock", "break", "--id", lock["id"])[0] == 4
    machine.ok("lock", "break", "--id", lock["id"], "--force")
    assert machine.call("token", "assert", "--token", str(lock["token"]))[0] == 3
    assert machine.ok("lock", "status")["last_token"] == 1
    assert machine.ok(*ACQUIRE, "60")["token"] == 2


@pytest.mark.parametrize(
    "command",
    [
        ("switch", "step", "--percent", "5"),
        ("switch", "redirect", "on"),
        ("switch", "redirect", "off"),
        ("switch", "commit"),
        ("switch", "uncommit"),
        ("deadman", "arm", "--seconds", "9"),
        ("deadman", "confirm"),
        ("soak", "arm"),
        ("soak", "disarm"),
        ("rehearse",),
        ("goldens", "record"),
        ("back", "--reason", "x"),
        ("journal", "append", "--run", "r"),
    ],
)
def test_every_command_that_changes_something_refuses_a_stale_token(machine: Machine, command: tuple[str, ...]) -> None:
    machine.token()
    before = sorted(p for p in machine.root.rglob("*"))
    code, answer = machine.call(*command, "--token", "7")
    assert (code, "stale" in answer["error"]) == (3, True)
    assert sorted(p for p in machine.root.rglob("*")) == before
