"""What `hostctl` expects to go wrong; the exit code belongs to the class."""

from __future__ import annotations


class HostctlError(Exception):
    """The command failed; `advice` is what to do next, `facts` are added to the JSON answer."""

    exit_code = 1

    def __init__(self, message: str, advice: str = "", **facts: object) -> None:
        super().__init__(message)
        self.advice = advice
        self.facts = facts


class Refused(HostctlError):
    """A stale token, a broken chain or a step that may not be taken now."""

    exit_code = 3


class LockHeld(HostctlError):
    """Somebody else holds the lock and the lease still runs."""

    exit_code = 4


class NotProven(HostctlError):
    """The way back was tried and the old stack is not proven to serve."""

    exit_code = 7
