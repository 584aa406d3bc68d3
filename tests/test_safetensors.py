"""The safetensors reader and writer: round trips, layout, refusals, fuzzed bytes, atomicity."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stagekit import narrow
from stagekit.errors import ArtifactError
from stagekit.export import safetensors
from stagekit.export.safetensors import DTYPES, as_complex, read, strict_json, write

NUMPY_DTYPES = [np.dtype(spelling) for code, spelling in DTYPES.items() if code != "BF16"]
NUMPY_DTYPES += [np.dtype(np.complex64), np.dtype(np.complex128)]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def same_bits(got: np.ndarray, want: np.ndarray) -> bool:
    if want.dtype.kind == "c":
        got = as_complex(got)
    if got.dtype == narrow.BFLOAT16:
        got = narrow.exported(got)
    want = want.astype(want.dtype.newbyteorder("="))
    return got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes()


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of every dtype: 0-d, zero-size, Fortran-ordered, strided, big-endian."""
    dtype = draw(st.sampled_from([*NUMPY_DTYPES, BFLOAT16]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8)
    if dtype == np.bool_:
        raw = raw & 1
    array = raw.view(dtype).reshape(shape)
    layout = draw(st.sampled_from(["C", "F", "reversed", "every other", "big-endian"]))
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1] if array.ndim else array
    if layout == "every other":
        return array[..., ::2] if array.ndim else array
    if layout == "big-endian" and dtype != BFLOAT16:
        return array.astype(array.dtype.newbyteorder(">"))
    return array


names = st.text(max_size=8).filter(lambda name: name != "__metadata__")
texts = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3)


@given(st.dictionaries(names, arrays(), max_size=5), texts, st.booleans())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, np.ndarray],
    metadata: dict[str, str],
    mmap: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    write(path, tensors, metadata)
    got = read(path, mmap=mmap)
    assert got.metadata == metadata
    assert set(got.tensors) == set(got.dtypes) == set(tensors)
    for name, want in tensors.items():
        assert same_bits(got.tensors[name], want)
        assert not got.tensors[name].flags.writeable
        assert got.tensors[name].flags.aligned
    again = tmp_path_factory.getbasetemp() / "again.safetensors"
    write(again, *got)
    assert again.read_bytes() == path.read_bytes()


@given(st.dictionaries(names, arrays(), min_size=1, max_size=5), texts)
def test_peer_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, np.ndarray],
    metadata: dict[str, str],
) -> None:
    peer = pytest.importorskip("safetensors.numpy")
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.dtype != BFLOAT16}
    path = tmp_path_factory.getbasetemp() / "peer.safetensors"
    write(path, tensors, metadata)
    got = peer.load_file(path)
    assert set(got) == set(tensors)
    assert all(same_bits(got[name], tensor) for name, tensor in tensors.items())


@given(st.dictionaries(names, arrays(), max_size=5), texts)
def test_what_a_peer_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, np.ndarray],
    metadata: dict[str, str],
) -> None:
    peer = pytest.importorskip("safetensors.numpy")
    tensors = {
        name: np.array(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")
        for name, tensor in tensors.items()
        if tensor.dtype.kind != "c" and tensor.dtype != BFLOAT16
    }
    path = tmp_path_factory.getbasetemp() / "peer.safetensors"
    peer.save_file(tensors, path, metadata or None)  # 0.8.0 writes broken JSON for two {}
    got = read(path)
    assert got.metadata == metadata
    assert all(same_bits(got.tensors[name], tensor) for name, tensor in tensors.items())


# Layout


def test_layout(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, {"b": np.ones(3, np.int8), "z": np.ones(2), "a": np.ones((), np.complex64)})
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    assert {name: entry["data_offsets"] for name, entry in header.items()} == {
        "z": [0, 16],
        "a": [16, 24],
        "b": [24, 27],
    }
    assert header["a"] == {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}
    assert raw[8 + length :] == np.ones(2).tobytes() + np.complex64(1).tobytes() + b"\1\1\1"


def test_the_bytes_depend_on_the_contents_alone(tmp_path: Path) -> None:
    tensors = {"x": np.zeros(3), "y": np.ones(2, np.float16), "z": np.ones(2, np.float16)}
    write(tmp_path / "a", tensors)
    write(tmp_path / "b", dict(reversed(tensors.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_reading_copies_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a", {"x": np.arange(4.0), "y": np.arange(4, dtype=np.int32)})
    tensors = read(tmp_path / "a").tensors
    address = {name: array.__array_interface__["data"][0] for name, array in tensors.items()}
    assert address["y"] - address["x"] == 32, "both lie in the one map of the file"


def test_arrays_outlive_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a", {"x": np.arange(4.0)})
    x = read(tmp_path / "a").tensors["x"]
    write(tmp_path / "a", {"x": x + 1})
    (tmp_path / "a").unlink()
    assert x.tolist() == [0, 1, 2, 3]


def test_bfloat16_without_ml_dtypes_is_its_bits(tmp_path: Path) -> None:
    x = np.array([1.5, -0.0, 3e38]).astype(BFLOAT16)
    write(tmp_path / "a", {"x": x, "u": np.ones(1, np.uint16)})
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "from stagekit.export.safetensors import read, write\n"
        "got = read(sys.argv[1])\n"
        "assert got.dtypes == {'u': 'U16', 'x': 'BF16'}, got.dtypes\n"
        "assert got.tensors['x'].view('u2').tolist() == [0x3FC0, 0x8000, 0x7F62], got.tensors\n"
        "write(sys.argv[2], *got)\n"
    )
    files = [str(tmp_path / "a"), str(tmp_path / "b")]
    subprocess.run([sys.executable, "-c", code, *files], check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unaligned_buffers_of_other_writers_are_read(tmp_path: Path) -> None:
    entry = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
    lay(tmp_path / "a", {"x": entry}, np.ones(1).tobytes(), pad=1)
    x = read(tmp_path / "a").tensors["x"]
    assert x.tolist() == [1.0]
    assert x.flags.aligned
    assert not x.flags.writeable


# Refusals of the writer


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"x": np.array(["a"])}, {}, "cannot hold <U1"),
        ({"x": np.array([None])}, {}, "cannot hold object"),
        ({"x": np.ones(1, np.longdouble)}, {}, "cannot hold"),
        ({"__metadata__": np.ones(1)}, {}, "no tensor can be named"),
        ({1: np.ones(1)}, {}, "strings, not 1"),
        ({"x": np.ones(1)}, {"a": 1}, "strings, not 1"),
        ({"\ud800": np.ones(1)}, {}, "not Unicode"),
        ({"x": np.ones(1)}, {"a": "\udfff"}, "not Unicode"),
    ],
)
def test_writer_refuses(
    tensors: dict[str, Any], metadata: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        write(tmp_path / "a", tensors, metadata)
    assert str(tmp_path / "a") in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_writer_refuses_a_dtype_that_is_not_the_array_s(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="float32 is not BF16"):
        write(tmp_path / "a", {"x": np.ones(1, np.float32)}, {}, {"x": "BF16"})


def test_writer_refuses_a_header_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "MAX_HEADER", 100)
    with pytest.raises(ArtifactError, match="header of"):
        write(tmp_path / "a", {}, {"a": "x" * 100})


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", {"x": np.ones(1)})
    before = (tmp_path / "a").read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "a", {"x": np.zeros(9)})
    assert (tmp_path / "a").read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_stays_a_link_and_the_mode_follows_the_umask(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "plain").touch()
    write(tmp_path / "link", {"x": np.ones(1)})
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "a").tensors["x"] == 1
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Refusals of the reader


def lay(path: Path, header: Any, data: bytes = b"", pad: int = 0) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + pad)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FOUR = b"\0\1\0\1"
ENTRY = json.dumps(entry()).encode()

FAULTS: list[tuple[Any, bytes, str]] = [
    (b"[]", b"", "not a JSON object"),
    (b" {}", b"", "not a JSON object"),
    (b"{}\n", b"", "not a JSON object"),
    (b"{", b"", "not a JSON object"),
    (b"{'a': 1}", b"", "Expecting property name"),
    (b'{"\xff": 1}', b"", "decode"),
    (b'{"\\ud800": 1}', b"", "surrogates not allowed"),
    (b'{"x": ' + ENTRY + b', "x": ' + ENTRY + b"}", FOUR, "duplicate key 'x'"),
    (b'{"x": NaN}', b"", "NaN is not JSON"),
    (b'{"x": -Infinity}', b"", "-Infinity is not JSON"),
    (b'{"x": 1e999}', b"", "does not fit a double"),
    (b'{"x": 18446744073709551616}', b"", "does not fit 64 bits"),
    (b'{"x": 1' + b"0" * 10000 + b"}", b"", "does not fit 64 bits"),
    (b'{"x": ' + b"[" * 100000 + b"]" * 100000 + b"}", b"", "nested more than 3 deep"),
    (b'{"x": [[[1]]]}', b"", "nested more than 3 deep"),
    ({"__metadata__": []}, b"", "strings to strings"),
    ({"__metadata__": {"a": 1}}, b"", "strings to strings"),
    ({"x": 1}, b"", "exactly dtype, shape"),
    ({"x": {"dtype": "U8", "shape": []}}, b"", "exactly dtype, shape"),
    ({"x": {**entry(), "more": 1}}, FOUR, "exactly dtype, shape"),
    ({"x": entry(dtype="F80")}, FOUR, "unknown dtype 'F80'"),
    ({"x": entry(dtype=["U8"])}, FOUR, "unknown dtype"),
    ({"x": entry(shape=4)}, FOUR, "not a shape"),
    ({"x": entry(shape=[-4])}, FOUR, "not a shape"),
    ({"x": entry(shape=[4.0])}, FOUR, "not a shape"),
    ({"x": entry(shape=[4, True])}, FOUR, "not a shape"),
    ({"x": entry(shape=[4] + [1] * 64)}, FOUR, "not a shape"),
    ({"x": entry(shape=[0, 2**62, 2], offsets=[0, 0])}, b"", "too large"),
    ({"x": entry(shape=[2**63], dtype="F64", offsets=[0, 0])}, b"", "too large"),
    ({"x": entry(offsets=[0])}, FOUR, "not two offsets"),
    ({"x": entry(offsets=[0, 4, 4])}, FOUR, "not two offsets"),
    ({"x": entry(offsets=[-4, 0])}, FOUR, "not two offsets"),
    ({"x": entry(offsets=[4, 0])}, FOUR, "does not fill"),
    ({"x": entry(shape=[3])}, FOUR, "does not fill"),
    ({"x": entry(dtype="U16")}, FOUR, "does not fill"),
    ({"x": entry(), "y": entry()}, FOUR, "overlap"),
    ({"x": entry(), "y": entry(offsets=[2, 6])}, FOUR + b"12", "overlap"),
    ({"x": entry(), "y": entry(offsets=[5, 9])}, FOUR + b"12345", "hole"),
    ({"x": entry(offsets=[1, 5])}, b"x" + FOUR, "hole"),
    ({"x": entry()}, FOUR + b"!", "need 4 bytes but the file has 5"),
    ({"x": entry()}, FOUR[:3], "need 4 bytes but the file has 3"),
    ({}, b"!", "need 0 bytes but the file has 1"),
    ({"x": entry(dtype="BOOL")}, b"\0\1\2\1", "neither 0 nor 1"),
]


@pytest.mark.parametrize(("header", "data", "message"), FAULTS)
@pytest.mark.parametrize("mmap", [True, False])
def test_reader_refuses(header: Any, data: bytes, message: str, mmap: bool, tmp_path: Path) -> None:
    lay(tmp_path / "a", header, data)
    with pytest.raises(ArtifactError, match=message) as caught:
        read(tmp_path / "a", mmap=mmap)
    assert str(tmp_path / "a") in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"1234567", "7 bytes are too few"),
        (b"\x09" + b"\0" * 7 + b"{}      ", "a header of 9 bytes in a file of 16"),
        (b"\xff" * 8 + b"{}      ", "a header of 18446744073709551615 bytes"),
    ],
)
def test_reader_refuses_a_wrong_length(raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(ArtifactError, match=message):
        read(tmp_path / "a")


def test_reader_refuses_a_header_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", {}, {"a": "x" * 100})
    monkeypatch.setattr(safetensors, "MAX_HEADER", 100)
    with pytest.raises(ArtifactError, match="a header of"):
        read(tmp_path / "a")


def test_a_missing_file_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")


def test_sizes_without_elements_are_fine(tmp_path: Path) -> None:
    header = {"x": entry(shape=[0, 2**40], offsets=[4, 4]), "y": entry(), "z": entry("F64", [0])}
    header["z"]["data_offsets"] = [0, 0]
    lay(tmp_path / "a", header, FOUR)
    tensors = read(tmp_path / "a").tensors
    assert [tensors[name].shape for name in "xyz"] == [(0, 2**40), (4,), (0,)]


# Fuzzed bytes: only ArtifactError, or a file that is read and can be written again


def sample(path: Path) -> bytes:
    write(
        path,
        {
            "w": np.arange(6.0).reshape(2, 3),
            "flags": np.array([True, False]),
            "h": np.ones(3).astype(BFLOAT16),
            "z": np.zeros((0, 2), np.complex64),
        },
        {"made": "here", "n": "1"},
    )
    return path.read_bytes()


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    kind = st.sampled_from(["set", "insert", "delete", "cut"])
    piece = st.one_of(
        st.binary(min_size=1, max_size=3),
        st.sampled_from(
            [b"9" * 19, b'"w"', b"[", b"{", b"]", b"-1", b"0", b"true", b"NaN", b"\\u0000", b"1e9"]
        ),
    )
    return draw(st.lists(st.tuples(kind, st.floats(0, 1), piece), min_size=1, max_size=6))


def mutate(raw: bytes, changes: list[tuple[str, float, bytes]], repair: bool) -> bytes:
    """Change bytes; with ``repair`` of the header only, and its length is set right again."""
    length = int.from_bytes(raw[:8], "little")
    head, body, tail = (
        (raw[:8], raw[8 : 8 + length], raw[8 + length :]) if repair else (b"", raw, b"")
    )
    for kind, where, piece in changes:
        at = int(where * len(body))
        cut = {"set": len(piece), "insert": 0, "delete": len(piece), "cut": len(body)}[kind]
        put = piece if kind in ("set", "insert") else b""
        body = body[:at] + put + body[at + cut :]
    return (len(body).to_bytes(8, "little") if head else b"") + body + tail


def check_read(path: Path, raw: bytes) -> bool:
    path.write_bytes(raw)
    try:
        contents = read(path)
    except ArtifactError as error:
        assert str(path) in str(error)
        return False
    assert sum(array.nbytes for array in contents.tensors.values()) <= len(raw)
    write(path, *contents)
    return True


@pytest.mark.parametrize("repair", [True, False])
def test_mutated_files(repair: bool, tmp_path_factory: pytest.TempPathFactory, full: bool) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a"
    raw = sample(path)

    @settings(max_examples=20_000 if full else 300)
    @given(mutations())
    def run(changes: list[tuple[str, float, bytes]]) -> None:
        check_read(path, mutate(raw, changes, repair))

    run()


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_random_headers(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random"
    check_read(path, len(header).to_bytes(8, "little") + header + data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
fields = {
    "dtype": st.sampled_from([*DTYPES, "F80", 3]),
    "shape": st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3) | json_values,
    "data_offsets": st.lists(st.integers(-1, 9), min_size=2, max_size=2) | json_values,
}
headers = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]), st.fixed_dictionaries(fields) | json_values
)


@given(headers, st.binary(max_size=9))
def test_headers_of_the_right_form(
    tmp_path_factory: pytest.TempPathFactory, header: Any, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "form"
    text = json.dumps(header).encode()
    check_read(path, len(text).to_bytes(8, "little") + text + data)


def test_every_prefix_is_refused(tmp_path: Path) -> None:
    raw = sample(tmp_path / "a")
    assert check_read(tmp_path / "a", raw)
    assert not any(check_read(tmp_path / "a", raw[:n]) for n in range(len(raw)))


# Strict JSON


@pytest.mark.parametrize("text", ["[[1]]", '{"a": {"b": 2}}', '[{"a": 1}]', "[]", "1", '"é"'])
def test_strict_json_accepts(text: str) -> None:
    assert strict_json(text, nesting=2) == json.loads(text)


@pytest.mark.parametrize("text", ["[[[1]]]", '{"a": {"b": {}}}', '[{"a": []}]'])
def test_strict_json_bounds_nesting(text: str) -> None:
    with pytest.raises(ValueError, match="nested more than 2 deep"):
        strict_json(text, nesting=2)


def test_strict_json_bounds_integers() -> None:
    assert strict_json(f"[{2**64 - 1}, {-(2**63)}]") == [2**64 - 1, -(2**63)]
    for text in (f"{2**64}", f"{-(2**63) - 1}"):
        with pytest.raises(ValueError, match="64 bits"):
            strict_json(text)
