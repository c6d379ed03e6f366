"""Taking one service out of a compose file by lines: comments stay, and a surprise leaves the file alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

FILE = """\
# The whole site. Ask ops before editing.
name: site

x-logging: &logging   # shared by all
  driver: json-file

services:
  # The model server.
  triton:
    image: registry.lab:5000/tritonserver:2.51   # pinned
    command: [tritonserver]

    # GPUs come later
    environment:
      TOKEN: "#notacomment"
    logging: *logging

  # Exporter for the dashboards
  exporter:
    image: exporter:1
    logging: *logging

networks: {}  # none yet
"""

SURPRISES = {
    "flow style": "services: {triton: {image: t}, other: {image: o}}\n",
    "quoted otherwise": "services:\n  ? triton\n  : image: t\n  other: {image: o}\n",
    "anchor used elsewhere": "services:\n  triton:\n    image: &i t\n  other:\n    image: *i\n",
    "needed by another": "services:\n  triton:\n    image: t\n  other:\n    image: o\n    depends_on: [triton]\n",
    "network of another": "services:\n  triton:\n    image: t\n  o:\n    image: o\n    network_mode: service:triton\n",
    "extended by another": "services:\n  triton:\n    image: t\n  o:\n    extends: {service: triton}\n",
    "text at the margin": "services:\n  triton:\n    command: |\n      a\nb: 1\n  other: {image: o}\n",
}


@pytest.fixture
def entry(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("compose_entry")


@pytest.mark.parametrize("text", SURPRISES.values(), ids=SURPRISES.keys())
def test_a_surprise_leaves_the_file_as_it_is(entry: ModuleType, text: str, tmp_path: Path) -> None:
    path = tmp_path / "compose.yml"
    path.write_text(text)
    with pytest.raises((entry.Surprise, yaml.YAMLError)):
        entry.change({"path": str(path), "service": "triton", "state": "absent"})
    assert path.read_text() == text


def test_only_the_entry_goes_and_every_comment_outside_it_stays(entry: ModuleType) -> None:
    after, line = entry.without(FILE, "triton")
    removed = FILE.splitlines()[8:16]
    assert after.splitlines() == FILE.splitlines()[:8] + FILE.splitlines()[16:]
    assert (line, removed[0], removed[-1]) == (9, "  triton:", "    logging: *logging")
    assert "# Exporter for the dashboards" in after
    assert "# none yet" in after


def test_the_last_service_leaves_an_empty_mapping(entry: ModuleType) -> None:
    after, _ = entry.without("services:  # all of them\n  triton:\n    image: t\nvolumes:\n  v:\n", "triton")
    assert after == "services: {}  # all of them\nvolumes:\n  v:\n"


def test_a_key_of_the_same_name_outside_services_stays(entry: ModuleType) -> None:
    text = "volumes:\n  triton:\nservices:\n  other: {image: o}\n  'triton':\n    image: t\nnetworks:\n  triton:\n"
    assert entry.without(text, "triton")[0] == (
        "volumes:\n  triton:\nservices:\n  other: {image: o}\nnetworks:\n  triton:\n"
    )


def test_there_and_back_restores_every_byte(entry: ModuleType, tmp_path: Path) -> None:
    path, recorded = tmp_path / "compose.yml", tmp_path / "recorded.yml"
    path.write_text(FILE)
    path.chmod(0o640)
    recorded.write_text(FILE)
    params = {"path": str(path), "service": "triton", "state": "absent", "recorded": str(recorded)}
    assert entry.change(params) == (True, 9)
    assert entry.change(params) == (False, None)
    assert entry.change(params | {"state": "present"}) == (True, None)
    assert entry.change(params | {"state": "present"}) == (False, None)
    assert path.read_text() == FILE
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_edited_in_between_is_not_overwritten(entry: ModuleType, tmp_path: Path) -> None:
    path, recorded = tmp_path / "compose.yml", tmp_path / "recorded.yml"
    recorded.write_text(FILE)
    edited = entry.without(FILE, "triton")[0] + "# edited\n"
    path.write_text(edited)
    with pytest.raises(entry.Surprise, match="edited since"):
        entry.change({"path": str(path), "service": "triton", "state": "present", "recorded": str(recorded)})
    assert path.read_text() == edited
