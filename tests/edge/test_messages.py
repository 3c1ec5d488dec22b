"""The encoding: what is written is read, what is damaged is refused, what is private is not written."""

from __future__ import annotations

import copy
import json
import math
import pickle
import struct
import tracemalloc
import zlib
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recbench.edge import messages
from recbench.edge.messages import (
    MESSAGES,
    Abstract,
    Candidates,
    Embedding,
    Failure,
    History,
    Message,
    MessageError,
    Parameters,
    Patch,
    Plan,
    PrivateError,
    Vector,
    answers,
    checksum,
    decode,
    encode,
)
from recbench.edge.privacy import Private

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=16)
counts = st.integers(0, 2**64 - 1)
arrays = st.sampled_from(["<i1", "<i4", "<f2", "<f4"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
items = hnp.arrays("<i4", st.integers(0, 20))
numbers = hnp.arrays("<f4", st.integers(0, 20))
weights = st.dictionaries(texts, arrays, max_size=4)
lists = items.flatmap(lambda found: st.tuples(st.just(found), hnp.arrays("<f4", len(found))))
said: st.SearchStrategy[Message] = st.one_of(
    st.builds(History, texts, items, counts, st.booleans()),
    st.builds(Vector, texts, numbers, counts),
    st.builds(Abstract, texts, texts, counts, texts, texts),
    st.builds(Patch, texts, texts, weights),
    st.builds(lambda version, both: Candidates(version, *both), texts, lists),
    st.builds(Parameters, texts, weights),
    st.builds(Embedding, texts, numbers),
    st.builds(Plan, texts, texts, numbers, items),
    st.builds(Failure, texts, st.floats(allow_nan=False, allow_infinity=False)),
)
SMALL = Candidates("v", np.array([7, 3], dtype=np.int32), np.array([0.5, -1], dtype=np.float32))


def resealed(body: bytes, *, code: int, version: int = 1, size: int | None = None) -> bytes:
    """A frame with any content and a true checksum: what a broken or hostile encoder could send."""
    head = struct.pack("<2sBBII", b"RB", version, code, 0, len(body) if size is None else size)
    return head + body + struct.pack("<I", zlib.crc32(head + body))


def test_every_message_is_drawn_below() -> None:
    drawn = {History, Vector, Abstract, Patch, Candidates, Parameters, Embedding, Plan, Failure}
    assert drawn == set(MESSAGES)


@given(said, st.integers(0, 2**32 - 1))
def test_what_is_written_is_read(message: Message, question: int) -> None:
    frame = encode(message, answers=question)
    found = decode(frame)
    assert type(found) is type(message)
    assert answers(frame) == question
    for field in fields(message):
        np.testing.assert_equal(getattr(found, field.name), getattr(message, field.name))
    assert encode(found, answers=question) == frame  # dtypes, signs of zero and all


def test_a_frame_by_hand() -> None:
    body = struct.pack("<I1s", 1, b"v") + struct.pack("<BBIii", 2, 1, 2, 7, 3)
    body += struct.pack("<BBIff", 4, 1, 2, 0.5, -1)
    head = struct.pack("<2sBBII", b"RB", 1, 16, 9, len(body))
    assert encode(SMALL, answers=9) == head + body + struct.pack("<I", zlib.crc32(head + body))


def test_sizes_are_those_of_the_notes() -> None:
    fifty = np.arange(1, 51, dtype=np.int32)
    assert len(encode(Candidates("0123456789ab", fifty, fifty.astype(np.float32)))) < 50 * 8 + 50
    layers = {"w": np.zeros((2, 32, 32), np.float32), "b": np.zeros((2, 32), np.float32)}
    assert 8448 < len(encode(Parameters("v", layers))) < 8448 + 64  # two layers of width 32


@given(said, st.data())
def test_a_frame_cut_short_or_with_more_is_refused(message: Message, data: st.DataObject) -> None:
    frame = encode(message)
    stop = data.draw(st.integers(0, len(frame) - 1))
    for bad in (frame[:stop], frame + b"\0", frame + frame):
        with pytest.raises(MessageError):
            decode(bad)


@given(said, st.data())
def test_a_flipped_bit_is_noticed(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    place = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[place // 8] ^= 1 << place % 8
    with pytest.raises(MessageError):
        decode(bytes(frame))


def read_or_refused(frame: bytes) -> None:
    try:
        message = decode(frame)
    except MessageError:
        return
    assert encode(message, answers=answers(frame)) == frame  # there is one way to write a message


@given(st.binary(max_size=200))
def test_anything_else_is_refused(noise: bytes) -> None:
    with pytest.raises(MessageError):
        decode(noise)


@given(st.binary(max_size=120), st.sampled_from([cls.code for cls in MESSAGES]))
def test_noise_under_a_true_checksum_is_read_or_refused(noise: bytes, code: int) -> None:
    read_or_refused(resealed(noise, code=code))


@given(said, st.data())
def test_a_damaged_body_under_a_true_checksum_is_read_or_refused(
    message: Message, data: st.DataObject
) -> None:
    body = bytearray(encode(message)[12:-4])
    assume(body)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    read_or_refused(resealed(bytes(body), code=message.code))


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<I", 2**32 - 1),
        struct.pack("<I", 0) + struct.pack("<BBI", 2, 1, 2**32 - 1),
        struct.pack("<I", 0) + struct.pack("<BBI", 2, 1, 2**20),
        struct.pack("<I", 0) + struct.pack("<H", 65535),
        struct.pack("<I", 0) + struct.pack("<HI", 1, 0) + struct.pack("<BBIIII", 4, 4, *[2**31] * 4),
    ],
    ids=["text", "array", "array-within-limit", "tensors", "shape-product"],
)
@pytest.mark.parametrize("code", [1, 16, 17])
def test_claimed_lengths_allocate_nothing(body: bytes, code: int) -> None:
    frame = resealed(body, code=code)
    tracemalloc.start()
    with pytest.raises(MessageError):
        decode(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_body_beyond_the_limit_is_refused_before_it_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = encode(Abstract("", "x" * 1000, 1))
    monkeypatch.setattr(messages.zlib, "crc32", lambda *_: pytest.fail("read"))
    with pytest.raises(MessageError, match="of 500 allowed"):
        decode(frame, limit=500)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"", "a frame of 0 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "starts with"),
        (resealed(b"", code=16, version=2), "version 2, here is 1; update the older side"),
        (resealed(b"", code=200), "no message has the code 200"),
        (resealed(encode(SMALL)[12:-4] + b"?", code=16), "1 bytes are left"),
        (encode(SMALL)[:-1] + b"?", "checksum"),
    ],
    ids=["empty", "http", "version", "code", "more", "checksum"],
)
def test_a_refusal_says_why(frame: bytes, says: str) -> None:
    with pytest.raises(MessageError, match=says):
        decode(frame)


def test_what_is_read_cannot_be_changed() -> None:
    found = decode(encode(SMALL))
    assert isinstance(found, Candidates)
    with pytest.raises(ValueError, match="read-only"):
        found.items[0] = 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"items": [7, 3]}, r"Candidates\.items must be a numpy array, got list"),
        ({"items": np.array([7, 3])}, "must have dtype int32, got int64"),
        ({"items": np.array([7, 3], dtype=">i4")}, "must have dtype int32, got >i4"),
        ({"items": np.array([[7, 3]], dtype=np.int32)}, "must have 1 dimensions, got 2"),
        ({"items": np.array([object(), None])}, "must have dtype int32, got object"),
        ({"scores": np.zeros(3, np.float32)}, "2 candidates with 3 scores"),
        ({"version": "x" * 65}, "at most 64 bytes, got 65"),
        ({"version": b"x"}, "must be a str, got bytes"),
        ({"version": "\ud800"}, "lone surrogate"),
    ],
)
def test_a_wrong_field_is_named(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(MessageError, match=says):
        encode(replace(SMALL, **changed))


@pytest.mark.parametrize("value", [-1, 2**64, 1.0, True, np.int64(1)])
def test_a_count_is_an_int_in_range(value: Any) -> None:
    with pytest.raises(MessageError, match=r"History\.num_items must be an int"):
        encode(History("", SMALL.items, value, False))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1, "1"])
def test_a_number_is_a_finite_float(value: Any) -> None:
    with pytest.raises(MessageError, match="retry_after_ms must be a finite float"):
        encode(Failure("", value))


def test_only_listed_messages_are_encoded() -> None:
    class Smuggled(Candidates):
        pass

    with pytest.raises(MessageError, match="Smuggled is no message"):
        encode(Smuggled("v", SMALL.items, SMALL.scores))


class TestPrivate:
    history = Private(SMALL.items)

    @pytest.mark.parametrize(
        "message",
        [
            History("", history, 50, False),
            History(Private("me"), SMALL.items, 50, False),
            History("", SMALL.items, Private(50), False),
            History("", SMALL.items, 50, Private(False)),
            Abstract("", Private("jazz"), 1),
            Patch("", "v", Private({})),
            Patch("", "v", {"w": history}),
            Patch("", "v", {Private("w"): SMALL.items}),
            Failure("", Private(1.0)),
        ],
        ids=["array", "text", "count", "flag", "words", "tensors", "in-tensors", "key", "number"],
    )
    def test_no_field_takes_it(self, message: Message) -> None:
        with pytest.raises(PrivateError, match="is private and may not leave the device"):
            encode(message)

    def test_it_is_no_other_kind_of_value(self) -> None:
        for leak in (pickle.dumps, copy.copy, copy.deepcopy, np.asarray):
            with pytest.raises(PrivateError):
                leak(self.history)
        for leak in (len, iter, json.dumps):
            with pytest.raises(TypeError):
                leak(self.history)

    def test_its_text_does_not_show_it(self) -> None:
        assert f"{Private('me@example.org')} {Private([1234])!r}" == "Private[str] Private[list]"

    def test_the_device_can_read_it(self) -> None:
        assert self.history.reveal() is SMALL.items


def test_a_question_is_known_by_its_content() -> None:
    first, again = encode(Abstract("u", "jazz", 5)), encode(Abstract("u", "jazz", 5))
    assert checksum(first) == checksum(again)
    assert checksum(first) != checksum(encode(Abstract("u", "jazz", 6)))
