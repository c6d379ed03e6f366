"""The lab's model repository says what Triton, the training and the compose file need of each other."""

from __future__ import annotations

import ast
import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from migrate import bundled
from migrate.lab import names

LAB = bundled.root() / "lab"
REPOSITORY = LAB / "triton"
MODELS = sorted(path.name for path in REPOSITORY.iterdir())


@pytest.fixture(scope="module")
def triton() -> dict[str, Any]:
    compose = yaml.safe_load((LAB / "host" / "opt" / "triton" / "compose.yml").read_text())
    service: dict[str, Any] = compose["services"]["triton"]
    return service


def config_of(name: str) -> Any:
    text = (REPOSITORY / name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_folders_name_and_one_version(name: str) -> None:
    assert config_of(name).name == name
    assert [path.name for path in (REPOSITORY / name).iterdir() if path.is_dir()] == ["1"]
    assert config_of(name).backend == "python"
    assert (REPOSITORY / name / "1" / "model.py").is_file()


def test_the_models_loaded_at_start_are_there_and_the_large_ones_are_not_among_them(triton: dict[str, Any]) -> None:
    words = triton["command"].split()
    loaded = {word.removeprefix("--load-model=") for word in words if word.startswith("--load-model=")}
    assert "--model-control-mode=explicit" in words
    assert loaded == {"phi2", "phi2_stream", "ranker"}
    assert set(MODELS) - loaded == {"llama", "qwen2"}


def test_settings_name_paths_inside_the_container(triton: dict[str, Any]) -> None:
    (mount,) = triton["volumes"]
    assert mount == f"{names.MODELS}:/models:ro"
    engine = json.loads((REPOSITORY / "qwen2" / "1" / "model.json").read_text())
    adapters = json.loads((REPOSITORY / "qwen2" / "1" / "multi_lora.json").read_text())
    llama = config_of("llama").parameters["model_dir"].string_value
    for path in (engine["model"], llama, *adapters.values()):
        assert PurePosixPath(path).is_relative_to("/models")


def test_the_training_writes_what_the_settings_name() -> None:
    tree = ast.parse((LAB / "model" / "others.py").read_text())
    written = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    adapters = json.loads((REPOSITORY / "qwen2" / "1" / "multi_lora.json").read_text())
    for path in adapters.values():
        assert set(PurePosixPath(path).parts[-2:]) <= written
    assert {"qwen2", "llama", "weights"} <= written


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_no_llm_needs_no_torch(name: str) -> None:
    tree = ast.parse(Path(REPOSITORY / name / "1" / "model.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert ("torch" in imported) == (name != "ranker")
