"""The files of an nginx configuration, read as nginx reads them, without starting it: `nginx -T` writes on the host.

Rules of nginx (src/core/ngx_conf_file.c): a word ends at white space, `;` or `{`; `#` begins a comment where a word
would begin; `include` takes one name or glob(3) pattern, from the folder of the main file where it is relative.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ansible.module_utils.migrate_host import Run

MAX_FILES = 1_000
MAX_FILE = 4 << 20
MAX_BYTES = 16 << 20
_SHOWN_REASONS = 5
_QUOTED = r'"(?:\\.|[^"\\])*"|' + r"'(?:\\.|[^'\\])*'"
_TOKEN = re.compile(rf"#[^\n]*|{_QUOTED}|[;{{}}]|(?:\\.?|\$\{{|[^ \t\r\n;{{\\])+", re.DOTALL)
_ESCAPE = re.compile(r"\\([\"'\\trn])")
_CONTROL = {"t": "\t", "r": "\r", "n": "\n"}
_LUA = "_by_lua_block"
_IN_LUA = re.compile(rf"--[^\n]*|{_QUOTED}|[{{}}]", re.DOTALL)


def nginx(service: str, main: str, run: Run) -> dict[str, Any]:
    """Version and every file of the configuration; whether it is valid is for a check to say, which starts nginx."""
    rc, _, told = run(["nginx", "-v"])
    if rc == 127:
        return {"version": None, "running": False, "files": {}, "main": main, "reason": told.strip()}
    files, unread = nginx_files(main)
    more = len(unread) - _SHOWN_REASONS
    said = [*unread[:_SHOWN_REASONS], *([f"and {more} more"] if more > 0 else [])]
    return {
        "version": told.strip().rpartition("/")[2],
        "running": run(["systemctl", "is-active", service])[1].strip() == "active",
        "files": {_text(os.fsencode(name)): _text(content) for name, content in files.items()},
        "main": main,
        "reason": "; ".join(said) or None,
    }


def nginx_files(main: str) -> tuple[dict[str, bytes], list[str]]:
    """Name -> content of every file in the order of `nginx -T`, and what could not be read, with the reason."""
    files: dict[str, bytes] = {}
    reasons: list[str] = []
    waiting, seen = [main], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if len(files) >= MAX_FILES:
            return files, [*reasons, f"{name}: more than {MAX_FILES} files"]
        try:
            files[name] = _read(name, MAX_BYTES - sum(map(len, files.values())))
        except (OSError, ValueError) as error:
            reasons.append(f"{name}: {getattr(error, 'strerror', None) or error}")
            continue
        text = os.fsdecode(files[name])
        found = [path for pattern in included(text) for path in _named(os.path.join(os.path.dirname(main), pattern))]
        waiting += reversed(found)
    return files, reasons


def included(text: str) -> Iterator[str]:
    """The names and patterns of a file's `include` directives, in their order."""
    words: list[str] = []
    at = 0
    while token := _TOKEN.search(text, at):
        at, word = token.end(), token[0]
        if word[0] == "#":
            continue
        if word not in (";", "{", "}"):
            words.append(_unquoted(word))
            continue
        if word == ";" and len(words) == 2 and words[0] == "include":
            yield words[1]
        if word == "{" and words and words[0].endswith(_LUA):
            at = _after_lua(text, at)
        words = []


def _read(name: str, room: int) -> bytes:
    """Raises OSError, or ValueError for what is no regular file or too long; a pipe is not waited for."""
    with open(name, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        content = file.read(min(MAX_FILE, room) + 1)
    if len(content) > min(MAX_FILE, room):
        raise ValueError(f"longer than {MAX_FILE} bytes, or all files together than {MAX_BYTES}")
    return content


def _named(pattern: str) -> list[str]:
    """A pattern without a match names nothing; a plain name is there or a reason later."""
    if not any(sign in pattern for sign in "*?["):
        return [pattern]
    return sorted(islice(glob.iglob(pattern.replace("[^", "[!")), MAX_FILES + 1), key=os.fsencode)


def _unquoted(word: str) -> str:
    bare = word[1:-1] if word[0] in "\"'" and len(word) > 1 and word[-1] == word[0] else word
    return _ESCAPE.sub(lambda found: _CONTROL.get(found[1], found[1]), bare)


def _after_lua(text: str, at: int) -> int:
    """The end of a block whose content is Lua, not nginx's language."""
    depth = 1
    for token in _IN_LUA.finditer(text, at):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if not depth:
            return token.end()
    return len(text)


def _text(content: bytes) -> str:
    return content.decode(errors="replace").replace("\r\n", "\n")
