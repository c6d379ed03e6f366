"""Which known name was meant by one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from packaging.version import Version

from migrate.knowledge.table import Row

PREFIX = "VLLM_"
_CUTOFF = 0.8
_SIDES = ("enable-", "disable-")


def flag(name: str, rows: Mapping[str, Row], release: Version) -> Row | None:
    """The flag nearest to `name`, or the one that it abbreviates, as argparse takes it; never one of opposite meaning.

    Where two are equally near, the one that the release has.
    """
    asked = name.lower()
    if asked in rows:
        return rows[asked]
    side = _side(asked)
    near = _nearest(asked, [row for row in rows.values() if side is None or _side(row.name) in (side, None)], release)
    if near:
        return near
    longer = [row for known, row in rows.items() if asked and row.covers(release) and known.startswith(asked)]
    return longer[0] if len(longer) == 1 else None


def variable(name: str, rows: Mapping[str, Row], release: Version) -> Row | None:
    """The variable nearest to `name`, compared without the prefix that all share."""
    return _nearest(name.upper(), rows.values(), release, PREFIX)


def metric(name: str, rows: Mapping[str, Row], release: Version) -> Row | None:
    """The release's metric nearest to `name`."""
    return _nearest(name, [row for row in rows.values() if row.covers(release)], release)


def _nearest(name: str, rows: Iterable[Row], release: Version, prefix: str = "") -> Row | None:
    matcher, best = difflib.SequenceMatcher(autojunk=False), (0.0, False)
    matcher.set_seq2(name.removeprefix(prefix))
    found = None
    for row in rows:
        matcher.set_seq1(row.name.removeprefix(prefix))
        if matcher.quick_ratio() < _CUTOFF or (ratio := matcher.ratio()) < _CUTOFF:
            continue
        if (score := (ratio, row.covers(release))) > best:
            found, best = row, score
    return found


def _side(name: str) -> str | None:
    return next((side for side in _SIDES if name.startswith(side)), None)
