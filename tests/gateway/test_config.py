"""The YAML file, the command, and the leaf rule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from migrate.gateway.__main__ import main
from migrate.gateway.config import StyleName, load
from migrate.gateway.errors import ConfigError

GOOD = """
listen: {host: 0.0.0.0, port: 8100}
upstream: {url: "http://vllm:8000", timeout_s: 120}
models:
  phi2: {style: python, upstream_model: phi2, version: "1", default_max_tokens: 16}
  phi2_stream: {style: vllm, upstream_model: phi2, version: "1", default_max_tokens: 16}
"""

LEAF = """
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("migrate.") and not name.startswith("migrate.gateway"):
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Guard())
import migrate.gateway.__main__
assert not [n for n in sys.modules if n.startswith("migrate.") and not n.startswith("migrate.gateway")]
"""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "the file"),
        ("[", "while parsing"),
        (GOOD.replace("timeout_s", "timeout"), "upstream.timeout"),
        (GOOD.replace("style: vllm", "style: tensorrt"), "models.phi2_stream.style"),
        (GOOD.replace("port: 8100", "port: 81000"), "listen.port"),
        (GOOD.replace("vllm:8000", "vllm:8000/v1"), "upstream.url"),
        (GOOD.split("models:")[0] + "models: {}", "models"),
    ],
)
def test_a_wrong_file_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load(path)
    assert main([str(path)]) == 64
    assert str(path) in capsys.readouterr().err


def test_a_missing_file(tmp_path: Path) -> None:
    assert main([str(tmp_path / "none.yaml")]) == 64
    assert main([]) == 64


def test_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    config = load(path)
    assert config.listen.port == 8100
    assert config.models["phi2_stream"].style is StyleName.VLLM


def test_it_imports_nothing_from_the_rest_of_migrate() -> None:
    subprocess.run([sys.executable, "-c", LEAF], check=True, timeout=60)
