"""Stand-ins for the two seams of the core: a host that is a dictionary, and playbooks that do nothing."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from migrate import planner
from migrate import settings as settings_module
from migrate.context import Run
from migrate.gate import Outcome, Verdict
from migrate.journal import Journal
from migrate.lock import Lease
from migrate.plan import Plan
from migrate.playbook import PlaybookResult
from migrate.settings import Settings

VARIABLES: dict[str, Any] = {
    "migrate_public_http_url": "http://127.0.0.1:8180",
    "triton_container": "triton-triton-1",
    "triton_model_repository": "/srv/triton/models",
    "triton_models": {"phi2": {"style": "python"}},
    "triton_probe_model": "phi2",
    "vllm_image": "registry.lab:5000/vllm-openai:v0.31.0",
    "vllm_weights_source": "/srv/triton/models/phi2/1/weights",
    "vllm_served_model_name": "phi2",
    "vllm_gpus": "none",
    "switch_step_s": 1,
    "switch_min_requests": 1,
    "soak_duration_s": 5,
}

NGINX = """
events {}
http {
    server {
        listen 80;
        location /v2/ { proxy_pass http://127.0.0.1:8000; }
    }
}
"""


# Phi-2's config.json, as microsoft/phi-2 publishes it.
PHI_2: dict[str, Any] = {
    "architectures": ["PhiForCausalLM"],
    "model_type": "phi",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "max_position_embeddings": 2048,
    "vocab_size": 51200,
    "torch_dtype": "float16",
}

# Of the form that Triton answers under /v2/models/MODEL/config.
TRITON_CONFIG: dict[str, Any] = {
    "name": "phi2",
    "backend": "python",
    "max_batch_size": 8,
    "input": [{"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]}],
    "output": [{"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]}],
    "instance_group": [{"count": 1, "kind": "KIND_GPU", "gpus": [0]}],
}
RANKER_CONFIG: dict[str, Any] = {
    "name": "ranker",
    "backend": "onnxruntime",
    "input": [{"name": "ids", "data_type": "TYPE_INT64", "dims": [-1]}],
    "output": [{"name": "score", "data_type": "TYPE_FP32", "dims": [1]}],
}


def settings(**changed: Any) -> Settings:
    """Valid settings, with some variables changed."""
    return settings_module.load(VARIABLES | changed)


def facts() -> dict[str, Any]:
    """What discover reads from a host that can be migrated."""
    return {
        "os": {"id": "ubuntu", "version_id": "24.04"},
        "disks": {"/": {"total": 100 << 30, "free": 50 << 30}},
        "gpus": [],
        "docker": {"version": "26.1.5"},
        "triton": {
            "live": True,
            "container": {"name": "triton-triton-1", "image_id": "sha256:1", "restart_policy": "unless-stopped"},
            "models": [{"name": "phi2", "version": "1", "state": "READY"}],
            "configs": copy.deepcopy({"phi2": TRITON_CONFIG, "ranker": RANKER_CONFIG}),
        },
        "model_repository": {"exists": True, "bytes": 1 << 20, "digest": "a" * 64},
        "weights": {
            "path": "/srv/triton/models/phi2/1/weights",
            "exists": True,
            "bytes": 1 << 20,
            "digest": "b" * 64,
            "texts": {"config.json": json.dumps(PHI_2)},
        },
        "vllm_image": {"digest": "sha256:" + "c" * 64},
        "listening": [],
        "nginx": {"main": "/etc/nginx/nginx.conf", "files": {"/etc/nginx/nginx.conf": NGINX}},
    }


def gpu_facts(name: str = "NVIDIA H200", total_mib: int = 143771, triton_mib: int = 10240) -> dict[str, Any]:
    """The same host with one card, of which Triton's container holds a part."""
    held = {"pid": 7, "name": "tritonserver", "memory": triton_mib << 20, "container": "triton-triton-1"}
    card = {
        "index": 0,
        "uuid": "GPU-0",
        "name": name,
        "compute_capability": "9.0",
        "memory_total": total_mib << 20,
        "memory_free": (total_mib - triton_mib - 500) << 20,
        "processes": [held],
    }
    return facts() | {"gpus": [card], "driver": {"version": "580.95.05"}}


class FakeHost:
    """A stand-in for hostctl: answers from a table, remembers what was asked, keeps the journal's lines."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, ...]] = []
        self.lines: list[str] = []
        self.percent = 0

    def call(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> dict[str, Any]:
        self.calls.append(arguments)
        name = "_".join(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
        if name == "switch_step":
            self.percent = int(arguments[arguments.index("--percent") + 1])
        if name == "back":
            self.percent = 0
        answer = self.answers.get(name, DEFAULTS.get(name, {}))
        if isinstance(answer, Exception):
            raise answer
        return dict(answer(self) if callable(answer) else answer)

    def read(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def append(self, run: str, line: str, token: int) -> None:
        prev = hashlib.sha256(self.lines[-1].encode()).hexdigest() if self.lines else "0" * 64
        assert json.loads(line)["prev"] == prev
        self.lines.append(line)

    def asked(self, *words: str) -> bool:
        """Whether a command that begins with these words was called."""
        return any(call[: len(words)] == words for call in self.calls)


def window(host: FakeHost) -> dict[str, Any]:
    """Healthy traffic in the shares of the step that the host is at."""
    ours, theirs = host.percent, 100 - host.percent
    side = {"errors": 0, "refused": 0, "p50_s": 0.1, "p95_s": 0.2, "p99_s": 0.3}
    return {"total": 100, "by_upstream": {"gateway": side | {"requests": ours}, "triton": side | {"requests": theirs}}}


def switch_status(host: FakeHost) -> dict[str, Any]:
    """Redirected as soon as a share has moved."""
    return {"redirect": host.percent > 0, "percent": host.percent}


DEFAULTS: dict[str, Any] = {
    "probe": {"ok": True, "error": None},
    "switch_status": switch_status,
    "rehearse": {"passed": True, "there_s": 0.5, "back_s": 0.4, "proof": [{"percent": 5, "triton": 95, "gateway": 5}]},
    "window": window,
    "soak_status": {"state": "passed", "requests": 60, "error_rate": 0.0, "p95_s": 0.2},
    "back": {"took_s": 0.4},
}


class FakePlaybooks:
    """Playbooks that pass every check that they are asked for, but for those in `verdicts` and `failures`."""

    def __init__(
        self, *, verdicts: Mapping[str, Outcome] | None = None, failures: Mapping[str, str] | None = None
    ) -> None:
        self.verdicts = dict(verdicts or {})
        self.failures = dict(failures or {})
        self.ran: list[str] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.facts = facts()

    def run(self, name: str, variables: Mapping[str, Any], say: Callable[[str], None]) -> PlaybookResult:
        self.ran.append(name)
        if name == "discover":
            return PlaybookResult("successful", facts=self.facts)
        if name in self.failures:
            return PlaybookResult("failed", failures=[self.failures[name]])
        wanted = variables["check_names"]
        verdicts = [Verdict(c, self.verdicts.get(c, Outcome.PASS)) for c in wanted]
        return PlaybookResult("successful", verdicts=verdicts, results=dict(self.results.get(name, {})))


def plan(**changed: Any) -> Plan:
    """A plan made from the facts above."""
    from datetime import UTC, datetime

    return planner.make("gpu01", settings(**changed), facts(), "t" * 64, datetime(2026, 1, 1, tzinfo=UTC))


def run(directory: Path, host: FakeHost, playbooks: FakePlaybooks, **changed: Any) -> Run:
    """A run over the fakes."""
    made = plan(**changed)
    ticks = itertools.count()

    def clock() -> str:
        return f"2026-01-01T00:00:{next(ticks) % 60:02d}.000Z"

    journal = Journal("r1", host, directory / "journal.jsonl", 7, clock)
    (directory / "raw").mkdir(exist_ok=True)
    lease = Lease("lock1", 7)
    return Run(
        "r1", made, settings(**changed), host, playbooks, journal, lease, directory, {}, lambda text: None, clock
    )
