"""Answers in the two request styles, and what vLLM is asked for them."""

from __future__ import annotations

import asyncio

import pytest

from .conftest import Client, VllmServer

ALL = " one two three"


async def test_python_style(client: Client, vllm: VllmServer) -> None:
    answer = await client.generate("phi2", {"text_input": "zero"})
    assert answer == (200, {"model_name": "phi2", "model_version": "1", "text_output": ALL})
    asked = vllm.bodies[0]
    assert asked["prompt"] == "zero"
    assert asked["model"] == "phi-2"
    expected = {"temperature": 0.0, "max_tokens": 16, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    assert expected.items() <= asked.items()
    assert "logprobs" not in asked


async def test_python_style_with_log_probs(client: Client, vllm: VllmServer) -> None:
    body = {"id": "a1", "text_input": "zero", "max_tokens": 2, "temperature": 0.5, "return_log_probs": True}
    status, answer = await client.generate("phi2", body, version="/versions/1")
    assert status == 200
    assert list(answer) == ["id", "log_probs", "model_name", "model_version", "output_ids", "text_output"]
    assert answer["id"] == "a1"
    assert answer["output_ids"] == [100, 101]
    assert answer["log_probs"] == [-0.10000000149011612, -0.10000000149011612]
    assert (vllm.bodies[0]["temperature"], vllm.bodies[0]["max_tokens"], vllm.bodies[0]["logprobs"]) == (0.5, 2, 0)


async def test_one_token_is_a_scalar(client: Client) -> None:
    body = {"text_input": "zero", "parameters": {"max_tokens": 1}, "return_log_probs": [True]}
    _, answer = await client.generate("phi2", body)
    assert (answer["output_ids"], answer["log_probs"]) == (100, -0.10000000149011612)


@pytest.mark.parametrize("temperature", [-1, 0])
async def test_a_temperature_that_is_not_positive_is_greedy(
    client: Client, vllm: VllmServer, temperature: float
) -> None:
    await client.generate("phi2", {"text_input": "zero", "temperature": temperature})
    assert vllm.bodies[0]["temperature"] == 0


async def test_python_style_streams_one_event(client: Client) -> None:
    status, kind, events = await client.stream("phi2", {"text_input": "zero"})
    assert (status, kind) == (200, "text/event-stream; charset=utf-8")
    assert [event["text_output"] for event in events] == [ALL]


async def test_vllm_style_puts_the_prompt_in_front(client: Client, vllm: VllmServer) -> None:
    _, answer = await client.generate("phi2_stream", {"text_input": "zero", "id": ""})
    assert answer == {"model_name": "phi2_stream", "model_version": "1", "text_output": "zero" + ALL}
    assert (vllm.bodies[0]["temperature"], vllm.bodies[0]["max_tokens"]) == (1.0, 16)


async def test_vllm_style_without_the_prompt(client: Client) -> None:
    _, answer = await client.generate("phi2_stream", {"text_input": "zero", "exclude_input_in_output": True})
    assert answer["text_output"] == ALL


async def test_vllm_style_streams_pieces(client: Client) -> None:
    body = {"id": "s", "text_input": "zero", "stream": True}
    for outputs in (
        "return_finish_reason",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "return_cumulative_logprob",
    ):
        body[outputs] = True
    status, _, events = await client.stream("phi2_stream", body)
    assert status == 200
    assert [event["text_output"] for event in events] == [" one", " two", " three"]
    assert [event["finish_reason"] for event in events] == ["None", "None", "length"]
    assert [event["num_input_tokens"] for event in events] == [4, 4, 4]
    assert [event["num_output_tokens"] for event in events] == [1, 1, 1]
    assert events[2]["cumulative_logprob"] == pytest.approx(-0.3, abs=1e-6)
    assert {event["id"] for event in events} == {"s"}


async def test_generate_on_a_stream_of_one_piece(client: Client) -> None:
    body = {"text_input": "zero", "stream": True, "max_tokens": 1}
    assert (await client.generate("phi2_stream", body))[1]["text_output"] == " one"


@pytest.mark.parametrize(
    "given",
    [
        {"sampling_parameters": '{"temperature": "0", "max_tokens": 2, "stop": ["\\n"], "ignore_eos": "true"}'},
        {"parameters": {"temperature": 0, "max_tokens": 2, "stop": "\n", "ignore_eos": True}},
        {"temperature": 0, "max_tokens": 2, "stop": "\n", "ignore_eos": True, "n": 1, "best_of": 1, "logprobs": 1},
    ],
)
async def test_sampling_parameters(client: Client, vllm: VllmServer, given: dict[str, object]) -> None:
    status, _ = await client.generate("phi2_stream", {"text_input": "zero"} | given)
    assert status == 200
    asked = vllm.bodies[0]
    assert {"temperature": 0.0, "max_tokens": 2, "ignore_eos": True, "top_p": 1.0, "n": 1}.items() <= asked.items()
    assert asked["stop"] in ("\n", ["\n"])
    assert "best_of" not in asked


async def test_text_of_any_script(client: Client, vllm: VllmServer) -> None:
    _, answer = await client.generate("phi2_stream", '{"text_input":"h\\u00e9 \\ud83d\\ude00 \\u2028"}')
    assert answer["text_output"] == "hé 😀 \u2028" + ALL
    assert vllm.bodies[0]["prompt"] == "hé 😀 \u2028"


async def test_ready(client: Client) -> None:
    assert await client.ask("GET", "/v2/health/ready") == (200, None)


async def test_many_at_once(client: Client) -> None:
    bodies = [{"text_input": f"p{number}", "id": f"i{number}"} for number in range(50)]
    answers = await asyncio.gather(*(client.generate("phi2_stream", body) for body in bodies))
    assert [answer["text_output"] for _, answer in answers] == [body["text_input"] + ALL for body in bodies]
    assert [answer["id"] for _, answer in answers] == [body["id"] for body in bodies]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "sent", "tokenized"),
    [("a b", 600, 98, 1), ("a b", 98, 98, 1), ("a b", 16, 16, 0), ("a " * 99, 16, 1, 1), ("a " * 100, 16, 16, 1)],
)
async def test_an_answer_stays_inside_the_context(
    client: Client, vllm: VllmServer, prompt: str, max_tokens: int, sent: int, tokenized: int
) -> None:
    vllm.context_length = 100
    await client.generate("phi2", {"text_input": prompt, "max_tokens": max_tokens})
    assert (vllm.bodies[0]["max_tokens"], vllm.tokenized) == (sent, tokenized)
