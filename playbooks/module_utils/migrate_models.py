"""A model repository and a folder of weights as the plan reads them: digests, listings, small texts, tensor headers."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any

from ansible.module_utils.migrate_host import BYTECODE, read_machine_id, tree_digest
from ansible.module_utils.migrate_texts import without_secrets

MAX_FILES = 2_000
MAX_TEXT = 256 << 10
MAX_TEXTS = 2 << 20
_BLOCK = 1 << 20
# The format's own limit for its header: huggingface/safetensors, `MAX_HEADER_SIZE` in safetensors/src/tensor.rs.
MAX_HEADER = 100_000_000
_CONFIG = "config.pbtxt"
_BULKY = ("tokenizer.json", "vocab.json", "added_tokens.json")
OF_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "adapter_config.json",
)

# A link to nothing, one in a circle, and a file that went meanwhile.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

Files = dict[str, os.stat_result]


class Trees:
    """Hashes files with one thread a processor, and a file that is in two trees once."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or min(8, os.cpu_count() or 1)
        self._known: dict[tuple[int, int], str] = {}

    def digest(self, root: Path, files: Files) -> str:
        """The digest of a tree, equal to that of its manifest (`migrate_host.manifest`)."""
        return tree_digest(self.hashes(root, files))

    def hashes(self, root: Path, files: Files) -> dict[str, str]:
        """Path -> sha256 of every file of a tree."""
        wanted = {(s.st_dev, s.st_ino): root / name for name, s in files.items()}
        sizes = {(s.st_dev, s.st_ino): s.st_size for s in files.values()}
        missing = [(key, path) for key, path in wanted.items() if key not in self._known]
        # The largest first, so that no thread is left with it at the end.
        missing.sort(key=lambda item: -sizes[item[0]])
        with ThreadPoolExecutor(self._workers) as pool:
            self._known.update(
                zip((key for key, _ in missing), pool.map(_sha256, (p for _, p in missing)), strict=True)
            )
        return {name: self._known[s.st_dev, s.st_ino] for name, s in files.items()}


def model_repository(root: Path, trees: Trees) -> dict[str, Any]:
    """Number, size and digest of the files, and every model's versions, listing and texts."""
    found = _tree(root, trees)
    files: Files = found.pop("entries", {})
    names, reason = _folders(root) if found["exists"] else ([], None)
    models = {name: _model(root, name, files) for name in names if not name.startswith(".")}
    return found | {"models": models, "reason": found["reason"] or reason}


def weights(root: Path, trees: Trees) -> dict[str, Any]:
    """Number, size and digest of the files, the model's own settings, and what the tensors' headers say."""
    found = _tree(root, trees)
    files = found.pop("entries", {})
    listing = {name: status.st_size for name, status in files.items()}
    texts, left_out = _texts(root, [name for name in OF_WEIGHTS if name in files])
    shards = [root / name for name in sorted(files) if name.endswith(".safetensors") and "/" not in name]
    return found | {
        "listing": dict(list(listing.items())[:MAX_FILES]),
        "texts": texts,
        "texts_left_out": left_out,
        "safetensors": safetensors(shards),
    }


def safetensors(shards: Iterable[Path]) -> dict[str, Any]:
    """What `summed` says of the files at these paths."""
    return summed((path.name, partial(_header, path)) for path in shards)


def summed(shards: Iterable[tuple[str, Callable[[], list[dict[str, Any]]]]]) -> dict[str, Any]:
    """Files, bytes of their tensors, and the number of parameters by type (`F16`, `BF16`, `I32` …), of headers alone.

    Every shard is its name and what reads the entries of its header.
    """
    found: dict[str, Any] = {"files": 0, "bytes": 0, "parameters": {}, "error": None}
    for name, read in shards:
        try:
            for tensor in read():
                count = found["parameters"].get(tensor["dtype"], 0)
                found["parameters"][tensor["dtype"]] = count + prod(tensor["shape"])
                found["bytes"] += tensor["data_offsets"][1] - tensor["data_offsets"][0]
            found["files"] += 1
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            return found | {"error": f"{name}: {error}"}
    return found


def _header(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return header(file, path.stat().st_size)


def header(file: IO[bytes], size: int) -> list[dict[str, Any]]:
    """The entries of the header of a file of `size` bytes. Raises ValueError for what is none, or one cut off.

    Form of a file: 8 bytes little-endian length, that much JSON, then the tensors (huggingface/safetensors, README).
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER, max(size - 8, 0)):
        raise ValueError(f"its header would have {length} bytes in a file of {size}")
    entries = json.loads(file.read(length))
    tensors = [entry for name, entry in entries.items() if name != "__metadata__"]
    end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
    if end != size:
        raise ValueError(f"its header describes a file of {end} bytes, it has {size}")
    return tensors


def _tree(root: Path, trees: Trees) -> dict[str, Any]:
    """What both folders have in common; `entries` holds the files.

    What cannot be read, or goes meanwhile, is the reason; there is no digest of a part.
    """
    found: dict[str, Any] = {"path": str(root), "exists": False, "files": 0, "bytes": 0, "digest": None}
    try:
        found["exists"] = root.is_dir()
    except OSError as error:
        return found | {"reason": _why(error, root)}
    if not found["exists"]:
        return found | {"reason": f"{root} is not a directory"}
    problems: list[OSError] = []
    files = dict(sorted(walk(root, problems)))
    size = sum(status.st_size for status in files.values())
    digest, reason = None, _why(problems[0], root) if problems else None
    try:
        digest = None if problems else trees.digest(root, files)
    except OSError as error:
        reason = _why(error, root)
    return found | {"files": len(files), "bytes": size, "digest": digest, "reason": reason, "entries": files}


def walk(root: Path, problems: list[OSError]) -> Iterator[tuple[str, os.stat_result]]:
    """Every regular file as `migrate_host.manifest` sees it: links followed to files, bytecode caches left out.

    Folders and files that cannot be looked at are added to `problems`; what is gone by now was never there.
    """
    for folder, folders, names in os.walk(root, onerror=problems.append):
        folders[:] = [name for name in folders if name != BYTECODE]
        for path in (Path(folder, name) for name in names):
            try:
                status = path.stat()
            except OSError as error:
                if error.errno not in _NO_FILE:
                    problems.append(error)
                continue
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(root).as_posix(), status


def _folders(path: Path) -> tuple[list[str], str | None]:
    """Names of the folders in a folder, sorted, and why there are none where they cannot be listed."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir()), None
    except OSError as error:
        return [], _why(error, path)


def _why(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: {error.strerror or type(error).__name__}"


def _model(root: Path, name: str, files: Files) -> dict[str, Any]:
    start = f"{name}/"
    own = {path.removeprefix(start): status.st_size for path, status in files.items() if path.startswith(start)}
    folder = root / name
    inside, reason = _folders(folder)
    texts, left_out = _texts(folder, [path for path in own if _is_text(path)])
    return {
        "versions": sorted((name for name in inside if name.isdecimal()), key=int),
        "reason": reason,
        "listing": dict(list(own.items())[:MAX_FILES]),
        "listing_left_out": max(0, len(own) - MAX_FILES),
        "texts": texts,
        "texts_left_out": left_out,
    }


def _is_text(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name == _CONFIG or (name.endswith(".json") and name not in _BULKY and not name.endswith(".index.json"))


def _texts(folder: Path, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The texts without their secrets, the shortest way down first, and the names of those that are too long."""
    texts: dict[str, str] = {}
    left_out, room, key = [], MAX_TEXTS, read_machine_id()
    for name in sorted(names, key=lambda path: (path.count("/"), path)):
        text = _text(folder / name)
        if text is None or len(text) > room:
            left_out.append(name)
        else:
            room -= len(text)
            texts[name] = without_secrets(name, text, key)
    return texts, left_out


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            read = file.read(MAX_TEXT + 1)
    except OSError:
        return None
    return read.decode("utf-8", errors="replace") if len(read) <= MAX_TEXT else None


def _sha256(path: Path) -> str:
    digest, buffer = hashlib.sha256(), bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            digest.update(memoryview(buffer)[:read])
    return digest.hexdigest()
