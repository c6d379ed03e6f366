"""The phases of a migration, in order. This table is the start of the whole project: everything else serves a row.

A phase has one name: its row here, its playbook `playbooks/<name>.yml`, its key in the journal and its heading in
the report. `checks` run on the host as the last role of the playbook; `action` is what the controller does after
it (judge raw records, move traffic); the gate decides from the verdicts of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Class(StrEnum):
    """What a phase may do to the host."""

    READ_ONLY = "read-only"
    LOADS = "loads"
    ADDITIVE = "additive"
    REVERSIBLE = "reversible"
    ONE_WAY = "one-way"


@dataclass(frozen=True, slots=True)
class Phase:
    """One row. `estimate_s` is what a host usually needs; `undo` names the playbook that takes the phase back;
    `rechecks_plan` reads the plan's read set once more before the phase."""

    name: str
    does: str
    kind: Class
    checks: tuple[str, ...] = ()
    action: str = ""
    undo: str = ""
    estimate_s: int = 10
    moves_traffic: bool = False
    rechecks_plan: bool = False


PHASES = (
    Phase(
        "preflight",
        "makes sure that the host can do it and that Triton serves",
        Class.READ_ONLY,
        checks=(
            "host_os",
            "clock",
            "disk_space",
            "ports_free",
            "docker_engine",
            "triton_serving",
            "nginx_serves_triton",
            "port_serves",
            "registry_image",
        ),
    ),
    Phase(
        "snapshot",
        "records the Triton stack so that it can be rebuilt, and writes the way back",
        Class.ADDITIVE,
        checks=("snapshot_complete", "snapshot_diff", "triton_goldens"),
        undo="undo_snapshot",
        estimate_s=30,
    ),
    Phase(
        "provision",
        "makes sure of Docker, driver, CUDA and NCCL",
        Class.REVERSIBLE,
        checks=("docker_engine", "gpu_driver", "cuda_toolkit", "nccl_host", "triton_serving"),
        undo="undo_provision",
    ),
    Phase(
        "stage",
        "fetches the vLLM image by digest and tries it, builds the gateway's on it, copies and verifies the weights",
        Class.ADDITIVE,
        checks=(
            "image_present",
            "vllm_flags",
            "weights_verified",
            "image_abi",
            "vllm_import",
            "container_gpu",
            "torch_gpu",
            "nccl_allreduce",
        ),
        undo="undo_stage",
        estimate_s=90,
    ),
    Phase(
        "deploy",
        "starts vLLM and the gateway beside Triton, on the loopback",
        Class.REVERSIBLE,
        checks=("vllm_api", "gateway_serves", "triton_serving"),
        undo="undo_deploy",
        estimate_s=90,
    ),
    Phase(
        "parity",
        "compares vLLM's answers with Triton's",
        Class.LOADS,
        action="judge_parity",
        estimate_s=60,
    ),
    Phase(
        "performance",
        "measures vLLM beside Triton",
        Class.LOADS,
        action="judge_performance",
        estimate_s=60,
    ),
    Phase(
        "rehearse",
        "makes the cutover and the way back on a private listener, timed",
        Class.REVERSIBLE,
        checks=("triton_goldens",),
        action="rehearse",
        undo="undo_cutover",
        estimate_s=20,
    ),
    Phase(
        "cutover",
        "moves traffic in steps, watched, with the dead-man switch armed on the host",
        Class.REVERSIBLE,
        action="move_traffic",
        undo="undo_cutover",
        estimate_s=60,
        moves_traffic=True,
        rechecks_plan=True,
    ),
    Phase(
        "soak",
        "a watcher on the host compares errors and latency with the baseline and goes back by itself",
        Class.REVERSIBLE,
        checks=("port_serves",),
        action="soak",
        estimate_s=60,
        moves_traffic=True,
    ),
)

NAMES = tuple(phase.name for phase in PHASES)


def get(name: str) -> Phase:
    """The row of a phase. Raises KeyError for a name that is none."""
    return {phase.name: phase for phase in PHASES}[name]
