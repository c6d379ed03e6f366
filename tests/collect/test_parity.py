from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from migrate.collect.parity import ParityJob
from migrate.collect.records import Output
from tests.collect.conftest import Serve
from tests.collect.servers import IDS, LOGPROBS, Fake, answer_to

DEAD = "http://127.0.0.1:9"


async def collect(tmp_path: Path, **job: Any) -> list[dict[str, Any]]:
    wanted = {"model": "phi2", "prompts": ["def add(a, b):", "", "你好"], "max_tokens": 8, "timeout_s": 5, **job}
    with Output(tmp_path / "out.jsonl") as output:
        output.finish(**await ParityJob.parse(wanted).run(output))
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]


async def test_a_server_that_is_not_there_is_recorded_in_every_arm(serve: Serve, tmp_path: Path) -> None:
    *records, trailer = await collect(tmp_path, triton=await serve(Fake()), vllm=DEAD, client_path=DEAD)
    failed = [record for record in records if record["error"]]
    assert Counter(record["arm"] for record in failed) == {"vllm_1": 3, "vllm_2": 3, "gateway_1": 3}
    assert all(record["text"] is None and "ClientConnector" in record["error"] for record in failed)
    assert trailer["records"] == len(records) == 15


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (web.json_response({"error": "no such model"}, status=400), "HTTP 400"),
        (web.Response(text="<html>"), "JSONDecodeError"),
        (web.json_response({"text_output": "x", "error": "late"}), "late"),
        (web.json_response({"model_name": "phi2"}), "no text_output"),
        (web.json_response(["a", "list"]), "no JSON object"),
    ],
)
async def test_a_bad_answer_is_an_error_not_a_text(
    serve: Serve, tmp_path: Path, reply: web.Response, error: str
) -> None:
    triton = await serve(Fake(spoil=lambda body: web.Response(body=reply.body, status=reply.status)))
    *records, _ = await collect(tmp_path, triton=triton, vllm=await serve(Fake()), prompts=["a"])
    bad = [record for record in records if record["arm"].startswith("triton")]
    assert [error in record["error"] for record in bad] == [True, True]
    assert [record["text"] for record in bad] == [None, None]


async def test_a_slow_server_times_out(serve: Serve, tmp_path: Path) -> None:
    slow = await serve(Fake(delay_s=0.5))
    *records, _ = await collect(tmp_path, triton=slow, vllm=await serve(Fake()), prompts=["a"], timeout_s=0.1)
    assert sum("Timeout" in (record["error"] or "") for record in records) == 2


async def test_answers_of_both_protocols_come_in_one_shape(serve: Serve, tmp_path: Path) -> None:
    triton, vllm, gateway = Fake(), Fake(), Fake()
    *records, trailer = await collect(
        tmp_path, triton=await serve(triton), vllm=await serve(vllm), client_path=await serve(gateway)
    )
    assert {record["text"] for record in records if record["prompt"] == "你好"} == {answer_to("你好")}
    for record in (record for record in records if record["arm"] != "gateway_1"):
        assert (record["token_ids"], record["logprobs"]) == (IDS, LOGPROBS)
    tops = [record["top_logprobs"] for record in records if record["arm"] == "vllm_1"]
    assert tops[0][0] == {"11": -0.1, "99": -4.0}
    assert trailer["prompts"] == 3
    assert trailer["complete"]
    assert {body["temperature"] for body in vllm.bodies} == {0}
    assert all("return_log_probs" not in body for body in gateway.bodies)
    assert max(fake.most_active for fake in (triton, vllm, gateway)) == 1


async def test_one_token_comes_as_a_scalar(serve: Serve, tmp_path: Path) -> None:
    one = {"text_output": "a", "output_ids": 7, "log_probs": -0.5}
    triton = await serve(Fake(spoil=lambda body: web.json_response(one)))
    *records, _ = await collect(tmp_path, triton=triton, vllm=await serve(Fake()), prompts=["a"])
    first = next(record for record in records if record["arm"] == "triton_1")
    assert (first["token_ids"], first["logprobs"]) == ([7], [-0.5])


async def test_half_a_surrogate_is_written_and_read_back(serve: Serve, tmp_path: Path) -> None:
    triton = await serve(Fake(spoil=lambda body: web.Response(text='{"text_output": "half \\ud83d"}')))
    *records, _ = await collect(tmp_path, triton=triton, vllm=await serve(Fake()), prompts=["a"])
    assert {record["text"] for record in records if record["arm"].startswith("triton")} == {"half \ud83d"}


async def test_arms_come_in_an_order_that_varies_and_repeats_by_seed(serve: Serve, tmp_path: Path) -> None:
    urls = {"triton": await serve(Fake()), "vllm": await serve(Fake()), "prompts": list("abcdef")}
    orders = []
    for seed in (1, 1, 2):
        *records, _ = await collect(tmp_path, **urls, seed=seed)
        orders.append([record["arm"] for record in records])
    assert orders[0] == orders[1] != orders[2]
    assert len({tuple(orders[0][i : i + 4]) for i in range(0, 24, 4)}) > 1


def test_a_job_without_a_key_names_it() -> None:
    with pytest.raises(ValueError, match="'vllm'"):
        ParityJob.parse({"model": "phi2", "triton": "http://x", "prompts": ["a"], "max_tokens": 1})
    with pytest.raises(ValueError, match="'prompts'"):
        ParityJob.parse({"model": "phi2", "triton": "http://x", "vllm": "http://y", "prompts": [], "max_tokens": 1})
