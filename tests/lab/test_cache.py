"""The cache names things by content and never shows half of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.lab import LabError, cache


def test_content_hash_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = cache.content_hash("recipe", tmp_path)
    (tmp_path / "a").write_text("2")
    second = cache.content_hash("recipe", tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, cache.content_hash("recipe", tmp_path)}) == 3


def test_content_hash_keeps_parts_apart() -> None:
    assert cache.content_hash("ab", "c") != cache.content_hash("a", "bc")


def test_content_hash_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="nothing-here"):
        cache.content_hash(tmp_path / "nothing-here")


def test_artifact_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("whole")

    paths = {cache.artifact(tmp_path, "kind/key", make) for _ in range(2)}
    assert [path.read_text() for path in paths] == ["whole"]
    assert len(made) == 1


def test_artifact_leaves_nothing_of_a_failed_making(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        path.write_text("half")
        raise LabError("no space")

    with pytest.raises(LabError):
        cache.artifact(tmp_path, "kind/key", make)
    assert list((tmp_path / "kind").iterdir()) == []


def test_only_one_refuses_the_second(tmp_path: Path) -> None:
    with cache.only_one(tmp_path), pytest.raises(LabError, match="another"), cache.only_one(tmp_path):
        pass


def test_location_obeys_the_variable(tmp_path: Path) -> None:
    assert cache.location({cache.VARIABLE: str(tmp_path)}) == tmp_path
    assert cache.location({}) != tmp_path


def _write(path: Path) -> None:
    path.write_text("weights")


def test_purge_removes_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    cache.artifact(tmp_path, "model/key", _write)
    (tmp_path / "somebody's").touch()
    cache.purge(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["somebody's"]
    (tmp_path / "somebody's").unlink()
    cache.purge(tmp_path)
    assert not tmp_path.exists()
