"""The lock on the host: one owner, a lease that is renewed while the run lives, and a fencing token.

Every mutating playbook and every mutating hostctl command asserts the token first, so that a run that lost its
lease (a suspended laptop, say) is refused by the host itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from migrate.errors import LockHeld, MigrateError, Refused

LEASE_S = 60
_RENEW_EVERY_S = 20.0


class Hostctl(Protocol):
    """The part of `migrate.host.Host` that this module needs."""

    def call(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> dict[str, Any]:
        """Run one hostctl command and return its JSON object."""


@dataclass(slots=True)
class Lease:
    """A held lock. `lost` is set by the renewing thread when the host refuses to renew, or was silent `length_s`."""

    id: str
    token: int
    length_s: float = LEASE_S
    lost: threading.Event = field(default_factory=threading.Event)

    def assert_held(self) -> None:
        """Raise LockHeld once the lease is lost: somebody else may be at work."""
        if self.lost.is_set():
            raise LockHeld(
                "the lease on the host was lost; nothing more is changed", advice="look: migrate lock status"
            )


@contextmanager
def hold(host: Hostctl, owner: str, reason: str) -> Iterator[Lease]:
    """Take the lock, renew it in a thread while the block runs, release it at the end. Raises LockHeld."""
    answer = host.call("lock", "acquire", "--owner", owner, "--reason", reason, "--lease-s", str(LEASE_S))
    lease = Lease(str(answer["id"]), int(answer["token"]))
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(host, lease, done), daemon=True, name="lease")
    renewing.start()
    try:
        yield lease
    finally:
        done.set()
        renewing.join(timeout=_RENEW_EVERY_S)
        if not lease.lost.is_set():
            # The lease ends by itself; what the run has to say matters more than this.
            with suppress(MigrateError):
                host.call("lock", "release", "--id", lease.id)


@contextmanager
def outlasting(host: Hostctl, lease: Lease, silent_s: float) -> Iterator[None]:
    """Around what makes the host silent for up to `silent_s` seconds, a reboot: nobody else gets the lock meanwhile."""
    lease.length_s = LEASE_S + silent_s
    _renew_now(host, lease)
    try:
        yield
    finally:
        lease.length_s = LEASE_S
        # The renewing thread makes it short again where the host does not answer just now.
        with suppress(MigrateError):
            _renew_now(host, lease)


def _renew_now(host: Hostctl, lease: Lease) -> None:
    host.call("lock", "renew", "--id", lease.id, "--lease-s", f"{lease.length_s:g}", timeout_s=_RENEW_EVERY_S)


def _renew(host: Hostctl, lease: Lease, done: threading.Event) -> None:
    renewed = time.monotonic()
    while not done.wait(_RENEW_EVERY_S):
        try:
            _renew_now(host, lease)
            renewed = time.monotonic()
        except MigrateError as error:
            # The host's own refusal is final; a slow or lost answer is not, until the lease is over.
            if isinstance(error, Refused | LockHeld) or time.monotonic() - renewed > lease.length_s:
                lease.lost.set()
                return
