"""Nothing that discovery shows holds a secret: names, texts, JSON and protobuf text format, units, commands."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from migrate.secrecy import is_secret

CASES = Path(__file__).parents[1] / "cases" / "discover"
INSPECTED = Path(__file__).parent / "cases" / "triton_inspect.json"
NAMES = yaml.safe_load((CASES / "secret_names.yml").read_text())
SEK = "hunter2"
HF = f"hf_{SEK}{SEK}{SEK}"


@pytest.fixture(scope="module")
def texts(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_texts")


def wrong(is_secret: Callable[[str], object]) -> list[str]:
    missed = [name for name in NAMES["secret"] if not is_secret(name)]
    return missed + [name for name in NAMES["plain"] if is_secret(name)]


def test_names_as_discovery_reads_them(texts: ModuleType) -> None:
    assert wrong(texts.is_secret) == []


def test_names_as_the_controller_reads_them() -> None:
    assert wrong(is_secret) == []


@pytest.mark.parametrize(
    "value",
    [
        {"hf_token": SEK},
        {"hf_token": {"value": SEK}},
        {"hf_token": {"string_value": SEK}},
        {"api_keys": [SEK, [SEK]]},
        {"auth": {"user": "a", "deep": [{"x": SEK}]}},
        {"pwd": SEK, "passphrase": SEK, "private_key": SEK},
        {"extra": f"--token {SEK}"},
        {"extra": f"--token={SEK} --model x"},
        {"extra": ["--model", "x", "--api-key", SEK]},
        {"header": f"Authorization: Basic {SEK}"},
        {"header": f"authorization: Digest username=a, response={SEK}"},
        {"neutral": HF, "url": f"postgres://u:{SEK}@h/"},
        {"url": f"https://h/x?token={SEK}"},
        {"neutral": f"HF_TOKEN={SEK}"},
        {"engine_args": json.dumps({"hf_token": SEK})},
        {"python": f"{{'hf_token': '{SEK}'}}"},
        {"env": [{"name": "HF_TOKEN", "value": SEK}]},
        {"parameters": {"key": "hf_token", "value": {"string_value": SEK}}},
        {"pem": f"-----BEGIN PRIVATE KEY-----\n{SEK}\n-----END PRIVATE KEY-----"},
        {HF: 1},
    ],
)
def test_no_secret_of_json_is_shown(texts: ModuleType, value: Any) -> None:
    assert SEK not in json.dumps(texts.redacted(value, "machine"))
    shown = texts.without_secrets("model.json", json.dumps(value), "machine")
    assert SEK not in shown
    assert json.loads(shown) == texts.redacted(value, "machine") != texts.redacted(value, "other")
    assert SEK not in texts.without_secrets("model.json", json.dumps(value, indent=1) + "\n// a comment", "machine")


def test_numbers_are_secrets_and_switches_are_none(texts: ModuleType) -> None:
    shown = texts.redacted({"pwd": 1234, "auth": [True, None, ""], "port": 1234}, "machine")
    assert "1234" not in json.dumps(shown["pwd"])
    assert (shown["auth"], shown["port"]) == ([True, None, ""], 1234)


def test_json_without_secrets_stays_as_it_is(texts: ModuleType) -> None:
    written = '{ "bos_token": "<s>",\n "eos_token" : {"content": "</s>"}, "pad_token_id": 0, "x": NaN_ }'
    plain = written.replace(', "x": NaN_', ', "max_tokens": 16, "tokenizer": "org/name", "author": "A. Author"')
    assert texts.without_secrets("a.json", plain, "machine") == plain
    assert "<s>" in texts.without_secrets("a.json", written, "machine")


@pytest.mark.parametrize(
    "text",
    [
        f'{{"hf_token": "{SEK}", "hf_token": null}}',
        f'{{"hf_token": "{SEK}",}}',
        f'{{"hf_token": ["{SEK}"],}}',
        f'{{"hf_token": {{"value": "{SEK}"}},}}',
        f'{{"hf_token": "{SEK}',
        f'{{"hf_token": "a\n{SEK}"}}',
        f"hf_token: {SEK}",
        '{"x": "' + "\\u0068f_" + SEK * 3 + '"}',
        '{"hf_token": "\\ud800"}',
        "[" * 5000 + f'"hf_token": "{SEK}"',
    ],
)
def test_what_does_not_parse_is_searched(texts: ModuleType, text: str) -> None:
    shown = texts.without_secrets("model.json", text, "machine")
    assert SEK not in shown
    shown.encode()


@pytest.mark.parametrize(
    "text",
    [
        f'parameters {{ key: "hf_token" value {{ string_value: "{SEK}" }} }}',
        f'parameters {{ key: "x" value {{ string_value: "hf_" "{SEK}" \'{SEK}\' "{SEK}" }} }}',
        f'parameters {{ key: "hf_token" value {{ string_value: "a" # why\n "{SEK}" }} }}',
        f'parameters {{ key: "hf_" "token" value {{ string_value: "{SEK}" }} }}',
        f'parameters {{ key: "\\150f_token" value {{ string_value: "{SEK}" }} }}',
        f'parameters {{ value {{ string_value: "{SEK}" }} key: "auth"',
        f'parameters {{ key: "cmd" value {{ string_value: "serve --token {SEK}" }} }}',
        f'parameters {{ key: "args" value {{ string_value: "{{\\"hf_token\\": \\"{SEK}\\"}}" }} }}',
        f'# parameters {{ key: "hf_token" value {{ string_value: "{SEK}" }} }}',
        f'password: "{SEK}',
    ],
)
def test_no_secret_of_the_text_format_is_shown(texts: ModuleType, text: str) -> None:
    assert SEK not in texts.without_secrets("config.pbtxt", text, "machine")


def test_the_text_format_stays_readable(texts: ModuleType) -> None:
    from google.protobuf import struct_pb2, text_format

    written = (
        'fields { key: "hf_token" value { string_value: "a" "b" } } fields { key: "é" value { string_value: "\\"" } }'
    )
    shown = text_format.Parse(texts.without_secrets("config.pbtxt", written, "machine"), struct_pb2.Struct())
    assert shown["é"] == '"'
    assert str(shown["hf_token"]).startswith("keyed-hash:")


def test_a_container_is_known_by_its_specification_only(utility: Callable[[str], ModuleType]) -> None:
    inspected = json.loads(INSPECTED.read_text())[0]
    inspected["Config"]["Cmd"] = ["sh", "-c", f"HF_TOKEN={SEK} exec tritonserver", "--api-key", SEK]
    found = utility("migrate_containers").serving(inspected, lambda path: (404, None))
    assert SEK not in json.dumps(found)
    assert "command" not in found
    assert len(found["spec"]) == 64


def test_the_order_of_lists_is_no_change_of_the_specification(module_utils: ModuleType) -> None:
    inspected = json.loads(INSPECTED.read_text())[0]
    inspected["Mounts"] += [{"Type": "bind", "Source": "/b", "Destination": "/b"}]
    inspected["HostConfig"]["Binds"] = ["/b:/b", "/a:/a"]
    digest = module_utils.spec_digest(inspected, "machine")
    other = json.loads(json.dumps(inspected))
    other["Mounts"].reverse()
    other["HostConfig"]["Binds"].reverse()
    random.Random(1).shuffle(other["Config"]["Env"])
    other["State"] |= {"StartedAt": "2030-01-01T00:00:00Z", "Pid": 1}
    other |= {"Id": "1" * 64, "RestartCount": 7}
    assert module_utils.spec_digest(other, "machine") == digest != module_utils.spec_digest(inspected, "other")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("Config", "Cmd", ["tritonserver", "--x"]),
        ("Config", "Entrypoint", ["sh"]),
        ("Config", "User", "1000"),
        ("Config", "Env", ["A=1"]),
        ("HostConfig", "ShmSize", 1),
        ("HostConfig", "Memory", 1),
        ("HostConfig", "PortBindings", {}),
        ("HostConfig", "DeviceRequests", [{"Driver": "nvidia", "Count": -1}]),
        ("NetworkSettings", "Networks", {"other": {}}),
    ],
)
def test_every_part_of_the_specification_counts(module_utils: ModuleType, part: str, name: str, value: Any) -> None:
    inspected = json.loads(INSPECTED.read_text())[0]
    digest = module_utils.spec_digest(inspected, "machine")
    inspected[part][name] = value
    assert module_utils.spec_digest(inspected, "machine") != digest


def test_the_order_of_a_command_counts(module_utils: ModuleType) -> None:
    inspected = json.loads(INSPECTED.read_text())[0]
    digest = module_utils.spec_digest(inspected, "machine")
    inspected["Config"]["Cmd"].reverse()
    assert module_utils.spec_digest(inspected, "machine") != digest


def test_units_and_cron_are_shown_without_their_commands(utility: Callable[[str], ModuleType], tmp_path: Path) -> None:
    command = f"docker run -e HF_TOKEN={HF} --name triton tritonserver"
    for name, text in {
        "etc/systemd/system/t.service": f"[Service]\nExecStart={command}\n",
        "etc/cron.d/t": f"0 4 * * * root {command}\n0 5 * * * root {command}\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    container = {
        "Name": "/triton",
        "Id": "0" * 64,
        "Config": {"Image": "tritonserver", "Labels": None},
        "State": {"Status": "running"},
        "HostConfig": {"RestartPolicy": {"Name": "no"}},
    }
    params = {"triton_container": "triton", "triton_compose_file": ""}
    found = utility("migrate_owner").owner(params, [container], lambda argv: (127, "", ""), tmp_path)
    assert SEK not in json.dumps(found)
    assert found["evidence"] == ["/etc/systemd/system/t.service names triton"]
    assert [entry for entry in found["revivers"] if entry["kind"] == "cron"] == [
        {"kind": "cron", "what": "names triton", "where": "/etc/cron.d/t"}
    ]
