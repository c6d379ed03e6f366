"""Reads the parts of a host so that one that cannot be read ends nothing else."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

# What stands for a part that could not be read, where a plan needs more than null: an owner is then not taken for one.
_EMPTY: dict[str, dict[str, Any]] = {
    "docker": {"version": None, "compose_version": None, "server_ok": False, "runtimes": [], "cdi": []},
    "hostctl": {"installed": False, "status": None},
    "nginx": {"version": None, "running": False, "files": {}, "main": None},
    "owner": {"kind": "unknown", "name": None, "evidence": [], "revivers": []},
    "triton.api": {"live": False, "models": [], "configs": {}, "metadata": {}, "statistics": {}, "left_out": []},
    "triton.container": {"container": None},
    "vllm_image": {"digest": None, "error": "the registry could not be asked"},
    "weights": {"exists": False, "digest": None, "texts": {}},
    "model_repository": {"exists": False, "digest": None, "models": {}},
    "clients": {"log": [], "sockets": []},
}


class Parts:
    """Reads one part after another; one that raises is null or empty, and `reasons` says why."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def read(self, name: str, reader: Callable[[], Any]) -> Any:
        """What `reader` gives, or what stands for the part.

        The text of an error may hold what was read: only its type is shown, and the file's name of an OSError.
        """
        try:
            return reader()
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            where = error.filename if isinstance(error, OSError) and error.filename else f"{last.name}:{last.lineno}"
            self.reasons[name] = reason = f"{name} could not be read: {said} ({where})"
            return _EMPTY[name] | {"reason": reason} if name in _EMPTY else None
