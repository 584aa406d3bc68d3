"""An artifact as a file: a program in the metadata of a safetensors file, and its buffers.

Versions and digests are checked here; whatever is wrong with a file is an ArtifactError naming it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stagekit.errors import ArtifactError
from stagekit.export.format import Program, decode, encode, typed
from stagekit.export.safetensors import (
    Contents,
    code_of,
    read,
    stored_shape,
    strict_json,
    write,
)
from stagekit.narrow import imported

Array = np.ndarray[Any, Any]

FORMAT = 1  # what this writes
MIN_READER = 1  # the oldest reader that understands it
READER = 1  # the newest format that this reads

_KEYS = ("format", "min_reader", "producer", "digests", "program")


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a file holds: a program, the values of its state, and who wrote it."""

    program: Program
    state: Mapping[str, Array]
    producer: str
    format: int


# ----- writing ------------------------------------------------------------------------------------


def write_artifact(
    path: str | os.PathLike[str], program: Program, state: Mapping[str, Array]
) -> None:
    """Write a program and its state to one file; a failed call leaves the old file.

    Raises ArtifactError for what the format cannot hold: what is written can be read.
    """
    try:
        text, constants = encode(program)
        buffers = {name: imported(np.asarray(state[name])) for name in program.state} | constants
        decode(text, buffers)
    except ValueError as error:
        raise ArtifactError(f"{os.fspath(path)}: {error}") from None
    metadata = {
        "stagekit.format": str(FORMAT),
        "stagekit.min_reader": str(MIN_READER),
        "stagekit.producer": f"stagekit {sys.modules['stagekit'].__version__}",
        "stagekit.program": text,
    }
    table = {name: [code_of(array), stored_shape(array)] for name, array in buffers.items()}
    digests = _digests(metadata, table)
    digests["buffers"] = {name: _digest_of(array) for name, array in buffers.items()}
    metadata["stagekit.digests"] = json.dumps(digests, ensure_ascii=False)
    write(path, buffers, metadata)


def _digests(metadata: Mapping[str, str], table: Mapping[str, Any]) -> dict[str, Any]:
    """The digests of the program, and of all else in the header but themselves.

    `table` has the type and the shape of each buffer, as the file says them.
    """
    kept = {k: v for k, v in metadata.items() if k not in ("stagekit.digests", "stagekit.program")}
    header = json.dumps([kept, table], sort_keys=True, separators=(",", ":"))
    return {
        "program": hashlib.sha256(metadata["stagekit.program"].encode()).hexdigest(),
        "header": hashlib.sha256(header.encode()).hexdigest(),
    }


def _digest_of(array: Array) -> str:
    """The digest of a buffer's bytes as they lie in the file."""
    stored = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return hashlib.sha256(stored.reshape(-1).view(np.uint8).data).hexdigest()


# ----- reading ------------------------------------------------------------------------------------


def read_artifact(path: str | os.PathLike[str], verify: bool = False) -> Artifact:
    """Read a file and check all of it, the digests of buffers only with `verify`.

    Arrays are read-only maps of the file. Raises ArtifactError naming the file and the fault.
    """
    contents = read(path)
    try:
        return _parsed(contents, verify)
    except (ValueError, RecursionError) as error:
        text = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise ArtifactError(f"{os.fspath(path)}: {text}") from None


def _parsed(contents: Contents, verify: bool) -> Artifact:
    metadata = contents.metadata
    missing = [key for key in _KEYS if f"stagekit.{key}" not in metadata]
    if missing:
        raise ValueError(f"no artifact: its metadata lack {', '.join(missing)}")
    version = _check_versions(metadata)
    _check_digests(contents, verify)
    tensors = contents.tensors
    program = decode(metadata["stagekit.program"], tensors)
    state = {name: typed(name, tensors[name], kind) for name, kind in program.state.items()}
    return Artifact(program, state, metadata["stagekit.producer"], version)


def _check_versions(metadata: Mapping[str, str]) -> int:
    versions = [metadata["stagekit.format"], metadata["stagekit.min_reader"]]
    if not all(v.isascii() and v.isdigit() and len(v) < 10 and v == str(int(v)) for v in versions):
        raise ValueError(f"the versions {versions} are no numbers")
    version, oldest = map(int, versions)
    if not 1 <= oldest <= version:
        raise ValueError(f"format {version} cannot be read from version {oldest} on")
    if oldest > READER:
        raise ValueError(
            f"it has format {version}, which readers from version {oldest} on understand, "
            f"and this is a reader of version {READER}\n  fix: update stagekit"
        )
    return version


def _check_digests(contents: Contents, verify: bool) -> None:
    stated = strict_json(contents.metadata["stagekit.digests"], nesting=2)
    if not isinstance(stated, dict) or stated.keys() != {"program", "header", "buffers"}:
        raise ValueError("the digests are not those of program, header and buffers")
    tensors, dtypes = contents.tensors, contents.dtypes
    table = {name: [dtypes[name], list(array.shape)] for name, array in tensors.items()}
    for name, digest in _digests(contents.metadata, table).items():
        if stated[name] != digest:
            raise ValueError(f"the digest of the {name} differs: the file is damaged")
    buffers = stated["buffers"]
    if not isinstance(buffers, dict) or buffers.keys() != contents.tensors.keys():
        raise ValueError("the digests are not those of the buffers")
    for name, array in contents.tensors.items() if verify else ():
        if buffers[name] != _digest_of(array):
            raise ValueError(f"the digest of the buffer {name!r} differs: the file is damaged")
