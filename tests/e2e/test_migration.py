"""There and back, out of the wheel; under clients that never pause until everything is on vLLM."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from .conftest import Lab

pytestmark = pytest.mark.e2e
SECRET = "LAB_API_TOKEN"
SHORT = {
    "parity_max_tokens": 16,
    "performance_concurrency": [2],
    "performance_duration_s": 3,
    "switch_step_s": 4,
    "soak_duration_s": 8,
}


def witness(lab: Lab, *arguments: str) -> subprocess.Popen[str]:
    command = [lab.command, "witness", "--host", "gpu01", "--clients", "8", "--json", *arguments]
    process = subprocess.Popen(command, cwd=lab.directory, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdout is not None
    for line in process.stdout:
        if "clients against" in line:
            break
    assert process.poll() is None
    return process


def secret(lab: Lab) -> str:
    value = lab.on_host(f"grep {SECRET} /opt/triton/compose.yml").split('"')[1]
    assert len(value) > 8
    return value


def listening(lab: Lab, *ports: int) -> set[str]:
    """Addresses of the host on which these ports are open."""
    asked = " or ".join(f"sport = :{port}" for port in ports)
    return {line.split()[3] for line in lab.on_host(f"ss -Hltn '( {asked} )'").splitlines()}


def test_there_and_back_without_a_failed_request(changed_lab: Lab) -> None:
    lab = changed_lab
    lab.set(**SHORT)
    watching = witness(lab, "--until-stopped")
    try:
        assert lab.migrate("plan", "--host", "gpu01", "-o", "plan.json").code == 0
        assert lab.migrate("apply", "plan.json").code == 0
        assert listening(lab, 18000, 18100) == {"127.0.0.1:18000", "127.0.0.1:18100"}
        again = lab.migrate("apply", "--host", "gpu01", "--yes")
        assert (again.code, "nothing to do" in again.out) == (0, True)
        assert lab.migrate("status", "--host", "gpu01").out.startswith("SERVING vllm 100 % · BACK PROVEN")
    finally:
        watching.terminate()
        watching.communicate(timeout=120)
    assert watching.returncode == 0
    report = lab.report()
    assert report["witness"]["sent"] == report["witness"]["answered"] > 100
    assert (report["witness"]["failed"], report["witness"]["reconciled"]) == (0, True)
    assert set(report["witness"]["by_upstream"]) == {"operator", "triton", "gateway"}
    assert report["environment"]["peak memory of migrate, MiB"] < 300

    refused = lab.migrate("retire", "--host", "gpu01", "--yes")
    assert refused.code == 3
    assert "8081" in refused.err
    routes = [name.strip() for name in refused.err.split("lead to Triton:")[1].splitlines()[0].split(";")]
    accepted = {"reason": "no such client in the lab", "owner": "lab", "expires": "2099-01-01"}
    lab.set(retire_lost_routes=dict.fromkeys(routes, accepted))
    assert lab.migrate("retire", "--host", "gpu01", "--yes").code == 0
    assert "triton-triton-1" not in lab.on_host("docker ps -a --format '{{.Names}}'")
    assert "statuspage" in lab.on_host("docker ps --format '{{.Names}}'")

    assert lab.migrate("rollback", "--host", "gpu01", "--to", "before-deploy").code == 0
    assert "vllm" not in lab.on_host("docker ps -a --format '{{.Names}}'")
    assert lab.migrate("apply", "plan.json").code == 3

    value = secret(lab)
    found = subprocess.run(["grep", "-rlF", value, lab.directory / "runs"], capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("", 1)


def test_the_witness_reports_an_outage(lab: Lab) -> None:
    watching = witness(lab, "--duration", "8")
    time.sleep(2)
    lab.on_host("systemctl stop nginx && docker pause triton-triton-1")
    time.sleep(2)
    lab.on_host("docker unpause triton-triton-1 && systemctl start nginx")
    out, _ = watching.communicate(timeout=120)
    seen = next(line for line in map(json.loads, out.splitlines()) if line["type"] == "witness")
    assert watching.returncode == 5
    assert seen["failed"] > 0
    assert seen["longest_gap_ms"] >= 2000
