"""Everything that `migrate` expects to go wrong, as one tree; the exit code belongs to the class.

MigrateError                1   internal error before any change
    UsageError             64   the command line, the inventory or a setting is wrong
        SettingsError      64   a setting is unknown or has a wrong value
    Refused                 3   the plan is expired, used, edited, or the host has drifted
    LockHeld                4   somebody else is migrating this host
    GateFailed              5   a gate failed before cutover; the old stack serves
    RolledBack              6   failed after the first change of traffic; rolled back and verified
    NotProven               7   the state is not proven good; a human is needed
    Held                    8   inconclusive; held at a safe point
    HostUnreachable         9   the host could not be reached before any change
    Declined               10   the operator said no
    Interrupted           130   stopped by a signal at a safe point
"""

from __future__ import annotations


class MigrateError(Exception):
    """An error that is reported in one line and, where there is one, the next command to type."""

    exit_code = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class UsageError(MigrateError):
    """What the operator typed or wrote cannot be used."""

    exit_code = 64


class SettingsError(UsageError):
    """A setting in the inventory is unknown, missing or has a wrong value."""


class Refused(MigrateError):
    """The plan does not fit the host any more, or may not be used (again)."""

    exit_code = 3


class LockHeld(MigrateError):
    """Another run holds the host's lock."""

    exit_code = 4


class GateFailed(MigrateError):
    """A gate said no before traffic moved; the old stack serves."""

    exit_code = 5


class RolledBack(MigrateError):
    """A failure after traffic began to move; the way back was taken and verified."""

    exit_code = 6


class NotProven(MigrateError):
    """The state of the host is not proven good; a human is needed."""

    exit_code = 7


class Held(MigrateError):
    """The evidence decides neither way; the run is held at a safe point."""

    exit_code = 8


class HostUnreachable(MigrateError):
    """The host did not answer, before any change was made."""

    exit_code = 9


class Declined(MigrateError):
    """The operator answered no."""

    exit_code = 10


class Interrupted(MigrateError):
    """A signal stopped the run at a safe point."""

    exit_code = 130
