"""What the census could not see, and what Triton's own counters say about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from migrate.census.ground import Facts, Logged, logged
from migrate.settings import Settings


def notes(facts: Facts, settings: Settings) -> list[str]:
    """Sentences to print under the table; empty where nothing limits it. Raises as `census`."""
    found = facts.get("clients")
    if not found:
        return ["the host's clients were not read: no row says that there are none"]
    said = [f"not read: {found['reason']}"] if found.get("reason") else []
    said += [*_of_logs(found), *_of_nginx(logged(facts, settings), settings), *_of_looks(found)]
    return [*said, *_of_triton(facts.get("triton") or {}, found)]


def _of_logs(found: Mapping[str, Any]) -> Iterator[str]:
    for log in found.get("logs") or []:
        if log["truncated"]:
            yield f"{log['path']}: the newest {log['lines']:,} lines only, back to {log['oldest']}"
        elif log["oldest"] and log["oldest"] > found["since"]:
            yield f"{log['path']}: nothing older than {log['oldest']} in it and its .1"
        if log["unparsed"]:
            yield f"{log['path']}: {log['unparsed']:,} lines are not of the form `combined` and were left out"


def _of_nginx(found: Iterable[Logged], settings: Settings) -> Iterator[str]:
    read = set(settings.nginx.access_logs)
    for entry in found:
        if not entry.log:
            yield f"{entry.where}: location {entry.path} leads to Triton with access_log off: its callers are in no log"
        elif entry.log not in read:
            yield f"{entry.where}: location {entry.path} logs to {entry.log}, which nginx_access_logs does not name"


def _of_looks(found: Mapping[str, Any]) -> Iterator[str]:
    if found.get("watch_s"):
        yield f"connections were watched for {found['watch_s']} s"
    else:
        yield "connections were looked at once; a longer watch is census_watch_s"
    if found.get("tracking") is None:
        yield "connection tracking cannot be read: a caller of Triton's ports is seen only while it is connected"


def _of_triton(triton: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Every answer in the log is at least one inference, so that what is left over bounds those past nginx."""
    if triton.get("shared_memory") is None:
        yield "Triton did not say which shared-memory regions it has"
    statistics = triton.get("statistics") or {}
    counting = found.get("inferences") or {}
    if not statistics or not counting.get("since"):
        return
    counted = sum(int(model.get("inference_count") or 0) for model in statistics.values())
    answers, since = int(counting["logged"]), str(counting["since"])[:19] + "Z"
    told = f"Triton counts {counted:,} inferences since {since}, nginx's logs {answers:,} of its answers"
    if counted >= answers:
        yield f"{told}: at most {counted - answers:,} came past nginx (a batch or a stream is several)"
    else:
        yield f"{told}: nothing follows, for failed requests and reloaded models count in one of them only"
