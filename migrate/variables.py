"""The extra-vars of every playbook: computed here, once, from the plan; roles assert them and never derive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrate import __version__, bundled, image, image_source, runtimes
from migrate.knowledge import failures
from migrate.parity.prompts import PROMPTS
from migrate.plan import Plan
from migrate.settings import Settings

GATEWAY_PARTS = ("gateway", "collect")
SOAK_INTERVAL_S = 2
_START_TIMEOUT_S = 120


def gateway_image() -> str:
    """Name and tag of the gateway's image: the tag follows its sources."""
    return f"migrate-gateway:{__version__}-{bundled.tree_digest(*GATEWAY_PARTS)[:12]}"


def for_discovery(settings: Settings) -> dict[str, Any]:
    """What `discover` needs, before there is a plan."""
    return settings.flat()


def for_run(plan: Plan, settings: Settings, run: str, raw: Path, switch_config: str) -> dict[str, Any]:
    """Everything that the playbooks of one run share; a phase adds its own checks and job to it."""
    return settings.flat() | {
        "migrate_run": run,
        "migrate_raw_dir": str(raw),
        "migrate_checks_dir": str(bundled.root() / "checks"),
        "vllm_image_digest": image.reference(settings, plan.vllm_image_digest),
        "vllm_image_build": image_source.build(settings) if settings.image.strategy == "source" else {},
        "vllm_image_kept": image.kept(settings, plan.vllm_image_digest, plan.created),
        "gateway_image": gateway_image(),
        "gateway_source_dir": str(bundled.package()),
        "gateway_config": gateway_config(settings),
        "runtime_config": runtimes.of(settings).as_json(),
        "migrate_failures": failures.load().for_host(settings.flat() | {"host": plan.host}),
        "stage_weights": dict(plan.weights or {}),
        "hostctl_config": hostctl_config(settings),
        "goldens_requests": golden_requests(settings),
        "switch_config": switch_config,
        "check_config": _check_config(plan, settings),
    }


def for_doctor(host: str, settings: Settings, plan: Plan | None) -> dict[str, Any]:
    """What `doctor` needs, with a plan or before there is one."""
    return settings.flat() | {
        "vllm_image_digest": image.reference(settings, plan.vllm_image_digest) if plan else "",
        "gateway_image": gateway_image(),
        "runtime_config": runtimes.of(settings).as_json(),
        "migrate_failures": failures.load().for_host(settings.flat() | {"host": host}),
        "check_config": _check_config(plan, settings) if plan else {},
    }


def _check_config(plan: Plan, settings: Settings) -> dict[str, Any]:
    """What single checks get: the room that the plan needs, and the driver that its image needs.

    Whether the model fits the card's memory the plan knows; the check's own limit is for a host without a plan.
    """
    return {
        "disk_space": {"disk_space_needed": _disk_needed(plan)},
        "gpu_driver": {"gpu_min_memory_mib": 0} | image.driver_floor(settings),
    }


def _disk_needed(plan: Plan) -> dict[str, int]:
    """Folder -> free bytes, as the plan's read set has them."""
    return {p.key.removeprefix("disks."): p.value for p in plan.read_set if p.key.startswith("disks./")}


def gateway_config(settings: Settings) -> dict[str, Any]:
    """The gateway's YAML file."""
    served = settings.vllm.served_model_name
    tokens = settings.gateway.default_max_tokens
    return {
        "listen": runtimes.listen(settings),
        "upstream": {"url": runtimes.upstream(settings), "timeout_s": 120},
        "models": {
            name: {"style": model.style, "upstream_model": served, "version": "1", "default_max_tokens": tokens}
            for name, model in settings.triton.models.items()
        },
    }


def probe(settings: Settings) -> dict[str, Any]:
    """The one generation that proves a stack alive."""
    path = f"/v2/models/{settings.triton.probe_model}/generate"
    return {"path": path, "body": {"text_input": "def add(a, b):", "max_tokens": 1}}


def hostctl_config(settings: Settings) -> dict[str, Any]:
    """/var/lib/migrate/host.json: what hostctl, the way back and the watcher need to know."""
    triton, switch = settings.triton, settings.switch
    compose = ["docker", "compose", "-f", triton.compose_file, "-p", triton.compose_project]
    return {
        "triton": {
            "url": f"http://127.0.0.1:{triton.http_port}",
            "container": triton.container,
            "start": [*compose, "up", "-d", triton.compose_service],
            "start_timeout_s": _START_TIMEOUT_S,
        },
        "gateway": {"url": f"http://127.0.0.1:{settings.gateway.port}"},
        "vllm": {
            "url": f"http://127.0.0.1:{settings.vllm.port}",
            "model": settings.vllm.served_model_name,
            "key_file": runtimes.of(settings).key_file,
        },
        "probe": probe(settings),
        "switch": {
            "steps": list(switch.steps),
            "ports": {str(public): own for public, own in switch.ports.items()},
            "rehearsal_port": switch.rehearsal_port,
            "unit": "migrate-switch",
            "access_log": switch.access_log,
            "operator_access_logs": list(settings.nginx.access_logs),
        },
        "soak": settings.soak.model_dump(mode="json") | {"interval_s": SOAK_INTERVAL_S},
        "public": {"http_port": min(switch.ports)},
    }


def golden_requests(settings: Settings) -> list[dict[str, Any]]:
    """The requests whose replies are recorded from Triton and must come back byte for byte after a rollback."""
    requests: list[dict[str, Any]] = [
        {"name": "server metadata", "method": "GET", "path": "/v2", "body": None},
        {"name": "repository index", "method": "POST", "path": "/v2/repository/index", "body": {}},
        {"name": "unknown model", "method": "GET", "path": "/v2/models/no-such-model", "body": None},
    ]
    for name, model in settings.triton.models.items():
        requests.append({"name": f"{name} metadata", "method": "GET", "path": f"/v2/models/{name}", "body": None})
        requests.append({"name": f"{name} config", "method": "GET", "path": f"/v2/models/{name}/config", "body": None})
        if model.style == "python":
            requests += [_golden(name, number, text) for number, text in enumerate(PROMPTS[:5])]
    return requests


def parity_job(settings: Settings) -> dict[str, Any]:
    """What the parity collector asks both sides."""
    return {
        "triton": f"http://127.0.0.1:{settings.triton.http_port}",
        "vllm": f"http://127.0.0.1:{settings.vllm.port}",
        "client_path": f"http://127.0.0.1:{settings.gateway.port}",
        "model": settings.triton.probe_model,
        "vllm_model": settings.vllm.served_model_name,
        "prompts": list(PROMPTS[: settings.parity.prompts]),
        "max_tokens": settings.parity.max_tokens,
        "logprobs": True,
        "seed": settings.parity.seed,
    }


def performance_job(settings: Settings) -> dict[str, Any]:
    """What the performance collector runs: interleaved blocks against Triton and the client-facing path."""
    model = settings.triton.probe_model
    return {
        "triton": {"url": f"http://127.0.0.1:{settings.triton.http_port}", "model": model},
        "gateway": {"url": f"http://127.0.0.1:{settings.gateway.port}", "model": model},
        "concurrency": list(settings.performance.concurrency),
        "duration_s": settings.performance.duration_s,
        "max_tokens": settings.performance.max_tokens,
        "prompts": list(PROMPTS),
        "rounds": settings.performance.rounds,
        "seed": settings.parity.seed,
        "parameters": _COUNTED[settings.triton.models[model].style],
    }


# What makes a model of each style say how many tokens it answered with.
_COUNTED = {"python": {"return_log_probs": True}, "vllm": {"return_num_output_tokens": True}}
JOBS = {"parity": parity_job, "performance": performance_job}


def for_phase(phase: str, plan: Plan, settings: Settings, checks: tuple[str, ...]) -> Mapping[str, Any]:
    """What one phase's playbook gets on top: its checks, and the collector's job where it has one.

    A reboot that the plan did not announce is not allowed, whatever the settings say.
    """
    extra: dict[str, Any] = {"check_names": list(checks)}
    if not plan.gap_s(phase):
        extra["provision_allow_reboot"] = False
    if phase in JOBS:
        extra |= {"collect_kind": phase, "collect_job": JOBS[phase](settings)}
    return extra


def _golden(model: str, number: int, text: str) -> dict[str, Any]:
    body = {"text_input": text, "max_tokens": 24}
    return {
        "name": f"{model} prompt {number + 1}",
        "method": "POST",
        "path": f"/v2/models/{model}/generate",
        "body": body,
    }
