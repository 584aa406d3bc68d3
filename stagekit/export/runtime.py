"""Run an artifact with NumPy alone: the ops' own evaluation, planned as in the full framework.

    program = runtime.load("model.stagekit")
    program(x)    program["train_step"](x, y)    program.signatures    program.state

Also a command: `python -m stagekit.export.runtime model.stagekit --input x=x.npy --output y.npz`.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from stagekit.errors import CheckError, DTypeError, ShapeError, StagekitError
from stagekit.evaluation import scalar
from stagekit.export.artifact import Artifact, read_artifact, write_artifact
from stagekit.export.format import Exported
from stagekit.export.structure import Signature, put_together
from stagekit.graph import Graph
from stagekit.narrow import exported, imported
from stagekit.node import Node
from stagekit.op import weak_type
from stagekit.plan import Plan, concrete
from stagekit.source import here
from stagekit.types import RANK, WEAK, TensorType, dtype
from stagekit.verify import sizes_fault

Array = np.ndarray[Any, Any]
Path = str | os.PathLike[str]

__all__ = ["Program", "State", "describe", "load", "main"]


# ----- programs -----------------------------------------------------------------------------------


class Program(Mapping[str, Any]):
    """The functions of an artifact by name, and the state that they share.

    It is callable where there is one function, or one named "default".
    """

    def __init__(
        self,
        artifact: Artifact,
        functions: Mapping[str, Callable[..., Any]],
        state: Mapping[str, Any],
        backend: str = "numpy",
    ) -> None:
        self._artifact, self._functions = artifact, functions
        self.state = state
        self.backend = backend

    @property
    def signatures(self) -> dict[str, Signature]:
        """How each function is called and what it gives."""
        return {name: f.signature for name, f in self._artifact.program.functions.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(self._functions) == 1:
            (function,) = self._functions.values()
            return function(*args, **kwargs)
        if "default" not in self._functions:
            raise TypeError(
                f"the program has {len(self)} functions and none is the default\n"
                f"  fix: name one: program[{next(iter(self))!r}](...); it has {self._listed()}"
            )
        return self._functions["default"](*args, **kwargs)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self._functions:
            raise KeyError(f"no function {name!r}; the program has {self._listed()}")
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def _listed(self) -> str:
        return ", ".join(self._functions)

    def save(self, path: Path) -> None:
        """Write the program with its state as it is now; a failed call leaves the old file."""
        values = {name: np.asarray(self.state[name]) for name in self._artifact.program.state}
        write_artifact(path, self._artifact.program, values)

    def __repr__(self) -> str:
        lines = [str(signature) for signature in self.signatures.values()]
        return "\n  ".join([f"<program on {self.backend}, {len(self.state)} states>", *lines])


def load(
    path: Path,
    verify: bool = False,
    max_bytes: int | None = None,
    max_steps: int | None = None,
) -> Program:
    """The program in a file; arrays are maps of it, and nothing in it is run.

    `verify` checks the digests of all buffers. A call is refused with CheckError if it would hold
    more than `max_bytes` beside its arguments, or take more than `max_steps` evaluations of ops.
    Raises ArtifactError, naming the fault, for a file that is not a valid artifact.
    """
    artifact = read_artifact(path, verify)
    state = State(artifact)
    limits = _Limits(max_bytes, max_steps)
    functions = {n: Function(f, state, limits) for n, f in artifact.program.functions.items()}
    return Program(artifact, functions, state)


class State(Mapping[str, Array]):
    """The state of a program: read-only arrays by name; assign an array of the same type."""

    def __init__(self, artifact: Artifact) -> None:
        self._types = artifact.program.state
        self._values = dict(artifact.state)
        self.lock = threading.Lock()
        self.drawing = threading.RLock()  # held by a call that reads and writes random counters

    def __getitem__(self, name: str) -> Array:
        if name not in self._values:
            raise KeyError(f"no state {name!r}; the program has {', '.join(self._values)}")
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        array = np.array(value, self[name].dtype if np.isscalar(value) else None, order="C")
        type_ = self._types[name]
        if array.dtype != type_.dtype.numpy:
            raise DTypeError(f"state {name!r} is {type_}, not {array.dtype}").located(here())
        if array.shape != type_.shape:
            raise ShapeError(f"state {name!r} is {type_}, not {array.shape}").located(here())
        with self.lock:
            self.commit({name: array})

    def commit(self, values: Mapping[str, Array]) -> None:
        """Put in arrays of the right types that nothing else writes to."""
        for array in values.values():
            array.flags.writeable = False
        self._values.update(values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {type_}" for name, type_ in self._types.items()) + "}"


# ----- functions ----------------------------------------------------------------------------------


class _Limits(NamedTuple):
    """What a call may take; None is no limit."""

    bytes: int | None
    steps: int | None


_REMEMBERED = 256  # sizes of calls known to be right


class Function:
    """A function of a program, on NumPy arrays; a Python number does for a 0-d array."""

    def __init__(self, exported: Exported, state: State, limits: _Limits) -> None:
        self._exported, self._state, self._limits = exported, state, limits
        self.signature = exported.signature
        self.__name__ = exported.signature.name
        self.__doc__ = str(exported.signature)
        self.__signature__ = exported.signature.python
        self._plan = Plan(exported.graph)
        self._known: dict[tuple[Any, ...], dict[str, int]] = {}

    def __repr__(self) -> str:
        return f"<{self.signature}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.signature.leaves(args, kwargs))

    def run(self, given: Sequence[Any]) -> Any:
        """The result for the tensors of the arguments, in their order."""
        arrays = [
            _as_array(self.signature, k, value, type_)
            for k, (value, type_) in enumerate(zip(given, self.signature.arguments, strict=True))
        ]
        env = self._sizes(tuple([array.shape for array in arrays]))
        with self._state.drawing if self._exported.draws else nullcontext():
            results = self._committed(arrays, env)
        return put_together(self.signature.result, list(map(exported, results)), env)

    def _committed(self, arrays: list[Array], env: dict[str, int]) -> list[Array]:
        """The results of the graph, after its writes."""
        with self._state.lock:
            arrays += [self._state[name] for name in self._exported.reads]
        outputs = self._plan(arrays, env)
        taken = set(map(id, arrays))
        written = {n: _fresh(outputs[k], taken) for n, k in self._exported.writes}
        results = [_fresh(output, taken) for output in outputs]
        with self._state.lock:
            self._state.commit(written)
        return results

    def _sizes(self, shapes: tuple[Any, ...]) -> dict[str, int]:
        """The named sizes of a call that fits the signature, the facts and the limits."""
        env = self._known.get(shapes)
        if env is None:
            try:
                env = self._exported.bind(shapes)
            except ShapeError as error:
                raise error.located(here()) from None
            _require_sizes(self._exported.graph, env)
            self._require_limits(env)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[shapes] = env
        return env

    def _require_limits(self, env: Mapping[str, int]) -> None:
        most, steps = self._limits
        if steps is not None and len(self._plan.steps) > steps:
            raise CheckError(
                f"{self.__name__}: {len(self._plan.steps)} steps, more than max_steps={steps}"
            ).located(here())
        needed = _most_bytes(self._exported.graph, env) if most is not None else 0
        if most is not None and needed > most:
            raise CheckError(
                f"{self.__name__}: needs {needed} bytes, more than max_bytes={most}"
            ).located(here())


def _require_sizes(graph: Graph, env: Mapping[str, int]) -> None:
    for node in graph.nodes:
        fault = sizes_fault(node, env)
        if fault is not None:
            what = node.op.name if node.op is not None else "constant"
            raise ShapeError(f"{graph.name}: {what} {fault}", location=graph.line(node))


# Ops whose result is a view of their operand whatever its layout. A reshape may copy.
_VIEWS = frozenset(["broadcast_to", "permute", "flip", "slice", "barrier", "stop_gradient", "out"])


def _most_bytes(graph: Graph, env: Mapping[str, int]) -> int:
    """The most bytes that are alive at once, with as much work space as an op's operands have.

    Written-out sizes count: an op may copy a broadcast operand, and takes time for all of it.
    """
    size = {node: _size(node, env) for node in (*graph.inputs, *graph.nodes)}
    owner: dict[Node, Node] = {}
    last: dict[Node, int] = {}
    for k, node in enumerate(graph.nodes):
        is_view = node.op is not None and node.op.name in _VIEWS
        owner[node] = owner.get(node.inputs[0], node) if is_view else node
        last.update({owner.get(x, x): k for x in (node, *node.inputs)})
    last.update({owner.get(x, x): len(graph.nodes) for x in graph.outputs})
    alive = most = 0
    for k, node in enumerate(graph.nodes):
        alive += 0 if node.constant is not None or owner[node] is not node else size[node]
        most = max(most, alive + sum(size[x] for x in node.inputs))
        dead = {owner.get(x, x) for x in (node, *node.inputs) if last[owner.get(x, x)] == k}
        alive -= sum(size[x] for x in dead if x.op is not None)
    return most


def _size(node: Node, env: Mapping[str, int]) -> int:
    return sum(math.prod(concrete(t.shape, env)) * t.dtype.itemsize for t in node.types)


def _as_array(signature: Signature, place: int, value: Any, wanted: TensorType) -> Array:
    """An argument as an array of its type; only sizes are left to check."""
    if isinstance(value, (np.ndarray, np.generic)):
        if dtype(value.dtype) is wanted.dtype:
            return np.asarray(imported(np.asarray(value)), wanted.dtype.numpy, order="C")
        raise _misfit(signature, place, dtype(value.dtype).name, wanted)
    weak = weak_type(value)
    if weak is None:
        raise TypeError(
            f"{signature.name}: {signature.paths()[place]} is a {type(value).__name__}, the "
            f"signature says {wanted}\n  fix: give a NumPy array"
        )
    if wanted.shape or RANK[WEAK[weak].kind] > RANK[wanted.dtype.kind]:
        raise _misfit(signature, place, f"a Python {weak.__name__}", wanted)
    try:
        return scalar(value, wanted.dtype)
    except StagekitError as error:
        raise error.located(here()) from None


def _misfit(signature: Signature, place: int, found: str, wanted: TensorType) -> DTypeError:
    return DTypeError(
        f"{signature.name}: {signature.paths()[place]} is {found}, the signature says {wanted}",
        fix=f"call it as {signature}",
    ).located(here())


def _fresh(array: Array, taken: set[int]) -> Array:
    """An array that nothing else refers to: itself, or a copy."""
    if array.base is not None or not array.flags.writeable or id(array) in taken:
        return array.copy()
    taken.add(id(array))
    return array


# ----- the command --------------------------------------------------------------------------------


def describe(path: Path) -> str:
    """What a file holds, as text; the digests of its buffers are checked.

    Raises ArtifactError for a file that is not a valid artifact.
    """
    artifact = read_artifact(path, verify=True)
    program = artifact.program
    lines = [f"{os.fspath(path)}: format {artifact.format}, written by {artifact.producer}"]
    for each in program.functions.values():
        lines += _described(each)
    lines += [f"state: {len(program.state)} tensors, {_bytes(artifact.state)} bytes"]
    lines += [f"  {name}: {type_}" for name, type_ in program.state.items()]
    return "\n".join(lines)


def _described(exported: Exported) -> list[str]:
    graph = exported.graph
    counts = Counter(node.op.name for node in graph.nodes if node.op is not None)
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    lines = [str(exported.signature), f"  ops: {listed or 'none'}"]
    if exported.facts:
        lines.append("  sizes: " + ", ".join(str(known.fact) for known in exported.facts))
    if exported.writes:
        lines.append("  writes: " + ", ".join(name for name, _ in exported.writes))
    return lines


def _bytes(state: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in state.values())


def named_leaves(tree: Any, path: str) -> dict[str, Any]:
    """The leaves of builtin containers by path: `result/loss`, `result/0`.

    >>> named_leaves({"a": 1, "b": [2, None]}, "result")
    {'result/a': 1, 'result/b/0': 2}
    """
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, (tuple, list)):
        items = enumerate(tree)
    else:
        return {} if tree is None else {path: tree}
    found: dict[str, Any] = {}
    for key, item in items:
        found |= named_leaves(item, f"{path}/{key}")
    return found


def _given(signature: Signature, inputs: Sequence[str]) -> dict[int, Array]:
    """The arrays of the arguments, from `PATH=FILE` where a path is `x` or `params/w`."""
    places = {_as_slashes(path): place for place, path in signature.paths().items()}
    found: dict[int, Array] = {}
    for entry in inputs:
        name, _, file = entry.partition("=")
        if name not in places or not file:
            raise SystemExit(f"--input {entry}: give NAME=FILE.npy for {', '.join(places)}")
        found[places[name]] = np.load(file, allow_pickle=False)
    missing = [name for name, place in places.items() if place not in found]
    if missing:
        raise SystemExit(f"{signature}\nmissing: --input {missing[0]}=FILE.npy")
    return found


def _as_slashes(path: str) -> str:
    """`params['w'][0].bias` as `params/w/0/bias`."""
    return re.sub(r"\[(['\"]?)(.*?)\1\]|\.(\w+)", r"/\2\3", path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="stagekit.export.runtime", description="Run an artifact.")
    parser.add_argument("file", help="the artifact")
    parser.add_argument("--describe", action="store_true", help="print what it holds")
    parser.add_argument("--function", help="the function to call, if there are several")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy")
    parser.add_argument("--output", metavar="FILE", help=".npz for all results, .npy for one")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except (StagekitError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.describe:
        print(describe(options.file))
        return 0
    program = load(options.file)
    name = options.function or (next(iter(program)) if len(program) == 1 else "default")
    function = program.get(name)
    if not isinstance(function, Function):
        raise SystemExit(f"--function: use one of {', '.join(program)}")
    given = _given(function.signature, options.input)
    result = function.run([given[place] for place in range(len(given))])
    return _write_results(result, options.output)


def _write_results(result: Any, output: str | None) -> int:
    leaves = named_leaves(result, "result")
    if output is None:
        for name, value in leaves.items():
            print(f"{name} = {np.array2string(np.asarray(value), separator=', ')}")
    elif output.endswith(".npy"):
        if len(leaves) != 1:
            raise SystemExit(f"--output {output}: there are {len(leaves)} results; use .npz")
        np.save(output, next(iter(leaves.values())))
    else:
        np.savez(output, **leaves)
    return 0


if __name__ == "__main__":
    sys.exit(main())
