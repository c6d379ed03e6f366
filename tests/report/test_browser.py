"""Looks at the HTML report in a headless browser."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from migrate import report
from tests.report import sample

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def pixels(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and the rows of an 8-bit RGB or RGBA PNG (PNG specification, §9 Filtering)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    offset, data, width, height, size = 8, b"", 0, 0, 0
    while offset < len(png):
        length, kind = struct.unpack(">I4s", png[offset : offset + 8])
        chunk = png[offset + 8 : offset + 8 + length]
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", chunk[:10])
            size = {2: 3, 6: 4}[colour]
        data += chunk if kind == b"IDAT" else b""
        offset += length + 12
    return width, height, unfiltered(zlib.decompress(data), width * size, size)


def unfiltered(data: bytes, stride: int, size: int) -> list[bytes]:
    rows: list[bytes] = []
    above = bytes(stride)
    for start in range(0, len(data), stride + 1):
        kind, row = data[start], bytearray(data[start + 1 : start + 1 + stride])
        for i in range(stride) if kind else ():
            left = row[i - size] if i >= size else 0
            corner = above[i - size] if i >= size else 0
            row[i] = (row[i] + predicted(kind, left, above[i], corner)) & 0xFF
        above = bytes(row)
        rows.append(above)
    return rows


def predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind < 4:
        return (0, left, up, (left + up) // 2)[kind]
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))


def look(page: Path, picture: Path) -> str:
    """Take a screenshot; returns what the browser logged."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    size = ["--window-size=800,600", f"--screenshot={picture}", f"--user-data-dir={picture.parent / 'profile'}"]
    command = [str(CHROMIUM), *options, *size, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stderr


@needs_browser
def test_the_page_is_drawn_and_logs_no_error(tmp_path: Path) -> None:
    sample.migrated(tmp_path)
    log = look(report.write(tmp_path)["html"], tmp_path / "shot.png")
    assert "CONSOLE" not in log
    width, height, rows = pixels((tmp_path / "shot.png").read_bytes())
    assert (width, height, len(rows)) == (800, 600, 600)
    assert len({bytes(row) for row in rows}) > 100
    colours = {row[i : i + 3] for row in rows for i in range(0, len(row), len(row) // width)}
    assert {bytes.fromhex("16202e"), bytes.fromhex("dcf3e4")} <= colours


@needs_browser
def test_a_blank_page_and_a_console_error_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "blank.html"
    page.write_text("<script>console.error('seen')</script>")
    assert "CONSOLE" in look(page, tmp_path / "blank.png")
    _, _, rows = pixels((tmp_path / "blank.png").read_bytes())
    assert len(set(rows)) == 1
