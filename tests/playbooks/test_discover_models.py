"""Model repositories, weights and the secrets in their texts."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

CASES = Path(__file__).parents[1] / "cases" / "discover" / "repository"


@pytest.fixture(scope="module")
def models(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_models")


@pytest.fixture(scope="module")
def texts(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_texts")


def shard(path: Path, tensors: dict[str, tuple[str, list[int], int]], *, cut: int = 0) -> Path:
    """A safetensors file of zeros: name -> (type, shape, bytes)."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(at)
    path.write_bytes(whole[: len(whole) - cut])
    return path


def test_headers_are_summed_over_shards(models: ModuleType, tmp_path: Path) -> None:
    first = shard(tmp_path / "a.safetensors", {"x": ("F16", [4, 8], 64), "scale": ("F32", [], 4)})
    second = shard(tmp_path / "b.safetensors", {"y": ("F16", [16], 32)})
    assert models.safetensors([first, second]) == {
        "files": 2,
        "bytes": 100,
        "parameters": {"F16": 48, "F32": 1},
        "error": None,
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes in a file of 0"),
        (b"\xff" * 8 + b"{}", "in a file of 10"),
        ((9).to_bytes(8, "little") + b'{"a": 1}x', "Extra data"),
        ((2).to_bytes(8, "little") + b"[]", "no attribute"),
        ((8).to_bytes(8, "little") + b'{"a": 1}', "not subscriptable"),
    ],
)
def test_what_is_no_safetensors_file_is_named(models: ModuleType, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "broken.safetensors").write_bytes(content)
    error = models.safetensors([tmp_path / "broken.safetensors"])["error"]
    assert error.startswith("broken.safetensors: ")
    assert said in error


def test_a_file_that_was_cut_off_is_named(models: ModuleType, tmp_path: Path) -> None:
    cut = shard(tmp_path / "a.safetensors", {"x": ("F16", [4, 8], 64)}, cut=10)
    assert "describes a file of" in models.safetensors([cut])["error"]


def test_a_repository_is_read_by_model(models: ModuleType, tmp_path: Path) -> None:
    for name, text in {
        "phi/config.pbtxt": 'name: "phi"',
        "phi/1/model.py": "pass",
        "phi/1/model.json": "{}",
        "phi/1/weights/config.json": "{}",
        "phi/1/weights/tokenizer.json": "{}",
        "phi/1/weights/model.safetensors.index.json": "{}",
        "phi/1/large.json": " " * (models.MAX_TEXT + 1),
        "phi/10/model.py": "pass",
        "phi/2/model.py": "pass",
        "phi/1/__pycache__/x.pyc": "x",
        ".git/config": "x",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()
    found = models.model_repository(tmp_path, models.Trees())
    assert list(found["models"]) == ["empty", "phi"]
    phi = found["models"]["phi"]
    assert phi["versions"] == ["1", "2", "10"]
    assert phi["listing"]["1/model.py"] == 4
    assert "1/__pycache__/x.pyc" not in phi["listing"]
    assert set(phi["texts"]) == {"config.pbtxt", "1/model.json", "1/weights/config.json"}
    assert phi["texts_left_out"] == ["1/large.json"]
    assert found["models"]["empty"]["versions"] == []
    assert json.dumps(found)


def test_a_listing_is_bounded(models: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MAX_FILES", 3)
    (tmp_path / "m").mkdir()
    for number in range(5):
        (tmp_path / "m" / f"{number}").touch()
    found = models.model_repository(tmp_path, models.Trees())["models"]["m"]
    assert (len(found["listing"]), found["listing_left_out"]) == (3, 2)


def test_a_tree_has_the_digest_of_its_manifest(models: ModuleType, module_utils: ModuleType, tmp_path: Path) -> None:
    inner = tmp_path / "model" / "weights"
    inner.mkdir(parents=True)
    for name in ("x", "y", "copy of x"):
        (inner / name).write_text(name[-1])
    (inner / "link").symlink_to(inner / "x")
    (inner / "broken").symlink_to(inner / "none")
    trees = models.Trees()
    for root in (inner, tmp_path):
        found = models.weights(root, trees)
        assert found["digest"] == module_utils.tree_digest(module_utils.manifest(root))
    assert (found["files"], found["bytes"]) == (4, 4)
    (inner / "x").write_text("z")
    assert models.weights(inner, models.Trees())["digest"] != found["digest"]


def test_a_missing_folder_has_a_reason(models: ModuleType) -> None:
    for read in (models.model_repository, models.weights):
        found = read(Path("/none/here"), models.Trees())
        assert (found["exists"], found["digest"], found["files"]) == (False, None, 0)
        assert "/none/here" in found["reason"]


@pytest.mark.parametrize("name", ["config.pbtxt", "model.json"])
def test_secrets_are_hashed_and_the_rest_stays(texts: ModuleType, name: str) -> None:
    written = (CASES / name).read_text()
    shown = texts.without_secrets(name, written, "machine")
    assert "hunter2" not in shown
    assert shown.count("keyed-hash:") == {"config.pbtxt": 5, "model.json": 5}[name]
    assert shown.count("\n") >= written.count("\n")
    for kept in {"config.pbtxt": ["org/model", "</s>", '"64"', '"prompt"', "user:"]}.get(
        name, ["org/model", "org/tokenizer", "<pad>", '"password": ""']
    ):
        assert kept in shown
    if name.endswith(".json"):
        assert json.loads(shown).keys() == json.loads(written).keys()
    assert shown == texts.without_secrets(name, written, "machine") != texts.without_secrets(name, written, "other")


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Paths that cannot be looked at, or are gone; root may look at everything, so that modes do not help."""

    def refuse(name: str, error: type[OSError], number: int) -> None:
        def broken(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, *args: Any, **options: Any) -> Any:
                if str(path).endswith(name):
                    raise error(number, os.strerror(number), str(path))
                return original(path, *args, **options)

            return call

        monkeypatch.setattr(os, "scandir", broken(os.scandir))
        monkeypatch.setattr(Path, "stat", broken(Path.stat))

    return refuse


@pytest.mark.parametrize("name", ["models", "/phi", "/phi/1", "model.py"])
def test_what_cannot_be_looked_at_is_a_reason(
    models: ModuleType, tmp_path: Path, refusing: Callable[..., None], name: str
) -> None:
    root = tmp_path / "models"
    (root / "phi" / "1").mkdir(parents=True)
    (root / "phi" / "1" / "model.py").write_text("pass")
    (root / "other").mkdir()
    refusing(name, PermissionError, errno.EACCES)
    found = models.model_repository(root, models.Trees())
    assert found["digest"] is None
    assert "Permission denied" in found["reason"]
    if name != "models":
        assert list(found["models"]) == ["other", "phi"]
    assert "Permission denied" in (models.weights(root, models.Trees())["reason"] or "")


def test_a_file_that_goes_meanwhile_was_never_there(
    models: ModuleType, tmp_path: Path, refusing: Callable[..., None]
) -> None:
    for name in ("here", "gone"):
        (tmp_path / name).write_text(name)
    refusing("gone", FileNotFoundError, errno.ENOENT)
    found = models.weights(tmp_path, models.Trees())
    assert (found["files"], found["reason"]) == (1, None)
    assert found["digest"]


@given(st.text(), st.sampled_from(["config.pbtxt", "model.json"]))
def test_any_text_can_be_shown(texts: ModuleType, text: str, name: str) -> None:
    assert isinstance(texts.without_secrets(name, text, "machine"), str)
