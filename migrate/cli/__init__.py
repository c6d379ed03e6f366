"""The command line. Only this package prints and exits; every error becomes one line and an exit code."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path

from typer import Abort
from typer.exceptions import TyperException

from migrate.cli.app import app, load
from migrate.cli.output import Output
from migrate.errors import MigrateError, UsageError


def main(arguments: list[str] | None = None) -> None:
    """The console script `migrate`. Exits with the codes that `migrate --help` lists."""
    given = sys.argv[1:] if arguments is None else arguments
    output = Output(as_json="--json" in given, first=False)
    try:
        load(given)
        code = app(given, standalone_mode=False)
    except TyperException as error:
        Output(as_json=output.as_json).error(error.format_message(), "migrate --help", UsageError.exit_code)
        code = UsageError.exit_code
    except (Abort, KeyboardInterrupt):
        output.error("stopped before any change", "", 130)
        code = 130
    except MigrateError as error:
        output.error(str(error), error.advice, error.exit_code)
        code = error.exit_code
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a line and a file
        output.error(f"internal error: {error!r}", f"please report it with {_keep_traceback()}", 1)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _keep_traceback() -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="migrate-traceback-", suffix=".txt", delete=False) as file:
        traceback.print_exc(file=file)
    return Path(file.name)
