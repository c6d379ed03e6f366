"""Small HTTP servers that speak as Triton and vLLM do, for the collectors' tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

IDS = [11, 12, 13]
LOGPROBS = [-0.1, -0.2, -0.3]


def answer_to(prompt: str) -> str:
    """The text that both servers generate."""
    return f" answer to {len(prompt)}"


@dataclass
class Fake:
    """Records what it was asked and how many requests it served at once; `spoil` may replace an answer."""

    spoil: Callable[[dict[str, Any]], web.Response | None] = lambda body: None
    delay_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    active: int = 0
    most_active: int = 0

    async def enter(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.bodies.append(body)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        await asyncio.sleep(self.delay_s)
        self.active -= 1
        return body

    async def generate(self, request: web.Request) -> web.Response:
        body = await self.enter(request)
        if (spoilt := self.spoil(body)) is not None:
            return spoilt
        reply: dict[str, Any] = {"model_name": "phi2", "text_output": answer_to(body["text_input"])}
        if body.get("return_log_probs"):
            reply |= {"output_ids": IDS, "log_probs": LOGPROBS}
        return web.json_response(reply)

    async def generate_stream(self, request: web.Request) -> web.StreamResponse:
        body = await self.enter(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for text in ("", *answer_to(body["text_input"]).split(" ")):
            await response.write(f"data: {json.dumps({'text_output': text})}\n\n".encode())
            await asyncio.sleep(0.005)
        return response

    async def completions(self, request: web.Request) -> web.Response:
        body = await self.enter(request)
        if (spoilt := self.spoil(body)) is not None:
            return spoilt
        tops = [{f"token_id:{token}": lp, "token_id:99": -4.0} for token, lp in zip(IDS, LOGPROBS, strict=True)]
        logprobs = {"tokens": [f"token_id:{i}" for i in IDS], "token_logprobs": LOGPROBS, "top_logprobs": tops}
        choice = {"text": answer_to(body["prompt"]), "finish_reason": "stop", "token_ids": IDS, "logprobs": logprobs}
        return web.json_response({"choices": [choice]})

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v2/models/phi2/generate", self.generate)
        app.router.add_post("/v2/models/phi2/generate_stream", self.generate_stream)
        app.router.add_post("/v1/completions", self.completions)
        return app
