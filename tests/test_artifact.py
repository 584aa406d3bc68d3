"""The reader of artifacts trusts nothing: any fault of a file is an ArtifactError.

Edits of the program come with right digests, so that they reach the checks behind these.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stagekit as sk
from stagekit.errors import ArtifactError, StagekitError
from stagekit.export import artifact, runtime, safetensors
from stagekit.export.format import attribute, attribute_json, expression
from stagekit.graph import Graph
from stagekit.op import OPS
from stagekit.symbolic import Expr, Formula
from stagekit.types import DTYPES
from stagekit.verify import arity, verify
from tests.samples import samples

Json = Any

# ----- files to start from ------------------------------------------------------------------------

w = sk.Variable(np.arange(12, dtype="f4").reshape(4, 3) / 7)
mask = sk.asarray([True, False, True])


def step(params: Any, i: Any, flag: bool = True) -> Any:
    x = params["x"]
    rows = (x @ w)[i] * (1 / (2 * x.shape[0]))
    table = sk.asarray(np.arange(30.0))
    w.assign_sub(0.1 * w)
    padded = sk.pad(x[1 : x.shape[0], ::2], ((1, 0), (0, 1)))
    total = sk.where(mask, rows, 0.0).sum() + sk.flip(padded).sum() + table[:7].mean()
    return {"total": total, "rows": [rows, None], "n": x.shape[0] // 2}, sk.concat([x, x]).max()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "model.stagekit"
    specs = ({"x": sk.TensorSpec(("n", 4))}, sk.TensorSpec(("k",), sk.int64))
    sk.export.save(path, {"default": (step, specs), "now": (lambda: w.value, ())})
    return path


def parts(path: Path) -> tuple[safetensors.Contents, Json]:
    contents = safetensors.read(path)
    return contents, json.loads(contents.metadata["stagekit.program"])


def write(path: Path, contents: safetensors.Contents, program: str, **metadata: str) -> Path:
    """A file of these parts with digests that are right."""
    changed = contents.metadata | {"stagekit.program": program}
    changed |= {f"stagekit.{key}": value for key, value in metadata.items()}
    table = {n: [contents.dtypes[n], list(x.shape)] for n, x in contents.tensors.items()}
    digests = artifact._digests(changed, table)
    digests["buffers"] = {n: artifact._digest_of(a) for n, a in contents.tensors.items()}
    safetensors.write(path, contents.tensors, {"stagekit.digests": json.dumps(digests)} | changed)
    return path


def rewritten(path: Path, model: Path, program: Json, **metadata: str) -> Path:
    contents, _ = parts(model)
    contents = contents._replace(
        metadata={k: v for k, v in contents.metadata.items() if k != "stagekit.digests"}
    )
    text = program if isinstance(program, str) else json.dumps(program)
    return write(path, contents, text, **metadata)


def test_what_is_not_changed_loads(model: Path, tmp_path: Path) -> None:
    _, program = parts(model)
    loaded = runtime.load(rewritten(tmp_path / "same", model, program), verify=True)
    assert list(loaded) == ["default", "now"]


# ----- edits, each with its error -----------------------------------------------------------------


def at(*path: Any) -> Callable[[Json], Json]:
    def reach(document: Json) -> Json:
        for key in path:
            document = document[key]
        return document

    return reach


FUNCTION = ("functions", "default")
GRAPH = (*FUNCTION, "graph")


def node_of(program: Json, op: str) -> Json:
    return next(n for n in at(*GRAPH, "nodes")(program) if n.get("op") == op)


def put(op: str, /, **fields: Any) -> Callable[[Json], None]:
    """Change fields of the first node of an op; `attrs` are merged."""

    def edit(program: Json) -> None:
        node = node_of(program, op)
        node.update(fields | {"attrs": node["attrs"] | fields.get("attrs", {})})

    return edit


def setting(*path: Any, to: Any) -> Callable[[Json], None]:
    def edit(program: Json) -> None:
        at(*path[:-1])(program)[path[-1]] = to

    return edit


def dropping(*path: Any) -> Callable[[Json], None]:
    return lambda program: at(*path[:-1])(program).pop(path[-1])


BY_ZERO = {"computed": {"expr": "n // (n - 7)"}}  # n is 7 where types were inferred

EDITS: dict[str, tuple[Callable[[Json], Any], str]] = {
    "unknown op": (put("matmul", op="system"), "the op 'system' is unknown"),
    "op with Python rules": (put("matmul", op="custom"), "the op 'custom' is unknown"),
    "op that no graph holds": (put("matmul", op="alias"), "the op 'alias' is unknown"),
    "attribute of the op table": (put("matmul", op="__class__"), "is unknown"),
    "op of no text": (put("matmul", op=["matmul"]), "is unknown"),
    "future op version": (put("matmul", version=2), "version 1 here and 2 in the file"),
    "bool as version": (put("matmul", version=True), "version 1 here and True"),
    "forward reference": (put("matmul", inputs=[0, 10_000]), "the reference 10000"),
    "reference to itself": (put("matmul", inputs=[0, 4]), "reference 4 is to nothing defined"),
    "negative reference": (put("matmul", inputs=[0, -1]), "reference -1"),
    "too many operands": (put("matmul", inputs=[0, 2, 2]), "takes 2 operands, not 3"),
    "out parameter of a ufunc": (put("multiply", inputs=[2, 2, 2]), "takes 2 operands, not 3"),
    "too few operands": (put("where", inputs=[2]), "takes 3 operands, not 1"),
    "wrong operand type": (put("matmul", inputs=[0, 1]), "takes int64, int64|matmul of"),
    "wrong shape": (put("matmul", type={"dtype": "float32", "shape": ["n", 4]}), "has the type"),
    "wrong dtype": (put("matmul", type={"dtype": "float64", "shape": ["n", 3]}), "has the type"),
    "unknown dtype": (put("matmul", type={"dtype": "object", "shape": []}), "'object' is unknown"),
    "unknown size": (put("matmul", type={"dtype": "float32", "shape": ["z", 3]}), "unknown size"),
    "negative size": (put("matmul", type={"dtype": "float32", "shape": [-1, 3]}), "the size -1"),
    "65 axes": (put("matmul", type={"dtype": "float32", "shape": [1] * 65}), "65 axes"),
    "missing field": (dropping(*GRAPH, "nodes", 0, "lines"), "an object with the keys"),
    "extra field": (put("matmul", extra=1), "an object with the keys"),
    "missing attribute": (put("concat", attrs={}, **{"op": "sum"}), "has the attributes"),
    "unknown attribute": (put("matmul", attrs={"axis": 0}), "has the attributes"),
    "attribute of a wrong kind": (put("concat", attrs={"axis": {"float": "0.0"}}), "axis=0.0"),
    "axis out of range": (put("concat", attrs={"axis": 2}), "axes (2,) in a tensor of 2"),
    "axes twice": (put("flip", attrs={"axes": [0, 0]}), "axes (0, 0)"),
    "slice beyond": (put("slice", attrs={"starts": [3, 0]}), "reads beyond the shape"),
    "slice of another rank": (put("slice", attrs={"starts": [1]}), "starts has 1 entries"),
    "stride of 0": (put("slice", attrs={"strides": [0, 2]}), "strides=(0, 2)"),
    "negative padding": (put("pad", attrs={"low": [-1, 0]}), "low=(-1, 0)"),
    "index axes": (put("gather", attrs={"axes": [0, 1]}), "1 indices for 2 axes"),
    "unnamed tag": (put("slice", attrs={"starts": {"eval": "1"}}), "the attribute"),
    "two tags": (put("slice", attrs={"starts": {"expr": "n", "float": "0.0"}}), "the attribute"),
    "code": (put("slice", attrs={"starts": [{"expr": "__import__('os')"}, 0]}), "expression"),
    "call": (put("slice", attrs={"starts": [{"expr": "exit(n)"}, 0]}), "not a size expression"),
    "power": (put("slice", attrs={"starts": [{"expr": "9**9**9"}, 0]}), "not a size expression"),
    "large product": (
        put("slice", attrs={"starts": [{"expr": "*".join(["(n+k+1)"] * 60)}, 0]}),
        "more than 256 terms",
    ),
    "deep expression": (
        put("slice", attrs={"starts": [{"expr": "(" * 400 + "n" + ")" * 400}, 0]}),
        "the expression",
    ),
    "long expression": (
        put("slice", attrs={"starts": [{"expr": "n+" * 600 + "n"}, 0]}),
        "an expression of 1201 characters",
    ),
    "integer power": (
        put("number", attrs={"expr": {"formula": ["**", 9, 10**9]}}),
        "formula ** of integers",
    ),
    "unknown formula": (put("number", attrs={"expr": {"formula": ["exec", 1]}}), "the formula"),
    "formula of a text": (
        put("number", attrs={"expr": {"formula": ["neg", "n"]}}),
        "operand of neg",
    ),
    "lines beyond the table": (put("matmul", lines=[99]), "the reference 99"),
    "five lines": (put("matmul", lines=[0] * 5), "too many lines"),
    "line of no text": (setting("lines", 0, to=[1, 2, 3]), "a line is"),
    "undefined output": (setting(*GRAPH, "outputs", 0, to=999), "the reference 999"),
    "undefined check": (setting(*GRAPH, "checks", to=[-3]), "the reference -3"),
    "input twice": (setting(*GRAPH, "inputs", 1, "name", to="params_x"), "defined twice"),
    "input without a name": (setting(*GRAPH, "inputs", 1, "name", to="a b"), "is no name"),
    "no functions": (setting("functions", to={}), "there are no functions"),
    "functions in a list": (setting("functions", to=[]), "there are no functions"),
    "empty name": (lambda p: p["functions"].update({"": p["functions"]["now"]}), "name is empty"),
    "state without a buffer": (
        lambda p: p["state"].update(v={"dtype": "float32", "shape": []}),
        "'v' has no buffer",
    ),
    "state of another shape": (setting("state", "w", "shape", to=[3, 4]), "holds float32 (4, 3)"),
    "symbolic state": (setting("state", "w", "shape", to=["n", 3]), "unknown size"),
    "state read as another": (setting(*FUNCTION, "reads", to=["mask", "w"]), "it reads 'mask' as"),
    "unknown state": (setting(*FUNCTION, "reads", to=["w", "v"]), "the state ['w', 'v']"),
    "too much state": (setting(*FUNCTION, "reads", to=["w"] * 9), "more state than it has inputs"),
    "state of no text": (setting(*FUNCTION, "reads", to=[["w"], "mask"]), "the state"),
    "write of another type": (setting(*FUNCTION, "writes", to=[["mask", 3]]), "it writes f32[4,3]"),
    "write to nothing": (setting(*FUNCTION, "writes", to=[["v", 3]]), "the state ['v']"),
    "write from nothing": (setting(*FUNCTION, "writes", to=[["w", 99]]), "outputs"),
    "write twice": (setting(*FUNCTION, "writes", to=[["w", 3], ["w", 3]]), "4 outputs at places"),
    "unused buffer": (lambda p: p["state"].pop("mask"), "buffers|unknown|mask"),
    "size nobody has": (setting(*FUNCTION, "sizes", "z", to=3), "the sizes ['k', 'n', 'z']"),
    "size missing": (dropping(*FUNCTION, "sizes", "k"), "unknown size"),
    "size named max": (setting(*FUNCTION, "sizes", to={"max": 3}), "is no name"),
    "negative hint": (setting(*FUNCTION, "sizes", "n", to=-1), "the size n = -1"),
    "argument of a computed size": (
        setting(*GRAPH, "inputs", 0, "type", "shape", 0, to="2*n"),
        "the size of an argument is no name|has the type",
    ),
    "facts left out": (setting(*FUNCTION, "facts", to=[]), "it rests on"),
    "fact that is false": (setting(*FUNCTION, "facts", 0, "outcome", to=3), "is no bool"),
    "fact of an unknown relation": (setting(*FUNCTION, "facts", 0, "relation", to="is"), "'is'"),
    "fact of a text": (setting(*FUNCTION, "facts", 0, "left", to="n"), "no number"),
    "argument twice": (
        setting(*FUNCTION, "parameters", 1, "tree", to=0),
        "2 arguments at places [0, 0]",
    ),
    "argument missing": (dropping(*FUNCTION, "parameters", 1), "2 arguments at places [0]"),
    "parameter of an unknown kind": (
        setting(*FUNCTION, "parameters", 0, "kind", to="any"),
        "the kind 'any'",
    ),
    "parameter named twice": (
        setting(*FUNCTION, "parameters", 1, "name", to="params"),
        "duplicate",
    ),
    "keyword first": (setting(*FUNCTION, "parameters", 0, "kind", to="keyword_only"), "parameter"),
    "star of no tuple": (setting(*FUNCTION, "parameters", 1, "kind", to="var_positional"), "*i"),
    "unknown container": (setting(*FUNCTION, "result", to={"set": [0]}), "the structure 'set'"),
    "result of nothing": (setting(*FUNCTION, "result", to=77), "outputs at places [77"),
    "key twice": (setting(*FUNCTION, "result", to={"dict": [["a", 0], ["a", 0]]}), "a key twice"),
    "key of no text": (setting(*FUNCTION, "result", to={"dict": [[None, 0]]}), "the keys"),
    "computed argument": (
        setting(*FUNCTION, "parameters", 2, "tree", to={"computed": {"expr": "n"}}),
        "the structure 'computed'",
    ),
    "computed result that divides by zero": (
        setting(*FUNCTION, "result", to={"tuple": [0, 1, 2, BY_ZERO]}),
        "a computed result",
    ),
    "constant of another type": (
        lambda p: next(n for n in at(*GRAPH, "nodes")(p) if "constant" in n).update(constant=True),
        "is no float",
    ),
    "constant that is a shape": (
        lambda p: next(n for n in at(*GRAPH, "nodes")(p) if "constant" in n)["type"].update(
            shape=[2]
        ),
        "holds float64 (30,), not f64[2]",
    ),
    "constant without a buffer": (
        lambda p: next(n for n in at(*GRAPH, "nodes")(p) if "constant" in n).update(
            constant={"buffer": "none"}
        ),
        "there is no buffer 'none'",
    ),
    "state as a constant": (
        lambda p: next(n for n in at(*GRAPH, "nodes")(p) if "constant" in n).update(
            constant={"buffer": "w"}
        ),
        "is state and a constant|holds",
    ),
    "nesting": (setting("lines", to=json.loads("[" * 64 + "]" * 64)), "nested more than 64"),
    "program of no object": (lambda p: p.clear(), "an object with the keys"),
}


@pytest.mark.parametrize("name", EDITS)
def test_edit_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    edit, text = EDITS[name]
    _, program = parts(model)
    edit(program)
    path = rewritten(tmp_path / "edited", model, program)
    with pytest.raises(ArtifactError) as caught:
        runtime.load(path)
    assert any(option in str(caught.value) for option in text.split("|")), caught.value
    assert str(path) in str(caught.value)
    with pytest.raises(ArtifactError):
        sk.export.load(path)


TEXTS: dict[str, tuple[str, str, str]] = {
    "duplicate key": ('{"functions":', '{"lines":[],"functions":', "duplicate key 'lines'"),
    "NaN literal": ('"version": 1', '"version": NaN', "NaN is not JSON"),
    "long integer": ('"version": 1', '"version": 99999999999999999999', "64 bits"),
    "not JSON": ('"functions"', "functions", "Expecting property name"),
    "trailing text": ('{"functions":', '{} {"functions":', "Extra data"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_json_is_strict(name: str, model: Path, tmp_path: Path) -> None:
    old, new, message = TEXTS[name]
    text = json.dumps(parts(model)[1]).replace(old, new, 1)
    with pytest.raises(ArtifactError, match=message):
        runtime.load(rewritten(tmp_path / "edited", model, text))


VERSIONS: dict[str, tuple[dict[str, str], str]] = {
    "newer reader needed": (
        {"format": "9", "min_reader": "2"},
        "format 9.*version 2 on.*of version 1",
    ),
    "no number": ({"format": "one"}, "are no numbers"),
    "leading zero": ({"format": "01"}, "are no numbers"),
    "reader above format": ({"min_reader": "3", "format": "2"}, "cannot be read"),
    "zero": ({"format": "0", "min_reader": "0"}, "cannot be read"),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_versions(name: str, model: Path, tmp_path: Path) -> None:
    metadata, text = VERSIONS[name]
    with pytest.raises(ArtifactError, match=text):
        runtime.load(rewritten(tmp_path / "edited", model, parts(model)[1], **metadata))


def test_a_newer_format_that_this_reader_understands(model: Path, tmp_path: Path) -> None:
    path = rewritten(tmp_path / "newer", model, parts(model)[1], format="2")
    assert "format 2" in runtime.describe(path)


@pytest.mark.parametrize("key", ["format", "min_reader", "producer", "digests", "program"])
def test_metadata_are_complete(key: str, model: Path, tmp_path: Path) -> None:
    contents, _ = parts(model)
    metadata = {k: v for k, v in contents.metadata.items() if k != f"stagekit.{key}"}
    safetensors.write(tmp_path / "less", contents.tensors, metadata)
    with pytest.raises(ArtifactError, match=f"its metadata lack {key}"):
        runtime.load(tmp_path / "less")


def test_digests(model: Path, tmp_path: Path) -> None:
    data = bytearray(model.read_bytes())
    path = tmp_path / "damaged"
    data[-1] ^= 1  # in a buffer of bool
    data[-40] ^= 1  # in a buffer of float32
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"BOOL|digest"):
        runtime.load(path, verify=True)
    data = bytearray(model.read_bytes())
    data[data.index(b"stagekit 0")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="the digest of the header differs"):
        runtime.load(path)
    data = bytearray(model.read_bytes())
    data[data.index(b"matmul")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="the digest of the program differs"):
        runtime.load(path)


def test_a_damaged_buffer_is_found_on_request(model: Path, tmp_path: Path) -> None:
    contents, _ = parts(model)
    data = bytearray(model.read_bytes())
    place = data.index(contents.tensors["w"].tobytes())
    data[place + 2] ^= 4
    path = tmp_path / "damaged"
    path.write_bytes(data)
    runtime.load(path)
    with pytest.raises(ArtifactError, match="the digest of the buffer 'w' differs"):
        runtime.load(path, verify=True)
    with pytest.raises(ArtifactError, match="the digest of the buffer 'w' differs"):
        runtime.describe(path)


def test_other_files(tmp_path: Path) -> None:
    sk.save(tmp_path / "tree", {"w": sk.ones(2)})
    with pytest.raises(ArtifactError, match="no artifact: its metadata lack format"):
        runtime.load(tmp_path / "tree")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ArtifactError):
        runtime.load(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        runtime.load(tmp_path / "missing")
    with pytest.raises(ArtifactError, match=r"sk\.export\.load"):
        sk.load(_saved(tmp_path / "program"))


def _saved(path: Path) -> Path:
    sk.export.save(path, lambda x: x, sk.TensorSpec(()))
    return path


def test_a_file_is_a_safetensors_file(model: Path) -> None:
    from safetensors.numpy import load_file

    found = load_file(model)
    assert np.array_equal(found["w"], np.arange(12, dtype="f4").reshape(4, 3) / np.float32(7))
    sizes = [array.itemsize for array in safetensors.read(model).tensors.values()]
    assert sizes == sorted(sizes, reverse=True)


# ----- fuzzing ------------------------------------------------------------------------------------


def places(document: Json, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a document."""
    yield path
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield from places(document[key], (*path, key))


VALUES = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 2, 3, 7, 2**31, 2**63, "n", "k", "2*n", "n*n*n*k", "x", "w", ""]
    ),
    st.sampled_from(sorted(OPS)),
    st.sampled_from([{"expr": "n"}, {"expr": "k//n"}, {"expr": "n%k - n"}, {"float": "nan"}]),
    st.sampled_from([{"dtype": "int8"}, {"formula": ["/", 1, {"expr": "n"}]}, {"float": "1e+308"}]),
    st.lists(st.integers(-1, 12), max_size=4),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
        max_leaves=4,
    ),
)


def mutate(draw: st.DataObject, program: Json) -> None:
    """Replace, drop, repeat or exchange values, one to three times."""
    for _ in range(draw.draw(st.integers(1, 3))):
        all_places = [path for path in places(program) if path]
        *path, key = draw.draw(st.sampled_from(all_places))
        holder = at(*path)(program)
        kind = draw.draw(st.sampled_from(["replace", "replace", "copy", "drop", "repeat"]))
        if kind == "replace":
            holder[key] = draw.draw(VALUES)
        elif kind == "copy":
            holder[key] = json.loads(
                json.dumps(at(*draw.draw(st.sampled_from(all_places)))(program))
            )
        elif kind == "drop":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, holder[key])


def harmless(path: Path) -> bool:
    """Whether it loads; if not, with ArtifactError. Calls raise errors of stagekit's own."""
    try:
        program = runtime.load(path, max_bytes=2**24)
    except ArtifactError:
        return False
    assert repr(program)
    try:
        assert runtime.describe(path)
    except ArtifactError as error:  # which looks at the digests of buffers too
        assert "damaged" in str(error)
    x, i = np.ones((3, 4), "f4"), np.array([0, 2])
    for name in program:
        for args in ((), ({"x": x}, i)):
            try:
                program[name](*args)
            except (StagekitError, TypeError, ArithmeticError, MemoryError):
                continue
    return True


@settings(max_examples=8 * settings.default.max_examples)
@given(st.data())
def test_mutated_programs(model: Path, tmp_path_factory: Any, data: st.DataObject) -> None:
    _, program = parts(model)
    mutate(data, program)
    harmless(rewritten(tmp_path_factory.getbasetemp() / "mutated", model, program))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_bytes(model: Path, tmp_path_factory: Any, edits: list[tuple[int, int]]) -> None:
    data = bytearray(model.read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(data)
    harmless(path)


@given(st.floats(0, 1, exclude_max=True), st.binary(max_size=20))
def test_cut_and_lengthened_files(
    model: Path, tmp_path_factory: Any, share: float, more: bytes
) -> None:
    data = model.read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(data[: int(share * len(data))] + more)
    assert not harmless(path)
    path.write_bytes(data + more)
    assert harmless(path) == (not more)


def test_random_text_is_no_expression() -> None:
    draw = np.random.default_rng(0)
    alphabet = "nk019 +-*/%(),maxi"
    for _ in range(3000):
        text = "".join(draw.choice(list(alphabet), draw.integers(0, 24)))
        try:
            expr = expression(text, frozenset("nk"))
        except ValueError:
            continue
        assert expression(str(expr), frozenset("nk")) == expr


def test_a_chain_of_a_hundred_thousand_nodes(model: Path, tmp_path: Path) -> None:
    _, program = parts(model)
    now = program["functions"]["now"]
    graph = now["graph"]
    kind = graph["inputs"][0]["type"]
    for k in range(20_000):
        graph["nodes"].append(
            {"op": "negative", "version": 1, "inputs": [k], "attrs": {}, "type": kind, "lines": []}
        )
    graph["outputs"] = [20_000]
    del program["functions"]["default"], program["state"]["mask"]
    program["lines"] = []
    contents, _ = parts(model)
    contents = contents._replace(
        tensors={"w": contents.tensors["w"]},
        metadata={k: v for k, v in contents.metadata.items() if k != "stagekit.digests"},
        dtypes={"w": "F32"},
    )
    loaded = runtime.load(write(tmp_path / "chain", contents, json.dumps(program)))
    assert np.array_equal(loaded(), contents.tensors["w"])


# ----- the pieces ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        0, -(2**63), True, "text", (), (1, (2, "a")), 0.1, -0.0, math.inf, -math.inf, 5e-324, 1e16,
        1e-7, DTYPES["bool"], Expr.named("n") * 2 + 1, (Expr.named("n") // 3, 4),
        Formula("/", (1, Expr.named("n"))),
        Formula("neg", (Formula("**", (2.0, Expr.named("n"))),)),
    ],
)  # fmt: skip
def test_attributes_come_back(value: Any) -> None:
    found = attribute(json.loads(json.dumps(attribute_json(value))), frozenset("n"))
    assert found == value
    assert repr(found) == repr(value)


def test_nan_comes_back_and_integer_powers_become_floats() -> None:
    assert math.isnan(attribute(attribute_json(math.nan), frozenset()))
    n = Expr.named("n")
    for formula in (Formula("**", (2, n)), Formula("**", (n, -2))):
        found = attribute(attribute_json(formula), frozenset("n"))
        for size in (1, 3, 50):
            assert found.evaluate({"n": size}) == float(formula.evaluate({"n": size}))


@pytest.mark.parametrize("value", [None, 1j, b"bytes", [1], {}, np.float32(1), object()])
def test_other_attributes_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="an artifact cannot hold"):
        attribute_json(value)


def test_the_arity_of_every_op_is_known() -> None:
    for name, op in OPS.items():
        low, high = arity(op)
        counts = {len(sample.args) for sample in samples(name)}
        assert all(low <= n and (high is None or n <= high) for n in counts), name


FAULTS = {
    "graph f(%x: f32[n])\n  %0: f32[3] = add(%x, %x)\n  return %0": "has the type f32[n]",
    "graph f(%x: f32[n])\n  %0: f32[n] = add(%x)\n  return %0": "takes 2 operands, not 1",
    "graph f(%x: f32[n,2])\n  %0: f32[n,2] = sum(%x, axes=(2,))\n  return %0": "axes (2,)",
    "graph f(%x: f32[n,2])\n  %0: f32[n,n] = permute(%x, axes=(0,))\n  return %0": "1 axes of 2",
    "graph f(%x: f32[n], %y: i64[])\n  %0: f32[n] = add(%x, %y)\n  return %0": "takes float32",
    "graph f(%x: f32[n], %y: f32[m])\n  %0: f32[n] = add(%x, %y)\n  return %0": "do not broadcast",
    "graph f(%x: f32[n])\n  %0: f32[n-999] = slice(%x, starts=(0,), sizes=(n-999,), strides=(1,))\n"
    "  return %0": "has the shape (-898,)",
}


@pytest.mark.parametrize("text", FAULTS)
def test_verify_names_the_fault(text: str) -> None:
    with pytest.raises(ValueError, match="f: ") as caught:
        verify(Graph.parse(text))
    assert FAULTS[text] in str(caught.value)


def test_verify_finds_an_input_twice_and_an_undefined_one() -> None:
    graph = Graph.parse("graph f(%x: f32[n], %y: f32[n])\n  %0: f32[n] = add(%x, %y)\n  return %0")
    x, _ = graph.inputs
    with pytest.raises(ValueError, match="%x is defined twice"):
        verify(Graph("f", (x, Graph.parse("graph g(%x: f32[n])\n  return %x").inputs[0]), (x,)))
    with pytest.raises(ValueError, match="%y is used and not defined"):
        verify(Graph("f", (x,), graph.outputs))


def test_verify_returns_the_facts_that_types_rest_on() -> None:
    text = "graph f(%x: f32[n])\n  %0: f32[] = max(%x, axes=(0,))\n  return %0"
    assert [str(fact) for fact in verify(Graph.parse(text)).known] == ["n != 0"]


# ----- FORMAT.md ----------------------------------------------------------------------------------


def test_a_reader_written_from_the_page(tmp_path: Path) -> None:
    """Twenty lines that share nothing with the package run an MLP, as FORMAT.md explains it."""
    v, c = sk.Variable(np.ones((4, 3), "f4") / 3), sk.asarray(np.arange(3, dtype="f4"))
    sk.export.save(tmp_path / "mlp", lambda x: sk.tanh(x @ v + c), sk.TensorSpec(("n", 4)))
    data = (tmp_path / "mlp").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    program = json.loads(header.pop("__metadata__")["stagekit.program"])
    buffers = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        assert entry["dtype"] == "F32"
        buffers[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    function = program["functions"]["default"]
    table = {"matmul": np.matmul, "add": np.add, "tanh": np.tanh}
    x = np.linspace(-1, 1, 8, dtype="f4").reshape(2, 4)
    values = [x, *(buffers[name] for name in function["reads"])]
    for node in function["graph"]["nodes"]:
        values.append(table[node["op"]](*(values[k] for k in node["inputs"])))
    assert function["result"] == 0
    result = values[function["graph"]["outputs"][0]]
    assert np.array_equal(result, np.tanh(x @ np.asarray(v) + np.asarray(c)))


def test_the_page_names_all_that_the_format_has() -> None:
    page = (Path(artifact.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
    for name in [*OPS, *DTYPES, *(f"stagekit.{key}" for key in artifact._KEYS)]:
        if name not in ("alias", "custom"):
            assert f"`{name}`" in page, name
