"""Requests that `hostctl` sends by itself: one generation as a probe, filling traffic, and the golden replies."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import HostctlError
from .system import Paths, iso, now, write_atomic
from .traffic import WITNESS

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_TIMEOUT_S = 30
_SHOWN = 500


@dataclass(frozen=True)
class Reply:
    """What came back. `status` is 0 and `error` says why where nothing did."""

    status: int
    body: str
    content_type: str
    latency_s: float
    error: str | None = None


def send(url: str, *, method: str = "POST", body: Any = None, request_id: str = "", key: str = "") -> Reply:
    """One HTTP request on a connection of its own, past any proxy; `request_id` goes into the Referer for the logs.

    `key` is sent as a bearer token.
    """
    headers = {"Referer": f"http://{WITNESS}{request_id}"} if request_id else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310 - our own http URL
    began = time.monotonic()
    try:
        with _OPENER.open(request, timeout=_TIMEOUT_S) as answer:
            return _reply(answer, answer.status, began)
    except urllib.error.HTTPError as error:
        return _reply(error, error.code, began)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Reply(0, "", "", time.monotonic() - began, str(error) or type(error).__name__)


def probe(config: dict[str, Any], *, target: str) -> dict[str, Any]:
    """One generation by `triton`, `gateway` or `vllm` directly, or by whoever serves the `public` port."""
    asked = config["probe"]
    body = asked["body"]
    if target == "vllm":
        body = {"model": config["vllm"]["model"], "prompt": body["text_input"], "max_tokens": body["max_tokens"]}
        reply = send(config["vllm"]["url"] + "/v1/completions", body=body, key=_key(config["vllm"].get("key_file", "")))
    else:
        base = f"http://127.0.0.1:{config['public']['http_port']}" if target == "public" else config[target]["url"]
        reply = send(base + asked["path"], body=body)
    text = _generated(reply)
    error = reply.error or (None if reply.status == 200 else f"HTTP {reply.status}: {reply.body[:_SHOWN]}")
    ok = text is not None and error is None
    return {
        "ok": ok,
        "latency_s": round(reply.latency_s, 4),
        "text": text if ok else "",
        "error": None if ok else error or f"no generated text in: {reply.body[:_SHOWN]}",
    }


def _key(path: str) -> str:
    """vLLM's key, out of the file that also gives it to vLLM; empty where it asks for none."""
    try:
        text = Path(path).read_text()
    except OSError:
        return ""
    return text.partition("VLLM_API_KEY=")[2].strip()


def generate(config: dict[str, Any], port: int, names: Iterable[str], *, workers: int = 4) -> list[Reply]:
    """One probe request for each id, through a port of the switch, a few at a time."""
    asked = config["probe"]
    url = f"http://127.0.0.1:{port}{asked['path']}"
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(lambda name: send(url, body=asked["body"], request_id=name), names))


def synthetic(config: dict[str, Any], *, count: int) -> dict[str, Any]:
    """Fill a quiet step with `count` probe requests through the switch's own port."""
    port = int(config["switch"]["ports"][str(config["public"]["http_port"])])
    run_id = f"synthetic-{time.time_ns()}"
    replies = generate(config, port, (f"{run_id}-{number}" for number in range(count)))
    bad = [r.error or f"HTTP {r.status}" for r in replies if r.status != 200]
    return {"sent": len(replies), "ok": len(replies) - len(bad), "failed": len(bad), "errors": sorted(set(bad))}


def record_goldens(paths: Paths, config: dict[str, Any], *, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Ask Triton each request, one at a time, and keep the replies. Raises HostctlError where one has no reply."""
    entries = []
    for request in requests:
        reply = _ask(config, request)
        if reply.error:
            raise HostctlError(f"golden {request['name']}: {reply.error}", "look: hostctl probe --target triton")
        entries.append({"request": request, "reply": _kept(reply)})
    text = json.dumps({"recorded": iso(now()), "goldens": entries}, indent=1) + "\n"
    write_atomic(_goldens(paths), text)
    return {"recorded": len(entries), "path": str(_goldens(paths))}


def verify_goldens(paths: Paths, config: dict[str, Any]) -> dict[str, Any]:
    """Ask Triton again and compare status, content type and body byte for byte."""
    try:
        entries = json.loads(_goldens(paths).read_text())["goldens"]
    except (OSError, ValueError, KeyError) as error:
        raise HostctlError(f"{_goldens(paths)}: {error}", "the snapshot is missing: run phase snapshot") from error
    different = []
    for entry in entries:
        reply = _ask(config, entry["request"])
        if _kept(reply) != entry["reply"]:
            was, is_ = _shown(entry["reply"]), reply.error or _shown(_kept(reply))
            different.append({"name": entry["request"]["name"], "was": was, "is": is_})
    return {"same": not different and bool(entries), "total": len(entries), "different": different}


def _reply(answer: Any, status: int, began: float) -> Reply:
    text = answer.read().decode(errors="replace")
    return Reply(status, text, answer.headers.get("Content-Type", ""), time.monotonic() - began)


def _generated(reply: Reply) -> str | None:
    try:
        answer = json.loads(reply.body)
        return str(answer["text_output"] if "text_output" in answer else answer["choices"][0]["text"])
    except (ValueError, LookupError, TypeError):
        return None


def _ask(config: dict[str, Any], request: dict[str, Any]) -> Reply:
    return send(config["triton"]["url"] + request["path"], method=request["method"], body=request.get("body"))


def _kept(reply: Reply) -> dict[str, Any]:
    return {"status": reply.status, "content_type": reply.content_type, "body": reply.body}


def _shown(kept: dict[str, Any]) -> str:
    return f"{kept['status']} {kept['body'][:_SHOWN]}"


def _goldens(paths: Paths) -> Any:
    return paths.state / "snapshot" / "goldens.json"
