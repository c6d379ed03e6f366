"""A vLLM release: its number, ordered by PEP 440, and how an image's tag names it."""

from __future__ import annotations

import re

from packaging.version import InvalidVersion, Version

# v0.31.0, 0.9.0.1, v0.6.6.post1, v0.20.0rc1, each with or without what follows a dash (-cu129, -x86_64).
_TAG = re.compile(r"v?(?P<version>\d+\.\d+\.\d+(?:\.\d+)?(?:\.?(?:rc|post|dev)\d+)*)(?:-(?P<suffix>[\w.-]+))?$")
_VARIANT = re.compile(r"cu\d+")


def version_of(image: str) -> str | None:
    """The release that an image reference names, `0.31.0` for `registry:5000/vllm-openai:v0.31.0-cu129@sha256:…`.

    None where the tag tells none: no tag, `latest`, `nightly`, a digest alone, a name of the operator's own.
    """
    match = _TAG.match(_tag(image))
    return match["version"] if match else None


def variant_of(image: str) -> str:
    """The CUDA variant that the tag names (`cu129`), empty for the bare tag."""
    match = _TAG.match(_tag(image))
    found = _VARIANT.search((match["suffix"] or "") if match else "")
    return found[0] if found else ""


def parse(version: str) -> Version | None:
    """The release that a version belongs to, None for text that is no version.

    A release candidate or development build counts as its release, a post release stays one.
    """
    try:
        found = Version(version)
    except InvalidVersion:
        return None
    post = "" if found.post is None else f".post{found.post}"
    return Version(f"{found.base_version}{post}")


def _tag(image: str) -> str:
    last = image.partition("@")[0].rpartition("/")[2]
    return last.partition(":")[2]
