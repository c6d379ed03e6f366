from __future__ import annotations

import pytest
from packaging.version import Version

from migrate.knowledge import variant_of, version_of
from migrate.knowledge.release import parse

DIGEST = "@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "version", "variant"),
    [
        ("registry.lab:5000/vllm-openai:v0.31.0", "0.31.0", ""),
        ("vllm/vllm-openai:0.9.0.1", "0.9.0.1", ""),
        ("vllm/vllm-openai:v0.6.6.post1", "0.6.6.post1", ""),
        ("vllm/vllm-openai:v0.20.0-cu129-ubuntu2404", "0.20.0", "cu129"),
        ("vllm/vllm-openai:v0.20.0rc1-x86_64", "0.20.0rc1", ""),
        (f"vllm/vllm-openai:v0.31.0{DIGEST}", "0.31.0", ""),
        (f"registry.lab:5000/vllm-openai{DIGEST}", None, ""),
        ("registry.lab:5000/vllm-openai", None, ""),
        ("vllm/vllm-openai:nightly-0123abc", None, ""),
        ("vllm/vllm-openai:cu129-nightly", None, ""),
        ("vllm/vllm-openai:latest", None, ""),
        ("ours/vllm:2026-11", None, ""),
        ("", None, ""),
    ],
)
def test_the_release_that_a_tag_names(image: str, version: str | None, variant: str) -> None:
    assert (version_of(image), variant_of(image)) == (version, variant)


def test_releases_are_ordered_as_numbers_and_a_candidate_counts_as_its_release() -> None:
    ordered = ["0.9.2", "0.10.0", "0.10.1", "0.10.1.1", "0.11.0"]
    assert sorted(ordered, key=Version) == ordered
    assert parse("0.20.0rc1") == Version("0.20.0")
    assert parse("0.6.1.post1") == Version("0.6.1.post1")
    assert parse("nightly") is None
