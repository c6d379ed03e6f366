"""Whatever the body, it is read or refused by a TritonError with a status that Triton uses."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway import fields
from migrate.gateway.errors import TritonError
from migrate.gateway.styles import PYTHON_INPUTS, VLLM_INPUTS

NAMES = st.sampled_from([*VLLM_INPUTS, *PYTHON_INPUTS, "parameters", "id", "foo"]) | st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=6).map(lambda body: json.dumps(body).encode()) | st.binary())
def test_any_body(body: bytes) -> None:
    for kinds in (PYTHON_INPUTS, VLLM_INPUTS):
        try:
            found = fields.read(body, model="m", kinds=kinds)
        except TritonError as error:
            assert error.status in (400, 500)
            assert set(json.loads(error.body())) == {"error"}
        else:
            assert set(found.inputs) <= set(kinds)
            assert not set(found.parameters) & set(kinds)
            assert found.text("text_input").encode("utf-8") or found.text("text_input") == ""
