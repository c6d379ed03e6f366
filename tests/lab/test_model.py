import json
from pathlib import Path

import pytest

from migrate.lab import model


def test_the_models_loss_and_ends_are_reported(tmp_path: Path) -> None:
    found = {"loss": 3.5947, "eos_rate": 0.72, "eos_rate_prompts": 100, "eos_rate_max_tokens": 64, "seed": 7}
    (tmp_path / "training.json").write_text(json.dumps(found), encoding="utf-8")
    assert model.report(tmp_path) == ("loss 3.59 nats a token, 72% of 100 greedy answers end within 64 tokens, seed 7")


def test_a_model_without_its_report_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        model.report(tmp_path)
