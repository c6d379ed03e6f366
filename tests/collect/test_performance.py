from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from migrate.collect.performance import PerformanceJob
from migrate.collect.records import Output
from tests.collect.conftest import Serve
from tests.collect.servers import Fake

DEAD = "http://127.0.0.1:9"


async def collect(tmp_path: Path, triton: str, gateway: str, **job: Any) -> list[dict[str, Any]]:
    sides = {"triton": {"url": triton, "model": "phi2"}, "gateway": {"url": gateway, "model": "phi2"}}
    sizes = {"concurrency": [1, 3], "duration_s": 0.4, "max_tokens": 8, "prompts": ["a", "b"], "rounds": 2}
    with Output(tmp_path / "out.jsonl") as output:
        output.finish(**await PerformanceJob.parse(sides | sizes | job).run(output))
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]


async def test_a_dead_side_is_recorded_and_does_not_flood(serve: Serve, tmp_path: Path) -> None:
    *records, trailer = await collect(tmp_path, await serve(Fake(delay_s=0.01)), DEAD, concurrency=[1])
    dead = [record for record in records if record["side"] == "gateway"]
    assert dead
    assert all(record["error"] for record in dead)
    assert len(dead) < 40
    assert trailer["records"] == len(records)


async def test_blocks_are_interleaved_in_pairs_of_both_sides(serve: Serve, tmp_path: Path) -> None:
    triton, gateway = Fake(delay_s=0.005), Fake(delay_s=0.005)
    *records, trailer = await collect(tmp_path, await serve(triton), await serve(gateway))
    measured = [record for record in records if record["phase"] == "measure"]
    for concurrency in (1, 3):
        level = [record for record in measured if record["concurrency"] == concurrency]
        runs = [side for side, _ in groupby(record["side"] for record in level)]
        assert Counter((record["pair"], record["side"]) for record in level).keys() == {
            (pair, side) for pair in range(4) for side in ("triton", "gateway")
        }
        assert 4 <= len(runs) <= 8
    assert max(triton.most_active, gateway.most_active) == 3
    assert [warm["side"] for warm in trailer["warm_up"]] == ["triton", "gateway"] * 2


async def test_no_side_sees_a_prompt_twice_and_both_see_the_same(serve: Serve, tmp_path: Path) -> None:
    triton, gateway = Fake(delay_s=0.005), Fake(delay_s=0.005)
    await collect(tmp_path, await serve(triton), await serve(gateway))
    asked = [[body["text_input"] for body in fake.bodies] for fake in (triton, gateway)]
    assert [len(set(prompts)) for prompts in asked] == [len(prompts) for prompts in asked]
    assert len(set(asked[0]) & set(asked[1])) > 10


async def test_a_stream_has_its_first_text_before_its_last(serve: Serve, tmp_path: Path) -> None:
    *records, _ = await collect(tmp_path, await serve(Fake()), await serve(Fake()), concurrency=[1], stream=True)
    assert all(record["sent_s"] < record["first_s"] < record["last_s"] for record in records)
    assert all(record["stream"] and record["characters_out"] for record in records)


async def test_tokens_are_counted_where_the_model_is_asked_to_say(serve: Serve, tmp_path: Path) -> None:
    url, asked = await serve(Fake(delay_s=0.01)), {"return_log_probs": True}
    *silent, _ = await collect(tmp_path, url, url, concurrency=[1])
    *told, _ = await collect(tmp_path, url, url, concurrency=[1], parameters=asked)
    assert {record["tokens_out"] for record in silent} == {None}
    assert {record["tokens_out"] for record in told} == {3}


async def test_latencies_are_from_the_scheduled_time(serve: Serve, tmp_path: Path) -> None:
    slow = await serve(Fake(delay_s=0.05))
    *records, _ = await collect(tmp_path, slow, slow, concurrency=[1])
    assert all(record["scheduled_s"] <= record["sent_s"] <= record["last_s"] - 0.05 for record in records)


def test_a_job_without_a_side_names_it() -> None:
    with pytest.raises(ValueError, match="'gateway'"):
        PerformanceJob.parse({"duration_s": 1, "triton": {"url": "http://x", "model": "m"}})
