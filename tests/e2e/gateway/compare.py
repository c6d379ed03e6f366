"""What differs between two answers, path by path."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

# Two engines add 32-bit floats in another order; texts and token ids do not depend on it, log-probabilities do.
_TOLERANCE = 2e-3
ABSENT = "(absent)"


def differences(expected: Any, actual: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """(expected, actual) at each path where they differ; 1, 1.0 and true are different."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        names = [*expected, *(name for name in actual if name not in expected)]
        pairs = [(name, expected.get(name, ABSENT), actual.get(name, ABSENT)) for name in names]
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        pairs = [(str(n), *pair) for n, pair in enumerate(zip(expected, actual, strict=True))]
    else:
        return {} if _equal(expected, actual) else {path: (expected, actual)}
    found: dict[str, tuple[Any, Any]] = {}
    for name, one, other in pairs:
        found |= differences(one, other, f"{path}.{name}".lstrip("."))
    return found


def at(answer: Any, path: str) -> Any:
    """What the answer has at a path; all of it at the empty one."""
    for name in path.split(".") if path else ():
        answer = answer[int(name)] if isinstance(answer, list) else answer.get(name, ABSENT)
    return answer


def is_under(path: str, whole: str) -> bool:
    """Whether the path is `whole`, or a part of what lies there."""
    return not whole or path == whole or path.startswith(f"{whole}.")


def joined(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """One stream of responses: its whole text, what else its responses hold, and how `triton_final_response` went on.

    A busy vLLM puts several tokens into a piece, so where a text was cut says nothing; what repeats is kept once.
    """
    kinds: list[Any] = []
    finals: list[Any] = []
    texts = []
    for piece in pieces:
        rest = deepcopy(piece)
        final = rest.get("parameters", {}).pop("triton_final_response", None)
        texts.append(_take_text(rest))
        kinds += [rest] if rest not in kinds[-1:] else []
        finals += [final] if final not in finals[-1:] else []
    return {"text": "".join(texts), "responses": kinds, "final": finals, "is_one": len(pieces) == 1}


def structure(answer: Any) -> Any:
    """Names and types; a list counts by the first of its elements."""
    if isinstance(answer, dict):
        return {name: structure(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [structure(value) for value in answer[:1]]
    return type(answer).__name__


def _take_text(response: dict[str, Any]) -> str:
    """The text of an event, a protobuf response or an InferResult, which is taken out of it."""
    if "text_output" in response:
        return str(response.pop("text_output"))
    outputs = response.get("outputs", {})
    if isinstance(outputs, dict):
        return "".join(outputs["text_output"].pop()) if "text_output" in outputs else ""
    return "".join(text for output in outputs for text in output.pop("data", []))


def _equal(expected: Any, actual: Any) -> bool:
    if type(expected) is not type(actual):
        return False
    if isinstance(expected, float):
        return math.isclose(expected, actual, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(expected == actual)
