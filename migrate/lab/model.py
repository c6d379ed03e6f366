"""The lab's models: trained once inside the image that serves them, then kept in the cache.

Phi, which the lab migrates, costs minutes and is kept apart from the others, so that a change to those does not train
it again. What is kept in the end lies as in the model repository: `phi2/1/weights`, `qwen2/1/weights` and so on.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import docker

from migrate.lab import cache as keep
from migrate.lab import command, names
from migrate.lab.errors import LabError
from migrate.lab.progress import Say, step

PHI = Path("phi2", "1", "weights")


def key(lab: Path, inference_key: str) -> str:
    """Two content hashes: that of Phi's training and of everything in the image that runs it, and that of all."""
    phi = keep.content_hash(inference_key, lab / "model" / "train.py")
    return f"{phi}-{keep.content_hash(phi, lab / 'model')}"


def place(cache: Path, model_key: str) -> Path:
    """Where the trained models are kept."""
    return cache / "model" / model_key


def train(client: docker.DockerClient, lab: Path, image: str, path: Path, say: Say) -> Path:
    """Train what is not in the cache into `path`, which `place` named; returns `path`."""

    def make_phi(scratch: Path) -> None:
        with step(say, "training the model on Python's standard library"):
            _run(client, lab, image, "train.py", scratch)

    def make(scratch: Path) -> None:
        phi = keep.artifact(path.parent, path.name.partition("-")[0], make_phi)
        with step(say, "training a Qwen2 with a LoRA adapter, and a Llama"):
            _run(client, lab, image, "others.py", scratch)
        shutil.copytree(phi, scratch / PHI, copy_function=os.link)

    return keep.artifact(path.parent, path.name, make)


def report(path: Path) -> str:
    """How good the trained Phi is: its loss in nats a token, and how many of its greedy answers end by themselves."""
    found = json.loads((path / PHI / "training.json").read_text(encoding="utf-8"))
    ended = f"{found['eos_rate']:.0%} of {found['eos_rate_prompts']} greedy answers end within "
    return f"loss {found['loss']:.2f} nats a token, {ended}{found['eos_rate_max_tokens']} tokens, seed {found['seed']}"


def _run(client: docker.DockerClient, lab: Path, image: str, script: str, scratch: Path) -> None:
    scratch.mkdir()
    container = client.containers.run(
        image,
        ["python", f"/lab/model/{script}", "/out"],
        volumes={str(lab): {"bind": "/lab", "mode": "ro"}, str(scratch): {"bind": "/out", "mode": "rw"}},
        labels={names.LABEL: names.LABEL_VALUE},
        network_mode="none",
        detach=True,
    )
    try:
        if container.wait()["StatusCode"]:
            raise LabError(f"{script}: training failed:\n{command.tail(container.logs())}")
    finally:
        container.remove(force=True)
