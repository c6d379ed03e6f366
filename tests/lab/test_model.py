"""What was trained is kept under the content of its training, and says how good it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from migrate import bundled
from migrate.lab import model


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    shutil.copytree(bundled.root() / "lab" / "model", tmp_path / "lab" / "model")
    return tmp_path / "lab"


def test_phis_loss_and_ends_are_reported(tmp_path: Path) -> None:
    found = {"loss": 3.5947, "eos_rate": 0.72, "eos_rate_prompts": 100, "eos_rate_max_tokens": 64, "seed": 7}
    (tmp_path / model.PHI).mkdir(parents=True)
    (tmp_path / model.PHI / "training.json").write_text(json.dumps(found), encoding="utf-8")
    assert model.report(tmp_path) == ("loss 3.59 nats a token, 72% of 100 greedy answers end within 64 tokens, seed 7")


def test_a_model_without_its_report_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        model.report(tmp_path)


def test_a_change_to_the_other_models_does_not_train_phi_again(lab: Path) -> None:
    before = model.key(lab, "image")
    (lab / "model" / "others.py").write_text("changed", encoding="utf-8")
    after = model.key(lab, "image")
    assert before != after
    assert before.partition("-")[0] == after.partition("-")[0]


def test_phi_is_trained_again_for_another_script_or_image(lab: Path) -> None:
    before = model.key(lab, "image").partition("-")[0]
    assert model.key(lab, "another image").partition("-")[0] != before
    (lab / "model" / "train.py").write_text("changed", encoding="utf-8")
    assert model.key(lab, "image").partition("-")[0] != before
