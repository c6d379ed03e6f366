"""Any valid ModelConfig message: every field that is set has exactly one entry, whatever backend it names."""

from __future__ import annotations

from collections import Counter
from typing import Any

from google.protobuf import json_format, text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from migrate.translate import Outcome, Source, translate

BACKENDS = ("", "python", "vllm", "tensorrtllm", "onnxruntime", "mine")
PLATFORMS = ("", "ensemble", "tensorrt_plan")
KEYS = ("dtype", "max_length", "gpt_model_path", "GPU_DEVICE_IDS", "tokenizer_dir", "hf_token", 'a"]\n')
TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
WORDS = st.one_of(TEXT, st.sampled_from(("1", "true", "float16", "0,1", "text_input")))


@st.composite
def messages(draw: Any, descriptor: Any, depth: int = 4) -> dict[str, Any]:
    """A dictionary that json_format takes for a message of this type, with at most five of its fields."""
    allowed = [field for field in descriptor.fields if field.name != "name" or depth < 4]
    if not allowed:
        return {}
    fields = draw(st.lists(st.sampled_from(allowed), unique_by=lambda field: field.name, max_size=5))
    chosen: dict[Any, Any] = {}
    for field in fields:
        group = field.containing_oneof
        if group is None or not any(other.name in chosen for other in group.fields):
            chosen[field.name] = draw(values(field, depth))
    return chosen


def values(field: Any, depth: int) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        key, value = kind.fields_by_name["key"], kind.fields_by_name["value"]
        keys = st.sampled_from(KEYS) if key.type == key.TYPE_STRING else st.integers(1, 9)
        return st.dictionaries(keys, single(value, depth), min_size=1, max_size=3)
    return st.lists(single(field, depth), min_size=1, max_size=2) if field.is_repeated else single(field, depth)


def single(field: Any, depth: int) -> Any:
    if field.message_type is not None:
        return st.just({}) if depth == 0 else messages(field.message_type, depth - 1)
    if field.enum_type is not None:
        return st.sampled_from([value.name for value in field.enum_type.values])
    if field.type == field.TYPE_BOOL:
        return st.just(True)
    if field.type in {field.TYPE_FLOAT, field.TYPE_DOUBLE}:
        return st.just(1.5)
    return WORDS if field.type == field.TYPE_STRING else st.integers(1, 7)


def set_fields(message: Any, path: str = "") -> list[str]:
    """The paths of all fields that are set, found on another way than the code's: by the JSON form of the message."""
    shown = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return list(_paths(shown, message.DESCRIPTOR, path))


def _paths(shown: dict[str, Any], descriptor: Any, path: str) -> Any:
    if not shown and path:
        yield path
    for name, value in shown.items():
        field = descriptor.fields_by_name[name]
        kind, here = field.message_type, f"{path}.{name}" if path else name
        is_map = kind is not None and kind.GetOptions().map_entry
        inside = kind.fields_by_name["value"].message_type if is_map else kind
        if is_map:
            items = [(f"{here}[{_quoted(key)}]", item) for key, item in value.items()]
        elif kind is not None and field.is_repeated:
            items = [(f"{here}[{number}]", item) for number, item in enumerate(value)]
        else:
            items = [(here, value)]
        for where, item in items:
            if inside is None:
                yield where
            else:
                yield from _paths(item, inside, where)


def _quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    messages(ModelConfig.DESCRIPTOR),
    st.sampled_from(BACKENDS),
    st.sampled_from(PLATFORMS),
    st.booleans(),
    st.booleans(),
)
def test_every_set_field_has_exactly_one_entry(
    fields: dict[str, Any], backend: str, platform: str, is_text: bool, has_text: bool
) -> None:
    message = json_format.ParseDict(fields, ModelConfig())
    message.backend, message.platform = backend, platform
    if has_text:
        message.input.add(name="text_input", data_type="TYPE_STRING", dims=[1])
        message.output.add(name="text_output", data_type="TYPE_STRING", dims=[1])
    if message.version_policy.HasField("specific"):
        message.version_policy.specific.versions[:] = [1]
    config = text_format.MessageToString(message) if is_text else json_format.MessageToDict(message)
    where = "config.pbtxt" if is_text else "/config"
    translation = translate(Source("m", config, files={"1/model.json": '{"model": "m"}'}))
    ours = [entry for entry in translation.entries if entry.source.startswith(f"{where}:")]
    assert Counter(entry.source for entry in ours) == Counter(f"{where}:{path}" for path in set_fields(message))
    assert all(entry.reason and entry.outcome in Outcome for entry in translation.entries)
    assert all(entry.target or entry.outcome is not Outcome.MAPPED for entry in ours)
