"""The pure part: counting, announced gaps, the longest silence, and the comparison with the logs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.witness import Record, reconcile, summarise
from migrate.witness.records import iso

START = datetime(2026, 11, 21, 11, 0, tzinfo=UTC)


def record(number: int, sent_s: float, latency_s: float = 0.1, status: int | None = 200, error: str = "") -> Record:
    sent_at = iso(START + timedelta(seconds=sent_s))
    return Record(f"w-r-0-{number}", "generate", "phi2", sent_at, latency_s, status, error, 10, 1)


def refused(number: int, sent_s: float) -> Record:
    return record(number, sent_s, 0.01, None, "refused")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_nothing_sent() -> None:
    found = summarise([])
    assert (found["sent"], found["longest_gap_ms"], found["by_kind"]) == (0, 0.0, {})
    assert not reconcile([], {"ids": {}})["reconciled"]


def test_the_longest_gap_is_between_answers_not_failures() -> None:
    found = summarise([record(1, 0), refused(2, 1), refused(3, 2), record(4, 3.1)])
    assert found["longest_gap_ms"] == 3100.0


@pytest.mark.parametrize(
    ("records", "expected"),
    [([record(1, 0), refused(2, 4.99)], 4900.0), ([refused(1, 0), record(2, 4)], 4100.0), ([refused(1, 0)], 10.0)],
)
def test_a_silence_at_either_end_counts(records: list[Record], expected: float) -> None:
    assert summarise(records)["longest_gap_ms"] == expected


def test_failures_in_an_announced_gap_are_counted_apart() -> None:
    records = [record(1, 0), refused(2, 5), refused(3, 10), record(4, 12)]
    found = summarise(records, gaps=[(at(4), at(6))])
    assert (found["sent"], found["answered"], found["failed"], found["failed_in_announced_gap"]) == (4, 2, 1, 1)
    assert [failure["id"] for failure in found["failures"]] == ["w-r-0-3"]


def test_a_request_that_the_gap_cut_off_belongs_to_it() -> None:
    cut = record(1, 0, 5, 200, "ClientPayloadError")
    assert summarise([cut], gaps=[(at(4), at(6))])["failed_in_announced_gap"] == 1


def test_only_some_failures_are_shown() -> None:
    found = summarise([refused(number, number) for number in range(50)])
    assert (found["failed"], len(found["failures"])) == (50, 20)


def entry(status: int = 200, upstream: str = "triton") -> dict[str, Any]:
    return {"status": status, "upstream": upstream}


@pytest.mark.parametrize(
    ("records", "ids", "wrong"),
    [
        ([record(1, 0)], {}, "unlogged"),
        ([record(1, 0)], {"w-r-0-1": entry(), "w-r-0-2": entry()}, "unknown_in_logs"),
        ([record(1, 0)], {"w-r-0-1": entry(502)}, "status_differs"),
        ([refused(1, 0)], {"w-r-0-1": entry(200)}, "status_differs"),
        ([record(1, 0, status=500, error="x")], {"w-r-0-1": entry(200)}, "status_differs"),
    ],
)
def test_what_does_not_reconcile(records: list[Record], ids: dict[str, Any], wrong: str) -> None:
    found = reconcile(records, {"ids": ids})
    assert not found["reconciled"]
    assert [name for name, count in found["counts"].items() if count] == [wrong]
    assert len(found[wrong]) == 1


def test_what_reconciles() -> None:
    records = [record(1, 0), refused(2, 1), refused(3, 1), record(4, 2, status=500, error="status 500")]
    ids = {"w-r-0-1": entry(upstream="gateway"), "w-r-0-3": entry(499), "w-r-0-4": entry(500)}
    found = reconcile(records, {"ids": ids})
    assert found["reconciled"]
    assert found["by_upstream"] == {"gateway": 1, "triton": 2}


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10), st.booleans())), st.floats(0, 100), st.floats(0, 50))
def test_every_request_is_counted_once(requests: list[tuple[float, float, bool]], start: float, length: float) -> None:
    records = [record(n, sent, took, 200, "" if good else "bad") for n, (sent, took, good) in enumerate(requests)]
    found = summarise(records, gaps=[(at(start), at(start + length))])
    assert found["sent"] == len(records)
    assert found["answered"] == sum(good for _, _, good in requests)
    assert found["answered"] + found["failed"] + found["failed_in_announced_gap"] == found["sent"]
    assert 0 <= found["longest_gap_ms"] <= 110_000
