"""Weights on a hub: what the plan reads of them, and the fetch that goes on where it was cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.playbooks.hub import COMMIT, Faults, serving

TOKEN = "hf_verySecretToken123"


def tensors(count: int, kind: str = "F16") -> bytes:
    """A safetensors file of one tensor of zeros."""
    size = count * {"F16": 2, "F32": 4}[kind]
    header = json.dumps({"w": {"dtype": kind, "shape": [count], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


FILES = {
    "README.md": b"# a model\n",
    "config.json": json.dumps({"architectures": ["PhiForCausalLM"]}).encode(),
    "generation_config.json": b'{"eos_token_id": 1}',
    "tokenizer.json": b"{}",
    "model.safetensors": tensors(300_000),
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"onnx",
    ".gitattributes": b"*.bin filter=lfs\n",
}


@pytest.fixture(scope="module")
def hubs(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_hub")


@pytest.fixture(scope="module")
def weights(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_weights")


@pytest.fixture(scope="module")
def fetching(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_fetch")


@pytest.fixture(scope="module")
def models(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_models")


def params(url: str, **changed: Any) -> dict[str, Any]:
    return {"weights_repository": "acme/model", "weights_endpoint": url, **changed}


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_repository_reads_as_its_folder_would(
    weights: ModuleType, models: ModuleType, tmp_path: Path, kind: str
) -> None:
    with serving(FILES) as hub:
        found = weights.weights(params(hub.url, weights_hub=kind), models.Trees())
    assert (found["exists"], found["commit"], found["format"]) == (True, COMMIT, "safetensors")
    chosen = {"README.md", "config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}
    assert set(found["listing"]) == set(found["hashes"]) == chosen
    for name in chosen:
        (tmp_path / name).write_bytes(FILES[name])
    folder = weights.weights({"vllm_weights_source": str(tmp_path)}, models.Trees())
    for part in ("files", "bytes", "listing", "safetensors", "format"):
        assert found[part] == folder[part]
    assert {name: found["texts"][name] for name in folder["texts"]} == folder["texts"]
    read = sum(len(FILES[name]) for name in chosen if name != "model.safetensors")
    assert hub.ranges("model.safetensors") in (["bytes=0-131071"], [])
    assert read < found["bytes"]


def test_the_commit_stands_for_branch_and_tag_and_one_byte_changes_the_digest(
    weights: ModuleType, models: ModuleType
) -> None:
    with serving(FILES) as hub:
        asked = [params(hub.url, weights_revision=name) for name in ("", "main", "v1", COMMIT)]
        found = [weights.weights(one, models.Trees()) for one in asked]
    assert {one["commit"] for one in found} == {COMMIT}
    assert len({one["digest"] for one in found}) == 1
    with serving(FILES | {"config.json": b"{}"}) as hub:
        assert weights.weights(params(hub.url), models.Trees())["digest"] != found[0]["digest"]


def test_a_long_header_takes_a_second_look(weights: ModuleType, models: ModuleType) -> None:
    offsets = {f"layer.{n}.{'x' * 90}": [4 * n, 4 * n + 4] for n in range(2000)}
    entries = {name: {"dtype": "F32", "shape": [], "data_offsets": place} for name, place in offsets.items()}
    header = json.dumps(entries).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(8000)
    with serving({"config.json": b"{}", "model.safetensors": whole}) as hub:
        found = weights.weights(params(hub.url), models.Trees())
    assert found["safetensors"]["parameters"] == {"F32": 2000}
    assert hub.ranges("model.safetensors") == ["bytes=0-131071", f"bytes=131072-{8 + len(header) - 1}"]


@pytest.mark.parametrize(
    ("changed", "faults", "said"),
    [
        ({"weights_revision": "v9"}, Faults(), "weights_revision: acme/model has no such revision"),
        ({"weights_repository": "acme/none"}, Faults(), "weights_repository: .* has no acme/none"),
        ({"weights_hub": "modelscope", "weights_revision": "v9"}, Faults(), "weights_revision: .*'v9'"),
        ({"weights_hub": "modelscope", "weights_repository": "acme/none"}, Faults(), "weights_repository: .*acme/none"),
        ({}, Faults(token=TOKEN), "says 401 for acme/model: .*put weights_token into the vault"),
        ({"weights_token": "wrong"}, Faults(token=TOKEN), "weights_token has no right"),
        ({"weights_allow": ["*.ckpt"]}, Faults(), "weights_allow: no file"),
    ],
)
def test_what_is_wrong_is_named_by_setting(
    weights: ModuleType, models: ModuleType, changed: dict[str, Any], faults: Faults, said: str
) -> None:
    with serving(FILES, faults) as hub:
        found = weights.weights(params(hub.url, **changed), models.Trees())
    assert (found["exists"], found["silent"]) == (False, False)
    assert re.search(said, found["reason"]), found["reason"]
    assert TOKEN not in json.dumps(found)


def test_a_silent_hub_is_told_apart(weights: ModuleType, models: ModuleType) -> None:
    found = weights.weights(params("http://127.0.0.1:9"), models.Trees())
    assert (found["exists"], found["silent"]) == (False, True)
    assert "weights_endpoint" in found["reason"]


def test_the_token_opens_the_hub_and_is_not_told_to_the_store_behind_it(hubs: ModuleType) -> None:
    with serving(FILES) as store, serving(FILES, Faults(token=TOKEN, store=store.url)) as hub:
        remote = hubs.Hub("huggingface", "acme/model", hub.url, token=TOKEN)
        assert remote.listing("main").commit == COMMIT
        assert remote.read(COMMIT, "model.safetensors", 0, 8) == FILES["model.safetensors"][:8]
        assert all(headers.get("Authorization") for _, headers in hub.requests)
        assert [headers.get("Authorization") for _, headers in store.requests] == [None]
        assert TOKEN not in repr(remote)


def test_a_proxy_is_gone_through(hubs: ModuleType) -> None:
    with serving(FILES) as proxy:
        remote = hubs.Hub("huggingface", "acme/model", "http://hub.invalid", proxy=proxy.url)
        assert remote.listing("main").commit == COMMIT
        assert proxy.requests[0][0].startswith("http://hub.invalid/api/models/acme/model/")


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/../../x.json", "a\nb.json"])
def test_a_name_that_leaves_the_folder_is_refused(hubs: ModuleType, name: str) -> None:
    with serving(FILES | {name: b"x"}) as hub, pytest.raises(hubs.HubError, match="holds a file of the name"):
        hubs.Hub("huggingface", "acme/model", hub.url).listing("main")


def fetched(fetching: ModuleType, hubs: ModuleType, url: str, folder: Path, kind: str = "huggingface") -> list[float]:
    """Fetch everything; the waits between attempts."""
    remote, waits = hubs.Hub(kind, "acme/model", url), []
    listing = remote.listing("")
    folders = fetching.Folders(folder / "whole", folder / "begun")
    fetching.fetch(remote, listing.commit, listing.files, folders, waits.append)
    return waits


def test_a_cut_is_gone_on_with(fetching: ModuleType, hubs: ModuleType, tmp_path: Path) -> None:
    with serving(FILES, Faults(cut_after=100_000, cuts=3)) as hub:
        assert fetched(fetching, hubs, hub.url, tmp_path) == [1.0, 1.0, 1.0]
    assert hub.ranges("model.safetensors") == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]
    for name, content in FILES.items():
        assert (tmp_path / "whole" / name).read_bytes() == content


def test_a_later_run_goes_on_and_fetches_nothing_twice(
    fetching: ModuleType, hubs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    monkeypatch.setattr(fetching, "AT_ONCE", 1)
    with serving(FILES, Faults(cut_after=100_000, cuts=1)) as hub:
        hub.faults.busy = 0
        remote = hubs.Hub("huggingface", "acme/model", hub.url)
        listing = remote.listing("")

        def hang_up(seconds: float) -> None:
            raise KeyboardInterrupt

        folders = fetching.Folders(tmp_path / "whole", tmp_path / "begun")
        with pytest.raises(KeyboardInterrupt):
            fetching.fetch(remote, COMMIT, listing.files, folders, hang_up)
        hub.requests.clear()
        fetching.fetch(remote, COMMIT, listing.files, folders, hang_up)
        assert hub.ranges("model.safetensors") == ["bytes=100000-"]
        hub.requests.clear()
        fetching.fetch(remote, COMMIT, listing.files, folders, hang_up)
        assert hub.requests == []
    told = json.loads((tmp_path / "begun" / "progress.json").read_text())
    assert told["done"] == told["total"] == sum(map(len, FILES.values()))


def test_files_of_one_content_are_each_fetched(fetching: ModuleType, hubs: ModuleType, tmp_path: Path) -> None:
    same = {f"{number}.json": b"{}" for number in range(20)}
    with serving(same) as hub:
        fetched(fetching, hubs, hub.url, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()} == same


def test_a_hub_that_gives_no_parts_begins_anew(fetching: ModuleType, hubs: ModuleType, tmp_path: Path) -> None:
    with serving(FILES, Faults(cut_after=100_000, cuts=1, ignores_range=True)) as hub:
        fetched(fetching, hubs, hub.url, tmp_path)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_content_with_another_hash_is_refused(
    fetching: ModuleType, hubs: ModuleType, tmp_path: Path, kind: str
) -> None:
    faults = Faults(wrong={"model.safetensors"})
    said = r"model\.safetensors .* says sha256:0"
    with serving(FILES, faults) as hub, pytest.raises(fetching.WrongWeights, match=said):
        fetched(fetching, hubs, hub.url, tmp_path, kind)
    assert not (tmp_path / "whole" / "model.safetensors").exists()


def test_a_small_file_is_proved_by_gits_hash(fetching: ModuleType, hubs: ModuleType, tmp_path: Path) -> None:
    with serving(FILES) as hub:
        remote = hubs.Hub("huggingface", "acme/model", hub.url)
        listing = remote.listing("")
        hub.files = FILES | {"config.json": FILES["config.json"].replace(b"Phi", b"Gpt")}
        folders = fetching.Folders(tmp_path / "whole", tmp_path / "begun")
        with pytest.raises(fetching.WrongWeights, match=r"config\.json"):
            fetching.fetch(remote, COMMIT, listing.files, folders, lambda seconds: None)


def test_a_busy_hub_is_asked_again_and_not_for_ever(fetching: ModuleType, hubs: ModuleType, tmp_path: Path) -> None:
    with serving({"config.json": b"{}"}) as hub:
        remote = hubs.Hub("huggingface", "acme/model", hub.url)
        files = remote.listing("").files
        folders = fetching.Folders(tmp_path / "whole", tmp_path / "begun")
        waits: list[float] = []
        hub.faults.busy = 3
        fetching.fetch(remote, COMMIT, files, folders, waits.append)
        assert waits == [2.0, 4.0, 8.0]
        (tmp_path / "whole" / "config.json").unlink()
        hub.faults.busy = 100
        with pytest.raises(hubs.HubError, match="503.*migrate continue"):
            fetching.fetch(remote, COMMIT, files, folders, waits.append)
    assert len(waits) == 3 + fetching.ATTEMPTS - 1


def test_no_room_is_said_before_the_first_byte(
    fetching: ModuleType, hubs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with serving(FILES) as hub:
        with pytest.raises(fetching.WrongWeights, match="1,000 bytes free"):
            fetched(fetching, hubs, hub.url, tmp_path)
        assert hub.ranges("model.safetensors") == []


def test_progress_is_told_with_rate_and_time_left(fetching: ModuleType, tmp_path: Path) -> None:
    now = 0.0
    progress = fetching.Progress(tmp_path / "progress.json", 10_000_000_000, lambda: now)
    progress.add(4_000_000_000, kept=True)
    for second in range(1, 5):
        now = float(second)
        progress.add(100_000_000)
    told = json.loads((tmp_path / "progress.json").read_text())
    assert told == {"done": 4_400_000_000, "total": 10_000_000_000, "rate": 100_000_000, "left_s": 56}
    assert fetching.line(told) == "4.40 of 10.00 GB, 100.0 MB/s, 56 s left"


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["model-00001-of-00002.safetensors", "pytorch_model.bin"], "safetensors"),
        (["pytorch_model-00001-of-00002.bin", "config.json"], "bin"),
        (["phi-2.Q4_K_M.gguf"], "gguf"),
        (["rank0.engine", "config.json"], "engines"),
        (["trt/model.plan"], "engines"),
        (["config.json", "training_args.bin"], "none"),
        (["sub/model.safetensors"], "none"),
    ],
)
def test_the_form_is_seen_by_the_names(weights: ModuleType, names: list[str], kind: str) -> None:
    assert weights.form(names) == kind


def test_one_set_of_weights_is_chosen(weights: ModuleType) -> None:
    both = ["config.json", "model.safetensors", "consolidated.safetensors", "pytorch_model.bin", "tf_model.h5"]
    assert weights.chosen(both, []) == ["config.json", "model.safetensors"]
    old = ["config.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "flax_model.msgpack", "tokenizer.model"]
    assert weights.chosen(old, []) == [name for name in old if not name.startswith("flax")]
    assert weights.chosen(both, ["*.json", "consolidated*"]) == ["config.json", "consolidated.safetensors"]


def test_engines_alone_are_told_with_what_they_were_made_from(weights: ModuleType, models: ModuleType) -> None:
    with serving({"rank0.engine": b"x", "config.json": b"{}"}, card={"base_model": "microsoft/phi-2"}) as hub:
        found = weights.weights(params(hub.url), models.Trees())
    assert (found["format"], found["bases"]) == ("engines", ["microsoft/phi-2"])
