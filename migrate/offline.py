"""Requests of a JSON-lines file for vLLM's `LLM` class, and the answers that come back. Pure.

A line of the input: {"prompt": text or token ids, "id": anything plain, and sampling parameters}. A line of the output
has the same `id` (the line's number without one), `request` (a digest of the whole request), and either the answer or
`error`. An answer whose `id` and `request` fit is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SAMPLING: Mapping[str, tuple[type, ...]] = {
    "max_tokens": (int,),
    "min_tokens": (int,),
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int,),
    "min_p": (int, float),
    "seed": (int,),
    "stop": (str, list),
    "ignore_eos": (bool,),
    "repetition_penalty": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
}
_ANSWER = ("text", "finish_reason", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Request:
    """One line: its id, the digest that names it on the host, and what is asked; `error` where it cannot be asked."""

    id: str | int
    key: str
    prompt: Any
    sampling: Mapping[str, Any]
    error: str = ""


def read(text: str) -> list[Request]:
    """Every line that is not blank; a wrong one has its error and ends nothing."""
    requests, seen = [], dict[str, int]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        request = _request(number, line)
        name = json.dumps(request.id)
        if name in seen and not request.error:
            request = _wrong(request.id, f"line {number}: id {name} is that of line {seen[name]} too")
        seen.setdefault(name, number)
        requests.append(request)
    return requests


def _request(number: int, line: str) -> Request:
    try:
        given = json.loads(line)
    except ValueError as error:
        return _wrong(number, f"line {number} is no JSON: {error}")
    if not isinstance(given, dict):
        return _wrong(number, f"line {number} is no JSON object")
    name = given.get("id", number)
    if isinstance(name, bool) or not isinstance(name, str | int):
        return _wrong(number, f"line {number}: id {name!r} is neither text nor number")
    sampling = {key: value for key, value in given.items() if key not in {"id", "prompt"}}
    if problem := _problem(given.get("prompt"), sampling):
        return _wrong(name, f"line {number}: {problem}")
    return Request(name, _digest([name, given["prompt"], sampling]), given["prompt"], sampling)


def _problem(prompt: Any, sampling: Mapping[str, Any]) -> str:
    is_ids = isinstance(prompt, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in prompt)
    if not (isinstance(prompt, str) or is_ids) or not prompt:
        return "prompt is neither text nor a list of token ids"
    for key, value in sampling.items():
        if key not in SAMPLING:
            return f"{key} is no sampling parameter; known are {', '.join(SAMPLING)}"
        wanted = SAMPLING[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            return f"{key} is {value!r}"
    return ""


def _wrong(name: str | int, error: str) -> Request:
    return Request(name, "", "", {}, error)


def pending(requests: Iterable[Request], answers: Mapping[str, Mapping[str, Any]]) -> list[Request]:
    """The requests that can be asked and have no answer."""
    return [one for one in requests if not one.error and "error" in answers.get(one.key, {"error": ""})]


def answered(text: str) -> dict[str, dict[str, Any]]:
    """Answers of an earlier output, or of the host, by the request's digest; lines of another form are passed over."""
    found = {}
    for line in text.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        key = (answer.get("request") or answer.get("key")) if isinstance(answer, dict) else None
        if key and ("text" in answer or "error" in answer):
            found[str(key)] = {name: answer[name] for name in (*_ANSWER, "error") if name in answer}
    return found


def output(requests: Iterable[Request], answers: Mapping[str, Mapping[str, Any]]) -> str:
    """The output file: a line for each request, in the input's order."""
    return "".join(json.dumps(_line(one, answers), ensure_ascii=False) + "\n" for one in requests)


def _line(request: Request, answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if request.error:
        return {"id": request.id, "error": request.error}
    return {"id": request.id, "request": request.key, **answers.get(request.key, {"error": "not answered yet"})}


def requests_file(requests: Iterable[Request]) -> str:
    """What the host gets."""
    lines = ({"key": one.key, "prompt": one.prompt, "sampling": dict(one.sampling)} for one in requests)
    return "".join(json.dumps(line) + "\n" for line in lines)


def job(requests: Iterable[Request], engine: Mapping[str, Any]) -> str:
    """The job's name: the same requests and engine have the same, so that a broken-off one is taken up again."""
    return _digest([sorted(one.key for one in requests), dict(engine)])


def counts(requests: Sequence[Request], answers: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many requests there are, how many are answered, and how many have an error."""
    good = sum(1 for one in requests if "text" in answers.get(one.key, {}))
    return {"requests": len(requests), "answered": good, "errors": len(requests) - good}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
