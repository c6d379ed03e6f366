"""Which version of a model Triton serves, and where it keeps its files."""

from __future__ import annotations

import posixpath
from typing import Any

from migrate.errors import Refused
from migrate.translate.records import Draft, Source


def check_name(name: str) -> None:
    """Raises Refused for a name that no model directory can have."""
    bad = [character for character in name if ord(character) < 32 or ord(character) == 127 or character == "/"]
    if not name or bad or name in {".", ".."}:
        raise Refused(f"{name!r} cannot be the name of a model's directory", advice="look at triton_model_repository")


def served_version(draft: Draft, config: Any, source: Source) -> str:
    """The newest version that Triton serves (model_configuration.md, "Version Policy").

    Raises Refused where the model's directory has no version, or none that its policy allows.
    """
    there = _versions(source)
    if not there:
        raise Refused(
            f"{source.name}: the model's directory has no version (a directory with a number)",
            advice="Triton cannot serve it: add one, or leave the model out of triton_models",
        )
    served = _allowed(config, there)
    if not served:
        raise Refused(
            f"{source.name}/config.pbtxt: version_policy allows none of the versions {', '.join(map(str, there))}",
            advice="correct version_policy, or look at what Triton serves: POST /v2/repository/index",
        )
    if len(served) > 1:
        older = ", ".join(str(version) for version in served[:-1])
        draft.note(f"version {served[-1]} moves; Triton also serves {older}, which vLLM does not")
    return str(served[-1])


def resolve(source: Source, version: str, weights: str) -> str:
    """`weights` as a path that starts at the model repository, where it is one inside it; else as it is."""
    if not weights or weights.startswith("/"):
        return weights
    inside = posixpath.normpath(posixpath.join(version, weights))
    has_files = any(path == inside or path.startswith(inside + "/") for path in (*source.listing, *source.files))
    if has_files or weights.startswith(("./", "../")):
        return posixpath.normpath(posixpath.join(source.name, inside))
    return weights


def _versions(source: Source) -> list[int]:
    if source.versions is not None:
        names = set(source.versions)
    else:
        names = {path.partition("/")[0] for path in (*source.listing, *source.files) if "/" in path}
    found = sorted(int(name) for name in names if name.isascii() and name.isdigit() and not name.startswith("0"))
    # Where nobody looked into the directory, and for what Triton itself answers, there is no doubt that it has one.
    unseen = source.versions is None and not (source.listing or source.files)
    return found or ([1] if unseen or not isinstance(source.config, str) else [])


def _allowed(config: Any, there: list[int]) -> list[int]:
    policy = config.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return there
    if choice == "specific":
        return [version for version in there if version in policy.specific.versions]
    return there[-max(1, policy.latest.num_versions) :]
