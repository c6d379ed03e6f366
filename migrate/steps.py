"""What each phase of a plan will change on the host, as steps a person can check. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from migrate.facts import fact
from migrate.plan import Step
from migrate.settings import Settings

Facts = Mapping[str, Any]


# Of what lies there from an earlier run nothing is known, and nothing is lost: the phase that writes it replaces it.
_UNSEEN = "not looked at"


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


def _provision(settings: Settings, facts: Facts) -> list[Step]:
    docker = fact(facts, "docker.version") or "absent"
    return [Step("package", "Docker engine", str(docker), str(docker), "the engine that serves is kept")]


def _stage(settings: Settings, facts: Facts) -> list[Step]:
    weights = int(fact(facts, "weights.bytes") or 0)
    image = f"{settings.vllm.image} ({facts['vllm_image']['digest'][:19]})"
    return [
        Step("image", image, _UNSEEN, "present", "pulled by digest"),
        Step("image", "gateway, built on it", _UNSEEN, "present", "speaks Triton's protocol in front of vLLM"),
        Step(
            "file",
            settings.vllm.weights_path,
            "absent",
            f"{weights:,} bytes, verified",
            "outlives Triton's model files",
        ),
    ]


def _deploy(settings: Settings, facts: Facts) -> list[Step]:
    shared = "shares the host's capacity with Triton"
    return [
        Step("file", settings.vllm.project_dir, _UNSEEN, "compose project", "one place to look at"),
        Step(
            "container",
            "vllm",
            _container(facts, "vllm-vllm-1"),
            f"127.0.0.1:{settings.vllm.port}",
            "the new engine",
            shared,
        ),
        Step(
            "container",
            "gateway",
            _container(facts, "vllm-gateway-1"),
            f"127.0.0.1:{settings.gateway.port}",
            "Triton's clients keep working",
        ),
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
