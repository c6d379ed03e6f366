"""A step says when it begins, while it lasts and when it ends."""

from __future__ import annotations

import time

import pytest

from migrate.lab import LabError, command
from migrate.lab.progress import step


def test_a_long_step_has_a_heartbeat() -> None:
    said: list[str] = []
    with step(said.append, "work", heartbeat_s=0.01):
        while len(said) < 2:
            time.sleep(0.005)
    assert said[0] == "work …"
    assert said[-1].startswith("work: done in ")


def test_a_failed_step_is_not_reported_as_done() -> None:
    said: list[str] = []
    with pytest.raises(LabError), step(said.append, "work"):
        raise LabError("no")
    assert said == ["work …"]


def test_a_failing_program_is_one_sentence_with_its_last_words() -> None:
    with pytest.raises(LabError, match="why it failed"):
        command.run(["sh", "-c", "echo why it failed; exit 3"], timeout_s=10)


def test_a_missing_program_is_named() -> None:
    with pytest.raises(LabError, match="no-such-program") as caught:
        command.run(["no-such-program"], timeout_s=10)
    assert caught.value.exit_code == 64
