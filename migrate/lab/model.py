"""The lab's model: trained once inside the image that serves it, then kept in the cache."""

from __future__ import annotations

import json
from pathlib import Path

import docker

from migrate.lab import cache as keep
from migrate.lab import command, names
from migrate.lab.errors import LabError
from migrate.lab.progress import Say, step


def key(lab: Path, inference_key: str) -> str:
    """The content hash of the weights: the training script and everything in the image that runs it."""
    return keep.content_hash(inference_key, lab / "model" / "train.py")


def place(cache: Path, model_key: str) -> Path:
    """Where the trained model is kept."""
    return cache / "model" / model_key


def train(client: docker.DockerClient, lab: Path, image: str, path: Path, say: Say) -> Path:
    """Train into `path` unless it is there; returns `path`."""

    def make(scratch: Path) -> None:
        with step(say, "training the model on Python's standard library"):
            _train(client, lab, image, scratch)

    return keep.artifact(path.parent, path.name, make)


def report(path: Path) -> str:
    """How good the trained model is: its loss in nats a token, and how many of its greedy answers end by themselves."""
    found = json.loads((path / "training.json").read_text(encoding="utf-8"))
    ended = f"{found['eos_rate']:.0%} of {found['eos_rate_prompts']} greedy answers end within "
    return f"loss {found['loss']:.2f} nats a token, {ended}{found['eos_rate_max_tokens']} tokens, seed {found['seed']}"


def _train(client: docker.DockerClient, lab: Path, image: str, scratch: Path) -> None:
    scratch.mkdir()
    container = client.containers.run(
        image,
        ["python", "/lab/model/train.py", "/out"],
        volumes={str(lab): {"bind": "/lab", "mode": "ro"}, str(scratch): {"bind": "/out", "mode": "rw"}},
        labels={names.LABEL: names.LABEL_VALUE},
        network_mode="none",
        detach=True,
    )
    try:
        if container.wait()["StatusCode"]:
            raise LabError(f"training failed:\n{command.tail(container.logs())}")
    finally:
        container.remove(force=True)
