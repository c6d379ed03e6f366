"""The bounded queue in front of vLLM."""

from __future__ import annotations

import asyncio

import pytest

from migrate.gateway.config import QueueConfig
from migrate.gateway.errors import Code, ModelError
from migrate.gateway.vllm.places import Places


def places(in_flight: int, waiting: int, wait_s: float = 60.0) -> Places:
    return Places(QueueConfig(max_in_flight=in_flight, max_waiting=waiting, max_wait_s=wait_s, retry_after_s=7))


async def hold(queue: Places, until: asyncio.Event, order: list[int] | None = None, number: int = 0) -> None:
    async with queue:
        if order is not None:
            order.append(number)
        await until.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    queue, end = places(1, 1), asyncio.Event()
    holding = [asyncio.create_task(hold(queue, end)) for _ in range(2)]
    await settle()
    assert queue.waiting == 1
    with pytest.raises(ModelError, match="is full") as refused:
        await hold(queue, end)
    assert (refused.value.code, refused.value.status, refused.value.retry_after_s) == (Code.UNAVAILABLE, 503, 7)
    end.set()
    await asyncio.gather(*holding)
    await hold(queue, end)


async def test_who_waits_too_long_is_refused_and_leaves_no_trace() -> None:
    queue, end = places(1, 5, wait_s=0.01), asyncio.Event()
    holding = asyncio.create_task(hold(queue, end))
    await settle()
    with pytest.raises(ModelError, match="no free place in time"):
        await hold(queue, end)
    assert queue.waiting == 0
    end.set()
    await holding
    await hold(queue, end)


async def test_places_go_out_in_order_of_arrival() -> None:
    queue, order, ends = places(1, 5), list[int](), [asyncio.Event() for _ in range(4)]
    holding = [asyncio.create_task(hold(queue, end, order, number)) for number, end in enumerate(ends)]
    for end in ends:
        await settle()
        end.set()
    await asyncio.gather(*holding)
    assert order == [0, 1, 2, 3]


@pytest.mark.parametrize("has_turn", [False, True])
async def test_a_client_that_leaves_the_queue_takes_no_place_along(has_turn: bool) -> None:
    queue, end, order = places(1, 5), asyncio.Event(), list[int]()
    first = asyncio.create_task(hold(queue, end))
    await settle()
    leaving = asyncio.create_task(hold(queue, end, order, 1))
    last = asyncio.create_task(hold(queue, end, order, 2))
    await settle()
    if has_turn:
        first.cancel()
        await asyncio.sleep(0)  # the place is now on its way to the one that leaves
    leaving.cancel()
    end.set()
    await asyncio.gather(first, leaving, last, return_exceptions=True)
    assert order == [2]
    await hold(queue, end)
