import json
from pathlib import Path

import pytest

from migrate.errors import NotProven
from migrate.journal import GENESIS, Journal, Kind, State, finished, parse, read_cache, reconcile, states

from .fakes import FakeHost


def journal(directory: Path, host: FakeHost) -> Journal:
    return Journal("r1", host, directory / "journal.jsonl", 3, lambda: "2026-01-01T00:00:00.000Z")


def test_each_record_carries_the_hash_of_the_one_before(tmp_path: Path) -> None:
    written = journal(tmp_path, FakeHost())
    first = written.append(Kind.START, "", plan={})
    second = written.append(Kind.INTENT, "preflight")
    assert (first.prev, second.prev) == (GENESIS, first.digest())


def test_a_changed_record_breaks_the_chain(tmp_path: Path) -> None:
    host = FakeHost()
    written = journal(tmp_path, host)
    for kind in (Kind.START, Kind.INTENT, Kind.OUTCOME):
        written.append(kind, "preflight")
    lines = [json.loads(line) for line in host.lines]
    lines[1]["phase"] = "cutover"
    with pytest.raises(NotProven, match="record 2"):
        parse(lines)


def test_a_torn_last_line_is_ignored_at_every_offset(tmp_path: Path) -> None:
    written = journal(tmp_path, FakeHost())
    written.append(Kind.START, "")
    written.append(Kind.INTENT, "preflight")
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        assert len(read_cache(path)) == 1


def test_the_longer_chain_counts_and_mends_the_cache(tmp_path: Path) -> None:
    host = FakeHost()
    written = journal(tmp_path, host)
    written.append(Kind.START, "")
    (tmp_path / "journal.jsonl").unlink()
    assert [r.kind for r in journal(tmp_path, host).records] == [Kind.START]
    assert len(read_cache(tmp_path / "journal.jsonl")) == 1


def test_a_fork_needs_a_human(tmp_path: Path) -> None:
    for name, phase in (("a", "preflight"), ("b", "snapshot")):
        (tmp_path / name).mkdir()
        journal(tmp_path / name, FakeHost()).append(Kind.INTENT, phase)
    chains = [read_cache(tmp_path / name / "journal.jsonl") for name in "ab"]
    with pytest.raises(NotProven, match="record 0"):
        reconcile(*chains)


def test_a_record_that_the_host_refused_is_not_in_the_cache(tmp_path: Path) -> None:
    class Full(FakeHost):
        def append(self, run: str, line: str, token: int) -> None:
            raise OSError("no space left on device")

    written = journal(tmp_path, Full())
    with pytest.raises(OSError, match="no space"):
        written.append(Kind.INTENT, "preflight")
    assert not read_cache(tmp_path / "journal.jsonl")
    assert not written.records


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], State.NOT_STARTED),
        ([(Kind.INTENT, {})], State.UNKNOWN),
        ([(Kind.INTENT, {}), (Kind.OUTCOME, {"verdict": "pass"})], State.PASSED),
        ([(Kind.INTENT, {}), (Kind.OUTCOME, {"verdict": "fail"})], State.FAILED),
        ([(Kind.OUTCOME, {"verdict": "inconclusive", "accepted": "why"})], State.PASSED),
        ([(Kind.OUTCOME, {"verdict": "inconclusive", "accepted": None})], State.FAILED),
        ([(Kind.OUTCOME, {"verdict": "pass"}), (Kind.ROLLBACK, {"undone": True})], State.UNDONE),
        ([(Kind.OUTCOME, {"verdict": "pass"}), (Kind.ROLLBACK, {"step": "intent"})], State.UNKNOWN),
        ([(Kind.ROLLBACK, {"undone": True})], State.NOT_STARTED),
    ],
)
def test_what_the_journal_knows_of_a_phase(tmp_path: Path, records: list, expected: State) -> None:  # type: ignore[type-arg]
    written = journal(tmp_path, FakeHost())
    for kind, data in records:
        written.append(kind, "deploy", **data)
    assert states(written.records, ["deploy"]) == {"deploy": expected}


def test_how_a_run_ended(tmp_path: Path) -> None:
    written = journal(tmp_path, FakeHost())
    assert finished(written.records) == ""
    written.append(Kind.START, "", result="")
    assert finished(written.records) == ""
    written.append(Kind.FINISH, "", result="migrated")
    assert finished(written.records) == "migrated"
    written.append(Kind.ROLLBACK, "cutover", step="intent")
    assert finished(written.records) == ""
    written.append(Kind.FINISH, "", result="rolled back")
    assert finished(written.records) == "rolled back"


def test_a_way_back_voids_what_was_built_on_it(tmp_path: Path) -> None:
    written = journal(tmp_path, FakeHost())
    for phase in ("deploy", "cutover", "soak"):
        written.append(Kind.OUTCOME, phase, verdict="pass")
    written.append(Kind.ROLLBACK, "cutover", step="outcome", undone=True)
    assert states(written.records, ["deploy", "cutover", "soak"]) == {
        "deploy": State.PASSED,
        "cutover": State.UNDONE,
        "soak": State.UNDONE,
    }
