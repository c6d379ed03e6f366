from datetime import UTC, datetime
from pathlib import Path

import pytest

from migrate import status
from migrate.journal import Journal, Kind

from .fakes import FakeHost

NOW = datetime(2026, 1, 1, 0, 4, 10, tzinfo=UTC)


def journal(directory: Path) -> Journal:
    return Journal("r1", FakeHost(), directory / "journal.jsonl", 1, lambda: "2026-01-01T00:00:00.000Z")


def test_a_host_that_nobody_touched() -> None:
    line = status.headline("gpu01", None, [], NOW)
    assert line == "SERVING triton 100 % · BACK UNPROVEN · NEXT migrate plan --host gpu01"


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        ({"redirect": False, "percent": 100}, "triton 100 %"),
        ({"redirect": True, "percent": 0}, "triton 100 %"),
        ({"redirect": True, "percent": 25}, "triton 75 % vllm 25 %"),
        ({"redirect": True, "percent": 100}, "vllm 100 %"),
    ],
)
def test_who_serves(switch: dict[str, object], expected: str) -> None:
    assert status.serving({"switch": switch}) == expected


def test_a_passed_rehearsal_proves_the_way_back_and_a_failed_one_does_not(tmp_path: Path) -> None:
    written = journal(tmp_path)
    written.append(Kind.NOTE, "rehearse", what="rehearsed", passed=False, there_s=1.0, back_s=2.0)
    assert status.back({}, written.records, NOW) == "UNPROVEN"
    written.append(Kind.NOTE, "rehearse", what="rehearsed", passed=True, there_s=1.0, back_s=3.14)
    assert status.back({}, written.records, NOW) == "PROVEN 3.1 s (4 min ago)"


def test_a_degraded_way_back_says_why(tmp_path: Path) -> None:
    written = journal(tmp_path)
    written.append(Kind.NOTE, "rehearse", what="rehearsed", passed=True, there_s=1.0, back_s=3.14)
    assert status.back({"back": {"degraded": "image pruned"}}, written.records, NOW) == "DEGRADED image pruned"


def test_an_unfinished_run_names_both_commands(tmp_path: Path) -> None:
    written = journal(tmp_path)
    written.append(Kind.START, "", result="")
    assert status.following("gpu01", written.records) == (
        "migrate continue --host gpu01, or migrate rollback --host gpu01"
    )
