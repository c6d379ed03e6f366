"""API keys and what each may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migrate.gateway.config import OpenAiConfig
from migrate.gateway.errors import ConfigError
from migrate.gateway.openai import keys
from migrate.gateway.openai.limits import Limits, TokenBucket
from migrate.gateway.web.refusals import OpenAiError

GOOD = "ada:ada-secret-key-000\n\n# for the night jobs\nbob:bob:secret:key:00\n"


def settings(**given: Any) -> OpenAiConfig:
    return OpenAiConfig.model_validate(given)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has no line NAME:KEY"),
        ("ada-secret-key-000", "line 1: expected NAME:KEY"),
        ("ada:short", "line 1: expected NAME:KEY with a key of at least 16 signs"),
        (GOOD + ":nameless-key-000000", "line 5: expected NAME:KEY"),
        (GOOD + "ada:another-secret-key", "line 5: the name ada is taken"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named) as raised:
        keys.load(settings(keys_file=path), {})
    assert "secret" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="openai.keys_file"):
        keys.load(settings(keys_file=tmp_path / "none"), {})


def test_a_rate_for_a_key_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="openai.rates.eve: no key has this name"):
        keys.load(settings(rates={"eve": {}}), {"GATEWAY_API_KEYS": GOOD})


def test_keys_of_the_file_and_of_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(GOOD)
    found = keys.load(settings(keys_file=path, keys_env="MY_KEYS"), {"MY_KEYS": "eve:eve-secret-key-000"})
    assert found.owner(b"Bearer ada-secret-key-000") == "ada"
    assert found.owner(b"Bearer bob:secret:key:00") == "bob"
    assert found.owner(b"Bearer eve-secret-key-000") == "eve"
    assert found.owner(b"Bearer ada-secret-key-001") is None
    assert not keys.load(settings(), {})
    assert "secret" not in repr(found)


def test_a_bucket_gains_its_rate_up_to_its_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 3, clock)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now += 0.25
    assert bucket.take() == 0.25
    clock.now += 0.25
    assert [bucket.take(), bucket.take()] == [0, 0.5]
    clock.now += 3600
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]


def test_keys_do_not_share_their_limits_and_a_refused_request_takes_nothing() -> None:
    limits = Limits(settings(rate={"concurrent": 2}), clock=Clock())
    with limits.admitted("ada"), limits.admitted("ada"):
        for _ in range(3):
            with pytest.raises(OpenAiError, match="this key may have 2"), limits.admitted("ada"):
                pass
        with limits.admitted("bob"):
            pass
    with limits.admitted("ada"):
        pass


def test_a_failed_request_gives_its_place_back() -> None:
    limits = Limits(settings(rate={"concurrent": 1}), clock=Clock())
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limits.admitted("ada"):
            raise ZeroDivisionError


def test_each_worker_has_its_part() -> None:
    limits = Limits(settings(rate={"requests_per_s": 0.01, "burst": 8, "concurrent": 5}), workers=4, clock=Clock())
    for _ in range(2):
        with limits.admitted("ada"):
            pass
    with pytest.raises(OpenAiError, match="this key may send 0.01 a second"), limits.admitted("ada"):
        pass
