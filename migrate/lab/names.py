"""Every name, port and address of the lab, once."""

from __future__ import annotations

from dataclasses import dataclass

LABEL = "migrate.lab"
LABEL_VALUE = "1"
LABEL_CONTENT = "migrate.lab.content"
NETWORK = "migrate-lab"

REGISTRY = "migrate-lab-registry"
REGISTRY_ALIAS = "registry.lab"
REGISTRY_PORT = 5000
PUSH_ADDRESS = f"127.0.0.1:{REGISTRY_PORT}"

APT = "migrate-lab-apt"
APT_ALIAS = "apt.lab"
APT_PORT = 5080

HOST = "gpu01"
HOST_CONTAINER = "migrate-lab-gpu01"
HOST_VOLUME = "migrate-lab-gpu01-docker"
OPERATOR = "ops"
COMPOSE_FILE = "/opt/triton/compose.yml"
MODELS = "/srv/triton/models"

IMAGE_PREFIX = "migrate-lab/"

ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Published:
    """A port of gpu01 and where it is reached on this machine's loopback."""

    name: str
    inside: int
    outside: int


SSH = Published("ssh", 22, 2201)
HTTP = Published("http", 80, 8180)
HTTPS = Published("https", 443, 8443)
GRPC = Published("grpc", 8081, 8281)
PUBLISHED = (SSH, HTTP, HTTPS, GRPC)


@dataclass(frozen=True, slots=True)
class ServerImage:
    """An image of the lab's registry: `recipe` is its script in lab/images, `changes` its Dockerfile instructions."""

    recipe: str
    repository: str
    tag: str
    changes: tuple[str, ...]


PATH = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

TRITON = ServerImage(
    "tritonserver",
    "tritonserver",
    "24.10-lab",
    (
        f"ENV PATH=/opt/tritonserver/bin:{PATH}",
        "ENV LD_LIBRARY_PATH=/opt/tritonserver/lib",
        "ENV TRITON_SERVER_VERSION=2.51.0",
        "WORKDIR /opt/tritonserver",
        'ENTRYPOINT ["/opt/tritonserver/entrypoint"]',
        "CMD []",
        "EXPOSE 8000 8001 8002",
    ),
)
VLLM = ServerImage(
    "vllm-openai",
    "vllm-openai",
    "v0.31.0",
    (
        f"ENV PATH={PATH}",
        "ENV VLLM_NO_USAGE_STATS=1",
        "WORKDIR /vllm-workspace",
        'ENTRYPOINT ["vllm","serve"]',
        "CMD []",
        "EXPOSE 8000",
    ),
)
SERVER_IMAGES = (TRITON, VLLM)
