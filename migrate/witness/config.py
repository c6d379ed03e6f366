"""What the witness asks, of whom, and for how long."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FEWEST_CLIENTS = 8


@dataclass(frozen=True, slots=True)
class WitnessConfig:
    """`models` maps a Triton model to its request style, "python" or "vllm"; even clients POST, odd ones stream.

    The witness ends at `max_duration_s` seconds or after `max_requests` requests, if nobody stops it earlier. Ids begin
    with `w-<run>-`. `ca_file` holds the authority of an https `base_url`. Raises ValueError for values it cannot use.
    """

    base_url: str
    models: Mapping[str, str]
    run: str
    record_file: Path
    prompts: tuple[str, ...] = ("def add(a, b):", "import os\n", "class Point:", "for name in names:")
    clients: int = FEWEST_CLIENTS
    max_tokens: int = 4
    max_duration_s: float = 7200.0
    max_requests: int = 5_000_000
    request_timeout_s: float = 60.0
    pause_after_failure_s: float = 0.05
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]+", self.run):
            raise ValueError(f"run {self.run!r}: only letters, digits and '-' pass through an access log unchanged")
        if self.clients < FEWEST_CLIENTS:
            raise ValueError(f"clients {self.clients}: at least {FEWEST_CLIENTS}, half of them streaming")
        if not self.prompts or not self.models:
            raise ValueError("the witness needs at least one prompt and one model")
        if wrong := set(self.models.values()) - {"python", "vllm"}:
            raise ValueError(f"styles are 'python' and 'vllm', not {sorted(wrong)}")

    @property
    def id_prefix(self) -> str:
        """What every id of this run begins with, and no id of another."""
        return f"w-{self.run}-"
