import json
from pathlib import Path

import pytest

from migrate import errors
from migrate.cli import main
from migrate.cli.app import EXIT_CODES

from ..core.fakes import plan


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "arguments",
    [("no-such-command",), ("plan",), ("plan", "--no-such-option"), ("apply",), ("apply", "/no/such/file")],
)
def test_what_was_typed_wrong_is_64(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert code(*arguments) == 64
    assert capsys.readouterr().err.startswith("migrate: ")


def test_a_saved_plan_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.json").write_text(plan().text(), encoding="utf-8")
    assert code("show", str(tmp_path / "p.json")) == 0
    out = capsys.readouterr().out
    assert "gpu01" in out
    assert "rollback" in out


def test_an_edited_plan_is_3_and_names_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.json").write_text(plan().text().replace("gpu01", "gpu02"), encoding="utf-8")
    assert code("show", str(tmp_path / "p.json")) == 3
    assert "next: make a new one" in capsys.readouterr().err


def test_a_plan_of_another_host_is_3_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.json").write_text(plan().text(), encoding="utf-8")
    assert code("apply", str(tmp_path / "p.json"), "--host", "gpu02") == 3
    assert "for gpu01, not for gpu02" in capsys.readouterr().err


def test_json_is_ndjson_with_the_version_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.json").write_text(plan().text(), encoding="utf-8")
    assert code("show", str(tmp_path / "p.json"), "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["version", "plan"]


def test_help_lists_the_code_of_every_error() -> None:
    tree = [errors.MigrateError]
    for kind in tree:
        tree += kind.__subclasses__()
    listed = {int(part.split()[0]) for part in EXIT_CODES.removeprefix("Exit codes: ").replace("\n", " ").split(" · ")}
    assert {kind.exit_code for kind in tree} <= listed
