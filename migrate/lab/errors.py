"""What can go wrong while the lab is made."""

from __future__ import annotations

from migrate.errors import MigrateError


class LabError(MigrateError):
    """The lab cannot be made, or a tool that it needs is missing."""

    exit_code = 64
