"""`sk.export.load`: the functions of an artifact as staged functions of the full framework.

A call replays the graph's ops under the current interpreter, so they differentiate, trace for other
sizes, and run eagerly like functions written by hand. State is made of Variables.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import stagekit.ops as ops
from stagekit.errors import DTypeError, ShapeError
from stagekit.export.artifact import read_artifact
from stagekit.export.format import Exported
from stagekit.export.runtime import Program
from stagekit.export.structure import put_together
from stagekit.op import Cell, weak_type
from stagekit.random import holding
from stagekit.source import here
from stagekit.staged import function
from stagekit.staging.replay import replay
from stagekit.tensor import Variable
from stagekit.types import RANK, WEAK, TensorType


def load(path: str | os.PathLike[str]) -> Program:
    """The program in a file, staged: a mapping of functions, callable where there is one, or a
    "default". `.state` maps names to Variables, `.save(path)` writes them back.

    Namedtuples come back as tuples and dataclasses as dicts. The functions take any size that the
    file's named sizes allow. Raises ArtifactError for a file that is not a valid artifact.
    Source: `tf.saved_model.load`.

    >>> import tempfile, stagekit as sk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sk.export.save(f"{folder}/f.stagekit", lambda x: x * x, sk.TensorSpec(("n",)))
    ...     square = sk.export.load(f"{folder}/f.stagekit")
    >>> sk.grad(lambda x: square(x).sum())(sk.asarray([1.0, 2.0]))
    tensor([2., 4.], dtype=float32)
    """
    artifact = read_artifact(path)
    state = {name: Variable(array, name) for name, array in artifact.state.items()}
    functions = {
        n: function(MethodType(_python(f), {k: state[k] for k in _used(f)}))
        for n, f in artifact.program.functions.items()
    }
    return Program(artifact, functions, state)


def _used(exported: Exported) -> list[str]:
    return list(dict.fromkeys((*exported.reads, *(name for name, _ in exported.writes))))


def _python(exported: Exported) -> Callable[..., Any]:
    """A method of a mapping of Variables: it replays the graph on them and writes them."""
    signature = exported.signature

    def call(state: Mapping[str, Variable], /, *args: Any, **kwargs: Any) -> Any:
        given = signature.leaves(args, kwargs)
        cells = [_cell(exported, k, value) for k, value in enumerate(given)]
        try:
            env = exported.bind([cell.shape for cell in cells])
        except ShapeError as error:
            raise error.located(here()) from None
        inputs = [*cells, *(state[name] for name in exported.reads)]
        with holding([state[name] for name in exported.draws]):
            outputs = replay(exported.graph, inputs, env)
            for name, place in exported.writes:
                state[name].assign(outputs[place])
        return put_together(signature.result, _distinct(outputs, inputs), env)

    call.__name__ = call.__qualname__ = signature.name
    call.__doc__ = str(signature)
    call.__signature__ = _with_state(signature.python)  # type: ignore[attr-defined]
    return call


def _with_state(signature: inspect.Signature) -> inspect.Signature:
    """The signature behind a first parameter `state`, of a name that no other has."""
    name = "state"
    while name in signature.parameters:
        name += "_"
    first = inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY)
    return signature.replace(parameters=[first, *signature.parameters.values()])


def _cell(exported: Exported, place: int, value: Any) -> Any:
    """An argument as a tensor of its type; only sizes are left to check."""
    wanted = exported.signature.arguments[place]
    weak = weak_type(value)
    if weak is not None and not wanted.shape and RANK[WEAK[weak].kind] <= RANK[wanted.dtype.kind]:
        return ops.asarray(value, dtype=wanted.dtype)
    if isinstance(value, Cell):
        cell: Any = value
        if cell.dtype is wanted.dtype:
            return cell
        raise _misfit(exported, place, str(cell.dtype), wanted)
    raise _misfit(exported, place, f"a {type(value).__name__}", wanted)


def _misfit(exported: Exported, place: int, found: str, wanted: TensorType) -> DTypeError:
    signature = exported.signature
    return DTypeError(
        f"{signature.name}: {signature.paths()[place]} is {found}, the signature says {wanted}",
        fix=f"call it as {signature}",
    ).located(here())


def _distinct(outputs: list[Any], inputs: list[Any]) -> list[Any]:
    """Results that are one value as objects of their own; an input returned is itself."""
    own = set(map(id, inputs))
    found: list[Any] = []
    seen: set[int] = set()
    for cell in outputs:
        repeated = id(cell) in seen and id(cell) not in own
        found.append(ops.alias(cell) if repeated else cell)
        seen.add(id(cell))
    return found
