"""`python -m migrate.collect parity|performance JOB.json OUT.jsonl`: run one collector and write its records.

Exit 0: every record is written, failed requests among them as records; 2: the job cannot be used. The last line of
OUT is `{"complete": true, "records": n, …}`; a file without it is a broken collection and no evidence.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from migrate.collect import parity, performance
from migrate.collect.records import Output


def main(argv: Sequence[str] | None = None) -> int:
    """Run the collector that the command line names. Returns the exit status."""
    options = _options(argv)
    try:
        work = _prepare(options.kind, json.loads(options.job.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        print(f"collect {options.kind}: cannot use {options.job}: {error}", file=sys.stderr)
        return 2
    with Output(options.out) as output:
        trailer = asyncio.run(work(output))
        output.finish(kind=options.kind, **trailer)
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m migrate.collect", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=["parity", "performance"])
    parser.add_argument("job", type=Path, help="JSON file with the job")
    parser.add_argument("out", type=Path, help="JSON-lines file to write")
    return parser.parse_args(argv)


def _prepare(kind: str, job: Any) -> Callable[[Output], Coroutine[Any, Any, dict[str, Any]]]:
    if kind == "parity":
        return parity.ParityJob.parse(job).run
    return performance.PerformanceJob.parse(job).run


if __name__ == "__main__":
    sys.exit(main())
