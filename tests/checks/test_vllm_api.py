"""vLLM's API as its server answers, whole and broken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.checks.conftest import SmallHost
from tests.checks.test_gpu_cases import module

COMPLETION = {
    "object": "text_completion",
    "model": "phi2",
    "choices": [{"index": 0, "text": "\n", "logprobs": None, "finish_reason": "length", "stop_reason": None}],
    "usage": {"prompt_tokens": 6, "total_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": None},
}
CHUNK = {"object": "text_completion", "choices": [{"index": 0, "text": "\n", "finish_reason": None}]}
GOOD = {
    "/health": (200, ""),
    "/version": (200, '{"version":"0.31.0"}'),
    "/v1/models": (200, '{"object":"list","data":[{"id":"phi2","object":"model","max_model_len":512}]}'),
}
SETTINGS = {"vllm_served_model_name": "phi2", "vllm_version": "0.31.0", "vllm_args": {"max-model-len": 512}}


def raw(**broken: tuple[int, str]) -> dict[str, Any]:
    """Answers as the check keeps them; vLLM answers whole and streamed on one path, so they are set here."""
    stream = f"data: {json.dumps(CHUNK)}\n\n" * 4 + "data: [DONE]\n\n"
    answers = {name.removeprefix("/v1").strip("/"): answer for name, answer in GOOD.items()}
    answers |= {"completion": (200, json.dumps(COMPLETION)), "stream": (200, stream)} | broken
    timed = {"first_s": 0.1, "seconds": 0.2}
    return {name: {"status": code, "text": text} | timed for name, (code, text) in answers.items()}


def test_a_server_that_does_all_of_it_passes(host: SmallHost) -> None:
    rc, found = host.check("vllm_api", raw=raw(), **SETTINGS)
    assert (rc, found["verdict"], found["versions"]) == (0, "pass", {"vllm": "0.31.0"}), found
    assert "1 token in 0.2 s, 4 chunks, first after 0.1 s of 0.2 s" in found["measured"]


@pytest.mark.parametrize(
    ("broken", "advice", "detail"),
    [
        ({"health": (503, "")}, "grep -m1 -B5 -A25 Traceback", "the engine is dead"),
        ({"version": (200, '{"version":"0.32.0"}')}, "migrate continue --host HOST", "version 0.32.0"),
        ({"version": (404, "Not Found")}, "migrate continue --host HOST", "version not told"),
        ({"models": (401, '{"error":"Unauthorized"}')}, "vault as vllm_api_key", "401"),
        ({"models": (200, '{"data":[{"id":"/model"}]}')}, "set vllm_served_model_name", "/model"),
        ({"models": (200, '{"data":[{"id":"phi2","max_model_len":2048}]}')}, "migrate continue --host HOST", "is 2048"),
        ({"completion": (500, '{"error":{"message":"EngineDeadError"}}')}, "logs vllm", "EngineDeadError"),
        ({"completion": (200, '{"choices":[],"usage":{"completion_tokens":0}}')}, "logs vllm", "200"),
        ({"completion": (200, "<html>")}, "logs vllm", "<html>"),
        ({"stream": (200, 'data: {"error":{"message":"out of memory"}}\n\n')}, "logs vllm", "out of memory"),
        ({"stream": (200, f"data: {json.dumps(CHUNK)}\n\n")}, "the stream breaks off", "no [DONE]"),
        ({"stream": (200, "data: [DONE]\n\n")}, "the stream breaks off", "0 chunks"),
    ],
)
def test_one_answer_broken(host: SmallHost, broken: dict[str, Any], advice: str, detail: str) -> None:
    rc, found = host.check("vllm_api", raw=raw(**broken), **SETTINGS)
    assert (rc, found["verdict"]) == (1, "fail"), found
    assert advice in found["advice"]
    assert detail in found["detail"]


@pytest.mark.parametrize("length", ["1k", "auto", -1, None])
def test_a_length_that_is_no_number_is_left_to_vllm(host: SmallHost, length: Any) -> None:
    settings = SETTINGS | {"vllm_args": {"max-model-len": length}}
    assert host.check("vllm_api", raw=raw(), **settings)[0] == 0


def test_nobody_listens(host: SmallHost) -> None:
    rc, found = host.check("vllm_api", vllm_port=1, **SETTINGS)
    assert (rc, found["verdict"]) == (1, "fail")
    assert "wait if it still loads" in found["advice"]


def test_one_request_is_sampled_and_the_stream_is_greedy() -> None:
    check = module("vllm_api")
    assert check.SAMPLED["temperature"] == 1
    assert check.STREAM["temperature"] == 0


def test_it_asks_the_server(host: SmallHost) -> None:
    port = host.serve(GOOD | {"/v1/completions": (200, json.dumps(COMPLETION))})
    found = host.check("vllm_api", vllm_port=port, **SETTINGS, show_raw=True)[1]
    assert json.loads(found["raw"]["completion"]["text"]) == COMPLETION
    assert found["raw"]["models"]["status"] == 200
    assert "no [DONE]" in found["detail"], "what is no stream of events is none"


def test_a_question_without_an_answer_is_the_last(host: SmallHost, monkeypatch: pytest.MonkeyPatch) -> None:
    check, asked = module("vllm_api"), []
    port = host.serve(GOOD)

    def ask(port: int, path: str, key: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        asked.append(path)
        silent = {"status": 0, "text": f"port {port}: timed out", "first_s": 0.0, "seconds": 60.0}
        return silent if body else real(port, path, key)

    real = check._ask
    monkeypatch.setattr(check, "_ask", ask)
    found = check.judge(check.read(SETTINGS | {"vllm_port": port}), SETTINGS)
    assert (found["verdict"], asked.count("/v1/completions")) == ("fail", 1)
    assert "timed out" in found["detail"]


def test_a_key_comes_from_a_file_and_is_not_told(host: SmallHost) -> None:
    key = host.folder / "key"
    key.write_text("a-secret\n")
    port = host.serve(GOOD)
    found = host.check("vllm_api", vllm_port=port, **SETTINGS, vllm_api_key_file=str(key), show_raw=True)[1]
    assert "a-secret" not in json.dumps(found)
