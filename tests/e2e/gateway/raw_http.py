"""HTTP as bytes on a socket: what no client library would send, and answers that none has interpreted."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from http.client import HTTPException, HTTPResponse
from typing import Any

from tests.e2e.gateway import tensors
from tests.e2e.gateway.compare import joined

_TIMEOUT_S = 60
_HEADER_LENGTH = "Inference-Header-Content-Length"
_COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}
_EXPAND = {"gzip": gzip.decompress, "deflate": zlib.decompress, "": bytes, "identity": bytes}


def ask(address: str, case: dict[str, Any]) -> dict[str, Any]:
    """Status, headers that matter, and the body, read as what its type says."""
    method, path = case["http_request"].split(" ", 1)
    body, headers = _body(case)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as connection:
        line = f"{method} {path} HTTP/{case.get('version', '1.1')}"
        connection.sendall(f"{line}\r\nHost: {address}\r\n{head}\r\n".encode("latin-1") + body)
        response = HTTPResponse(connection, method=method)
        try:
            response.begin()
            return _seen(response, response.readline() + b"\n" if case.get("leave") else response.read())
        except (HTTPException, ConnectionResetError) as error:
            return {"closed": type(error).__name__}


def _body(case: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    headers: dict[str, Any] = {}
    body = str(case.get("text", "")).encode() + bytes.fromhex(case.get("hex", ""))
    if "json" in case:
        body = json.dumps(case["json"], ensure_ascii=False, separators=(",", ":")).encode()
    if "repeat" in case:
        body = body.replace(b"@", case["repeat"]["text"].encode() * case["repeat"]["times"])
    if "tail" in case:
        headers[_HEADER_LENGTH] = len(body)
        body += b"".join(tensors.raw(datatype, data) for datatype, data in case["tail"])
    if "compress" in case:
        headers["Content-Encoding"] = case["compress"]
        body = _COMPRESS[case["compress"]](body)
    if "chunks" in case:
        headers["Transfer-Encoding"] = "chunked"
        body = _chunked(body, case["chunks"])
    elif body or case["http_request"].startswith("POST"):
        headers["Content-Length"] = len(body)
    return body, headers | case.get("headers", {})


def _chunked(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def _seen(response: HTTPResponse, body: bytes) -> dict[str, Any]:
    kind = response.headers.get("Content-Type", "")
    encoding = response.headers.get("Content-Encoding", "")
    seen: dict[str, Any] = {"status": response.status, "content_type": kind}
    if encoding:
        seen["content_encoding"] = encoding
    return seen | {"body": _read(_EXPAND[encoding](body), kind, response.headers.get(_HEADER_LENGTH))}


def _read(body: bytes, kind: str, header_length: str | None) -> Any:
    if header_length is not None:
        document = json.loads(body[: int(header_length)])
        return document | {"tail": _tail(document, body[int(header_length) :])}
    if kind.startswith("text/event-stream"):
        return _events(body)
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "backslashreplace")


def _tail(document: dict[str, Any], tail: bytes) -> list[Any]:
    read = []
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            read.append(tensors.values(output["datatype"], tail[:size]))
            tail = tail[size:]
    return [*read, *([tail.hex()] if tail else [])]


def _events(body: bytes) -> dict[str, Any]:
    *events, rest = body.decode("utf-8").split("\n\n")
    if rest or not all(event.startswith("data: ") for event in events):
        return {"no events": body.decode("utf-8")}
    return joined([json.loads(event[6:]) for event in events])
