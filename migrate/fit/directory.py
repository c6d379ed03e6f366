"""A model's directory: `config.json`, and the headers of its weights where they are there."""

from __future__ import annotations

import json
from pathlib import Path

from migrate.errors import Refused, UsageError
from migrate.fit import headers, memory
from migrate.fit.memory import Model

_LARGEST_CONFIG = 4 << 20


def load(directory: Path) -> Model:
    """The model in a directory. Raises UsageError where there is none, Refused where its files are damaged."""
    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory", advice="migrate fit DIRECTORY, the one with config.json")
    path = directory / "config.json"
    if not path.is_file():
        raise UsageError(f"{directory} has no config.json", advice="copy it from the model's repository")
    if path.stat().st_size > _LARGEST_CONFIG:
        raise Refused(f"{path} has {path.stat().st_size:,} bytes: that is no config.json of a model")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path} is no JSON: {error}", advice="copy it from the model's repository again") from error
    return memory.of(values, headers.read(directory))
