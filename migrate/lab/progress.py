"""One line when a step begins, one every quarter of a minute while it lasts, one with its seconds when it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]

HEARTBEAT_S = 15.0


@contextmanager
def step(say: Say, title: str, *, heartbeat_s: float = HEARTBEAT_S) -> Iterator[None]:
    """Report `title` through `say` while the body runs; an error in the body passes through, and no end is reported."""
    started = time.monotonic()
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(say, title, ended, heartbeat_s), daemon=True)
    say(f"{title} …")
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
    say(f"{title}: done in {time.monotonic() - started:.0f} s")


def _beat(say: Say, title: str, ended: threading.Event, every_s: float) -> None:
    started = time.monotonic()
    while not ended.wait(every_s):
        say(f"{title} … {time.monotonic() - started:.0f} s")
