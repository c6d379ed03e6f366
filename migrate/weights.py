"""Where the model's weights come from, whether they can be served, and what `stage` does to have them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate import knowledge
from migrate.errors import GateFailed, Refused
from migrate.plan import Step
from migrate.settings import Settings

Facts = Mapping[str, Any]
_GGUF = "GGUF"
_FETCH = "weights_repository: the Hugging Face repository of the model, as its card names it"


def name(settings: Settings) -> str:
    """The source as the settings name it: models that name the same share an engine."""
    if settings.weights.repository:
        return f"{settings.weights.repository}@{settings.weights.revision}".rstrip("@")
    return settings.weights.offline_copy or settings.vllm.weights_source


def variable(settings: Settings) -> str:
    """The setting that names the source."""
    if settings.weights.repository:
        return "weights_repository"
    return "weights_offline_copy" if settings.weights.offline_copy else "vllm_weights_source"


def pinned(settings: Settings, facts: Facts) -> Settings:
    """The settings with the commit that a branch or a tag stands for now; what is staged is that commit."""
    commit = (facts.get("weights") or {}).get("commit")
    if not (settings.weights.repository and commit):
        return settings
    return settings.model_copy(update={"weights": settings.weights.model_copy(update={"revision": commit})})


def refuse_unfit(settings: Settings, facts: Facts) -> None:
    """Raise Refused, naming the setting, for weights that are not there or that vLLM cannot load.

    GateFailed where the hub is silent.
    """
    found = facts.get("weights") or {}
    asked = variable(settings)
    if not found.get("exists"):
        if asked == "vllm_weights_source":
            raise Refused(
                f"{asked}: {settings.vllm.weights_source} is not a directory on the host",
                advice=f"ls -ld {settings.vllm.weights_source} there; then {asked}",
            )
        reason = str(found.get("reason") or f"{asked}: nothing is known of it")
        if found.get("silent"):
            raise GateFailed(reason, advice="weights_proxy, weights_endpoint or weights_offline_copy; then plan again")
        raise Refused(reason, advice="set it right, then plan again; docs/weights.md has the reasons")
    _refuse_form(settings, found, f"{asked}: {found.get('path')}")
    if asked != "vllm_weights_source" and "config.json" not in (found.get("texts") or {}):
        raise Refused(f"{asked}: {found.get('path')} holds no config.json", advice="weights_allow, or another source")


def _refuse_form(settings: Settings, found: Mapping[str, Any], where: str) -> None:
    form = found.get("format", "safetensors")
    if form == "gguf":
        _refuse_gguf(settings, where)
    if form == "engines":
        bases = ", ".join(found.get("bases") or ())
        raise Refused(
            f"{where} holds TensorRT engines alone, which no other server can load",
            advice=f"fetch what they were built from: weights_repository: {bases}" if bases else _FETCH,
        )
    if form == "none":
        raise Refused(f"{where} holds neither *.safetensors nor pytorch_model*.bin nor *.gguf", advice=_FETCH)


def _refuse_gguf(settings: Settings, where: str) -> None:
    version = knowledge.version_of(settings.vllm.image)
    known = knowledge.check(version, {"load-format": "gguf"}, {}) if version else []
    rule = next((finding for finding in known if finding.name == _GGUF), None)
    if version and not rule:
        return
    problem = rule.problem if rule else f"the release of {settings.vllm.image} is not known"
    raise Refused(f"{where} holds GGUF alone: {problem}", advice=rule.replacement if rule else _FETCH)


def steps(settings: Settings, facts: Facts) -> list[Step]:
    """What `stage` does on the host for the weights."""
    found = facts.get("weights") or {}
    path, size = settings.vllm.weights_path, int(found.get("bytes") or 0)
    kept = "outlives Triton's model files"
    if not settings.weights.repository:
        origin = f"{size:,} bytes, verified"
        made = [Step("file", path, "absent", origin, kept)]
    else:
        commit = str(found.get("commit") or "")[:12]
        source = f"{settings.weights.repository}@{commit}, {_size(size)} from {found.get('hub')}"
        origin = f"weights: {source}, {len(found.get('hashes') or {})} files, sha256 verified"
        made = [Step("file", path, "absent", origin, "the commit is pinned; a cut is gone on with")]
    if found.get("format") == "bin":
        made.append(
            Step(
                "file",
                f"{path}/*.safetensors",
                "absent",
                "written from pytorch_model*.bin beside vLLM, without network; every tensor compared",
                "a .bin is a pickle, which can run code where it is loaded",
            )
        )
    return made


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size:,} bytes"


def needed(facts: Facts) -> int:
    """Bytes that the weights take on the host's disk at the most: a checkpoint lies beside what it is converted to."""
    found = facts.get("weights") or {}
    size = int(found.get("bytes") or 0)
    return 2 * size if found.get("format") == "bin" and found.get("kind") != "directory" else size


def planned(facts: Facts) -> dict[str, Any]:
    """What the plan holds of the weights: kind of source, form, digest, commit, and every file's size and hash."""
    found = facts.get("weights") or {}
    listing, hashes = found.get("listing") or {}, found.get("hashes") or {}
    return {
        "kind": found.get("kind", "directory"),
        "path": found.get("path"),
        "format": found.get("format", "safetensors"),
        "bytes": int(found.get("bytes") or 0),
        "digest": found.get("digest"),
        "commit": found.get("commit") or "",
        "files": {file: [int(listing[file]), digest] for file, digest in hashes.items()},
    }
