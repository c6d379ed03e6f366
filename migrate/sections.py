"""The sections of the settings: each field with its type, its limits and its default."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Port = Annotated[int, Field(ge=1, le=65535)]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@-]*$")]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
Scalar = Text | int | float | bool
FlagName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Rate = Annotated[float, Field(ge=0, le=1)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s'\"@]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


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
    weights_source: AbsolutePath | Literal[""]
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
    runtime: Literal["docker", "podman", "process"] = "docker"
    mode: Literal["server", "offline"] = "server"
    profile: Literal["auto", "small", "medium", "large", "none"] = "auto"
    restart: Literal["unless-stopped", "on-failure", "no"] = "unless-stopped"
    ipc: Literal["private", "host"] = "private"
    shm_size: str = Field("1g", pattern=r"^[1-9][0-9]*[kmg]$")
    ulimits: dict[Literal["memlock", "stack", "nofile"], Annotated[int, Field(ge=-1)]] = {
        "memlock": -1,
        "stack": 67108864,
    }
    cache_dir: AbsolutePath | Literal[""] = ""
    torch_backend: str = Field("auto", pattern=r"^(auto|cpu|cu[0-9]{3}|rocm[0-9.]+|xpu|index)$")
    index_url: str = Field("", pattern=r"^(https?://[^\s@'\"]+)?$")
    extra_index_urls: list[Url] = []

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


class Image(_Section):
    """Where vLLM's image comes from: pulled as it is, a nightly of which a copy is kept, or built on the host."""

    strategy: Literal["official", "nightly", "source"] = "official"
    keep_registry: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._/-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._/-]*)?)?$")
    base: str = Field("nvidia/cuda:12.9.1-devel-ubuntu24.04", pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")
    vllm_version: str = Field("0.26.0", pattern=r"^[0-9]+(\.[0-9]+){2,3}((rc|\.post)[0-9]+)?$")
    vllm_sha256: Sha256 = "23e9fa19d7e20ce7dcc1c074d41503e2116d23f19e688f5d5ea91b741f958502"
    target_device: Literal["cuda", "cpu", "empty"] = "cuda"
    torch: Literal["stable", "nightly", "base"] = "stable"
    torch_index: Url = "https://download.pytorch.org/whl"
    arch_list: str = Field("", pattern=r"^([0-9]+\.[0-9]a?([; ][0-9]+\.[0-9]a?)*)?$")
    max_jobs: int = Field(0, ge=0)
    patches_dir: AbsolutePath | Literal[""] = ""
    pip_config: AbsolutePath | Literal[""] = ""
    ca_file: AbsolutePath | Literal[""] = ""
    network: Literal["default", "host"] = "default"
    build_timeout_s: int = Field(21600, ge=60)


class Weights(_Section):
    """Where the weights come from, where that is not the directory `vllm_weights_source`."""

    repository: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?)?$")
    revision: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9_./-]*)?$")
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    endpoint: str = Field("", pattern=r"^(https?://[^\s@?#'\"]+)?$")
    proxy: str = Field("", pattern=r"^(https?://[^\s@?#'\"]+)?$")
    allow: list[Text] = []
    offline_copy: AbsolutePath | Literal[""] = ""
    timeout_s: int = Field(86400, ge=60)


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


Part = Literal["driver", "cuda_toolkit", "nccl", "docker_engine", "container_toolkit", "package_hold"]
# Debian policy 5.6.12: what a version may be made of.
Version = Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.+:~-]*$")]


class Provision(_Section):
    """The parts of the host that are brought to a version; without `manage` it is only looked at."""

    manage: list[Part] = []
    driver_branch: str = Field("580", pattern=r"^[0-9]{3}$")
    driver_version: Version | Literal[""] = ""
    driver_source: Literal["auto", "cuda_repo", "ubuntu"] = "auto"
    driver_flavour: Literal["open"] = "open"
    kernel_headers: bool = True
    allow_reboot: bool = False
    gap_s: int = Field(300, ge=1)
    reboot_timeout_s: int = Field(900, ge=30, le=7200)
    gpu_users_accepted: list[Text] = []
    gpu_root: AbsolutePath = "/"
    gpu_tools: AbsolutePath = "/usr/sbin"
    cuda_repository_url: Url = "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/x86_64"
    cuda_keyring_url: Url | Literal[""] = ""
    cuda_keyring_sha256: Sha256 | Literal[""] = "d2a6b11c096396d868758b86dab1823b25e14d70333f1dfa74da5ddaf6a06dba"
    cuda_toolkit: str = Field("12-8", pattern=r"^[0-9]{1,2}-[0-9]{1,2}$")
    nccl_version: Version = "2.26.5-1+cuda12.9"
    container_toolkit_version: Version = "1.20.0-1"
    container_toolkit_repository_url: Url = "https://nvidia.github.io/libnvidia-container/stable/deb/amd64"
    container_toolkit_key_url: Url = "https://nvidia.github.io/libnvidia-container/gpgkey"
    container_toolkit_key_sha256: Sha256 | Literal[""] = ""
    container_toolkit_cdi: bool = True
    hold_method: Literal["blacklist", "hold"] = "blacklist"
    lock_timeout_s: int = Field(300, ge=0)
    record_dir: AbsolutePath = "/var/lib/migrate/provision"

    @model_validator(mode="after")
    def _version_is_of_the_branch(self) -> Self:
        if self.driver_version and not self.driver_version.startswith(f"{self.driver_branch}."):
            raise ValueError(f"driver_version {self.driver_version} is not of driver_branch {self.driver_branch}")
        return self


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
    image: Image
    weights: Weights
    gateway: Gateway
    nginx: Nginx
    switch: Switch
    deadman: Deadman
    parity: Parity
    performance: Performance
    soak: Soak
    census: Census
    provision: Provision
    retire: Retire

    def flat(self) -> dict[str, Any]:
        """All settings under their inventory names, defaults filled in; JSON types only."""
        dumped = self.model_dump(mode="json")
        return {f"{section}_{name}": value for section, values in dumped.items() for name, value in values.items()}
