"""The witness trusts the operator's own authority when it is told to, and nobody else."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from migrate.witness import WitnessConfig, watch

from .conftest import GOOD, stream


async def answer(request: web.Request) -> web.StreamResponse:
    return await stream(request, [GOOD]) if request.path.endswith("_stream") else web.json_response(GOOD)


async def test_only_with_the_authority(config: WitnessConfig, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    found = replace(config, base_url=f"https://localhost:{runner.addresses[0][1]}", max_requests=16)
    without = await watch(found, asyncio.Event())
    trusted = await watch(replace(found, ca_file=certificate, run="trusted"), asyncio.Event())
    await runner.cleanup()
    assert (without.sent, without.failed) == (16, 16)
    assert "CertificateError" in next(without.records()).error
    assert (trusted.sent, trusted.failed) == (16, 0)
