"""Several processes on one port, one event loop each, kept running by a parent that serves nothing itself.

They share the port by SO_REUSEPORT and not by inheriting a socket, as uvicorn's workers do: gRPC binds its port itself
and cannot be handed one, so that both listeners work the same way, and no worker waits for another one's accept. The
kernel spreads connections, not requests: give nginx at least as many upstream connections as there are workers. Each
worker has its own statistics, its own metrics, on the metrics port plus its number, and its part of a key's limits.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence

_log = logging.getLogger("migrate.gateway.workers")
_PAUSE_S = 1.0


async def supervise(command: Callable[[int], Sequence[str]], count: int, fatal: int) -> int:
    """Run `command(0)` … `command(count - 1)` until SIGTERM or SIGINT; whichever ends by itself is started again.

    One that ends with the status `fatal` cannot run at all: the others are stopped, and that is the result, else 0.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    results = await asyncio.gather(*(_keep(command(number), told, fatal) for number in range(count)))
    return max(results)


async def _keep(command: Sequence[str], told: asyncio.Event, fatal: int) -> int:
    stop = asyncio.create_task(told.wait())
    while True:
        process = await asyncio.create_subprocess_exec(*command)
        end = asyncio.create_task(process.wait())
        await asyncio.wait({stop, end}, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await end
            return 0
        if process.returncode == fatal:
            told.set()
            return fatal
        _log.error("a worker ended with status %s, it is started again", process.returncode)
        await asyncio.wait({stop}, timeout=_PAUSE_S)
