"""There and back, out of the wheel, under clients that never pause."""

from __future__ import annotations

import subprocess
import time

import pytest

from .conftest import Lab

pytestmark = pytest.mark.e2e
SECRET = "LAB_API_TOKEN"


def test_there_and_back_without_a_failed_request(lab: Lab) -> None:
    lost = {"reason": "no such client in the lab", "owner": "lab", "expires": "2099-01-01"}
    watching = subprocess.Popen(
        [lab.command, "witness", "--host", "gpu01", "--clients", "8", "--until-stopped"], cwd=lab.directory
    )
    try:
        assert lab.migrate("plan", "--host", "gpu01", "-o", "plan.json").code == 0
        assert lab.migrate("apply", "plan.json").code == 0
        again = lab.migrate("apply", "--host", "gpu01", "--yes")
        assert (again.code, "nothing to do" in again.out) == (0, True)
        assert lab.migrate("status", "--host", "gpu01").out.startswith("SERVING vllm 100 % · BACK PROVEN")

        refused = lab.migrate("retire", "--host", "gpu01", "--yes")
        assert refused.code == 3
        assert "8081" in refused.err
        routes = [name.strip() for name in refused.err.split("lead to Triton:")[1].splitlines()[0].split(";")]
        lab.set(retire_lost_routes=dict.fromkeys(routes, lost))
        assert lab.migrate("retire", "--host", "gpu01", "--yes").code == 0
        assert "triton-triton-1" not in lab.on_host("docker ps -a --format '{{.Names}}'")
        assert "statuspage" in lab.on_host("docker ps --format '{{.Names}}'")

        assert lab.migrate("rollback", "--host", "gpu01", "--to", "before-deploy").code == 0
        assert lab.migrate("apply", "plan.json").code == 3
    finally:
        watching.terminate()
        watching.wait(timeout=120)
    witness = lab.report()["witness"]
    assert witness["sent"] == witness["answered"] > 100
    assert (witness["failed"], witness["reconciled"]) == (0, True)
    assert watching.returncode == 0


def test_no_secret_reaches_a_file_of_the_run(lab: Lab) -> None:
    value = lab.on_host(f"grep -oP '{SECRET}[=:] *\\K.*' /opt/triton/compose.yml").strip().strip("\"'")
    assert value
    assert lab.migrate("apply", "--host", "gpu01", "--yes", "--through", "snapshot").code == 0
    found = subprocess.run(["grep", "-rlF", value, lab.directory / "runs"], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    assert found.returncode == 1


def test_the_witness_reports_an_outage(lab: Lab) -> None:
    watching = subprocess.Popen(
        [lab.command, "witness", "--host", "gpu01", "--clients", "8", "--duration", "8", "--json"],
        cwd=lab.directory,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(3)
    lab.on_host("systemctl stop nginx && docker pause triton-triton-1")
    time.sleep(2)
    lab.on_host("docker unpause triton-triton-1 && systemctl start nginx")
    out, _ = watching.communicate(timeout=120)
    assert watching.returncode == 5
    assert '"failed": 0' not in out
