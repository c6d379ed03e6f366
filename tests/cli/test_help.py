import re
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup

from migrate.cli.app import app

README = Path(__file__).parents[2] / "README.md"


def commands(group: TyperGroup, prefix: str = "migrate") -> dict[str, TyperCommand]:
    found: dict[str, TyperCommand] = {}
    for name, command in group.commands.items():
        path = f"{prefix} {name}"
        found |= commands(command, path) if isinstance(command, TyperGroup) else {path: command}
    return found


def root() -> TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


@pytest.mark.parametrize("path", list(commands(root())))
def test_every_command_has_one_sentence_and_an_example(path: str) -> None:
    text = commands(root())[path].help or ""
    assert f"Example: {path}" in text
    assert text[0].isupper()


def test_the_readme_names_only_commands_that_exist() -> None:
    named = set(re.findall(r"^    (migrate [a-z]+)", README.read_text(encoding="utf-8"), flags=re.M))
    assert named
    assert named <= set(commands(root()))


def test_the_readme_has_exactly_two_make_commands() -> None:
    assert re.findall(r"^    (make .*)$", README.read_text(encoding="utf-8"), flags=re.M) == ["make demo", "make test"]
