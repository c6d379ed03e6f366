"""`python -m migrate.lab up|down|status|shell`, until the command line has them."""

from __future__ import annotations

import os
import sys
from functools import partial

from migrate import bundled
from migrate.errors import MigrateError
from migrate.lab import down, shell_command, status, up


def main(words: list[str]) -> int:
    say = partial(print, flush=True)
    root = bundled.root()
    try:
        if words[0] == "shell":
            command = shell_command(root, tuple(words[1:]))
            os.execvp(command[0], command)  # noqa: S606
        if words[0] == "up":
            found = up(root, say, fresh="--fresh" in words)
        elif words[0] == "down":
            found = down(root, say, purge="--purge" in words)
        else:
            found = status(root)
    except MigrateError as error:
        print(f"error: {error}", f"try: {error.advice}" if error.advice else "", sep="\n", file=sys.stderr)
        return error.exit_code
    for part in found.parts:
        print(f"{'up  ' if part.is_up else 'down'}  {part.name:22} {part.detail}")
    for name, url in found.urls.items():
        print(f"{name:9} {url}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
