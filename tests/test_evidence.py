from __future__ import annotations

from pathlib import Path

import pytest

from migrate.evidence import Evidence, read_records


def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text('{"a": 1}\n[1]\n{"a": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_records(tmp_path / "raw")


def test_a_torn_last_line_leaves_the_collection_incomplete(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text('{"a": 1}\n{"complete": tr')
    records = read_records(tmp_path / "raw")
    assert records == [{"a": 1}]
    assert not Evidence.of(records).complete


@pytest.mark.parametrize(
    ("lines", "complete"),
    [
        ([], False),
        ([{"a": 1}], False),
        ([{"complete": True, "records": 1}, {"a": 1}], False),
        ([{"a": 1}, {"complete": True, "records": 2}], False),
        ([{"a": 1}, {"complete": False, "records": 1}], False),
        ([{"a": 1}, {"complete": True, "records": 1}], True),
    ],
)
def test_complete_is_what_the_closing_record_counts(lines: list[dict[str, object]], complete: bool) -> None:
    assert Evidence.of(lines).complete is complete
