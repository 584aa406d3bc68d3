"""Reading and writing safetensors files with NumPy and the standard library alone.

A file is an 8-byte little-endian length, a JSON header, then raw little-endian C-ordered buffers.
`write` is atomic and lays buffers out by item size, largest first, so that all are aligned without
holes. `read` checks everything before it gives arrays, which are read-only maps of the file.
Format: https://huggingface.co/docs/safetensors (header limit and rules as its reference reader's).
"""

from __future__ import annotations

import json
import math
import mmap as memory
import os
import secrets
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from stagekit.errors import ArtifactError
from stagekit.narrow import BFLOAT16, imported

Array = np.ndarray[Any, np.dtype[Any]]

MAX_HEADER = 100_000_000
MAX_RANK = 64
MAX_BYTES = 2**63 - 1

DTYPES = {
    "BOOL": "?",
    "U8": "<u1",
    "I8": "<i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
}
CODES = {np.dtype(spelling).name: code for code, spelling in DTYPES.items() if code != "BF16"}
CODES |= {"bfloat16": "BF16", "complex64": "F32", "complex128": "F64"}


class Contents(NamedTuple):
    """What a file holds; ``write(path, *contents)`` writes it again.

    ``dtypes`` names each buffer's type as the file does. An array whose type is ``"BF16"`` has the
    dtype `narrow.BFLOAT16`.
    """

    tensors: dict[str, Array]
    metadata: dict[str, str]
    dtypes: dict[str, str]


# Writing


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> None:
    """Write arrays of any layout and byte order to one file; a failed call leaves the old file.

    Complex arrays are stored as floats with a trailing axis of 2 (`as_complex` undoes it). Raises
    `ArtifactError` for a dtype or a name the format does not know.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/w.safetensors", {"w": np.arange(3, dtype=np.int32)}, {"made by": "me"})
    ...     tensors, metadata, dtypes = read(f"{folder}/w.safetensors", mmap=False)
    >>> tensors["w"], metadata, dtypes
    (array([0, 1, 2], dtype=int32), {'made by': 'me'}, {'w': 'I32'})
    """
    path = os.path.realpath(path)  # a link stays a link: the file it names is replaced
    metadata = metadata or {}
    _check_names(path, tensors, metadata)
    arrays = {name: imported(np.asarray(tensor)) for name, tensor in tensors.items()}
    codes = {name: _code(path, name, array, dtypes or {}) for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: (-np.dtype(DTYPES[codes[name]]).itemsize, name))
    header = _header(path, {name: (codes[name], arrays[name]) for name in order}, metadata)
    temporary = os.path.join(os.path.dirname(path), f".stagekit-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for name in order:
                file.write(_buffer(arrays[name], codes[name]))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(path))


def code_of(array: Array) -> str | None:
    """The file's name for the type of an array, or of the floats that a complex one is kept as.

    >>> code_of(np.ones(2)), code_of(np.ones(2, complex)), code_of(np.array("a"))
    ('F64', 'F64', None)
    """
    return CODES.get("bfloat16" if imported(array).dtype == BFLOAT16 else array.dtype.name)


def _code(path: str, name: str, array: Array, dtypes: Mapping[str, str]) -> str:
    code = code_of(array)
    if code is None:
        raise ArtifactError(f"{path}: tensor {name!r}: safetensors cannot hold {array.dtype}")
    if dtypes.get(name, code) != code:
        raise ArtifactError(f"{path}: tensor {name!r}: {array.dtype} is not {dtypes[name]}")
    return code


def stored_shape(array: Array) -> list[int]:
    """The shape in the file: a complex array has a last axis of 2, its parts.

    >>> stored_shape(np.ones(3, complex))
    [3, 2]
    """
    return [*array.shape, 2] if array.dtype.kind == "c" else [*array.shape]


def _header(
    path: str, entries: Mapping[str, tuple[str, Array]], metadata: Mapping[str, str]
) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (code, array) in entries.items():
        begin, end = end, end + array.nbytes
        shape = stored_shape(array)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArtifactError(f"{path}: a name or metadata is not Unicode text: {error}") from None
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > MAX_HEADER:
        raise ArtifactError(f"{path}: header of {len(encoded)} bytes, more than {MAX_HEADER}")
    return encoded


def _check_names(path: str, names: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    strings: list[object] = [*names, *metadata, *metadata.values()]
    wrong = [item for item in strings if not isinstance(item, str)]
    if wrong:
        raise ArtifactError(f"{path}: names and metadata are strings, not {wrong[0]!r}")
    if "__metadata__" in names:
        raise ArtifactError(f"{path}: no tensor can be named '__metadata__'")


def _buffer(array: Array, code: str) -> memoryview:
    """The array's bytes, little-endian in C order."""
    flat = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C").reshape(-1)
    return flat.view(np.uint8).data


def _sync_folder(folder: str) -> None:
    """Make a rename durable, where folders can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Reading


def read(path: str | os.PathLike[str], mmap: bool = True) -> Contents:
    """Read a file: its arrays (read-only; with ``mmap`` without copying), metadata and dtypes.

    Raises `ArtifactError`, which names the file and the fault, for anything but a well-formed
    file: lengths, JSON, dtypes, shapes, offsets with holes or overlaps, bytes after the end.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        try:
            entries, metadata, start = _read_header(file)
        except ValueError as error:
            raise ArtifactError(f"{path}: not a valid safetensors file: {error}") from None
        data: Any = memory.mmap(file.fileno(), 0, access=memory.ACCESS_READ)
        if not mmap:
            data = bytes(data)
    tensors = {name: _array(data, start, entry) for name, entry in entries.items()}
    for name, array in tensors.items():
        if array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
            raise ArtifactError(f"{path}: tensor {name!r}: a byte of a BOOL is neither 0 nor 1")
    return Contents(tensors, metadata, {name: entry["dtype"] for name, entry in entries.items()})


def as_complex(array: Array) -> Array:
    """The complex array that was stored as floats with a trailing axis of 2.

    >>> as_complex(np.array([[1.0, 2.0]]))
    array([1.+2.j])
    """
    return array.view(np.dtype(f"<c{2 * array.dtype.itemsize}"))[..., 0]


def strict_json(text: str, nesting: int = 64) -> Any:
    """Parse JSON without duplicate keys, NaN, Infinity, lone surrogates, integers beyond 64 bits
    or nesting beyond the limit; raises `ValueError` for them.

    >>> strict_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: duplicate key 'a'
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_int=_integer,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError(f"nested more than {nesting} deep") from None
    level, depth = [value], 0
    while level:
        for item in level:
            if isinstance(item, str):
                item.encode("utf-8")  # UnicodeEncodeError is a ValueError
        containers = [item for item in level if isinstance(item, dict | list)]
        depth += bool(containers)
        if depth > nesting:
            raise ValueError(f"nested more than {nesting} deep")
        level = [inner for item in containers for inner in item]  # keys, of an object
        level += [inner for item in containers if isinstance(item, dict) for inner in item.values()]
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key!r}")
        result[key] = value
    return result


def _refuse(literal: str) -> Any:
    raise ValueError(f"{literal} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"the integer {digits[:24]} does not fit 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:24]} does not fit a double")
    return value


def _read_header(file: BinaryIO) -> tuple[dict[str, dict[str, Any]], dict[str, str], int]:
    """Checked entries in the order of their buffers, the metadata, and where the buffers begin."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        raise ValueError(f"{size} bytes are too few")
    if length > MAX_HEADER or length > size - 8:
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    encoded = file.read(length)
    if not (encoded.startswith(b"{") and encoded.rstrip(b" ").endswith(b"}")):
        raise ValueError("the header is not a JSON object")
    header = strict_json(encoded.decode("utf-8"), nesting=3)
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise ValueError("__metadata__ does not map strings to strings")
    for name, entry in header.items():
        _check_entry(name, entry)
    entries = dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
    _check_offsets(entries, size - 8 - length)
    return entries, metadata, 8 + length


def _check_entry(name: str, entry: Any) -> None:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} must have exactly dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"tensor {name!r}: unknown dtype {code!r}; known: {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > MAX_RANK:
        raise ValueError(f"tensor {name!r}: {shape!r} is not a shape")
    if not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r}: {offsets!r} are not two offsets")
    itemsize = np.dtype(DTYPES[code]).itemsize
    if math.prod(size or 1 for size in shape) * itemsize > MAX_BYTES:
        raise ValueError(f"tensor {name!r}: shape {shape} is too large")
    if offsets[1] - offsets[0] != math.prod(shape) * itemsize:
        raise ValueError(f"tensor {name!r}: {code} {shape} does not fill bytes {offsets}")


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_offsets(entries: Mapping[str, dict[str, Any]], size: int) -> None:
    end = 0
    for name, entry in entries.items():
        begin, stop = entry["data_offsets"]
        if begin != end:
            kind = "hole" if begin > end else "overlap"
            raise ValueError(f"tensor {name!r}: {kind} between byte {end} and byte {begin}")
        end = stop
    if end != size:
        raise ValueError(f"the tensors need {end} bytes but the file has {size} for them")


def _array(data: Any, start: int, entry: dict[str, Any]) -> Array:
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), entry["shape"]
    begin = start + entry["data_offsets"][0]
    array = np.frombuffer(data, np.uint8, math.prod(shape) * dtype.itemsize, begin).view(dtype)
    if not array.flags.aligned:  # another writer's file; ours are aligned
        array = array.copy()
        array.flags.writeable = False
    if entry["dtype"] == "BF16":
        array = array.view(BFLOAT16)
    return array.reshape(shape)
