"""Asks both servers for the same greedy answers, twice each and in random order, and once through the gateway."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

from migrate.collect.answers import Answer, from_completion, from_triton
from migrate.collect.exchange import Exchange, client_session, post
from migrate.collect.records import Output, progress, required

ARMS = ("triton_1", "triton_2", "vllm_1", "vllm_2")
GATEWAY_ARM = "gateway_1"
_TOP_LOGPROBS = 5


# The variable that vLLM itself takes its key from.
_KEY = "VLLM_API_KEY"


@dataclass(frozen=True, slots=True)
class ParityJob:
    """What to ask whom. `client_path` is the gateway's URL; without it the gateway's arm is left out.

    One request runs at a time, since co-resident requests change what both engines compute (vllm#5898). Arms come in
    random order per prompt, so that a warm cache favours none.
    """

    triton: str
    vllm: str
    client_path: str | None
    model: str
    vllm_model: str
    prompts: tuple[str, ...]
    max_tokens: int
    logprobs: bool = True
    seed: int = 1
    timeout_s: float = 60.0
    triton_parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, job: Mapping[str, Any]) -> ParityJob:
        """Read the job's JSON object. Raises ValueError that names the key which is missing or wrong."""
        model = required(job, "model", str)
        return cls(
            triton=required(job, "triton", str).rstrip("/"),
            vllm=required(job, "vllm", str).rstrip("/"),
            client_path=(job.get("client_path") or "").rstrip("/") or None,
            model=model,
            vllm_model=job.get("vllm_model") or model,
            prompts=tuple(required(job, "prompts", list)),
            max_tokens=required(job, "max_tokens", int),
            logprobs=bool(job.get("logprobs", True)),
            seed=int(job.get("seed", 1)),
            timeout_s=float(job.get("timeout_s", 60.0)),
            triton_parameters=job.get("triton_parameters") or {},
        )

    async def run(self, output: Output) -> dict[str, Any]:
        """Write one record per prompt and arm. Returns the facts for the closing record."""
        order = random.Random(self.seed)  # noqa: S311 - an order that can be repeated, no secret
        arms = [*ARMS, *([GATEWAY_ARM] if self.client_path else [])]
        errors = 0
        async with client_session(self.timeout_s) as session:
            for number, prompt in enumerate(self.prompts):
                for arm in order.sample(arms, k=len(arms)):
                    record = await self._ask(session, arm, prompt)
                    errors += record["error"] is not None
                    output.write({"prompt_id": number, "prompt": prompt, **record})
                progress(f"parity: {number + 1} of {len(self.prompts)} prompts, {errors} errors")
        return {"prompts": len(self.prompts), "arms": arms, "seed": self.seed, "max_tokens": self.max_tokens}

    async def _ask(self, session: aiohttp.ClientSession, arm: str, prompt: str) -> dict[str, Any]:
        url, body = self._request(arm, prompt)
        key = os.environ.get(_KEY, "") if arm.startswith("vllm") else ""
        exchange = await post(session, url, body, key=key)
        answer, error = _read(arm, exchange)
        return {"arm": arm, **asdict(answer), "latency_s": exchange.last_s - exchange.sent_s, "error": error}

    def _request(self, arm: str, prompt: str) -> tuple[str, dict[str, Any]]:
        if arm.startswith("vllm"):
            return f"{self.vllm}/v1/completions", self._completion(prompt)
        body = {"text_input": prompt, "max_tokens": self.max_tokens, **self.triton_parameters}
        if arm == GATEWAY_ARM:
            return f"{self.client_path}/v2/models/{self.model}/generate", body
        asked = {"return_log_probs": True} if self.logprobs else {}
        return f"{self.triton}/v2/models/{self.model}/generate", body | asked

    def _completion(self, prompt: str) -> dict[str, Any]:
        asked = {"logprobs": _TOP_LOGPROBS, "return_tokens_as_token_ids": True} if self.logprobs else {}
        return {
            "model": self.vllm_model,
            "prompt": prompt,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "return_token_ids": True,
            **asked,
        }


def _read(arm: str, exchange: Exchange) -> tuple[Answer, str | None]:
    if exchange.error is not None:
        return Answer(text=None), exchange.error
    try:
        if arm.startswith("vllm"):
            return from_completion(exchange.payloads[0]), None
        return from_triton(exchange.payloads), None
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        return Answer(text=None), f"answer not understood: {problem}"
