#!/usr/bin/env python3
"""Generates with vLLM's `LLM` class over a file of requests, without a server; also says how far that is.

`offline_generate.py work FOLDER JOB` runs with vLLM's Python, `wait FOLDER JOB SECONDS` with any. FOLDER/lock is held
while one works. FOLDER/JOB holds job.json {"model", "arguments"}, requests.jsonl {"key", "prompt", "sampling"}, and
gets answers.jsonl {"key", "text", "finish_reason", "prompt_tokens", "completion_tokens"} or {"key", "error"}, and log.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHUNK = 256
BUSY = 75
# What is no refusal of a request, vLLM's own Engine…Error beside it.
FATAL = (RuntimeError, OSError, MemoryError, AssertionError)
POLL_S = 1.0


def work(folder: Path, job: str) -> int:
    """Answer every request that has no answer yet; each chunk of answers is on disk before the next begins."""
    held = lock(folder)
    if held is None:
        return BUSY
    with held:
        (folder / "current").write_text(job)
        _work(folder / job)
    return 0


def _work(place: Path) -> None:
    _log_to(place / "log")
    try:
        wanted = _pending(place)
        _say(place, state="loading")
        llm = load(json.loads((place / "job.json").read_text())) if wanted else None
        for start in range(0, len(wanted), CHUNK):
            _say(place, state="generating")
            _append(place / "answers.jsonl", answers(llm, wanted[start : start + CHUNK]))
        _say(place, state="finished")
    except BaseException as error:
        _say(place, state="failed", error=f"{type(error).__name__}: {error}"[:500])
        raise


def load(job: dict[str, Any]) -> Any:
    """vLLM's LLM with the server's arguments; those that only a server knows are left out."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:
        from vllm.utils import FlexibleArgumentParser
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    known, unknown = parser.parse_known_args(["--model", job["model"], *job["arguments"]])
    print(f"left out, since they are the server's: {unknown}", flush=True)
    asked, usual = EngineArgs.from_cli_args(known), EngineArgs(model=job["model"])
    fields = [name for name in vars(usual) if getattr(asked, name) != getattr(usual, name)]
    return LLM(**{"model": job["model"]} | {name: getattr(asked, name) for name in fields})


def answers(llm: Any, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One answer for each request, in order. A request that vLLM refuses has an error and loses no other."""
    try:
        found = llm.generate([_prompt(one) for one in requests], [_sampling(one) for one in requests], use_tqdm=False)
    except Exception as error:
        if isinstance(error, FATAL) or type(error).__name__.startswith("Engine"):
            raise
        _drain(llm)
        if len(requests) == 1:
            return [{"key": requests[0]["key"], "error": f"{error}"[:500]}]
        half = len(requests) // 2
        return answers(llm, requests[:half]) + answers(llm, requests[half:])
    return [_answer(one, output) for one, output in zip(requests, found, strict=True)]


def _prompt(request: dict[str, Any]) -> Any:
    prompt = request["prompt"]
    return prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt}


def _sampling(request: dict[str, Any]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**request["sampling"])


def _answer(request: dict[str, Any], output: Any) -> dict[str, Any]:
    first = output.outputs[0]
    return {
        "key": request["key"],
        "text": first.text,
        "finish_reason": first.finish_reason,
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": len(first.token_ids),
    }


def _drain(llm: Any) -> None:
    """Let the engine forget what was added before it refused: releases differ in whether they do it themselves."""
    engine = llm.llm_engine
    while engine.has_unfinished_requests():
        engine.step()


def wait(folder: Path, job: str, seconds: float) -> dict[str, Any]:
    """How far a job is, once it ended or after some seconds. `running` is whether anybody works in this folder."""
    deadline = time.monotonic() + seconds
    place = folder / job
    while True:
        held = lock(folder)
        if held is not None:
            held.close()
        current = folder / "current"
        found = {"running": held is None, "current": current.read_text() if current.exists() else ""}
        found |= {"state": "starting", "error": ""} | _read(place / "state.json")
        found |= {"total": len(_lines(place / "requests.jsonl")), "done": len(_lines(place / "answers.jsonl"))}
        if time.monotonic() >= deadline or (held is not None and found["state"] in {"finished", "failed"}):
            return found | {"last": _last(place / "log")}
        time.sleep(POLL_S)


def lock(folder: Path) -> Any:
    """The lock's open file, None where another process holds it. It ends with the process, however that ends."""
    file = (folder / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _pending(place: Path) -> list[dict[str, Any]]:
    done = {line["key"] for line in _lines(place / "answers.jsonl") if "error" not in line}
    return [line for line in _lines(place / "requests.jsonl") if line["key"] not in done]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file; a last line that was cut off is none."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def _append(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * cut + "".join(json.dumps(line) + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def _say(place: Path, **state: Any) -> None:
    fresh = place / "state.new"
    fresh.write_text(json.dumps(state))
    fresh.replace(place / "state.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _last(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    return lines[-1][:300] if lines else ""


def _log_to(path: Path) -> None:
    """Output goes to the log, that of vLLM's own processes too."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(number, 1)
    os.dup2(number, 2)


def main(argv: list[str]) -> int:
    """Work, or print how far the work is."""
    if argv[1] == "work":
        return work(Path(argv[2]), argv[3])
    print(json.dumps(wait(Path(argv[2]), argv[3], float(argv[4]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
