from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrate import report
from tests.report import sample


def verdicts(built: dict[str, Any]) -> dict[str, str]:
    return {phase["phase"]: phase["verdict"] for phase in built["phases"]}


def test_an_empty_directory_is_a_report_in_which_everything_is_missing(tmp_path: Path) -> None:
    built = report.build(tmp_path)
    assert built["phases"] == []
    assert built["outcome"]["state"] == "missing"
    assert [piece.split(":")[0] for piece in built["missing"]] == ["journal.jsonl", "plan.json", "witness.json"]
    assert built["witness"] is None
    assert built["rollback"]["ready"] == "unproven"


@pytest.mark.parametrize("name", ["plan.json", "witness.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    sample.migrated(tmp_path)
    (tmp_path / name).write_text(text)
    built = report.build(tmp_path)
    assert [piece.split(":")[0] for piece in built["missing"]] == [name]
    assert built["host"] == "gpu01"


def test_a_phase_without_an_outcome_is_unknown_and_one_without_an_intent_not_started(tmp_path: Path) -> None:
    run = sample.Run(tmp_path)
    run.phase("preflight")
    run.record("intent", "snapshot")
    found = verdicts(report.build(tmp_path))
    assert (found["preflight"], found["snapshot"], found["stage"]) == ("pass", "unknown", "not started")


@pytest.mark.parametrize("verdict", [None, "", "PASS", "passed", 1])
def test_a_verdict_that_is_none_is_missing_not_pass(tmp_path: Path, verdict: Any) -> None:
    sample.Run(tmp_path).phase("preflight", verdict=verdict)
    assert verdicts(report.build(tmp_path))["preflight"] == "missing"


@pytest.mark.parametrize("check", [None, "pass", {}, {"check": "x"}, {"check": "x", "verdict": "ok"}])
def test_an_unreadable_check_is_an_error(tmp_path: Path, check: Any) -> None:
    sample.Run(tmp_path).phase("preflight", verdicts=[check])
    (phase, *_) = report.build(tmp_path)["phases"]
    assert [found["verdict"] for found in phase["checks"]] == ["error"]


def test_an_edited_journal_is_cut_where_its_chain_breaks(tmp_path: Path) -> None:
    sample.migrated(tmp_path)
    path = tmp_path / "journal.jsonl"
    lines = path.read_text().split("\n")
    lines[4] = lines[4].replace('"pass"', '"pa$s"')
    path.write_text("\n".join(lines))
    built = report.build(tmp_path)
    assert built["journal"] == {"records": 5, "chain": "broken at line 6"}
    assert built["outcome"]["state"] == "unfinished"


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    sample.Run(tmp_path).phase("preflight")
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"seq": 3, "at"')
    assert report.build(tmp_path)["journal"] == {"records": 3, "chain": "intact"}


def test_a_phase_tried_again_shows_both_attempts(tmp_path: Path) -> None:
    run = sample.Run(tmp_path)
    run.phase("preflight", "fail", sample.verdict("disk_space", "fail"))
    run.phase("preflight")
    tried = [phase["verdict"] for phase in report.build(tmp_path)["phases"] if phase["phase"] == "preflight"]
    assert tried == ["fail", "pass"]


class TestServing:
    def test_before_cutover(self, tmp_path: Path) -> None:
        sample.Run(tmp_path).phase("preflight")
        assert report.build(tmp_path)["status"].startswith("SERVING triton 100 % · BACK UNPROVEN")

    def test_a_cutover_that_was_cut_off_is_unknown(self, tmp_path: Path) -> None:
        run = sample.Run(tmp_path)
        run.record("intent", "cutover")
        run.record("note", "cutover", what="25 %")
        status = report.build(tmp_path)["status"]
        assert status.startswith("SERVING unknown")
        assert status.endswith("NEXT migrate status --host gpu01")

    def test_a_failed_soak_is_unknown_until_the_way_back_is_recorded(self, tmp_path: Path) -> None:
        run = sample.Run(tmp_path)
        run.phase("cutover")
        run.phase("soak", "fail")
        assert report.build(tmp_path)["outcome"]["serving"] == "unknown"
        run.record("rollback", "cutover", step="intent", reason="soak fail")
        assert report.build(tmp_path)["outcome"]["serving"] == "unknown"
        run.record("rollback", "cutover", step="outcome", verdict="pass", verdicts=[], took_s=2.4, undone=True)
        assert report.build(tmp_path)["outcome"]["serving"] == "triton 100 %"

    def test_a_way_back_that_was_not_proven_is_unknown_and_degraded(self, tmp_path: Path) -> None:
        run = sample.migrated(tmp_path)
        run.record("rollback", "cutover", step="intent", reason="operator")
        run.record("rollback", "cutover", step="outcome", verdict="fail", verdicts=[], took_s=2.4, undone=False)
        built = report.build(tmp_path)
        assert built["outcome"]["serving"] == "unknown"
        assert built["rollback"]["ready"] == "degraded"
        assert "BACK DEGRADED" in built["status"]

    def test_migrated(self, tmp_path: Path) -> None:
        sample.migrated(tmp_path)
        built = report.build(tmp_path)
        assert built["status"].startswith("SERVING vllm 100 % · BACK PROVEN 3.1 s (at 2026-11-21T")
        assert built["outcome"]["state"] == "migrated"
        assert built["missing"] == []

    def test_rolled_back_is_in_the_same_report(self, tmp_path: Path) -> None:
        run = sample.migrated(tmp_path)
        run.record("rollback", "cutover", step="intent", reason="operator")
        run.record("rollback", "cutover", step="outcome", verdict="pass", verdicts=[], took_s=2.4, undone=True)
        run.record("finish", "", result="rolled back")
        built = report.build(tmp_path)
        assert built["status"].startswith("SERVING triton 100 % · BACK PROVEN 2.4 s")
        assert built["phases"][-1]["direction"] == "back"


def test_a_rollback_without_traffic_to_move_proves_nothing(tmp_path: Path) -> None:
    run = sample.Run(tmp_path)
    run.record("rollback", "cutover", step="intent", reason="operator")
    run.record("rollback", "cutover", step="outcome", verdict="pass", verdicts=[], took_s=None, undone=True)
    assert report.build(tmp_path)["rollback"]["ready"] == "unproven"


def test_raw_files_are_listed_with_their_hashes(tmp_path: Path) -> None:
    sample.migrated(tmp_path)
    (raw,) = report.build(tmp_path)["raw"]
    assert (raw["file"], raw["bytes"], len(raw["sha256"])) == ("raw/parity.jsonl", 3, 64)


def test_half_a_surrogate_in_a_verdict_does_not_stop_the_report(tmp_path: Path) -> None:
    sample.Run(tmp_path).phase("preflight", "fail", sample.verdict("x", "fail", measured="half \ud83d"))
    assert all("half ?" in path.read_text("utf-8") for path in list(report.write(tmp_path).values())[:3])


def test_write_leaves_four_files_and_nothing_else(tmp_path: Path) -> None:
    sample.migrated(tmp_path)
    before = set(tmp_path.iterdir())
    written = report.write(tmp_path)
    assert list(written) == ["json", "markdown", "html", "junit"]
    assert set(tmp_path.iterdir()) - before == set(written.values())
    assert json.loads(written["json"].read_text("utf-8")) == report.build(tmp_path)
