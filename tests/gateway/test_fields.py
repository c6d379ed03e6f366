"""Whatever the body, it is read or refused by a TritonError with a status that Triton uses."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway.core.models import Registry
from migrate.gateway.core.validation import rows
from migrate.gateway.errors import TritonError
from migrate.gateway.web import generate as fields

from .every_style import config_of_every_style

REGISTRY = Registry(config_of_every_style("http://127.0.0.1:9"))
MODELS = [REGISTRY.get(name) for name in ("phi2", "phi2_stream", "ensemble", "batched")]
INPUTS = sorted({name for model in MODELS for name in model.inputs})
NAMES = st.sampled_from([*INPUTS, "parameters", "id", "foo"]) | st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=6).map(lambda body: json.dumps(body).encode()) | st.binary())
def test_any_body(body: bytes) -> None:
    for model in MODELS:
        try:
            found = fields.read(body, model)
            batch = rows(model, found)
        except TritonError as error:
            assert error.status in (400, 500)
            assert set(json.loads(error.body())) == {"error"}
        else:
            assert {tensor.name for tensor in found.inputs} <= set(model.inputs)
            assert not set(found.parameters) & set(model.inputs)
            assert all(math.prod(tensor.shape) == len(tensor.values) for tensor in found.inputs)  # type: ignore[union-attr]
            assert len(batch) >= 1
