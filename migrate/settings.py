"""The settings of one host: role-prefixed variables of the operator's Ansible inventory, checked and completed.

`inventory/example` documents every one of them. The same flat names reach the playbooks as extra-vars.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from migrate.errors import SettingsError
from migrate.secrecy import is_secret

Port = Annotated[int, Field(ge=1, le=65535)]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@-]*$")]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
Scalar = Text | int | float | bool
FlagName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Rate = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServedModel(_Section):
    """A model that moves: its name in Triton is the key; `style` is the request shape the gateway maps."""

    style: Literal["python", "vllm"]


class Triton(_Section):
    """Where the stack that serves today is, and what it serves."""

    container: Name = "triton"
    compose_file: AbsolutePath = "/opt/triton/compose.yml"
    compose_project: Name = "triton"
    compose_service: Name = "triton"
    http_port: Port = 8000
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    model_repository: AbsolutePath
    models: dict[str, ServedModel] = Field(min_length=1)
    probe_model: Name


class Vllm(_Section):
    """The engine that takes over. Ports are on the host's loopback."""

    image: str = "vllm/vllm-openai:v0.26.0"
    weights_source: AbsolutePath
    weights_path: AbsolutePath = "/var/lib/migrate/weights/model"
    served_model_name: Name
    port: Port = 18000
    args: dict[FlagName, Scalar | list[Scalar]] = {}
    environment: dict[VariableName, str] = {}
    memory_limit: str = Field("64g", pattern=r"^[1-9][0-9]*[kmg]$")
    cpu_limit: float = Field(8.0, gt=0)
    gpus: Literal["all", "none"] = "all"
    start_timeout_s: int = Field(1200, ge=10)
    project_dir: AbsolutePath = "/opt/migrate/vllm"

    @field_validator("args")
    @classmethod
    def _one_spelling(cls, args: dict[str, Any]) -> dict[str, Any]:
        """Options with dashes, as `vllm serve` shows them; keys inside a JSON value (after a dot) stay as they are."""
        named: dict[str, Any] = {}
        for name, value in args.items():
            head, dot, path = name.partition(".")
            key = head.replace("_", "-") + dot + path
            if key in named:
                raise ValueError(f"{name} and {key} are the same option")
            named[key] = value
        return named


class Gateway(_Section):
    """The server that speaks Triton's protocol in front of vLLM, on the host's loopback."""

    port: Port = 18100
    default_max_tokens: int = Field(16, ge=1)


class Nginx(_Section):
    """The operator's nginx: read and copied, never edited."""

    config_file: AbsolutePath = "/etc/nginx/nginx.conf"
    service: Name = "nginx"
    access_logs: list[AbsolutePath] = ["/var/log/nginx/access.log"]


class Switch(_Section):
    """The nginx of our own that takes over the public ports, and the steps in which traffic moves."""

    ports: dict[Port, Port] = {80: 18080}
    rehearsal_port: Port = 18090
    steps: list[Literal[5, 25, 50, 100]] = [5, 25, 50, 100]
    step_s: int = Field(60, ge=1)
    min_requests: int = Field(100, ge=1)
    max_error_rate: Rate = 0.01
    max_p95_ratio: float = Field(3.0, gt=0)
    access_log: AbsolutePath = "/var/log/migrate/switch.access.log"


class Deadman(_Section):
    """The timer on the host that takes traffic back unless the controller confirms in time."""

    timeout_s: int = Field(180, ge=10)


class Parity(_Section):
    """How vLLM's answers are compared with Triton's."""

    prompts: int = Field(60, ge=50)
    max_tokens: int = Field(64, ge=1)
    max_mismatch_rate: Rate = 0.02
    seed: int = 1


class Performance(_Section):
    """The short side-by-side measurement."""

    duration_s: int = Field(20, ge=2)
    concurrency: list[Annotated[int, Field(ge=1)]] = [1, 8]
    max_tokens: int = Field(32, ge=1)
    rounds: int = Field(3, ge=2)
    max_latency_ratio: float = Field(1.2, gt=0)


class Soak(_Section):
    """What the watcher on the host looks at after all traffic has moved."""

    duration_s: int = Field(1800, ge=5)
    min_requests: int = Field(500, ge=1)
    max_error_rate: Rate = 0.01
    max_p95_ratio: float = Field(3.0, gt=0)


class Accepted(_Section):
    """A difference that the operator accepts: shown in plan and report."""

    reason: str = Field(min_length=3)
    owner: str = Field(min_length=1)
    expires: date


class Expectation(_Section):
    """What somebody promised of vLLM on this host. `context` tokens are cached already, `prompt` tokens are to come,
    `streams` requests run at once; `tokens_per_s` counts all of them."""

    by: str = Field(min_length=1)
    tokens_per_s: float | None = Field(None, gt=0)
    ttft_s: float | None = Field(None, gt=0)
    joules_per_token: float | None = Field(None, gt=0)
    context: int = Field(0, ge=0)
    prompt: int = Field(1, ge=1)
    streams: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _promises_something(self) -> Self:
        if self.tokens_per_s is None and self.ttft_s is None and self.joules_per_token is None:
            raise ValueError("tokens_per_s, ttft_s or joules_per_token must be there")
        return self


class Migrate(_Section):
    """How this host is reached by its clients, what was promised, and what the operator accepts."""

    public_http_url: str = Field(pattern=r"^https?://[^/\s]+$")
    accept_inconclusive: dict[str, str] = {}
    plan_expiry_h: int = Field(72, ge=1)
    expectations: list[Expectation] = []
    metrics_used: list[str] = []


class Census(_Section):
    """How long the plan looks for clients: back in the access logs, and at open connections (0: one look)."""

    window_s: int = Field(86400, ge=60)
    watch_s: int = Field(0, ge=0, le=600)


class Retire(_Section):
    """What may be lost when Triton is torn down: public route -> who accepted it, why, until when."""

    lost_routes: dict[str, Accepted] = {}


class Settings(_Section):
    """Every setting of one host, one section for each role prefix."""

    migrate: Migrate
    triton: Triton
    vllm: Vllm
    gateway: Gateway
    nginx: Nginx
    switch: Switch
    deadman: Deadman
    parity: Parity
    performance: Performance
    soak: Soak
    census: Census
    retire: Retire

    def flat(self) -> dict[str, Any]:
        """All settings under their inventory names, defaults filled in; JSON types only."""
        dumped = self.model_dump(mode="json")
        return {f"{section}_{name}": value for section, values in dumped.items() for name, value in values.items()}


# Other roles that an operator may use claim `nginx_` too: only a near miss is taken for ours there.
_SHARED_SECTIONS = {"nginx"}
_NEAR = 0.82


def known_settings() -> dict[str, tuple[str, str]]:
    """Inventory name -> (section, field) of every setting."""
    return {
        f"{section}_{name}": (section, name)
        for section, info in Settings.model_fields.items()
        for name in _fields(info.annotation)
    }


def load(variables: Mapping[str, Any]) -> Settings:
    """Read the settings out of a host's inventory variables.

    Raises SettingsError that names the variable, the nearest known one, and what was expected.
    """
    known = known_settings()
    sections: dict[str, dict[str, Any]] = {section: {} for section in Settings.model_fields}
    for variable, value in variables.items():
        if variable in known:
            section, name = known[variable]
            sections[section][name] = value
        elif _is_ours(variable, known):
            raise SettingsError(f"{variable}: unknown setting{_nearest(variable, known)}", advice="")
    try:
        settings = Settings.model_validate(sections)
    except ValidationError as error:
        raise SettingsError(_first_problem(error)) from None
    _check_together(settings)
    return settings


def _fields(section: Any) -> list[str]:
    return list(section.model_fields)


def _is_ours(variable: str, known: Mapping[str, tuple[str, str]]) -> bool:
    section = variable.split("_", 1)[0]
    if section in _SHARED_SECTIONS:
        return bool(difflib.get_close_matches(variable, known, n=1, cutoff=_NEAR))
    return "_" in variable and section in Settings.model_fields


def _nearest(variable: str, known: Mapping[str, tuple[str, str]]) -> str:
    matches = difflib.get_close_matches(variable, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    variable = "_".join(path[:2]) + "".join(f".{part}" for part in path[2:])
    got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
    return f"{variable}: {problem['msg'][0].lower()}{problem['msg'][1:]}{got}"


def _check_together(settings: Settings) -> None:
    if settings.triton.probe_model not in settings.triton.models:
        raise SettingsError(f"triton_probe_model: {settings.triton.probe_model!r} is not one of triton_models")
    ports = [settings.triton.http_port, settings.triton.grpc_port, settings.triton.metrics_port]
    ports += [settings.vllm.port, settings.gateway.port]
    ports += [settings.switch.rehearsal_port, *settings.switch.ports.values()]
    twice = {port for port in ports if ports.count(port) > 1}
    if twice:
        names = sorted(name for name, value in settings.flat().items() if _holds_port(value, min(twice)))
        raise SettingsError(f"{' and '.join(names)}: both use port {min(twice)}")
    if list(settings.switch.steps) != sorted(set(settings.switch.steps)) or settings.switch.steps[-1:] != [100]:
        raise SettingsError(f"switch_steps: must rise and end at 100 (got {settings.switch.steps})")
    longest = 2 * settings.switch.step_s + 60
    if settings.deadman.timeout_s < longest:
        raise SettingsError(
            f"deadman_timeout_s: {settings.deadman.timeout_s} is less than a step may last; with switch_step_s "
            f"{settings.switch.step_s} it must be at least {longest}"
        )
    for name in (*settings.vllm.environment, *settings.vllm.args):
        if is_secret(name) and (settings.vllm.environment | settings.vllm.args).get(name):
            raise SettingsError(
                f"vllm_environment and vllm_args: {name} looks like a secret, and plans are not secret",
                advice="keep it out of the inventory: 0600 files on the host",
            )
    image = settings.vllm.image
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", image):
        raise SettingsError(f"vllm_image: not an image reference (got {image!r})")


def _holds_port(value: Any, port: int) -> bool:
    return value == port or (isinstance(value, dict) and port in value.values())
