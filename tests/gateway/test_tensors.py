"""Triton's binary tensors: refused with its words, and read back as they were written."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway.core.tensors import DATATYPES, RawTensor, Tensor, decode, encode, float32
from migrate.gateway.errors import Code, TritonError

ONE = struct.pack("<I", 1) + b"a"
TAG = "[request id: <id_unknown>] "
NO_LENGTH = (
    "incomplete string length indicator for inference input 't' for model 'm', expecting 4 bytes but only 2 bytes"
    " available. Please make sure the string length indicator is in one buffer."
)


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "text"),
    [
        ("INT32", (2,), b"aaaa", TAG + "input byte size mismatch for input 't' for model 'm'. Expected 8, got 4"),
        ("INT32", (2,), b"a" * 9, TAG + "input byte size mismatch for input 't' for model 'm'. Expected 8, got 9"),
        (
            "BOOL",
            (2**62, 2**62),
            b"a",
            TAG + f"input byte size mismatch for input 't' for model 'm'. Expected {2**124}",
        ),
        ("BYTES", (1,), b"aa", TAG + NO_LENGTH),
        ("BYTES", (2,), ONE + b"aa", TAG + NO_LENGTH),
        ("BYTES", (2,), ONE, TAG + "expected 2 string elements for inference input 't' for model 'm', got 1"),
        ("BYTES", (1,), b"", TAG + "expected 1 string elements for inference input 't' for model 'm', got 0"),
        (
            "BYTES",
            (1,),
            ONE * 3,
            TAG + "unexpected number of string elements 2 for inference input 't' for model 'm', expecting 1",
        ),
        (
            "BYTES",
            (1,),
            struct.pack("<I", 9) + b"a",
            "incomplete string data for inference input 't', expecting string of length 9 but only 1 bytes available",
        ),
        (
            "BYTES",
            (1,),
            b"\xff" * 4,
            "incomplete string data for inference input 't', expecting string of length 4294967295 but only 0 bytes",
        ),
    ],
)
def test_bytes_that_do_not_fit(datatype: str, shape: tuple[int, ...], raw: bytes, text: str) -> None:
    with pytest.raises(TritonError) as raised:
        decode(RawTensor("t", datatype, shape, raw), model="m")
    assert raised.value.code is Code.INVALID_ARG
    assert raised.value.message.startswith(text)


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT8", -1), ("INT32", 2**31), ("INT64", 1.5)])
def test_a_value_that_the_datatype_cannot_hold(datatype: str, value: float) -> None:
    with pytest.raises(TritonError, match=f"cannot be written as {datatype}"):
        encode(Tensor("t", datatype, (1,), [value]))


def _values(datatype: str) -> st.SearchStrategy[list[Any]]:
    element: st.SearchStrategy[Any]
    match datatype:
        case "BYTES":
            element = st.binary(max_size=9)
        case "BOOL":
            element = st.booleans()
        case "FP16" | "FP32" | "FP64":
            element = st.floats(width={"FP16": 16, "FP32": 32, "FP64": 64}[datatype], allow_nan=False)  # type: ignore[arg-type]
        case "BF16":
            element = st.integers(0, 2**16 - 1).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits << 16))[0])
        case _:
            bits = int(datatype.removeprefix("U").removeprefix("INT"))
            low, high = (0, 2**bits - 1) if datatype[0] == "U" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            element = st.integers(low, high)
    return st.lists(element.filter(lambda value: value == value), max_size=5)


@given(st.sampled_from(sorted(DATATYPES)).flatmap(lambda datatype: st.tuples(st.just(datatype), _values(datatype))))
def test_round_trip(case: tuple[str, list[Any]]) -> None:
    datatype, values = case
    raw = encode(Tensor("t", datatype, (len(values),), values))
    assert decode(RawTensor("t", datatype, (len(values),), raw)).values == values
    assert decode(RawTensor("t", datatype, (1, len(values)), memoryview(raw))).shape == (1, len(values))


LYING = st.lists(st.tuples(st.integers(0, 4), st.binary(max_size=4)), max_size=3).map(
    lambda parts: b"".join(struct.pack("<I", length) + text for length, text in parts)
)


@given(
    st.sampled_from(sorted(DATATYPES)) | st.just("BYTES"),
    st.lists(st.integers(0, 3) | st.integers(0, 2**63), max_size=2),
    st.binary(max_size=40) | LYING,
)
def test_any_bytes_are_read_or_refused(datatype: str, shape: list[int], raw: bytes) -> None:
    tensor = RawTensor("t", datatype, tuple(shape), raw)
    try:
        found = decode(tensor)
    except TritonError as error:
        assert error.code is Code.INVALID_ARG
    else:
        assert len(found.values) == math.prod(shape)
        if datatype not in ("BOOL", "BF16") and not any(value != value for value in found.values):
            assert encode(found) == raw


@given(st.floats(allow_nan=False))
def test_bf16_is_the_nearest(value: float) -> None:
    raw = encode(Tensor("t", "BF16", (1,), [value]))
    (near,) = decode(RawTensor("t", "BF16", (1,), raw)).values
    if math.isfinite(near):
        assert abs(near - float32(value)) <= abs(float32(value)) * 2**-8 + 2**-133


def test_what_does_not_fit_32_bits_is_infinite() -> None:
    assert float32(-1e300) == -math.inf
    assert encode(Tensor("t", "FP32", (1,), [1e300])) == struct.pack("<f", math.inf)
    assert math.isnan(decode(RawTensor("t", "BF16", (1,), encode(Tensor("t", "BF16", (1,), [math.nan])))).values[0])
