"""Content-Encoding and Accept-Encoding of `infer`, as Triton 2.51 reads them: gzip and deflate (zlib), nothing else."""

from __future__ import annotations

import gzip
import zlib

from migrate.gateway.errors import Code, TritonError

_EITHER_FORMAT = 32 + zlib.MAX_WBITS
_LEVEL = 6


class UnknownEncoding(TritonError):
    """A Content-Encoding that Triton does not know; the answer names those that it does in Accept-Encoding."""

    def __init__(self) -> None:
        super().__init__(Code.UNSUPPORTED, "Unsupported compression type")


def inflated(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """The body without its encoding; Triton tells gzip from zlib by the bytes and takes what there is of a torn one.

    Raises TritonError, also for a body that would be longer than `most_bytes`: nothing beyond them is inflated.
    """
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise UnknownEncoding
    if not body:
        raise TritonError(Code.INVALID_ARG, "nothing to be decompressed")
    stream = zlib.decompressobj(_EITHER_FORMAT)
    try:
        found = stream.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise TritonError(Code.INVALID_ARG, f"the body cannot be decompressed: {error}") from None
    if len(found) > most_bytes:
        raise TritonError(Code.INVALID_ARG, f"the decompressed body is larger than {most_bytes} bytes")
    return found


def chosen(accepted: str) -> str:
    """The encoding of an answer, empty for none: the first of those with the highest quality."""
    best, best_quality = "", 0.0
    for part in accepted.split(","):
        name, _, parameter = part.strip().partition(";")
        quality = _quality(parameter)
        if name in ("gzip", "deflate", "identity") and quality > best_quality:
            best, best_quality = name, quality
    return "" if best == "identity" else best


def deflated(body: bytes, encoding: str) -> bytes:
    """The body in this encoding."""
    if encoding == "gzip":
        return gzip.compress(body, _LEVEL, mtime=0)
    return zlib.compress(body, _LEVEL) if encoding == "deflate" else body


def _quality(parameter: str) -> float:
    try:
        return float(parameter.removeprefix("q=")) if parameter else 1.0
    except ValueError:
        return 0.0
