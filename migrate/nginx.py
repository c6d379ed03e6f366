"""Reads an nginx configuration, given as a mapping of path to text, into one tree with every include expanded. Pure."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import crossplane

from migrate.errors import SettingsError

_DEEPEST_INCLUDE = 20


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive, `block` is None for a simple one; `file` and `line` say where the operator wrote it."""

    name: str
    args: tuple[str, ...] = ()
    block: tuple[Directive, ...] | None = None
    file: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """`file:line` for messages."""
        return f"{self.file}:{self.line}"

    def within(self, name: str) -> Iterator[Directive]:
        """The directives of this name directly inside this block."""
        return (directive for directive in self.block or () if directive.name == name)

    def holding(self, block: tuple[Directive, ...]) -> Directive:
        """The same directive with another content."""
        return replace(self, block=block)


@dataclass(frozen=True, slots=True)
class _Source:
    files: Mapping[str, str]
    main: str
    stack: tuple[str, ...] = field(default=())


def load(files: Mapping[str, str], main: str) -> Directive:
    """The whole configuration as one nameless block. Raises SettingsError with the file and line that it stops at."""
    return _tree(tuple(sorted(files.items())), main)


@lru_cache(maxsize=4)
def _tree(files: tuple[tuple[str, str], ...], main: str) -> Directive:
    """Kept for a while: a plan asks for the same tree several times, and parsing it is most of a plan's cost."""
    return Directive("", block=tuple(_expand(_Source(dict(files), main), main)), file=main)


def build(directives: tuple[Directive, ...]) -> str:
    """nginx configuration text for a tree."""
    return str(crossplane.build([_as_payload(directive) for directive in directives], indent=4)) + "\n"


def directive(name: str, *args: str, block: tuple[Directive, ...] | None = None) -> Directive:
    """A directive of our own."""
    return Directive(name, args, block)


def _expand(source: _Source, path: str) -> Iterator[Directive]:
    if path not in source.files:
        raise SettingsError(f"nginx_config_file: {path} was not read from the host", advice="check nginx_config_file")
    if path in source.stack or len(source.stack) > _DEEPEST_INCLUDE:
        raise SettingsError(f"{source.stack[-1]} includes {path} in a circle")
    inside = replace(source, stack=(*source.stack, path))
    for raw in _parse(path, source.files[path]):
        yield from _with_includes(inside, path, raw)


def _with_includes(source: _Source, path: str, raw: Mapping[str, Any]) -> Iterator[Directive]:
    if raw["directive"] != "include":
        block = None
        if "block" in raw:
            block = tuple(inner for child in raw["block"] for inner in _with_includes(source, path, child))
        yield Directive(raw["directive"], tuple(raw["args"]), block, path, int(raw["line"]))
        return
    pattern = posixpath.join(posixpath.dirname(source.main), raw["args"][0])
    found = sorted(name for name in source.files if PurePosixPath(name).match(pattern))
    if not found and not any(sign in pattern for sign in "*?["):
        raise SettingsError(f"{path}:{raw['line']}: includes {pattern}, which was not read from the host")
    for name in found:
        yield from _expand(source, name)


def _parse(path: str, text: str) -> list[Mapping[str, Any]]:
    """crossplane reads files only; a copy in a temporary directory keeps this independent of where it runs."""
    with tempfile.TemporaryDirectory(prefix="migrate-nginx-") as directory:
        copy = Path(directory) / "nginx.conf"
        copy.write_text(text, encoding="utf-8")
        options = {"single": True, "catch_errors": True, "check_ctx": False, "check_args": False}
        parsed = crossplane.parse(str(copy), **options)["config"][0]
    for error in parsed["errors"]:
        reason = str(error["error"]).removesuffix(f" in {copy}:{error['line']}")
        raise SettingsError(f"{path}:{error['line'] or 0}: {reason}", advice="on the host: nginx -t")
    return list(parsed["parsed"])


def _as_payload(item: Directive) -> dict[str, Any]:
    payload: dict[str, Any] = {"directive": item.name, "args": list(item.args)}
    if item.block is not None:
        payload["block"] = [_as_payload(inner) for inner in item.block]
    return payload
