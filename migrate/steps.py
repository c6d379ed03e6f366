"""What each phase of a plan will change on the host, as steps a person can check. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from migrate import image as images
from migrate import runtimes, weights
from migrate.facts import fact
from migrate.plan import Step
from migrate.settings import Settings

Facts = Mapping[str, Any]


# Of what lies there from an earlier run nothing is known, and nothing is lost: the phase that writes it replaces it.
_UNSEEN = "not looked at"


_REBOOT = "Reboot"
# Role -> what the operator asked for with it.
_WHY = {
    "cuda_repository": "driver, toolkit and NCCL come from NVIDIA's own repository",
    "cuda_toolkit": "asked for by provision_cuda_toolkit; beside the toolkits that are there",
    "nccl": "asked for by provision_nccl_version",
    "docker_engine": "containers outlive the engine",
    "container_toolkit": "containers get the cards",
    "gpu_driver": "asked for by provision_driver_branch and provision_driver_version",
    "package_hold": "unattended upgrades leave these packages alone",
    "provision": "Ansible's modules need it",
}


def of(phase: str, settings: Settings, facts: Facts) -> tuple[Step, ...]:
    """The steps of one phase; none for a phase that changes nothing."""
    return tuple(_STEPS[phase](settings, facts)) if phase in _STEPS else ()


def _snapshot(settings: Settings, facts: Facts) -> list[Step]:
    size = int(fact(facts, "model_repository.bytes") or 0)
    return [
        Step("file", "/usr/local/lib/migrate", _hostctl(facts), "lock, journal, way back", "the host keeps the truth"),
        Step(
            "file", "/var/lib/migrate/snapshot", "absent", f"records and {size:,} bytes of models", "to rebuild Triton"
        ),
    ]


def reboots(facts: Facts) -> bool:
    """Whether `provision` would reboot the host."""
    return any(change["task"] == _REBOOT for change in _changes(facts))


def _provision(settings: Settings, facts: Facts) -> list[Step]:
    docker = fact(facts, "docker.version") or "absent"
    kept = Step("package", "Docker engine", str(docker), str(docker), "the engine that serves is kept")
    return [kept, *_driver_source(settings, facts), *(step for change in _changes(facts) for step in _change(change))]


def _driver_source(settings: Settings, facts: Facts) -> list[Step]:
    """What `provision_driver_source: auto` comes to, where a driver's packages change."""
    asked, found = settings.provision.driver_source, (facts.get("provision") or {}).get("driver_source")
    moves = any(change["role"] == "gpu_driver" and change["packages"] for change in _changes(facts))
    if asked != "auto" or not found or not moves:
        return []
    return [Step("setting", "provision_driver_source", asked, found["source"], found["reason"])]


def _changes(facts: Facts) -> list[Mapping[str, Any]]:
    """What the roles' own check mode would change."""
    return list((facts.get("provision") or {}).get("changes") or [])


def _change(change: Mapping[str, Any]) -> list[Step]:
    why = _WHY.get(change["role"], change["role"])
    if change["task"] == _REBOOT:
        return [Step("unit", "the host", "running", "rebooted", "loads the installed driver", "no answer meanwhile")]
    if change["packages"]:
        return [
            Step("package", one["name"], one["before"] or "absent", one["after"] or "removed", why)
            for one in change["packages"]
        ]
    return [Step("setting", change["role"], _UNSEEN, _lower(change["task"]), why)]


def _lower(task: str) -> str:
    return task[:1].lower() + task[1:]


def _stage(settings: Settings, facts: Facts) -> list[Step]:
    return [*_engine_to_run(settings, facts), *weights.steps(settings, facts)]


def _engine_to_run(settings: Settings, facts: Facts) -> list[Step]:
    """What `vllm_runtime` runs: images, or a virtual environment."""
    speaks = "speaks Triton's protocol in front of vLLM"
    if settings.vllm.runtime == "process":
        release = f"vllm {runtimes.of(settings).version}, torch: {settings.vllm.torch_backend}"
        return [
            Step("package", "python3-venv, python3-dev, gcc", _UNSEEN, "present", "vLLM compiles kernels as it runs"),
            Step("file", runtimes.VENV, _UNSEEN, release, "vllm_runtime is process"),
            Step("file", runtimes.GATEWAY, _UNSEEN, "the gateway's sources", speaks),
        ]
    pulled = images.steps(settings, facts, _UNSEEN)
    if settings.vllm.runtime == "podman":
        return [*pulled, Step("file", runtimes.GATEWAY, _UNSEEN, "the gateway's sources", speaks)]
    return [*pulled, Step("image", "gateway, built on it", _UNSEEN, "present", speaks)]


def _deploy(settings: Settings, facts: Facts) -> list[Step]:
    runtime, folder = runtimes.of(settings), settings.vllm.project_dir
    kind = "container" if runtime.kind == "docker" else "unit"
    shared = "shares the host's capacity with Triton"
    reloads = "none" if kind == "container" else "systemctl daemon-reload, see docs/runtimes.md"
    found = [
        Step("file", folder, _UNSEEN, f"files of vllm_runtime {runtime.kind}", "one place to look at", reloads),
        Step("file", runtime.key_file, _UNSEEN, "the vault's vllm_api_key, 0600; absent without one", "vLLM's key"),
    ]
    if settings.vllm.mode == "offline":
        idle = Step(kind, "vllm", _UNSEEN, "idle: offline-generate runs in it", "vllm_mode is offline")
        return found if runtime.kind == "process" else [*found, idle]
    before = [_container(facts, name) if kind == "container" else _UNSEEN for name in (runtime.vllm, runtime.gateway)]
    vllm, gateway = f"127.0.0.1:{settings.vllm.port}", f"127.0.0.1:{settings.gateway.port}"
    return [
        *found,
        Step(kind, "vllm", before[0], vllm, "the new engine", shared),
        Step(kind, "gateway", before[1], gateway, "Triton's clients keep working"),
    ]


def _rehearse(settings: Settings, facts: Facts) -> list[Step]:
    port = settings.switch.rehearsal_port
    return [
        Step("unit", "migrate-switch.service", _UNSEEN, f"also on 127.0.0.1:{port}", "the same path, without clients"),
    ]


def _cutover(settings: Settings, facts: Facts) -> list[Step]:
    ports = ", ".join(f"{public} → {own}" for public, own in settings.switch.ports.items())
    shares = " → ".join(f"{percent} %" for percent in settings.switch.steps)
    watched = f"each step watched for {settings.switch.step_s} s"
    return [
        Step(
            "port",
            "nft table inet migrate",
            "absent",
            ports,
            "new connections reach the switch; open ones end themselves",
        ),
        Step("route", "traffic", "triton 100 %", f"vllm {shares}", watched),
        Step("unit", "migrate-deadman.timer", "absent", f"{settings.deadman.timeout_s} s", "goes back by itself"),
    ]


def _soak(settings: Settings, facts: Facts) -> list[Step]:
    return [
        Step("unit", "migrate-soak.service", "absent", f"watches {settings.soak.duration_s} s", "goes back by itself"),
        Step("file", "/etc/migrate/committed", "absent", "present", "after a reboot vLLM serves"),
    ]


def _hostctl(facts: Facts) -> str:
    return "an earlier run's" if fact(facts, "hostctl.installed") else "absent"


def _container(facts: Facts, name: str) -> str:
    """The state of a container of ours, by the name that compose gives it."""
    found = [str(one.get("state")) for one in facts.get("containers") or [] if one.get("name") == name]
    return found[0] if found else "absent"


_STEPS: Mapping[str, Callable[[Settings, Facts], list[Step]]] = {
    "snapshot": _snapshot,
    "provision": _provision,
    "stage": _stage,
    "deploy": _deploy,
    "rehearse": _rehearse,
    "cutover": _cutover,
    "soak": _soak,
}
