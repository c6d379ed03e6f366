"""Requests in, answers out: a wrong line loses no other, and what is answered is not asked again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate import offline

ANSWER = {"text": " return", "finish_reason": "length", "prompt_tokens": 3, "completion_tokens": 1}


def lines(*given: object) -> str:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in given)


def test_ids_are_the_lines_own_or_their_number() -> None:
    found = offline.read(lines({"prompt": "a"}, "", {"prompt": "b", "id": "x"}, {"prompt": [1, 2], "id": 7}))
    assert [(one.id, one.prompt, one.error) for one in found] == [(1, "a", ""), ("x", "b", ""), (7, [1, 2], "")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", "is no JSON object"),
        ({"id": "n"}, "prompt is neither"),
        ({"prompt": ""}, "prompt is neither"),
        ({"prompt": ["a"]}, "prompt is neither"),
        ({"prompt": [True]}, "prompt is neither"),
        ({"prompt": "a", "maxtokens": 3}, "maxtokens is no sampling parameter"),
        ({"prompt": "a", "max_tokens": "3"}, "max_tokens is '3'"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens is True"),
        ({"prompt": "a", "id": {}}, "id {} is neither"),
        ({"prompt": "a", "id": "first"}, 'id "first" is that of line 1'),
    ],
)
def test_a_wrong_line_has_its_error_and_loses_no_other(line: object, told: str) -> None:
    found = offline.read(lines({"prompt": "a", "id": "first"}, line, {"prompt": "c", "id": "last"}))
    assert [bool(one.error) for one in found] == [False, True, False]
    assert told in found[1].error
    assert [one.id for one in offline.pending(found, {})] == ["first", "last"]


def test_answers_are_kept_and_errors_and_changed_lines_asked_again() -> None:
    asked = offline.read(lines({"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}))
    answers = {asked[0].key: ANSWER, asked[1].key: {"error": "too long"}}
    known = offline.answered(offline.output(asked, answers))
    again = offline.read(lines({"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}))
    assert [one.id for one in offline.pending(again, known)] == [2, 3]
    changed = offline.read(lines({"prompt": "a", "max_tokens": 5}, {"prompt": "b"}))
    assert [one.id for one in offline.pending(changed, known)] == [1, 2]


def test_the_output_has_a_line_for_each_request_in_order() -> None:
    asked = offline.read(lines({"prompt": "ä", "id": "x"}, "{", {"prompt": "c"}))
    found = [json.loads(line) for line in offline.output(asked, {asked[0].key: ANSWER}).splitlines()]
    assert found[0] == {"id": "x", "request": asked[0].key} | ANSWER
    assert [sorted(line) for line in found[1:]] == [["error", "id"], ["error", "id", "request"]]
    assert offline.counts(asked, {asked[0].key: ANSWER}) == {"requests": 3, "answered": 1, "errors": 2}


def test_an_output_that_was_cut_off_is_read_as_far_as_it_goes() -> None:
    assert offline.answered('{"request": "k", "text": "a"}\n{"request": "l", "te') == {"k": {"text": "a"}}


def test_a_job_is_named_by_what_it_asks() -> None:
    asked = offline.read(lines({"prompt": "a"}, {"prompt": "b"}))
    engine = {"model": "/model", "arguments": ["--dtype", "half"]}
    assert offline.job(asked, engine) == offline.job(asked[::-1], dict(engine))
    assert offline.job(asked, engine) != offline.job(asked, engine | {"arguments": []})
    assert offline.job(asked, engine) != offline.job(asked[:1], engine)


def test_lone_surrogates_do_not_end_it(tmp_path: Path) -> None:
    asked = offline.read('{"prompt": "\\ud800"}')
    assert asked[0].key
    (tmp_path / "r").write_text(offline.requests_file(asked), encoding="utf-8")
