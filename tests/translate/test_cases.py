"""Every case of tests/cases/translate: what is deployed in Triton, and what must become of each field of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate.errors import Refused
from migrate.translate import Source, Translation, translate

DIRECTORY = Path(__file__).parents[1] / "cases" / "translate"
TEXT = """
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
"""
SHAPES = ("data_type", "dims", "optional")
CASES = [case for file in sorted(DIRECTORY.glob("*.yaml")) for case in yaml.safe_load(file.read_text("utf-8"))]
TRANSLATED = [case for case in CASES if "refused" not in case]
REFUSED = [case for case in CASES if "refused" in case]


def source(case: dict[str, Any]) -> Source:
    config = case["config"]
    versions = case.get("versions")
    return Source(
        name=case.get("model", "m"),
        config=f"{config}{TEXT}" if case.get("tensors") == "text" else config,
        files=case.get("files", {}),
        weights=case.get("weights_files", {}),
        headers=case.get("headers"),
        gpus=case.get("gpus"),
        versions=None if versions is None else tuple(versions),
        parts={name: Source(name, config=text) for name, text in case.get("parts", {}).items()},
    )


def outcomes(translation: Translation) -> dict[str, str]:
    """Outcome and certainty by field, without the shapes of tensors, which are always dropped."""
    found: dict[str, str] = {}
    for entry in translation.entries:
        path = entry.source.removeprefix("config.pbtxt:").removeprefix("/config:")
        if path.startswith(("input[", "output[")) and path.rpartition(".")[2] in SHAPES:
            assert entry.outcome == "dropped", entry
            continue
        assert path not in found, f"{path} has two entries"
        assert entry.reason, entry
        found[path] = f"{entry.outcome} {entry.sure}".strip()
    return found


@pytest.mark.parametrize("case", TRANSLATED, ids=lambda case: case["name"])
def test_a_deployment_is_translated(case: dict[str, Any]) -> None:
    translation = translate(source(case))
    expected = dict(case["entries"])
    if case.get("tensors") == "text" and "why_not" not in case:
        expected |= {"input[0].name": "mapped exact", "output[0].name": "mapped exact"}
    if "why_not" not in case:
        sure = case.get("pinned", "derived" if translation.backend == "python" else "exact")
        expected["vLLM's default:generation-config"] = f"mapped {sure}"
    assert outcomes(translation) == expected
    assert (translation.moves, translation.why_not) == ("why_not" not in case, case.get("why_not", ""))
    assert translation.flags == case.get("flags", {})
    assert translation.environment == case.get("environment", {})
    assert translation.lora_modules == case.get("lora_modules", {})
    assert translation.weights == case.get("weights", "")
    assert translation.served_names == tuple(case.get("served_names", ["m"]))
    assert set(case.get("notes", ())) <= set(translation.notes)
    for key in ("style", "backend"):
        assert getattr(translation, key) == case.get(key, getattr(translation, key))
    assert "hides" not in case or case["hides"] not in repr(translation)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_bad_input_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(Refused) as error:
        translate(source(case))
    assert case["refused"] in str(error.value)
    assert case.get("advice", "") in error.value.advice
    assert error.value.advice
    assert error.value.exit_code == 3


def test_every_case_names_its_source() -> None:
    assert len(TRANSLATED) >= 40
    assert all(case["source"] and case["name"] for case in CASES)
    assert len({case["name"] for case in CASES}) == len(CASES)
