import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup

from migrate.cli.app import MODULES, app, load

README = Path(__file__).parents[2] / "README.md"


def commands(group: TyperGroup, prefix: str = "migrate") -> dict[str, TyperCommand]:
    found: dict[str, TyperCommand] = {}
    for name, command in group.commands.items():
        path = f"{prefix} {name}"
        found |= commands(command, path) if isinstance(command, TyperGroup) else {path: command}
    return found


def root() -> TyperGroup:
    load([])
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


@pytest.mark.parametrize("path", list(commands(root())))
def test_every_command_has_one_sentence_and_an_example(path: str) -> None:
    text = commands(root())[path].help or ""
    assert f"Example: {path}" in text
    assert text[0].isupper()


def test_the_table_of_modules_is_that_of_the_commands() -> None:
    assert set(MODULES) == set(root().commands)


@pytest.mark.parametrize("name", MODULES)
def test_a_command_is_found_where_only_its_own_module_is_loaded(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "migrate", name, "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"migrate {name}" in done.stdout


def test_the_readme_names_only_commands_that_exist() -> None:
    named = set(re.findall(r"^    (migrate [a-z]+)", README.read_text(encoding="utf-8"), flags=re.M))
    assert named
    assert named <= set(commands(root()))


def test_the_readme_has_exactly_two_make_commands() -> None:
    assert re.findall(r"^    (make .*)$", README.read_text(encoding="utf-8"), flags=re.M) == ["make demo", "make test"]
