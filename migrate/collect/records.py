"""The records file and the progress lines of a collection, and the reading of a job's keys."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Output:
    """A JSON-lines file that is written record by record and closed by one `complete` record."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it is on its way to the disk before the next request is sent."""
        self._line(record)
        self._count += 1

    def finish(self, **facts: Any) -> None:
        """Append the record that says how many came before it, with facts about the whole collection."""
        self._line({"complete": True, "records": self._count, **facts})

    def _line(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def progress(text: str) -> None:
    """One progress line on stderr; stdout stays free for the caller."""
    print(text, file=sys.stderr, flush=True)


def required(job: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    """The value of a job's key. Raises ValueError where it is absent, empty or of another type."""
    value = job.get(key) if isinstance(job, Mapping) else None
    if not isinstance(value, kind) or value in ("", [], {}):
        raise ValueError(f"the job's {key!r} is missing or not usable: {value!r}")
    return value
