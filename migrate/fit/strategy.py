"""Can Triton and vLLM be up together on one card: side by side, one after the other with a gap, or not at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from migrate.fit.memory import DRIVER
from migrate.fit.units import GIB, gib

_MARGIN = GIB // 4
_STOP_S, _STEADY_S = 30.0, 10.0
_VLLM_START_S, _TRITON_START_S = 90.0, 15.0
_READ_BYTES_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Strategy:
    """`side-by-side`, `swap` or `refuse`, and why. `utilization` is the `--gpu-memory-utilization` that leaves Triton
    its memory; the gaps are estimates of how long nobody answers on the way there and back, 0 side by side."""

    name: str
    reason: str
    utilization: float = 0.0
    gap_there_s: float = 0.0
    gap_back_s: float = 0.0


def strategy(free: int, total: int, triton_used: int, need: int, weights: int = 0) -> Strategy:
    """How the host moves, from measured bytes of one card: free, all, held by Triton, needed by vLLM (`Fit.needed`).

    vLLM refuses to start unless `utilization x total` is free (vllm/v1/worker/utils.py, `request_memory`), so the
    utilisation is rounded down. The gaps take Triton's default exit timeout (30 s), 10 s until the memory is seen to be
    free, starts as measured (vLLM 60 to 112 s for 2.8 billion parameters, Triton 15 s), and `weights` bytes read at
    1 GB/s.
    """
    visible = max(1, total - DRIVER)
    beside = _utilization(free - _MARGIN, visible)
    alone = _utilization(free + triton_used - _MARGIN, visible)
    if beside * visible >= need:
        reason = f"{gib(free)} are free beside Triton's {gib(triton_used)}; vLLM needs {gib(need)}"
        return Strategy("side-by-side", reason, beside)
    if alone * visible >= need:
        load = weights / _READ_BYTES_PER_S
        reason = (
            f"{gib(free)} are free, vLLM needs {gib(need)}: Triton must give back its {gib(triton_used)} first; "
            "nobody answers meanwhile"
        )
        there, back = _STOP_S + _STEADY_S + _VLLM_START_S + load, _STOP_S + _STEADY_S + _TRITON_START_S + load
        return Strategy("swap", reason, alone, round(there, 1), round(back, 1))
    reason = f"vLLM needs {gib(need)}; without Triton {gib(max(0, free + triton_used))} of {gib(total)} would be free"
    return Strategy("refuse", reason)


def _utilization(available: int, visible: int) -> float:
    return max(0.0, min(0.99, math.floor(100 * available / visible) / 100))
