import json
import struct
from pathlib import Path

import pytest

from migrate import fit
from migrate.errors import Refused, UsageError
from migrate.fit import headers

from .cases import SMALL, small_tensors, write_config, write_safetensors


def test_weights_in_shards_are_counted_from_their_headers(tmp_path: Path) -> None:
    write_config(tmp_path, SMALL)
    tensors = small_tensors()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for shard, part in shards.items():
        write_safetensors(tmp_path / shard, {name: tensors[name] for name in part})
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = fit.load(tmp_path)
    assert model.headers is not None and model.headers.files == 2
    assert model.weights.source == "safetensors headers"
    assert model.weights.bytes == fit.weights_bytes(SMALL)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    write_config(tmp_path, SMALL)
    write_safetensors(tmp_path / "model-1.safetensors", small_tensors())
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Refused, match="model-2.safetensors"):
        fit.load(tmp_path)


def test_a_layer_too_few_contradicts_the_configuration(tmp_path: Path) -> None:
    write_config(tmp_path, SMALL)
    write_safetensors(tmp_path / "model.safetensors", small_tensors(layers=1))
    with pytest.raises(Refused, match="config.json contradicts the weights"):
        _ = fit.load(tmp_path).weights


def cut(whole: bytes) -> list[bytes]:
    long = struct.pack("<Q", 1 << 40) + whole[8:]
    return [
        b"",
        whole[:5],
        whole[:20],
        whole[:-1],
        long,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"\xff\xfe{}",
    ]


@pytest.mark.parametrize("which", range(7))
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, which: int) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, small_tensors())
    path.write_bytes(cut(path.read_bytes())[which])
    with pytest.raises(Refused, match="model.safetensors"):
        headers.read(tmp_path)


def test_quantised_headers_count_as_stored(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a": (100,)}, "I32", 4)
    found = headers.read(tmp_path)
    assert found is not None and found.packed and found.bytes == 400


def test_a_hosts_summary_of_the_headers() -> None:
    assert headers.from_facts({"files": 0, "bytes": 0, "parameters": {}, "error": None}) is None
    found = headers.from_facts({"files": 2, "bytes": 20, "parameters": {"BF16": 10}, "error": None})
    assert found == fit.Headers(2, 20, {"BF16": 10})
    with pytest.raises(Refused, match="cut off"):
        headers.from_facts({"files": 1, "bytes": 0, "parameters": {}, "error": "cut off"})


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "[" * 100_000, "{}"])
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Refused):
        fit.load(tmp_path)


def test_a_directory_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    for path, named in ((tmp_path / "nowhere", "no directory"), (tmp_path, "no config.json")):
        with pytest.raises(UsageError, match=named):
            fit.load(path)
