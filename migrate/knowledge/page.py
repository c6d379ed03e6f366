"""The generated half of docs/releases.md: `python -m migrate.knowledge.page docs/releases.md` rewrites it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from packaging.version import Version

from migrate.knowledge.table import Image, Row, Rule, Table, load

MARK = "<!-- Generated from migrate/knowledge/releases.yaml; python -m migrate.knowledge.page docs/releases.md -->\n"


def render(table: Table) -> str:
    """Markdown: what releases get wrong, their images, what is gone, what never was, what is new."""
    parts = [
        f"The tables know every release from {table.first} to {table.last}.\n",
        _section(
            "What releases get wrong", ("releases", "what", "write instead"), dict.fromkeys(map(_rule, table.rules))
        ),
        _section(
            "Images", ("releases", "CUDA", "other tags", "torch", "NCCL", "sm_120", "starts"), map(_image, table.images)
        ),
        _section("Flags that never were", ("flag", "why", "write instead"), _never(table)),
        _section("Flags that are gone", ("gone since", "flags", "write instead"), _gone(table.flags, "--{}")),
        _section("Variables that are gone", ("gone since", "variables", "write instead"), _gone(table.environment)),
        _section("Metrics that are gone", ("gone since", "metrics", "read instead"), _gone(table.metrics, "vllm:{}")),
        _section("New flags", ("new in", "flags"), _new(table.flags)),
    ]
    return MARK + "\n".join(parts)


def write(path: Path) -> None:
    """Replace what follows the mark in a page. Raises ValueError for a page without the mark."""
    page = path.read_text(encoding="utf-8")
    if MARK not in page:
        raise ValueError(f"{path} has no line {MARK.strip()}")
    path.write_text(page.partition(MARK)[0] + render(load()), encoding="utf-8")


def _section(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rule(rule: Rule) -> tuple[str, ...]:
    return _span(rule.releases), f"**{rule.releases.name}**: {rule.problem}", rule.releases.replacement


def _image(image: Image) -> tuple[str, ...]:
    tags = ", ".join(f"`-{tag}`: {cuda}" for tag, cuda in image.variants.items())
    code = "yes" if image.sm_120 else "no"
    return _span(image.releases), image.cuda, tags, image.torch, image.nccl, code, f"`{image.entrypoint}`"


def _never(table: Table) -> Iterable[tuple[str, ...]]:
    return ((f"`--{name}`", entry.problem, entry.replacement) for name, entry in table.never.items())


def _gone(rows: Mapping[str, Row], form: str = "{}") -> list[tuple[str, ...]]:
    """The newest first; names that went together and have the same successor share a line."""
    gone = [row for row in rows.values() if row.until]
    gone.sort(key=lambda row: (_newest(row.until), row.replacement, row.name))
    return [
        (str(until), _names(same, form), replacement or "leave it out")
        for (until, replacement), same in groupby(gone, key=lambda row: (row.until, row.replacement))
    ]


def _new(rows: Mapping[str, Row]) -> list[tuple[str, ...]]:
    new = sorted((row for row in rows.values() if row.since), key=lambda row: (_newest(row.since), row.name))
    return [(str(since), _names(same, "--{}")) for since, same in groupby(new, key=lambda row: row.since)]


def _names(rows: Iterable[Row], form: str) -> str:
    return ", ".join(f"`{form.format(row.name)}`" for row in rows)


def _span(row: Row) -> str:
    since = str(row.since) if row.since else "first"
    return f"{since} to before {row.until}" if row.until else f"{since} and later" if row.since else "all"


def _newest(release: Version | None) -> tuple[int, ...]:
    """A sort key that puts new releases first; a post release before the one that it follows."""
    if release is None:
        return ()
    return tuple(-part for part in (*release.release, *(0,) * (4 - len(release.release)), release.post or 0))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
