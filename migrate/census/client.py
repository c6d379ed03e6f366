"""One row of the census."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What becomes of a caller, the worst first."""

    FAILS = "will fail"  # at the cutover, or when Triton is retired without anything that would hold `retire` back
    UNCLEAR = "unclear"  # seen too little of it to say
    STAYS = "stays"  # on Triton, through nginx; `retire` refuses while its route is there
    MAPPED = "mapped"  # moves, with a difference that is named
    UNCHANGED = "unchanged"  # moves and is served as it is


class How(StrEnum):
    """The way by which a caller reaches Triton; all but the first bypass nginx, and no cutover moves them."""

    NGINX = "via nginx"
    DIRECT = "direct"
    NETWORK = "compose network"
    LOOPBACK = "loopback"
    MEMORY = "shared memory"


@dataclass(frozen=True, slots=True)
class Client:
    """A caller and what it asks for.

    `requests` and `errors` (5xx) are from the log, `connections` are open ones; `last` is ISO 8601 in UTC, empty where
    no log has the caller; `because` and `next` are for the operator.
    """

    who: str
    how: How
    protocol: str
    asks: str
    verdict: Verdict
    because: str
    next: str = ""
    agent: str = ""
    requests: int = 0
    errors: int = 0
    connections: int = 0
    last: str = ""

    @property
    def bypasses_nginx(self) -> bool:
        """Whether the cutover cannot move this caller, because it does not come through nginx."""
        return self.how is not How.NGINX
