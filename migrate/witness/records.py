"""One record per request, written when it ends, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Record:
    """A request as its client saw it. `sent_at` is UTC, `status` None when no answer began, `error` "" if answered."""

    id: str
    kind: str
    model: str
    sent_at: str
    latency_s: float
    status: int | None
    error: str
    bytes: int
    chunks: int

    @property
    def is_answered(self) -> bool:
        """Whether the client got a whole, good answer."""
        return not self.error

    @property
    def began(self) -> datetime:
        """When the request was sent."""
        return datetime.fromisoformat(self.sent_at)

    @property
    def ended(self) -> datetime:
        """When the answer, or the failure, was complete."""
        return self.began + timedelta(seconds=self.latency_s)


@dataclass(frozen=True, slots=True)
class WitnessRun:
    """What one `watch` did; its records are in the file, not in memory."""

    run: str
    record_file: Path
    started_at: str
    ended_at: str
    sent: int
    failed: int

    def records(self) -> Iterator[Record]:
        """The records of this run, in the order in which the requests ended."""
        prefix = f"w-{self.run}-"
        return (record for record in read(self.record_file) if record.id.startswith(prefix))


def read(path: Path) -> Iterator[Record]:
    """The records of a file. A torn last line is left out; any other broken line raises ValueError or TypeError."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield Record(**json.loads(line))


def write(record: Record, to: TextIO) -> None:
    """Append one record and hand it to the operating system."""
    to.write(json.dumps(asdict(record)) + "\n")
    to.flush()


def iso(moment: datetime) -> str:
    """UTC with microseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
