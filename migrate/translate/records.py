"""What goes into a translation and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What becomes of a source field: `lossy` is a behaviour that vLLM does not have, or that a human must look at."""

    MAPPED = "mapped"
    DROPPED = "dropped"
    LOSSY = "lossy"


class Sure(StrEnum):
    """How sure the translation of a field is; `review` asks a human to read it."""

    EXACT = "exact"
    DERIVED = "derived"
    REVIEW = "review"
    NONE = ""


@dataclass(frozen=True, slots=True)
class Source:
    """One model as it is deployed in Triton.

    `config` is the text of config.pbtxt, or the object that `GET /v2/models/M/config` answers, or empty where Triton
    completes everything. `files`: path in the model's directory -> text; `listing`: path -> bytes of all its files;
    `versions`: its version directories (None: as `files` and `listing` show). `weights`: file -> text of the
    Hugging Face directory; `headers`: {"files", "bytes", "parameters": {"F32": count}, "error"} of its safetensors.
    `gpus`: how many the host has (None: unknown). `parts`: the other models of an ensemble, by name.
    """

    name: str
    config: str | Mapping[str, Any] = ""
    files: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, Any] | None = None
    gpus: int | None = None
    listing: Mapping[str, int] = field(default_factory=dict)
    versions: tuple[str, ...] | None = None
    parts: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One source field and what became of it. `target` is "--flag", "env NAME", "gateway …" or empty."""

    source: str
    value: Any
    outcome: Outcome
    target: str
    result: Any
    reason: str
    sure: Sure = Sure.NONE


@dataclass(frozen=True, slots=True)
class Translation:
    """A model's vLLM settings. `flags` has vLLM's options without dashes; true is a bare flag, false its --no- form.

    `weights` is what the deployment says it loads: a directory as the Triton container sees it, a path that starts
    at the model repository, or a Hugging Face name; empty where it does not say.
    """

    model: str
    moves: bool
    why_not: str
    backend: str
    style: str
    weights: str
    served_names: tuple[str, ...]
    flags: Mapping[str, Any]
    environment: Mapping[str, str]
    lora_modules: Mapping[str, str]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]
    weights_bytes: int | None = None


@dataclass(slots=True)
class Draft:
    """A translation while it is made. The first source that sets a flag decides it."""

    flags: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    lora_modules: dict[str, str] = field(default_factory=dict)
    served_names: list[str] = field(default_factory=list)
    weights: str = ""
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Adds a note once."""
        if text not in self.notes:
            self.notes.append(text)
