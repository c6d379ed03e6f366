"""The bar on files written on the host cannot hold by a listing that failed."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from benchmarks import plan_cost

LINE = f"f 644 0 0 8 1.5 {plan_cost.KNOWN}"


def answer(monkeypatch: pytest.MonkeyPatch, rc: int, out: str) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.CompletedProcess(command, rc, out, "")
        if options["check"]:
            done.check_returncode()
        return done

    monkeypatch.setattr(plan_cost.subprocess, "run", run)


def test_a_listing_that_failed_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 1, LINE)
    with pytest.raises(subprocess.CalledProcessError):
        plan_cost._files()
    answer(monkeypatch, 0, "f 644 0 0 8 1.5 /etc/passwd")
    with pytest.raises(RuntimeError, match=plan_cost.KNOWN):
        plan_cost._files()


def test_modes_owners_and_odd_names_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 0, f"{LINE}\nd 755 0 0 - - /a folder\nf 600 0 0 1 1.0 /a b c")
    before = plan_cost._files()
    for changed, path in [("d 700 0 0 - - /a folder", "/a folder"), ("f 600 1 0 1 1.0 /a b c", "/a b c")]:
        old = next(line for line in before if line.endswith(path))
        assert plan_cost._changed(before, before - {old} | {changed}) == {path}


def test_the_listing_covers_run_but_for_what_changes_by_itself() -> None:
    assert "-path /run " not in plan_cost._LIST
    assert "-path /run/systemd" in plan_cost._LIST


def test_the_listing_is_one_that_find_takes() -> None:
    done = subprocess.run(
        ["sh", "-c", plan_cost._LIST.replace("find / ", "find /etc/hostname ")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.endswith(f" {plan_cost.KNOWN}\n")
