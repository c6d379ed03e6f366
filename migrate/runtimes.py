"""How vLLM and the gateway run on a host: the one place that knows their names, their logs and their Python. Pure.

`docker` is a compose project, `podman` the same two containers as systemd units (quadlet), `process` two systemd units
over a virtual environment. Podman's containers are on the host's network, so that no rule of Docker's filters them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from packaging.version import Version

from migrate.errors import Refused, SettingsError
from migrate.knowledge import Finding, Severity, version_of
from migrate.settings import Settings

Facts = Mapping[str, Any]
LAST_OFFLINE = "deploy"
"""The last phase where `vllm_mode` is offline: there is no server that traffic could move to."""
_UNITS = ("migrate-vllm", "migrate-gateway")
_CONTAINERS = ("vllm-vllm-1", "vllm-gateway-1")
MODEL, CACHE = "/model", "/cache"
"""Where a container has the weights, and `vllm_cache_dir`."""
VENV = "/var/lib/migrate/venv"
"""The virtual environment of the runtime `process`."""
GATEWAY = "/var/lib/migrate/gateway"
"""The gateway's sources where no image is built of them."""
_GATEWAY_PORT, _VLLM_PORT = 8100, 8000
_SERVE_SINCE = Version("0.11.1")
# What the kernel calls an architecture -> what an image's platform is called.
_PLATFORMS = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}


@dataclass(frozen=True, slots=True)
class Runtime:
    """Names of container or unit, the commands that show their logs, the start of a command line that runs a Python
    program beside vLLM with its modules, the release, the 0600 file on the host that holds vLLM's API key as an
    environment (absent where there is no key), and what the server is started with."""

    kind: str
    vllm: str
    gateway: str
    logs: str
    gateway_logs: str
    python: tuple[str, ...]
    version: str
    key_file: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self) | {"python": list(self.python), "arguments": list(self.arguments)}


def of(settings: Settings) -> Runtime:
    """The runtime that `vllm_runtime` asks for."""
    kind = settings.vllm.runtime
    vllm, gateway = _CONTAINERS if kind == "docker" else _UNITS
    show = "docker logs" if kind == "docker" else "journalctl --unit"
    python = (f"{VENV}/bin/python",) if kind == "process" else (kind, "exec", vllm, "python3")
    return Runtime(
        kind,
        vllm,
        gateway,
        f"{show} {vllm}",
        f"{show} {gateway}",
        python,
        version_of(settings.vllm.image) or "",
        f"{settings.vllm.project_dir}/vllm.env",
        tuple(arguments(settings)),
        environment(settings),
    )


def arguments(settings: Settings) -> list[str]:
    """The server's command line after its entry point; `vllm_args` come last.

    Until 0.11.1 the image's entry point was another program, which knows the model by `--model` alone (vllm#25967).
    """
    vllm, release = settings.vllm, version_of(settings.vllm.image)
    is_old = vllm.runtime != "process" and release is not None and Version(release) < _SERVE_SINCE
    host, port = ("0.0.0.0", _VLLM_PORT) if vllm.runtime == "docker" else ("127.0.0.1", vllm.port)  # noqa: S104
    named = ["--served-model-name", vllm.served_model_name, "--host", host, "--port", str(port)]
    return [*(["--model"] if is_old else []), weights(settings), *named, *flags(settings)]


def weights(settings: Settings) -> str:
    """Where vLLM finds the weights."""
    return settings.vllm.weights_path if settings.vllm.runtime == "process" else MODEL


def flags(settings: Settings) -> list[str]:
    """`vllm_args` as a command line."""
    return [word for name, value in settings.vllm.args.items() if value is not None for word in _flag(name, value)]


def _flag(name: str, value: Any) -> list[str]:
    """One option as argparse takes it: true is a bare flag, false its --no- form, a list several values."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    items = value if isinstance(value, list | tuple) else [value]
    return [f"--{name}", *(item if isinstance(item, str) else json.dumps(item) for item in items)]


def environment(settings: Settings) -> dict[str, str]:
    """The server's environment; `vllm_environment` decides. On the host's network nothing may listen beyond it."""
    found: dict[str, str] = {}
    if settings.vllm.runtime != "docker":
        found["VLLM_HOST_IP"] = "127.0.0.1"
    if settings.vllm.cache_dir:
        place = settings.vllm.cache_dir if settings.vllm.runtime == "process" else CACHE
        found |= {"HF_HOME": f"{place}/huggingface", "VLLM_CACHE_ROOT": f"{place}/vllm"}
    return found | settings.vllm.environment


def listen(settings: Settings) -> dict[str, Any]:
    """Where the gateway listens: every address of its own container, else the host's loopback."""
    if settings.vllm.runtime == "docker":
        return {"host": "0.0.0.0", "port": _GATEWAY_PORT}  # noqa: S104 - in its container; published on the loopback
    return {"host": "127.0.0.1", "port": settings.gateway.port}


def upstream(settings: Settings) -> str:
    """vLLM's base URL as the gateway reaches it."""
    return "http://vllm:8000" if settings.vllm.runtime == "docker" else f"http://127.0.0.1:{settings.vllm.port}"


def storage(settings: Settings) -> str:
    """The folder that images, or the virtual environment, take room in."""
    folders = {"docker": "/var/lib/docker", "podman": "/var/lib/containers"}
    return folders.get(settings.vllm.runtime, VENV)


def needs_image(settings: Settings) -> bool:
    """Whether vLLM comes as an image."""
    return settings.vllm.runtime != "process"


def goes_through(settings: Settings, phase: str, names: tuple[str, ...]) -> bool:
    """Whether the mode has this phase: offline ends with `deploy`."""
    return settings.vllm.mode == "server" or names.index(phase) <= names.index(LAST_OFFLINE)


def findings(settings: Settings) -> tuple[Finding, ...]:
    """What the mode does not do, for the plan."""
    if settings.vllm.mode == "server":
        return ()
    problem = f"offline has no server: the phases after {LAST_OFFLINE} are refused, Triton keeps the traffic"
    advice = f"migrate apply --host HOST --through {LAST_OFFLINE}; then migrate offline-generate --host HOST"
    return (Finding("vllm_mode", "mode", problem, advice, "migrate/runtimes.py", Severity.REVIEW),)


def is_ours(name: str | None) -> bool:
    """Whether a container is the vLLM of a deploy of ours."""
    return name in {_CONTAINERS[0], _UNITS[0]}


def refuse_unfit(settings: Settings, facts: Facts) -> None:
    """Raise Refused, or SettingsError, where this host or release cannot run vLLM as `vllm_runtime` asks."""
    if settings.vllm.runtime == "podman" and not (facts.get("podman") or {}).get("version"):
        why = (facts.get("podman") or {}).get("reason") or "discovery found none"
        raise Refused(f"vllm_runtime: podman is not on the host: {why}", advice="apt-get install podman, there")
    if settings.vllm.runtime == "process" and not version_of(settings.vllm.image):
        raise SettingsError(
            f"vllm_image: the tag of {settings.vllm.image} names no release, and vllm_runtime process installs one",
            advice="a tag such as vllm/vllm-openai:v0.31.0",
        )
    if settings.vllm.runtime != "docker" and settings.image.strategy != "official":
        raise SettingsError(
            f"image_strategy: {settings.image.strategy} builds or keeps the image with Docker, and vllm_runtime is "
            f"{settings.vllm.runtime}",
            advice="image_strategy: official, or vllm_runtime: docker",
        )
    _refuse_platform(settings, facts)


def _refuse_platform(settings: Settings, facts: Facts) -> None:
    """Raise Refused where the registry says that the image is for other architectures than the host's."""
    known, machine = (facts.get("vllm_image") or {}).get("platforms") or [], str(facts.get("machine") or "")
    wanted = _PLATFORMS.get(machine)
    if settings.vllm.runtime == "process" or not known or not machine or wanted in known:
        return
    bare = settings.vllm.image.partition("@")[0]
    raise Refused(
        f"vllm_image: {settings.vllm.image} is for {', '.join(known)}, the host is {machine}",
        advice=f"{bare}-{machine}, where the release has it" if wanted else "a host of x86_64 or aarch64",
    )


def refuse_beyond_deploy(mode: str, through: str, names: tuple[str, ...]) -> None:
    """Raise Refused where the mode is offline and `through` is a phase that needs a server."""
    if mode == "offline" and names.index(through) > names.index(LAST_OFFLINE):
        raise Refused(
            f"vllm_mode: offline has no server, so {LAST_OFFLINE} is as far as it goes, not {through}",
            advice=f"add --through {LAST_OFFLINE}; then: migrate offline-generate --host HOST --input IN --output OUT",
        )
