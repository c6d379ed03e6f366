"""Which checks make sense when, and what is said of a host besides its failures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from migrate import doctor
from migrate.errors import MigrateError, NotProven
from migrate.gate import Outcome, Verdict
from migrate.journal import Kind, Record
from migrate.phases import NAMES, PHASES
from migrate.playbook import PlaybookResult
from migrate.session import Migration

from .fakes import FakeHost, plan, settings

CHECK_FILES = {path.stem for path in (Path(__file__).parents[2] / "checks").glob("[!_]*.py")}
SERVICE = {"exists": True, "first_error": "", "status": "running"}


def record(kind: Kind, phase: str = "", **data: Any) -> Record:
    return Record(0, "2026-11-21T18:00:00.000Z", kind, phase, data, "", 1)


def passed(*phases: str) -> tuple[Record, ...]:
    return tuple(
        entry
        for phase in phases
        for entry in (record(Kind.INTENT, phase), record(Kind.OUTCOME, phase, verdict="pass", verdicts=[]))
    )


def failed(phase: str, *verdicts: Mapping[str, Any]) -> tuple[Record, ...]:
    return (record(Kind.INTENT, phase), record(Kind.OUTCOME, phase, verdict="fail", verdicts=list(verdicts)))


def asked(records: tuple[Record, ...], *, deep: bool = False, **changed: Any) -> set[str]:
    return {name for name, why in doctor.choose(records, settings(**changed), deep=deep).items() if not why}


class TestWhichChecksAreAsked:
    def test_every_check_has_its_row(self) -> None:
        assert set(doctor.CHECKS) == CHECK_FILES
        assert {need.after for need in doctor.CHECKS.values()} | {n.until for n in doctor.CHECKS.values()} <= {
            "",
            *NAMES,
        }

    def test_a_check_is_asked_after_the_phase_that_asks_it(self) -> None:
        for phase in PHASES:
            for check in phase.checks:
                needed = doctor.CHECKS[check].after
                assert not needed or NAMES.index(needed) <= NAMES.index(phase.name), check

    def test_before_any_migration(self) -> None:
        found = asked(())
        assert {"host_os", "triton_serving", "port_serves", "ports_free", "docker_engine"} <= found
        assert not {"vllm_api", "snapshot_diff", "image_present", "triton_gone"} & found

    def test_what_is_not_there_yet_says_so(self) -> None:
        why = doctor.choose((), settings(), deep=False)
        assert why["vllm_api"] == "not yet: deploy has not run"
        assert why["snapshot_diff"] == "not yet: snapshot has not run"

    def test_in_the_middle_and_after(self) -> None:
        middle = passed("preflight", "snapshot", "provision", "stage")
        assert {"snapshot_complete", "image_present"} <= asked(middle)
        assert not {"disk_space", "registry_image", "vllm_api"} & asked(middle)
        assert {"vllm_api", "gateway_serves"} <= asked((*middle, *failed("deploy")))

    def test_what_was_taken_back_is_not_asked(self) -> None:
        records = (*passed("preflight", "snapshot", "stage", "deploy"), record(Kind.ROLLBACK, "deploy", undone=True))
        assert doctor.choose(records, settings(), deep=False)["vllm_api"] == "deploy was taken back"

    def test_after_retire(self) -> None:
        records = (record(Kind.START), *passed(*NAMES), record(Kind.FINISH, result="retired"))
        found = asked(records)
        assert "triton_gone" in found
        assert not {"triton_serving", "triton_goldens", "nginx_serves_triton"} & found

    def test_heavy_ones_only_where_asked(self) -> None:
        staged = passed("preflight", "snapshot", "stage")
        heavy = {"torch_gpu", "nccl_allreduce", "vllm_import", "image_abi", "weights_verified"}
        assert not heavy & asked(staged, vllm_gpus="all")
        assert heavy <= asked(staged, vllm_gpus="all", deep=True)

    def test_without_gpus_nobody_asks_for_them(self) -> None:
        assert "gpu_driver" not in asked(())
        assert "gpu_driver" in asked((), vllm_gpus="all")

    def test_without_a_server_nobody_asks_it(self) -> None:
        deployed = passed("preflight", "snapshot", "stage", "deploy")
        assert doctor.choose(deployed, settings(vllm_mode="offline"), deep=False)["vllm_api"] == "vllm_mode is offline"


class TestWhatTheRunSaid:
    def test_the_phase_that_failed_last(self) -> None:
        said = {"check": "image_present", "verdict": "fail", "measured": "absent", "detail": "manifest\nunknown"}
        records = (*passed("preflight"), *failed("stage", said, {"check": "x", "verdict": "pass"}))
        assert doctor.said_by_failed_phase(records) == ["image_present: absent manifest unknown"]

    def test_nothing_once_it_has_passed_or_was_undone(self) -> None:
        said = {"check": "x", "verdict": "fail", "measured": "y"}
        assert doctor.said_by_failed_phase((*failed("stage", said), *passed("stage"))) == []
        undone = record(Kind.ROLLBACK, "preflight", undone=True)
        assert doctor.said_by_failed_phase((*failed("stage", said), undone)) == []


class TestLeftovers:
    def test_a_lock_whose_lease_is_over(self) -> None:
        lock = {"id": "3f2a", "owner": "ann@desk", "reason": "apply", "expires": "2026-11-21T17:00:00Z"}
        found = doctor.leftovers({"lock": {"held": False, "expired": True, "lock": lock}}, (), [], "gpu01")
        assert found[0].do == "migrate lock break 3f2a --host gpu01"
        assert "ann@desk" in found[0].what

    def test_an_unfinished_run(self) -> None:
        found = doctor.leftovers({}, (record(Kind.START, result=""), *failed("stage")), [], "gpu01")
        assert [one.what for one in found] == ["an unfinished run, at stage: failed"]
        assert "migrate continue" in found[0].do

    def test_an_armed_dead_man_and_a_container(self) -> None:
        answer = {"deadman": {"armed": True, "fires_at": "2026-11-21T18:00:00Z"}}
        container = {"kind": "container", "name": "migrate-torch-gpu-1", "detail": "Up"}
        found = doctor.leftovers(answer, (), [container], "gpu01")
        assert ["dead-man" in one.what or "container" in one.what for one in found] == [True, True]
        assert found[1].do == "docker rm --force migrate-torch-gpu-1"

    def test_a_reboot_that_nobody_came_back_from(self) -> None:
        file = {"kind": "file", "name": "/etc/systemd/system/migrate-serving.service", "detail": "still there"}
        records = (record(Kind.START, result=""), record(Kind.INTENT, "provision"))
        assert doctor.leftovers({}, records, [file], "gpu01")[-1].do == "migrate continue --host gpu01"
        records = (*records, record(Kind.FINISH, result="rolled back"))
        (found,) = doctor.leftovers({}, records, [file], "gpu01")
        assert found.do == "migrate rollback --host gpu01 --to before-provision"

    def test_nothing_while_a_run_is_under_way(self) -> None:
        answer = {"lock": {"held": True, "lock": {}}, "deadman": {"armed": True}}
        assert doctor.leftovers(answer, failed("stage"), [{"kind": "c", "name": "n", "detail": ""}], "gpu01") == []

    def test_a_finished_run_leaves_nothing(self) -> None:
        records = (record(Kind.START, result=""), *passed(*NAMES), record(Kind.FINISH, result="migrated"))
        assert doctor.leftovers({"deadman": {"armed": False}}, records, [], "gpu01") == []


class Playbooks:
    """Passes every check that it is asked for, but for the verdicts that are given."""

    def __init__(
        self, *verdicts: Verdict, evidence: Mapping[str, Any] | None = None, failures: list[str] | None = None
    ):
        self.verdicts = {verdict.check: verdict for verdict in verdicts}
        self.evidence, self.failures = evidence, failures or []
        self.variables: dict[str, Any] = {}

    def run(self, name: str, variables: Mapping[str, Any], say: Any) -> PlaybookResult:
        assert name == "doctor"
        self.variables = dict(variables)
        services = {role: SERVICE | {"name": given} for role, given in variables["doctor_services"].items()}
        seen = {"services": services, "matches": [], "leftovers": [], "unread": {}} | dict(self.evidence or {})
        verdicts = [self.verdicts.get(check, Verdict(check, Outcome.PASS)) for check in variables["check_names"]]
        results = {} if self.failures else {"doctor": seen}
        return PlaybookResult("successful", verdicts=verdicts, results=results, failures=self.failures)


class Host(FakeHost):
    def installed(self) -> bool:
        return True


class Target:
    """What `examine` needs of a host of the inventory."""

    def __init__(self, playbooks: Playbooks, host: Host | None = None, **changed: Any) -> None:
        self.name, self.settings, self.host = "gpu01", settings(**changed), host or Host()
        self._playbooks = playbooks
        self.said: list[str] = []
        self.say = self.said.append

    def playbooks(self) -> Playbooks:
        return self._playbooks

    def with_target(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        return {**extra, "migrate_target": self.name}


@pytest.fixture
def latest(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    known: dict[str, Any] = {"records": None}

    def find(target: Any) -> Migration | None:
        if isinstance(known["records"], Exception):
            raise known["records"]
        return Migration("r1", known["records"]) if known["records"] else None

    monkeypatch.setattr("migrate.doctor.session.latest", find)
    return known


def examined(target: Target, *, deep: bool = False) -> doctor.Report:
    return doctor.examine(target, deep=deep)  # type: ignore[arg-type]


def started(*records: Record) -> tuple[Record, ...]:
    return (record(Kind.START, plan=plan().as_json(), result=""), *records)


class TestExamine:
    def test_a_healthy_host(self, latest: dict[str, Any]) -> None:
        target = Target(Playbooks())
        report = examined(target)
        assert (report.findings, report.leftovers, report.undecided) == ((), (), {})
        assert report.services.keys() == {"triton"}
        assert "checks on gpu01: host_os, clock" in target.said[0]

    def test_the_plans_image_and_the_services_of_a_deploy(self, latest: dict[str, Any]) -> None:
        latest["records"] = started(*passed("preflight", "snapshot", "stage", "deploy"))
        playbooks = Playbooks()
        examined(Target(playbooks))
        assert set(playbooks.variables["doctor_services"]) == {"triton", "vllm", "gateway"}
        assert playbooks.variables["vllm_image_digest"].endswith("@sha256:" + "c" * 64)
        assert playbooks.variables["migrate_failures"]

    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({"vllm_mode": "offline", "vllm_runtime": "process"}, {"triton"}),
            ({"vllm_mode": "offline"}, {"triton", "vllm"}),
            ({"vllm_runtime": "process"}, {"triton", "vllm", "gateway"}),
        ],
    )
    def test_a_process_that_serves_nobody_runs_for_a_job_only(
        self, latest: dict[str, Any], changed: dict[str, Any], expected: set[str]
    ) -> None:
        own = record(Kind.START, plan=plan(**changed).as_json(), result="")
        latest["records"] = (own, *passed("snapshot", "stage", "deploy"))
        playbooks = Playbooks()
        examined(Target(playbooks))
        assert set(playbooks.variables["doctor_services"]) == expected

    @pytest.mark.parametrize(("undone", "name"), [((), "phi2"), (("stage", "deploy"), "other")])
    def test_what_is_still_deployed_is_looked_at_with_the_plans_settings(
        self, latest: dict[str, Any], undone: tuple[str, ...], name: str
    ) -> None:
        back = [record(Kind.ROLLBACK, phase, undone=True) for phase in undone]
        latest["records"] = started(*passed("stage", "deploy"), *back, record(Kind.FINISH, result="rolled back"))
        playbooks = Playbooks()
        examined(Target(playbooks, vllm_served_model_name="other"))
        assert playbooks.variables["vllm_served_model_name"] == name

    def test_a_failed_check_is_a_finding_with_its_advice(self, latest: dict[str, Any]) -> None:
        bad = Verdict("clock", Outcome.FAIL, "within 60 s", "+400 s", "", "set the clock")
        report = examined(Target(Playbooks(bad)))
        assert [(f.name, f.seen, f.do) for f in report.findings] == [("clock", "+400 s", "set the clock")]

    def test_what_tells_nothing_is_not_fine(self, latest: dict[str, Any]) -> None:
        report = examined(Target(Playbooks(Verdict("clock", Outcome.ERROR, "", "TypeError"))))
        assert report.undecided == {"clock": "TypeError"}
        assert "clock" not in report.fine

    def test_what_the_operator_accepted(self, latest: dict[str, Any]) -> None:
        unsure = Verdict("docker_engine", Outcome.INCONCLUSIVE, "", "old")
        report = examined(Target(Playbooks(unsure), migrate_accept_inconclusive={"provision": "lab"}))
        assert report.undecided == {}
        assert report.accepted == {"docker_engine": "old (accepted: lab)"}

    def test_a_way_back_that_is_gone(self, latest: dict[str, Any]) -> None:
        latest["records"] = started(*passed("preflight", "snapshot"))
        report = examined(Target(Playbooks(), Host(status={"back": {"degraded": "the snapshot has lost compose.yml"}})))
        assert [finding.name for finding in report.findings] == ["way-back"]

    def test_before_a_snapshot_there_is_no_way_back_to_miss(self, latest: dict[str, Any]) -> None:
        report = examined(Target(Playbooks(), Host(status={"back": {"degraded": "back is not there"}})))
        assert report.findings == ()

    def test_a_damaged_journal_is_a_finding(self, latest: dict[str, Any]) -> None:
        latest["records"] = NotProven("record 4 does not follow", advice="compare")
        report = examined(Target(Playbooks()))
        assert [(f.name, f.do) for f in report.findings] == [("journal", "compare")]

    def test_a_run_that_is_under_way_is_noticed(self, latest: dict[str, Any]) -> None:
        lock = {"owner": "ann@desk", "reason": "apply", "expires": "2026-11-21T18:00:00Z"}
        report = examined(Target(Playbooks(), Host(status={"lock": {"held": True, "lock": lock}})))
        assert [notice.name for notice in report.notices] == ["lock"]

    def test_what_could_not_be_read_is_said(self, latest: dict[str, Any]) -> None:
        report = examined(Target(Playbooks(evidence={"unread": {"systemctl": "Host is down"}})))
        assert report.undecided == {"systemctl": "could not be read: Host is down"}

    def test_a_host_that_cannot_be_looked_at(self, latest: dict[str, Any]) -> None:
        with pytest.raises(MigrateError, match="no python3"):
            examined(Target(Playbooks(failures=["no python3"])))
