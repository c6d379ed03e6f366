"""Raw records of the collectors, as the judges read them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A collection's records and its closing record. `complete` only where the file says so and its count is right."""

    records: tuple[Record, ...]
    trailer: Record
    complete: bool

    @classmethod
    def of(cls, lines: Sequence[Record]) -> Evidence:
        """Part the records from the closing one, which must be the last and must count the others."""
        trailer = lines[-1] if lines and lines[-1].get("complete") is True else {}
        records = tuple(line for line in lines if "complete" not in line)
        whole = bool(trailer) and trailer.get("records") == len(records) == len(lines) - 1
        return cls(records, trailer, whole)


def commonest_error(records: Iterable[Record]) -> str:
    """The error that most of these records carry, with its count; empty where none failed."""
    counts = Counter(str(record["error"]) for record in records if record.get("error") is not None)
    return "; ".join(f"{count} × {error}" for error, count in counts.most_common(1))


def read_records(path: Path) -> list[Record]:
    """The JSON objects of a JSON-lines file, closing record included.

    A torn last line is left out: the closing record is then missing, and the judge says so. Raises OSError where the
    file cannot be read, ValueError where an earlier line is damaged.
    """
    lines = path.read_text("utf-8").splitlines()
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_object(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: {error}") from error
    return records


def _object(line: str) -> Record:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
