"""Whatever a config.json says, the answer is a fit or one of our errors."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from migrate import fit
from migrate.errors import MigrateError
from migrate.fit import Setting
from migrate.fit.units import GIB

from .cases import NAMES, case

KEYS = sorted(
    {key for name in NAMES for key in case(name)["config"]} | {"layer_types", "text_config", "rope_parameters"}
)
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5_000),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(), st.text(max_size=4)), max_size=3),
    st.dictionaries(
        st.sampled_from(["type", "factor", "quant_method", "bits", "group_size", "config_groups"]), st.integers()
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=4))
def test_a_fit_or_an_error_of_ours(name: str, changed: dict[str, Any]) -> None:
    try:
        model = fit.of(case(name)["config"] | changed)
        found = fit.fit(model, 32 * GIB, Setting())
        fit.nearest(model, 32 * GIB, Setting())
    except MigrateError as error:
        assert str(error)
        return
    assert found.weights.bytes > 0 and found.kv_each > 0
    assert found.fits == (found.needed <= found.share and found.context <= found.own_context)
