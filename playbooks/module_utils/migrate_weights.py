"""A model's weights as the plan reads them, wherever they come from: a folder, a hub, or a copy brought by hand."""

from __future__ import annotations

import fnmatch
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from ansible.module_utils import migrate_models as models
from ansible.module_utils.migrate_host import parse_manifest, read_machine_id, sha256_of, tree_digest
from ansible.module_utils.migrate_hub import Hub, HubError, Listing
from ansible.module_utils.migrate_texts import without_secrets

SUMS = "SHA256SUMS"
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz")
# What a module is given that reads weights or fetches them.
SPEC: dict[str, dict[str, Any]] = {
    "vllm_weights_source": {"type": "path", "default": ""},
    "vllm_weights_path": {"type": "path", "default": ""},
    "weights_repository": {"type": "str", "default": ""},
    "weights_revision": {"type": "str", "default": ""},
    "weights_hub": {"type": "str", "default": "huggingface", "choices": ["huggingface", "modelscope"]},
    "weights_endpoint": {"type": "str", "default": ""},
    "weights_proxy": {"type": "str", "default": ""},
    "weights_allow": {"type": "list", "elements": "str", "default": []},
    "weights_offline_copy": {"type": "path", "default": ""},
    "weights_token": {"type": "str", "default": "", "no_log": True},
}
_AT_ONCE = 8
_FIRST = 128 << 10
_OF_MODEL = (*models.OF_WEIGHTS, "tokenizer_config.json", "special_tokens_map.json")
_BIN = re.compile(r"pytorch_model[^/]*\.bin")
_BIN_INDEX = "pytorch_model.bin.index.json"
_ENGINE = re.compile(r"(.*/)?([^/]+\.(engine|plan)|rank\d+\.engine)")
# The same weights for other libraries: each would be fetched beside those that vLLM loads.
_OTHER = re.compile(
    r".*\.(bin|pt|pth|ckpt|h5|msgpack|ot|onnx|onnx_data|tflite|mlmodel|gguf|safetensors|engine|plan|pkl)"
)
_SHOWN = re.compile(r".*\.(png|jpg|jpeg|gif|webp|svg|mp4|mp3|wav|pdf)|\.gitattributes|\.git/.*", re.IGNORECASE)


def form(names: Iterable[str]) -> str:
    """What a model's files are: safetensors, bin (PyTorch's pickle), gguf, engines (TensorRT), or none of these."""
    known = list(names)
    top = [name for name in known if "/" not in name]
    if any(name.endswith(".safetensors") for name in top):
        return "safetensors"
    if any(_BIN.fullmatch(name) for name in top):
        return "bin"
    if any(name.lower().endswith(".gguf") for name in known):
        return "gguf"
    return "engines" if any(_ENGINE.fullmatch(name) for name in known) else "none"


def bins(names: Iterable[str]) -> list[str]:
    """The files of a checkpoint that are converted."""
    return sorted(name for name in names if _BIN.fullmatch(name))


def replaced(names: Iterable[str]) -> list[str]:
    """The files that conversion makes superfluous."""
    return sorted(name for name in names if _BIN.fullmatch(name) or name == _BIN_INDEX)


def chosen(names: Iterable[str], allow: list[str]) -> list[str]:
    """The files that are fetched: those that a pattern of `allow` fits, else one set of weights and what is small."""
    known = sorted(names)
    if allow:
        return [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)]
    kind = form(known)
    rest = [name for name in known if not _OTHER.fullmatch(name.lower()) and not _SHOWN.fullmatch(name)]
    if kind != "bin":
        rest = [name for name in rest if name != _BIN_INDEX]
    return sorted(rest + _WEIGHTS[kind](known))


def _tensors(known: list[str]) -> list[str]:
    top = [name for name in known if name.endswith(".safetensors") and "/" not in name]
    # Mistral's own form of the same weights lies beside the usual one.
    return [name for name in top if not name.startswith("consolidated")] or top


_WEIGHTS: Mapping[str, Callable[[list[str]], list[str]]] = {
    "safetensors": _tensors,
    "bin": bins,
    "gguf": lambda known: [name for name in known if name.lower().endswith(".gguf")],
    "engines": lambda known: [],
    "none": lambda known: [],
}


def weights(params: Mapping[str, Any], trees: models.Trees) -> dict[str, Any]:
    """The facts of the weights that the parameters name: a repository, a copy brought by hand, or a folder."""
    if params.get("weights_repository"):
        return from_hub(hub(params), params.get("weights_revision") or "", params.get("weights_allow") or [])
    if copy := params.get("weights_offline_copy"):
        path = Path(copy)
        return _archive(path) if copy.endswith(ARCHIVES) else _copied(path, trees)
    source = params["vllm_weights_source"]
    if not source:
        return _missing("", "directory", "vllm_weights_source is not set")
    found = models.weights(Path(source), trees)
    return _judged(found | {"kind": "directory"})


def nearest(params: Mapping[str, Any]) -> list[str]:
    """The folder that is there nearest above where the weights are to be; empty where that is not asked."""
    path = Path(params.get("vllm_weights_path") or "/")
    return [str(next(folder for folder in path.parents if folder.is_dir()))] if path.name else []


def hub(params: Mapping[str, Any]) -> Hub:
    """The hub that the parameters name."""
    return Hub(
        params.get("weights_hub") or "huggingface",
        params["weights_repository"],
        params.get("weights_endpoint") or "",
        params.get("weights_proxy") or "",
        params.get("weights_token") or "",
    )


def from_hub(hub: Hub, revision: str, allow: list[str]) -> dict[str, Any]:
    """The facts of a repository, of its listing, its small texts and the first bytes of its tensors' files alone."""
    about = {"repository": hub.repository, "hub": hub.host, "asked": revision}
    try:
        listing = hub.listing(revision)
        names = chosen(listing.files, allow)
        if not names:
            raise HubError(f"weights_allow: no file of {hub.repository} fits {', '.join(allow)}")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            texts = _remote_texts(hub, listing, [name for name in names if name in _OF_MODEL], pool)
            headers = _remote_headers(hub, listing, _tensors(names), pool)
    except HubError as error:
        return _missing(f"{hub.repository}@{revision}", "hub", str(error)) | about | {"silent": error.silent}
    files = {name: listing.files[name] for name in names}
    return _judged(
        {
            "path": f"{hub.repository}@{listing.commit}",
            "exists": True,
            "kind": "hub",
            "commit": listing.commit,
            "files": len(files),
            "bytes": sum(file.size for file in files.values()),
            "digest": tree_digest({name: file.hash for name, file in files.items()}),
            "listing": {name: file.size for name, file in files.items()},
            "hashes": {name: file.hash for name, file in files.items()},
            "left_out": sorted(set(listing.files) - set(names)),
            "texts": texts,
            "texts_left_out": [],
            "safetensors": headers,
            "bases": list(listing.bases),
            "reason": None,
        }
        | about,
        listing.files,
    )


def _judged(found: dict[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """The facts with the form of the files: of the chosen ones, or where these hold no weights of all `names`."""
    listing = list(found.get("listing") or {})
    chosen_form = form(listing)
    return found | {"format": form(names or listing) if chosen_form == "none" else chosen_form}


def _missing(path: str, kind: str, why: str) -> dict[str, Any]:
    found = {"path": path, "exists": False, "kind": kind, "files": 0, "bytes": 0, "digest": None}
    return found | {"listing": {}, "texts": {}, "safetensors": None, "format": "none", "reason": why}


def _remote_texts(hub: Hub, listing: Listing, names: list[str], pool: ThreadPoolExecutor) -> dict[str, str]:
    small = [name for name in names if listing.files[name].size <= models.MAX_TEXT]
    key = read_machine_id()

    def text(name: str) -> str:
        raw = hub.read(listing.commit, name, 0, listing.files[name].size)
        if len(raw) != listing.files[name].size:
            raise HubError(f"{hub.host}: {name} broke off", passing=True)
        return without_secrets(name, raw.decode("utf-8", errors="replace"), key)

    return dict(zip(small, pool.map(text, small), strict=True))


def _remote_headers(hub: Hub, listing: Listing, names: list[str], pool: ThreadPoolExecutor) -> dict[str, Any]:
    def entries(name: str) -> list[dict[str, Any]]:
        size = listing.files[name].size
        start = hub.read(listing.commit, name, 0, min(size, _FIRST))
        wanted = 8 + int.from_bytes(start[:8], "little")
        if len(start) < wanted <= models.MAX_HEADER and len(start) >= min(size, _FIRST):
            start += hub.read(listing.commit, name, len(start), wanted - len(start))
        return models.header(BytesIO(start), size)

    reading = {name: pool.submit(entries, name) for name in names}
    return models.summed((name, future.result) for name, future in reading.items())


def _copied(root: Path, trees: models.Trees) -> dict[str, Any]:
    """A folder brought by hand: every file must be as its list of sums says."""
    found = models.weights(root, trees)
    if found["reason"] or not found["exists"]:
        return _missing(str(root), "copy", f"weights_offline_copy: {found['reason']}")
    listed = sums(root)
    hashes = trees.hashes(root, dict(models.walk(root, [])))
    hashes.pop(SUMS, None)
    if wrong := differing(listed, hashes):
        return _missing(str(root), "copy", f"weights_offline_copy: {wrong}")
    listing = {name: size for name, size in found["listing"].items() if name != SUMS}
    changed = {"kind": "copy", "files": len(hashes), "digest": tree_digest(hashes), "listing": listing}
    return _judged(found | changed)


def sums(root: Path) -> dict[str, str] | None:
    """Path -> sha256 as the list of sums in a folder has them; None where there is no list."""
    path = root / SUMS
    if not path.is_file():
        return None
    lines = "".join(
        f"{line.replace(' *', '  ', 1)}\n" for line in path.read_text(errors="replace").splitlines() if line
    )
    try:
        return {name.removeprefix("./"): digest for name, digest in parse_manifest(lines).items()}
    except ValueError:
        return {}


def differing(listed: Mapping[str, str] | None, hashes: Mapping[str, str]) -> str:
    """Why the files are not those of the list of sums, "" where they are."""
    if listed is None:
        made = f"find . -type f ! -name {SUMS} -exec sha256sum {{}} + > {SUMS}"
        return f"there is no {SUMS} in it; where it came from: {made}"
    wrong = sorted(name for name in {*listed, *hashes} if listed.get(name) != hashes.get(name))
    return f"{len(wrong)} files are not as {SUMS} says, first: {', '.join(wrong[:3])}" if wrong else ""


def _archive(path: Path) -> dict[str, Any]:
    """A tar archive brought by hand: it must have the sha256 that the file beside it says."""
    try:
        digest = proved(path)
        with tarfile.open(path) as tar:
            members = inside(tar)
            texts = _archived_texts(tar, members)
            shards = [(name, partial(_archived_header, tar, members[name])) for name in _tensors(list(members))]
            headers = models.summed(shards)
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        return _missing(str(path), "copy", f"weights_offline_copy: {path}: {error}")
    listing = {name: member.size for name, member in members.items()}
    found = {"path": str(path), "exists": True, "kind": "copy", "files": len(listing), "bytes": sum(listing.values())}
    told = {"digest": digest, "listing": listing, "texts": texts, "texts_left_out": [], "safetensors": headers}
    return _judged(found | told | {"reason": None})


def proved(path: Path) -> str:
    """The archive's sha256. Raises ValueError where the file beside it is missing or says another."""
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.is_file():
        raise ValueError(f"{beside.name} is not beside it; where it came from: sha256sum {path.name} > {beside.name}")
    digest = sha256_of(path)
    if beside.read_text(errors="replace").split()[:1] != [digest]:
        raise ValueError(f"its sha256 is {digest}, not what {beside.name} says")
    return digest


def inside(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """The regular files of an archive by their path, without the one folder that may hold them all.

    Raises ValueError for a path that would leave the folder it is unpacked into.
    """
    members = {member.name.removeprefix("./"): member for member in tar if member.isreg()}
    if bad := [name for name in members if name.startswith("/") or ".." in name.split("/")]:
        raise ValueError(f"it holds the path {bad[0]}")
    tops = {name.split("/")[0] for name in members}
    if len(tops) == 1 and all("/" in name for name in members):
        members = {name.split("/", 1)[1]: member for name, member in members.items()}
    return dict(sorted(members.items()))


def _archived_texts(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> dict[str, str]:
    key, texts = read_machine_id(), {}
    for name in _OF_MODEL:
        file = tar.extractfile(members[name]) if name in members else None
        if file and members[name].size <= models.MAX_TEXT:
            texts[name] = without_secrets(name, file.read().decode("utf-8", errors="replace"), key)
    return texts


def _archived_header(tar: tarfile.TarFile, member: tarfile.TarInfo) -> list[dict[str, Any]]:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError("no regular file")
    return models.header(file, member.size)
