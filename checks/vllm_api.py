#!/usr/bin/env python3
"""Does vLLM's API answer as planned: health, version, model id and length, one sampled token, and a stream?

Settings: vllm_port, vllm_served_model_name, vllm_args (max-model-len, where it is a number), vllm_version (without what
follows a `+`; default: any), vllm_mode, vllm_logs, vllm_api_key_file (a file on the host, where vLLM asks for a key),
raw (what was read before, or the file that holds it), show_raw.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shared.verdict import judged, main

TIMEOUT_S = 60
IMPORT_TIMEOUT_S = 300
PROMPT = "def add(a, b):"
STREAM_TOKENS = 4
# A sampled request can end an engine that answers greedy ones; what a greedy stream says does not change by chance.
SAMPLED = {"max_tokens": 1, "temperature": 1}
STREAM = {"max_tokens": STREAM_TOKENS, "temperature": 0, "stream": True}
LOGS = "docker compose --project-name vllm logs vllm, on the host"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Ask, or take what was answered before, and judge it."""
    if settings.get("vllm_mode") == "offline":
        return _offline(settings)
    return judged(settings, read, judge)


def _offline(settings: dict[str, Any]) -> dict[str, Any]:
    """Whether vllm imports beside where `offline-generate` will run: there is no server to ask."""
    python, code = settings["vllm_python"], "import vllm; print(vllm.__version__)"
    try:
        done = subprocess.run([*python, "-c", code], capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S)
        good, said = done.returncode == 0, (done.stdout.split() or [""])[-1] if done.returncode == 0 else done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        good, said = False, str(error)
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"vllm imports with {' '.join(python)}; no server, since vllm_mode is offline",
        "measured": f"vllm {said}" if good else said.strip()[-300:],
        "advice": "" if good else f"{' '.join(python)} -c 'import vllm', on the host",
    }


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """One answer each: `status` (0: no connection), `text`, `seconds`, and `first_s` until the first byte."""
    port, name = settings["vllm_port"], settings["vllm_served_model_name"]
    key = _key(settings)
    body = {"model": name, "prompt": PROMPT}
    found = {"health": _ask(port, "/health", key)}
    if found["health"]["status"] == 0:
        return found
    found |= {"version": _ask(port, "/version", key), "models": _ask(port, "/v1/models", key)}
    found["completion"] = _ask(port, "/v1/completions", key, body | SAMPLED)
    # An engine that hangs behind a living API would cost the second question its whole time limit as well.
    is_silent = found["completion"]["status"] == 0
    found["stream"] = found["completion"] if is_silent else _ask(port, "/v1/completions", key, body | STREAM)
    return found


def judge(raw: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """/health proves that the engine's loop lives, not that it generates: every answer counts."""
    name, wanted = settings["vllm_served_model_name"], str(settings.get("vllm_version") or "")
    length = str((settings.get("vllm_args") or {}).get("max-model-len") or "")
    problem = _health(raw) or _identity(raw, name, wanted) or _length(raw, name, length)
    problem = problem or _completion(raw) or _stream(raw)
    detail, advice = problem or ("", "")
    version = _version(raw)
    return {
        "verdict": "fail" if problem else "pass",
        "expected": f"vLLM {wanted or 'of any version'} serves {name} with max_model_len {length or 'of the model'}, "
        f"generates a token and streams {STREAM_TOKENS}",
        "measured": _measured(raw, version),
        "detail": detail,
        "advice": advice.replace(LOGS, settings.get("vllm_logs", LOGS)),
        "versions": {"vllm": version} if version else {},
    }


def _health(raw: dict[str, Any]) -> tuple[str, str] | None:
    status = raw["health"]["status"]
    if status == 0:
        return raw["health"]["text"], f"wait if it still loads: the port opens last; else {LOGS}"
    if status != 200:
        return f"/health answers {status}: the engine is dead", f"{LOGS} | grep -m1 -B5 -A25 Traceback"
    return None


def _identity(raw: dict[str, Any], name: str, wanted: str) -> tuple[str, str] | None:
    """Version and model id; 401 means that a key is asked for."""
    if raw["models"]["status"] == 401:
        advice = "put the key vLLM was started with into your vault as vllm_api_key, then migrate continue --host HOST"
        return "/v1/models answers 401", advice
    if wanted and _version(raw).partition("+")[0] != wanted:
        return (
            f"version {_version(raw) or 'not told'}",
            "migrate continue --host HOST: another image runs than planned",
        )
    served = _models(raw)
    if name not in served:
        return f"/v1/models lists {', '.join(served) or 'none'}", "set vllm_served_model_name to what clients ask for"
    return None


def _length(raw: dict[str, Any], name: str, wanted: str) -> tuple[str, str] | None:
    """The planned length, where it is written as a number; vLLM also takes `1k`, `auto` and -1."""
    if wanted.isdigit() and _models(raw)[name] != int(wanted):
        return f"max_model_len is {_models(raw)[name]}", "migrate continue --host HOST: it was started otherwise"
    return None


def _completion(raw: dict[str, Any]) -> tuple[str, str] | None:
    """One token, with a reason why it ended."""
    answer, found = raw["completion"], _json(raw["completion"]["text"])
    tokens = (found.get("usage") or {}).get("completion_tokens")
    reason = next((choice.get("finish_reason") for choice in found.get("choices") or []), None)
    if answer["status"] == 200 and tokens == 1 and reason in ("length", "stop"):
        return None
    return f"/v1/completions {answer['status']}: {answer['text'][:300]}", LOGS


def _stream(raw: dict[str, Any]) -> tuple[str, str] | None:
    """Chunks of text that end with [DONE]; an error can come in a chunk of an answer with status 200."""
    answer, (chunks, error, done) = raw["stream"], _chunks(raw["stream"]["text"])
    if answer["status"] != 200 or error:
        return f"stream {answer['status']}: {error or answer['text'][:300]}", LOGS
    if not chunks or not done:
        return f"{chunks} chunks, {'ended' if done else 'no [DONE]'}", f"the stream breaks off: {LOGS}"
    return None


def _measured(raw: dict[str, Any], version: str) -> str:
    if raw["health"]["status"] != 200:
        return f"health {raw['health']['status']}"
    chunks, _, done = _chunks(raw["stream"]["text"])
    tokens = (_json(raw["completion"]["text"]).get("usage") or {}).get("completion_tokens")
    return (
        f"health 200, version {version or 'not told'}, models {_listed(raw)}, "
        f"{tokens} token in {raw['completion']['seconds']} s, {chunks} chunks{'' if done else ' without end'}, "
        f"first after {raw['stream']['first_s']} s of {raw['stream']['seconds']} s"
    )


def _version(raw: dict[str, Any]) -> str:
    return str(_json((raw.get("version") or {}).get("text", "")).get("version") or "")


def _models(raw: dict[str, Any]) -> dict[str, Any]:
    """Id -> max_model_len."""
    return {
        str(model.get("id")): model.get("max_model_len") for model in _json(raw["models"]["text"]).get("data") or []
    }


def _listed(raw: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({length} tokens)" if length else name for name, length in _models(raw).items()) or "none"


def _chunks(text: str) -> tuple[int, str, bool]:
    """How many chunks hold text, the first error, and whether [DONE] came."""
    events = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    parsed = [_json(event) for event in events if event != "[DONE]"]
    texts = sum(any(choice.get("text") for choice in event.get("choices") or []) for event in parsed)
    error = next((json.dumps(event["error"])[:300] for event in parsed if "error" in event), "")
    return texts, error, "[DONE]" in events


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _key(settings: dict[str, Any]) -> str:
    """The key, alone in its file or as the environment that gives it to vLLM; empty where there is no such file."""
    path = Path(settings.get("vllm_api_key_file") or "/nonexistent")
    return path.read_text().strip().removeprefix("VLLM_API_KEY=") if path.is_file() else ""


def _ask(port: int, path: str, key: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """A GET, or a POST where there is a body; read as it arrives so that the first byte has a time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    start = time.monotonic()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        first = response.read1()
        first_s = time.monotonic() - start
        text = (first + response.read()).decode(errors="replace")
        answer = {"status": response.status, "text": text, "first_s": round(first_s, 3)}
    except (OSError, http.client.HTTPException) as error:
        answer = {"status": 0, "text": f"port {port}: {error or type(error).__name__}", "first_s": 0.0}
    finally:
        connection.close()
    return answer | {"seconds": round(time.monotonic() - start, 3)}


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
