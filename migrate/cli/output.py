"""Result on stdout, progress on stderr; a live line on a terminal, plain lines elsewhere; NDJSON with `--json`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

_VERSION = 1


def printable(text: str) -> str:
    """The text without what a terminal would obey: hosts and servers wrote parts of it."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


class Output:
    """Where a command says things. `say` is progress, `result` the answer, `error` the one line of a failure.

    With `first`, NDJSON begins with its version.
    """

    def __init__(self, *, as_json: bool = False, first: bool = True) -> None:
        self.as_json = as_json
        self._began = time.monotonic()
        self._progress = Console(stderr=True, highlight=False)
        self._console = Console(highlight=False, soft_wrap=True)
        if as_json and first:
            self._line({"type": "version", "version": _VERSION, "@message": "migrate's NDJSON"})

    def say(self, text: str) -> None:
        """One line of progress, with the seconds since the command began."""
        text = printable(text)
        if not text:
            return
        if self.as_json:
            self._line({"type": "progress", "at_s": round(self._elapsed(), 1), "@message": text})
        else:
            self._progress.print(f"[dim]{self._elapsed():6.1f} s[/dim]  ", end="")
            self._progress.print(text, markup=False, soft_wrap=True)

    def result(self, kind: str, data: Mapping[str, Any], text: str) -> None:
        """The answer: `data` as one JSON object, or `text` for a human."""
        if self.as_json:
            self._line({"type": kind, **data, "@message": text.splitlines()[0] if text else kind})
        else:
            self._console.print(printable(text), markup=False)

    def error(self, message: str, advice: str, code: int) -> None:
        """What went wrong, and the next command to type."""
        if self.as_json:
            self._line({"type": "error", "exit_code": code, "advice": advice, "@message": message})
            return
        print(f"migrate: {printable(message)}", file=sys.stderr)
        if advice:
            print(f"  next: {printable(advice)}", file=sys.stderr)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _line(self, data: Mapping[str, Any]) -> None:
        print(json.dumps(data, sort_keys=True, default=str), flush=True)
