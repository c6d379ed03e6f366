"""The lock of the host: one owner, a lease, and a fencing token that only ever grows.

The token decides what may change the host; the lease only decides when somebody else may take the lock over.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from .errors import HostctlError, LockHeld, Refused
from .system import Paths, exclusive, iso, now, parse_iso, sync_directory, write_atomic


def acquire(paths: Paths, *, owner: str, reason: str, lease_s: float) -> dict[str, Any]:
    """Take the free or expired lock. Returns token, id and expiry; raises LockHeld."""
    with exclusive(paths):
        held = _read(paths)
        if held and parse_iso(held["expires"]) > now():
            raise LockHeld(
                f"{held['owner']} holds the lock until {held['expires']}: {held['reason']}",
                f"wait, or `hostctl lock break --id {held['id']} --force` when that run is known to be dead",
                lock=held,
            )
        lock = {
            "id": secrets.token_hex(8),
            "owner": owner,
            "reason": reason,
            "token": _next_token(paths),
            "acquired": iso(now()),
            "expires": iso(now() + lease_s),
        }
        _write(paths, lock)
        return lock | {"took_over": held}


def renew(paths: Paths, *, lock_id: str, lease_s: float) -> dict[str, Any]:
    """Run the lease from now on again; an expired one too, as long as nobody took it over."""
    with exclusive(paths):
        lock = _mine(paths, lock_id) | {"expires": iso(now() + lease_s)}
        _write(paths, lock)
        return lock


def release(paths: Paths, *, lock_id: str) -> dict[str, Any]:
    """Give the lock back. Releasing what is already free is no error."""
    with exclusive(paths):
        if _read(paths) is None:
            return {"released": False, "held": False}
        _mine(paths, lock_id)
        _remove(paths)
        return {"released": True, "held": False}


def break_(paths: Paths, *, lock_id: str, force: bool) -> dict[str, Any]:
    """Remove somebody's lock by its id: expired, or with `force`. Its token is worth nothing from here on."""
    with exclusive(paths):
        lock = _mine(paths, lock_id)
        if parse_iso(lock["expires"]) > now() and not force:
            raise LockHeld(
                f"the lease runs until {lock['expires']}", "add --force when that run is known to be dead", lock=lock
            )
        _remove(paths)
        return {"broken": lock}


def status(paths: Paths) -> dict[str, Any]:
    """Who holds the lock, if anybody, and the last token that was given out."""
    lock = _read(paths)
    expired = lock is not None and parse_iso(lock["expires"]) <= now()
    return {
        "held": lock is not None and not expired,
        "expired": expired,
        "lock": lock,
        "last_token": _last_token(paths),
    }


def assert_token(paths: Paths, token: int) -> dict[str, Any]:
    """Raise Refused unless the lock exists and carries this very token."""
    lock = _read(paths)
    if lock is None:
        raise Refused(f"token {token}: nobody holds the lock", "take the lock first: hostctl lock acquire")
    if lock["token"] != token:
        raise Refused(
            f"token {token} is stale: {lock['owner']} holds {lock['token']}", "stop: another run took over", lock=lock
        )
    return {"token": token, "valid": True}


def _read(paths: Paths) -> dict[str, Any] | None:
    path = paths.state / "lock.json"
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise HostctlError(f"{path}: {error}", "look at the file; remove it when no run is alive") from error


def _write(paths: Paths, lock: dict[str, Any]) -> None:
    write_atomic(paths.state / "lock.json", json.dumps(lock) + "\n")


def _remove(paths: Paths) -> None:
    (paths.state / "lock.json").unlink()
    sync_directory(paths.state)


def _mine(paths: Paths, lock_id: str) -> dict[str, Any]:
    lock = _read(paths)
    if lock is None or lock["id"] != lock_id:
        raise Refused(f"lock {lock_id} is not the one that is held", "hostctl lock status", lock=lock)
    return lock


def _last_token(paths: Paths) -> int:
    try:
        return int((paths.state / "token").read_text())
    except FileNotFoundError:
        return 0


def _next_token(paths: Paths) -> int:
    """Durable before anybody sees it, so that a crash can skip a number but never give one out twice."""
    token = _last_token(paths) + 1
    write_atomic(paths.state / "token", f"{token}\n")
    return token
