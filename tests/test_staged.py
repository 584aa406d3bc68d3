"""`@sk.function`: what is one signature and what is another, nesting, control, verification."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import inspect
import math
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from collections import OrderedDict, namedtuple
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit import tree as trees
from stagekit.op import current

pytestmark = pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning")

Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Pair:
    a: Any
    b: Any


class Box:
    def __init__(self, content: Any, label: str) -> None:
        self.content, self.label = content, label


sk.register_pytree(
    Box, lambda box: ((box.content,), box.label), lambda label, parts: Box(*parts, label)
)


def traces(f: Any) -> int:
    return int(f.cache_info().traces)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6)


# ----- keys: structure ----------------------------------------------------------------------------

X = sk.asarray([1.0, 2.0, 3.0])
TREES = {
    "tensor": X,
    "tuple": (X, X + 1),
    "list": [X, X + 1],
    "dict": {"a": X, "b": X + 1},
    "ordered": OrderedDict(a=X, b=X + 1),
    "namedtuple": Point(X, X + 1),
    "dataclass": Pair(X, [X + 1]),
    "registered": Box(X, "label"),
    "none": (X, None),
    "nested": {"p": [Point(X, (X,))], "q": None},
}


@pytest.mark.parametrize("name", TREES)
def test_each_kind_of_tree_is_one_signature_and_comes_back_as_it_is(name: str) -> None:
    @sk.function
    def twice(tree: Any) -> Any:
        return trees.map(lambda x: x * 2, tree)

    for _ in range(2):
        out = twice(TREES[name])
        assert type(out) is type(TREES[name])
        for got, leaf in zip(trees.leaves(out), trees.leaves(TREES[name]), strict=True):
            close(got, leaf * 2)
    assert twice.cache_info()[:2] == (1, 1)


def test_every_other_structure_is_another_signature() -> None:
    @sk.function
    def first(tree: Any) -> Any:
        return trees.leaves(tree)[0] * 1

    for tree in TREES.values():
        first(tree)
        first(tree)
    assert traces(first) == len(TREES)
    first(Box(X, "other label"))
    assert traces(first) == len(TREES) + 1


def test_the_order_of_a_dict_matters() -> None:
    @sk.function
    def joined(d: dict[str, Any]) -> Any:
        return sk.concat([d[key] for key in d])

    a, b = sk.asarray([1.0]), sk.asarray([2.0])
    assert joined({"a": a, "b": b}).tolist() == [1.0, 2.0]
    assert joined({"b": b, "a": a}).tolist() == [2.0, 1.0]
    assert joined({"a": a, "b": b}).tolist() == [1.0, 2.0]
    assert traces(joined) == 2


def test_keywords_defaults_and_stars_bind_as_in_python() -> None:
    @sk.function
    def f(x: Any, /, y: Any = 2.0, *rest: Any, scale: float = 1.0, **more: Any) -> Any:
        total = x * y * scale
        for extra in (*rest, *more.values()):
            total = total + extra
        return total

    one = sk.asarray(1.0)
    assert f(one).item() == 2.0
    assert f(one, 3.0).item() == 3.0
    assert f(one, y=3.0).item() == 3.0
    assert f(one, 3.0, one, one, scale=2.0, k=one).item() == 9.0
    with pytest.raises(TypeError, match=r"f\(\) missing 1 required positional argument: 'x'"):
        f()
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        f(x=one)


# ----- keys: leaves -------------------------------------------------------------------------------


def test_tensors_and_arrays_are_keyed_by_dtype_and_shape_not_by_value() -> None:
    @sk.function
    def double(x: Any) -> Any:
        return x * 2

    double(np.ones(3, np.float32))
    double(np.zeros(3, np.float32))
    double(sk.ones(3))
    assert traces(double) == 1
    double(np.ones(3))
    double(sk.ones(3, dtype=sk.int32))
    double(sk.ones((3, 1)))
    assert traces(double) == 4
    assert isinstance(double(np.ones(3)), sk.Tensor)
    assert double(np.float64(3.0)).dtype == sk.float64


@pytest.mark.parametrize(
    "values",
    [
        (True, 1, 1.0, "1", b"1", None),
        (0.0, -0.0),
        (math.nan, 0.0),
        (1j, complex(0, -1), complex(-0.0, 1)),
        (Fraction(1, 2), Fraction(1, 3)),
        (frozenset({1}), frozenset({True}), frozenset({1.0})),
        (len, max),
        (int, float),
    ],
    ids=str,
)
def test_other_leaves_are_keyed_by_value_and_type(values: tuple[Any, ...]) -> None:
    @functools.partial(sk.function, dynamic=False)
    def name(x: Any, what: Any) -> Any:
        return x + 1, what

    for value in values:
        for _ in range(2):
            out = name(X, value)[1]
            assert type(out) is type(value)
            assert out is value or repr(out) == repr(value)
    assert traces(name) == len(values)


def test_nan_is_the_same_argument_each_time() -> None:
    @sk.function
    def f(x: Any, y: float, z: complex) -> Any:
        return x * y

    for _ in range(3):
        f(X, float("nan"), complex("nan"))
    assert traces(f) == 1


def test_static_arguments_are_keyed_by_value_and_type_to_the_bottom() -> None:
    @functools.partial(sk.function, static=("how", 2))
    def f(x: Any, how: Any, k: Any) -> Any:
        return x * how[0] + k

    for how in ((1,), (1.0,), (True,), (0.0,), (-0.0,), ((1, 2.0),)):
        if not isinstance(how[0], tuple):
            f(X, how, 1)
    assert traces(f) == 5
    for k in range(2, 6):
        f(X, (1,), k)
    assert traces(f) == 9
    with pytest.raises(TypeError, match="how is a list, which cannot be hashed"):
        f(X, [1], 1)


def test_an_object_is_keyed_by_identity_and_held_weakly() -> None:
    class Config:
        scale = 2.0

    @sk.function
    def f(x: Any, config: Any) -> Any:
        return x * config.scale

    first, second = Config(), Config()
    f(X, first), f(X, second), f(X, first)
    assert traces(f) == 2 and f.cache_info().currsize == 2
    dead = weakref.ref(first)
    del first
    gc.collect()
    assert dead() is None
    assert f.cache_info().currsize == 1


def test_a_bound_method_as_an_argument_is_keyed_by_its_parts() -> None:
    class Model:
        def __init__(self, k: float) -> None:
            self.k = k

        def scale(self, x: Any) -> Any:
            return x * self.k

    @sk.function
    def apply(fn: Any, x: Any) -> Any:
        return fn(x)

    a, b = Model(2.0), Model(3.0)
    for _ in range(3):
        assert apply(a.scale, X).tolist() == [2.0, 4.0, 6.0]
        assert apply(b.scale, X).tolist() == [3.0, 6.0, 9.0]
    assert traces(apply) == 2
    dead = weakref.ref(a)
    del a
    gc.collect()
    assert dead() is None


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (([{"w": {1, 2}}],), r"x\[0\]\['w'\] is a set"),
        ((Pair(1.0, bytearray()),), r"x\.b is a bytearray"),
    ],
)
def test_an_unhashable_leaf_is_refused_by_its_path(arguments: Any, path: str) -> None:
    with pytest.raises(TypeError, match=path):
        sk.function(lambda x: x)(*arguments)


def test_star_arguments_have_paths_too() -> None:
    with pytest.raises(TypeError, match=r"args\[1\]\['w'\] is a set"):
        sk.function(lambda *args: args[0])(X, {"w": {1}})


def test_which_arguments_are_one_object_is_part_of_the_key() -> None:
    @sk.function
    def f(x: Any, y: Any) -> Any:
        x[0] = 10.0
        return x + y

    def fresh() -> Any:
        return sk.asarray([1.0, 2.0])

    for _ in range(2):
        x = fresh()
        assert f(x, fresh()).tolist() == [11.0, 4.0]
        x = fresh()
        assert f(x, x).tolist() == [20.0, 4.0]
    assert traces(f) == 2


# ----- what can be staged -------------------------------------------------------------------------


def test_methods_are_cached_by_instance_and_do_not_keep_it() -> None:
    class Model:
        def __init__(self, w: float) -> None:
            self.w = sk.asarray(w)

        @sk.function
        def scaled(self, x: Any) -> Any:
            return x * self.w

    a, b = Model(2.0), Model(3.0)
    for _ in range(2):
        assert a.scaled(X).tolist() == [2.0, 4.0, 6.0]
        assert b.scaled(X).tolist() == [3.0, 6.0, 9.0]
    assert traces(a.scaled) == 2 and a.scaled.cache_info().currsize == 2
    dead = weakref.ref(a)
    del a
    gc.collect()
    assert dead() is None
    assert Model.scaled.cache_info().currsize == 1
    assert Model.scaled(b, X).tolist() == [3.0, 6.0, 9.0]


def test_a_method_whose_instance_is_returned_does_not_keep_it() -> None:
    class Model:
        @sk.function
        def both(self, x: Any) -> Any:
            return self, x * 2

    model = Model()
    assert model.both(X)[0] is model and model.both(X)[0] is model
    assert traces(Model.both) == 1
    dead = weakref.ref(model)
    del model
    gc.collect()
    assert dead() is None


def test_static_and_class_methods_in_both_orders() -> None:
    class Model:
        factor = 3.0

        @sk.function
        @staticmethod
        def a(x: Any) -> Any:
            return x * 2

        @staticmethod
        @sk.function
        def b(x: Any) -> Any:
            return x * 2

        @sk.function
        @classmethod
        def c(cls, x: Any) -> Any:
            return x * cls.factor

        @classmethod
        @sk.function
        def d(cls, x: Any) -> Any:
            return x * cls.factor

    for _ in range(2):
        for f in (Model.a, Model.b, Model().a, Model().b):
            assert f(X).tolist() == [2.0, 4.0, 6.0]
        for f in (Model.c, Model.d, Model().c, Model().d):
            assert f(X).tolist() == [3.0, 6.0, 9.0]


def test_lambdas_callable_objects_partials_and_bound_methods() -> None:
    class Layer:
        def __init__(self) -> None:
            self.w = sk.asarray(2.0)

        def __call__(self, x: Any, k: float = 1.0) -> Any:
            return x * self.w * k

        def forward(self, x: Any) -> Any:
            return x * self.w

    layer = Layer()
    assert sk.function(lambda x: x * 2)(X).tolist() == [2.0, 4.0, 6.0]
    staged = sk.function(layer)
    assert staged(X).tolist() == [2.0, 4.0, 6.0]
    layer.w = sk.asarray(3.0)
    assert staged(X, k=2.0).tolist() == [6.0, 12.0, 18.0]
    assert sk.function(layer.forward)(X).tolist() == [3.0, 6.0, 9.0]
    part = sk.function(functools.partial(layer, k=3.0))
    assert part(X).tolist() == part(X).tolist() == [9.0, 18.0, 27.0]
    assert part.cache_info().hits == 1
    added = sk.function(functools.partial(lambda x, y: x - y, X))
    assert added(X).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(TypeError, match="has no Python code to trace"):
        sk.function(len)
    with pytest.raises(TypeError, match="has no Python code to trace"):
        sk.function(3)


def test_a_decorated_function_is_called_as_its_decorator_says() -> None:
    def scaled(fn: Any) -> Any:
        @functools.wraps(fn)
        def wrapper(*args: Any, extra: float = 1.0) -> Any:
            return fn(*args) * extra

        return wrapper

    f = sk.function(scaled(lambda x: x * 2))
    for _ in range(2):
        assert f(X, extra=3.0).tolist() == [6.0, 12.0, 18.0]
    assert "%x: f32[3]" in str(sk.function(sk.grad(lambda x: x.sum())).trace(X).graph)


def test_copies_and_pickles() -> None:
    class Model:
        def __init__(self) -> None:
            self.w = sk.Variable(sk.ones(3))
            self.step = sk.function(self._step)

        def _step(self, x: Any) -> Any:
            self.w.assign_add(x)
            return self.w * 1

    model = Model()
    model.step(X)
    twin = copy.deepcopy(model)
    assert twin.step(X).tolist() == [3.0, 5.0, 7.0] == twin.w.tolist()
    assert model.w.tolist() == [2.0, 3.0, 4.0] and twin.step.__self__ is twin
    assert pickle.loads(pickle.dumps(at_the_top)) is at_the_top
    assert copy.copy(at_the_top) is copy.deepcopy(at_the_top) is at_the_top


@sk.function
def at_the_top(x: Any) -> Any:
    return x * 2


def test_code_without_source() -> None:
    scope: dict[str, Any] = {"sk": sk, "w": sk.asarray(2.0)}
    exec("def f(x):\n    return x * w\n", scope)
    staged = sk.function(scope["f"])
    assert staged(X).tolist() == [2.0, 4.0, 6.0]
    scope["w"] = sk.asarray(3.0)
    assert staged(X).tolist() == [3.0, 6.0, 9.0]
    assert traces(staged) == 1


def test_redefinition_in_a_notebook() -> None:
    scope: dict[str, Any] = {"sk": sk, "x": X}
    helper = "def helper(x):\n    return x * {}\n"
    exec(helper.format(2), scope)
    exec("@sk.function\ndef f(x):\n    return helper(x) + 1\n", scope)
    assert scope["f"](X).tolist() == [3.0, 5.0, 7.0]
    exec(helper.format(3), scope)
    assert scope["f"](X).tolist() == [4.0, 7.0, 10.0]
    exec("@sk.function\ndef f(x):\n    return helper(x) - 1\n", scope)
    assert scope["f"](X).tolist() == [2.0, 5.0, 8.0]


def test_a_staged_function_keeps_its_name_doc_and_signature() -> None:
    def f(x: Any, *, flag: bool = True) -> Any:
        """Its documentation."""
        return x

    staged = sk.function(f)
    assert staged.__name__ == "f" and staged.__doc__ == "Its documentation."
    assert staged.__wrapped__ is staged.python_function is f
    assert inspect.signature(staged) == inspect.signature(f)
    assert repr(staged) == "<staged function f>"
    assert repr(sk.function(f, name="other")) == "<staged function other>"


# ----- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"static": "z"}, "static='z' is no parameter of f"),
        ({"static": (3,)}, "static=3 is no parameter of f"),
        ({"donate": ("q",)}, "donate='q' is no parameter of f"),
        ({"verify": "often"}, "verify='often'"),
        ({"dynamic": 3}, "dynamic=3"),
        ({"control": "maybe"}, "control='maybe'"),
        ({"compile": "later"}, "compile='later'"),
        ({"max_traces": 0}, "max_traces=0"),
        ({"device": "cuda:0"}, "device='cuda:0'"),
    ],
)
def test_options_are_validated(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sk.function(lambda x, y: x, name="f", **options)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="maximum"):
        sk.function(lambda x: x, maximum=3)
    with pytest.raises(TypeError, match="give TensorSpecs"):
        sk.function(lambda x: x, signature=(3,))


def test_donated_arguments_are_still_right() -> None:
    @functools.partial(sk.function, donate=("x", 1))
    def f(x: Any, y: Any) -> Any:
        return x + y

    for _ in range(2):
        assert f(X, X).tolist() == [2.0, 4.0, 6.0]


def test_a_fixed_signature_refuses_and_never_casts() -> None:
    spec = sk.TensorSpec((None, 3))

    @functools.partial(sk.function, signature=(spec, sk.TensorSpec(())))
    def f(x: Any, scale: Any) -> Any:
        return (x * scale).sum() / x.shape[0]

    for n in (1, 2, 5, 9):
        assert f(sk.ones((n, 3)), 2.0).item() == 6.0
        assert f(sk.ones((n, 3)), sk.asarray(2.0)).item() == 6.0
        assert f(np.ones((n, 3), np.float32), 2).item() == 6.0
    assert traces(f) == 1
    with pytest.raises(sk.DTypeError, match="x is float64, the signature says float32"):
        f(sk.ones((2, 3), dtype=sk.float64), 1.0)
    with pytest.raises(sk.ShapeError, match=r"x has shape \(3,\), the signature says \(None, 3\)"):
        f(sk.ones(3), 1.0)
    with pytest.raises(sk.ShapeError, match=r"x has shape \(2, 4\)"):
        f(sk.ones((2, 4)), 1.0)
    with pytest.raises(sk.RetraceError, match="1 tensors for a signature of 2"):
        sk.function(lambda x: x, signature=(spec, spec), name="g")(sk.ones((2, 3)))
    assert traces(f) == 1


def test_equal_names_in_a_signature_are_equal_sizes_and_weak_numbers_fit() -> None:
    spec = sk.TensorSpec(("n",))
    f = sk.function(lambda x, y: x + y, signature=(spec, spec), name="f")
    f(sk.ones(3), sk.ones(3))
    f(sk.ones(4), sk.ones(4))
    with pytest.raises(sk.ShapeError, match=r"y has shape \(4,\)"):
        f(sk.ones(3), sk.ones(4))
    assert traces(f) == 1
    g = sk.function(lambda x: x + 1, signature=sk.TensorSpec((), sk.int64), name="g")
    assert g(3).item() == 4 and g(5).item() == 6 and traces(g) == 1
    with pytest.raises(sk.DTypeError, match="x is a float, the signature says int64"):
        g(1.5)


def test_dynamic_true_and_false() -> None:
    def mean(x: Any) -> Any:
        return x.sum() / x.shape[0]

    always, never = sk.function(mean, dynamic=True), sk.function(mean, dynamic=False)
    for n in range(1, 9):
        assert always(sk.ones(n)).item() == never(sk.ones(n)).item() == 1.0
    assert traces(always) == 1
    assert traces(never) == 8


def test_the_least_recently_used_signature_is_dropped() -> None:
    @functools.partial(sk.function, max_traces=3)
    def f(x: Any, mode: str) -> Any:
        return x * 2

    for mode in "abc":
        f(X, mode)
    f(X, "a")
    f(X, "d")
    assert f.cache_info() == (1, 4, 3, 3, 4, 1)
    f(X, "a")
    assert f.cache_info().traces == 4
    f(X, "b")
    assert f.cache_info().traces == 5
    f.cache_clear()
    assert f.cache_info() == (0, 0, 3, 0, 0, 0)
    f(X, "a")
    assert traces(f) == 1


def test_calls_that_fail_leave_nothing_in_the_cache() -> None:
    @sk.function
    def f(x: Any, mode: str) -> Any:
        raise KeyError(mode)

    for k in range(100):
        with pytest.raises(KeyError):
            f(X, str(k))
    info = f.cache_info()
    assert (info.misses, info.currsize, info.traces) == (100, 0, 0)
    assert len(f._cache.families) == 0


def test_dropped_sizes_are_dropped_from_one_family_too() -> None:
    f = sk.function(lambda x: x * 2, dynamic=False, max_traces=4)
    for n in range(10):
        f(sk.ones(n))
    assert f.cache_info().currsize == 4 and f.cache_info().evictions == 6
    f(sk.ones(9))
    assert f.cache_info().hits == 1


# ----- switches -----------------------------------------------------------------------------------


def test_no_retrace_names_the_cause() -> None:
    f = sk.function(lambda x: x * 2, name="f")
    f(X)
    with sk.no_retrace():
        f(X)
        with pytest.raises(sk.RetraceError, match=r"dtype of x: f32\[3\] -> f64\[3\]"):
            f(X.astype(sk.float64))
        with pytest.raises(sk.RetraceError, match="tape of x: not watched -> watched"):
            sk.grad(lambda x: f(x).sum())(X)
    sk.grad(lambda x: f(x).sum())(X)
    with sk.no_retrace():
        sk.grad(lambda x: f(x).sum())(X)


def test_run_eagerly_in_a_block_and_for_the_process() -> None:
    f = sk.function(lambda x: x * 2)
    with sk.run_eagerly():
        assert f(X).tolist() == [2.0, 4.0, 6.0]
    assert traces(f) == 0
    sk.run_eagerly(True)
    try:
        assert f(np.ones(2)).tolist() == [2.0, 2.0]
        assert traces(f) == 0
    finally:
        sk.run_eagerly(False)
    f(X)
    assert traces(f) == 1


def test_stagekit_disable() -> None:
    code = "import stagekit as sk; f = sk.function(lambda x: x + 1); f(sk.ones(2)); "
    code += "print(f.cache_info().traces)"
    env = {**os.environ, "STAGEKIT_DISABLE": "1"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.stdout.strip() == "0", out.stderr


def test_verify_first_holds_the_plan_against_the_eager_run(monkeypatch: Any) -> None:
    f = sk.function(lambda x: x * 2 + 1, verify="first", name="f")
    assert f(X).tolist() == [3.0, 5.0, 7.0]
    wrong = sk.ConcreteFunction.arrays
    off = lambda *args: [out + 1 for out in wrong(*args)]
    monkeypatch.setattr(sk.ConcreteFunction, "arrays", off)
    g = sk.function(lambda x: x * 2 + 1, verify="first", name="g")
    with pytest.raises(sk.CheckError, match="g: result 0 differs between the stages"):
        g(X)


def test_verify_always_runs_both_stages_and_commits_once(monkeypatch: Any) -> None:
    v = sk.Variable(sk.zeros(3))

    @functools.partial(sk.function, verify="always")
    def f(x: Any) -> Any:
        v.assign_add(x)
        return v * 2

    for k in range(1, 4):
        assert f(X).tolist() == [2.0 * k, 4.0 * k, 6.0 * k]
        assert v.value.tolist() == [1.0 * k, 2.0 * k, 3.0 * k]
    wrong = sk.ConcreteFunction.arrays
    off = lambda *args: [out + 1 for out in wrong(*args)]
    monkeypatch.setattr(sk.ConcreteFunction, "arrays", off)
    with pytest.raises(sk.CheckError, match="f: result 0 differs"):
        f(X)


# ----- nesting ------------------------------------------------------------------------------------


def test_a_staged_function_in_a_staged_function_is_inlined() -> None:
    @sk.function
    def inner(x: Any) -> Any:
        return x * 2

    @sk.function
    def outer(x: Any) -> Any:
        return inner(x) + inner(x + 1)

    for _ in range(2):
        assert outer(X).tolist() == [6.0, 10.0, 14.0]
    assert inner.cache_info() == (0, 0, 64, 0, 0, 0)
    assert traces(outer) == 1
    assert str(outer.trace(sk.TensorSpec((3,))).graph).count("multiply") == 2


def test_an_inlined_function_keeps_its_signature_static_and_control() -> None:
    strict = sk.function(lambda x: x * 2, signature=sk.TensorSpec((3,)), name="strict")
    outer = sk.function(lambda x: strict(x))
    assert outer(X).tolist() == [2.0, 4.0, 6.0]
    with pytest.raises(sk.ShapeError, match="strict: x has shape"):
        outer(sk.ones(4))

    careful = sk.function(lambda x: x if x.sum() > 0 else -x, control="error", name="careful")
    with pytest.raises(sk.DataDependentError):
        sk.function(lambda x: careful(x))(X)
    unhashable = sk.function(lambda x, k: x, static="k")
    with pytest.raises(TypeError, match="k is a list"):
        sk.function(lambda x: unhashable(x, [1]))(X)


def test_recursion() -> None:
    @sk.function
    def power(x: Any, n: int) -> Any:
        return x if n == 0 else power(x, n - 1) * 2

    for _ in range(2):
        assert power(X, 3).tolist() == [8.0, 16.0, 24.0]
    assert traces(power) == 1


def test_an_exception_in_a_trace_restores_interpreter_and_profiler() -> None:
    def profiler(frame: Any, event: str, arg: Any) -> None: ...

    @sk.function
    def f(x: Any) -> Any:
        raise KeyError("mine")

    before = current()
    sys.setprofile(profiler)
    try:
        with pytest.raises(KeyError, match="mine"):
            f(X)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert current() is before
    assert (X + 1).tolist() == [2.0, 3.0, 4.0]


# ----- ways a value leaves ------------------------------------------------------------------------

LEAVING = {
    "branch": lambda x: x * 2 if x.sum() > 0 else x,
    "while": lambda x: [x := x * 2 for _ in range(3) if bool(x.sum() < 100)][-1],
    "item": lambda x: x * x.sum().item(),
    "int": lambda x: x * int(x.sum()),
    "float": lambda x: x * float(x.sum()),
    "bool": lambda x: x * bool(x.sum()),
    "complex": lambda x: x * complex(x.sum()).real,
    "index": lambda x: x * list(range(99))[x.sum().astype(sk.int64)],
    "numpy": lambda x: x + sk.asarray(x.numpy() * 2),
    "asarray": lambda x: x + sk.asarray(np.asarray(x) * 2),
    "tolist": lambda x: x * x.tolist()[0],
    "format": lambda x: x * len(f"{x.sum():.1f}"),
    "str": lambda x: x * len(str(x)),
    "in": lambda x: x * (2.0 in x),
    "and": lambda x: x * 2 if x.sum() > 0 and x.sum() < 100 else x,
    "not": lambda x: x * 2 if not x.sum() > 0 else x,
}


@pytest.mark.parametrize("name", LEAVING)
def test_what_needs_a_value_runs_eagerly_with_one_warning(name: str) -> None:
    f = sk.function(LEAVING[name], name="f")
    with pytest.warns(sk.StagekitWarning, match=r"f: .* at test_staged.py:\d+ in") as record:
        first = f(X)
    assert len(record) == 1
    for x in (X, -X * 0.25, X * 7):
        close(f(x), LEAVING[name](x))
    close(first, LEAVING[name](X))
    assert "eager: " in str(f.explain()) and "test_staged.py:" in str(f.explain())
    assert traces(f) == 1


@pytest.mark.parametrize("name", LEAVING)
def test_control_error_refuses_it(name: str) -> None:
    f = sk.function(LEAVING[name], control="error")
    with pytest.raises(sk.DataDependentError, match=r"at test_staged.py:\d+ in") as caught:
        f(X)
    assert "where(...)" in str(caught.value)
    with pytest.raises(sk.DataDependentError, match=r"at test_staged.py:\d+ in"):
        sk.function(LEAVING[name]).trace(sk.TensorSpec((3,)))


def test_iteration_over_the_rows_of_a_tensor_is_staged() -> None:
    @sk.function
    def f(x: Any) -> Any:
        total = 0
        for row in x:
            total = total + row
        return total

    assert f(X).item() == f(X).item() == 6.0
    assert f.cache_info().hits == 1


def test_staged_signatures_stay_staged_beside_eager_ones() -> None:
    @sk.function
    def f(x: Any) -> Any:
        return x * 2 if x.ndim == 1 else x * float(x.sum())

    f(X)
    with pytest.warns(sk.StagekitWarning):
        f(sk.ones((2, 2)))
    assert f(X).tolist() == [2.0, 4.0, 6.0]
    assert f.cache_info().hits == 1


def test_a_result_made_in_the_call_is_made_at_each_call() -> None:
    class Result:
        def __init__(self, value: Any) -> None:
            self.value = value

    @sk.function
    def f(x: Any) -> Any:
        return Result(x * 2)

    with pytest.warns(sk.StagekitWarning, match="holds an object that the call made"):
        a = f(X)
    b = f(X)
    assert a is not b and a.value.tolist() == b.value.tolist() == [2.0, 4.0, 6.0]


def test_a_pullback_that_is_returned_is_eager_from_the_first_call() -> None:
    f = sk.function(lambda x: sk.vjp(lambda y: y * y, x)[1])
    with pytest.warns(sk.StagekitWarning, match="holds an object that the call made"):
        pullback = f(X)
    for pull in (pullback, f(X)):
        assert pull(sk.ones(3))[0].tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("first", [0, 9])
def test_an_error_of_values_that_python_catches(first: int) -> None:
    @sk.function
    def f(x: Any, i: Any) -> Any:
        try:
            return sk.take(x, i, axis=0)
        except IndexError:
            return x * 0 - 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sk.StagekitWarning)
        for i in (first, 0, 9, 1, 9, 0):
            expected = [-1.0] * 3 if i == 9 else [X.tolist()[i]]
            assert f(X, sk.asarray([i])).tolist() == expected


def test_a_tensor_kept_in_a_cache_of_c_code_is_reported() -> None:
    @functools.lru_cache
    def weights(n: int) -> Any:
        return sk.ones(n) * 3

    @sk.function
    def f(x: Any) -> Any:
        return x * weights(3)

    with pytest.warns(sk.StagekitWarning, match="outlives the call at test_staged.py") as record:
        for _ in range(3):
            assert f(X).tolist() == [3.0, 6.0, 9.0]
    assert len(record) == 1 and f.cache_info().hits == 1
    assert (weights(3) + 1).tolist() == [4.0, 4.0, 4.0]


def test_a_generator_that_is_returned_runs_after_the_call() -> None:
    @sk.function
    def f(x: Any) -> Any:
        y = x * 2
        return (y + k for k in range(2))

    with pytest.warns(sk.StagekitWarning, match="holds an object that the call made"):
        first = f(X)
    for lazy in (first, f(X)):
        assert [y.tolist() for y in lazy] == [[2.0, 4.0, 6.0], [3.0, 5.0, 7.0]]


def test_results_of_python_kinds() -> None:
    @sk.function
    def f(x: Any, n: int) -> Any:
        return {"x": x * n, "shape": x.shape, "dtype": x.dtype, "n": n, "text": "t", "none": None}

    for n in (2, 3, 4):
        for size in (3, 4, 5):
            out = f(sk.ones(size), n)
            assert out["shape"] == (size,) and type(out["shape"][0]) is int
            assert out["n"] == n and type(out["n"]) is int
            assert (out["dtype"], out["text"], out["none"]) == (sk.float32, "t", None)
    assert traces(f) <= 3


# ----- concrete functions -------------------------------------------------------------------------


def test_a_trace_of_specs_has_a_graph_a_plan_and_a_cost() -> None:
    @sk.function
    def f(x: Any, w: Any) -> Any:
        return sk.maximum(x @ w, 0.0)

    spec = sk.TensorSpec(("batch", 4))
    concrete = f.trace(spec, sk.TensorSpec((4, 2)))
    assert "f32[batch,4]" in str(concrete.graph)
    text = str(sk.Graph.parse(str(concrete.graph)))
    assert str(sk.Graph.parse(text)) == text and text.startswith("graph f(%x: f32[batch,4]")
    assert concrete.cost().flops > 0
    x, w = sk.ones((3, 4)), sk.ones((4, 2))
    assert concrete(x, w).shape == (3, 2)
    assert concrete(sk.ones((9, 4)), w).shape == (9, 2)
    assert traces(f) == 0
    assert isinstance(concrete, sk.ConcreteFunction)


def test_a_trace_of_specs_commits_no_state() -> None:
    v = sk.Variable(sk.zeros(3))

    @sk.function
    def f(x: Any) -> Any:
        v.assign_add(x)
        x[0] = 5.0
        return v * 2

    x = sk.ones(3)
    f.trace(x)
    f.trace(sk.TensorSpec((3,)))
    assert v.value.tolist() == [0.0, 0.0, 0.0] and x.tolist() == [1.0, 1.0, 1.0]


def test_a_concrete_function_refuses_sizes_it_was_not_traced_for() -> None:
    f = sk.function(lambda x: x * 2 if x.shape[0] > 3 else x, name="f")
    concrete = f.trace(sk.TensorSpec((None,)))
    with pytest.raises(sk.ShapeError, match="f: this trace is for"):
        concrete(sk.ones(2))


def test_specs_say_what_they_refuse() -> None:
    assert repr(sk.TensorSpec(("n", 3), sk.int8)) == "TensorSpec(('n', 3), int8)"
    assert sk.TensorSpec((None,)) == sk.TensorSpec((None,)) != sk.TensorSpec((3,))
    assert len({sk.TensorSpec((3,)), sk.TensorSpec((3,))}) == 1
    with pytest.raises(sk.ShapeError, match="'1n' is no name"):
        sk.TensorSpec(("1n",))
    with pytest.raises(sk.ShapeError, match="-1 is no size"):
        sk.TensorSpec((-1,))
    with pytest.raises(sk.DeviceError, match="no device 'cuda:0'"):
        sk.TensorSpec((3,), device="cuda:0")


def test_a_refusal_that_python_catches_is_still_a_refusal() -> None:
    def f(x: Any) -> Any:
        try:
            return x * 2 if x.sum() > 0 else x * 3
        except sk.DataDependentError:
            return x * 100

    strict = sk.function(f, control="error")
    for _ in range(2):
        with pytest.raises(sk.DataDependentError, match=r"bool\(\) needs the value"):
            strict(sk.ones(2))
    with pytest.raises(sk.DataDependentError):
        sk.function(f).trace(sk.TensorSpec((2,)))
    assert f(sk.ones(2))[0].item() == 2


@pytest.mark.parametrize("extents", [(1000, 40), (7, 0), (40, 33), (1, 64)], ids=str)
def test_a_short_fold_may_be_one_for_all_elements(extents: tuple[int, int]) -> None:
    n, k = extents
    x, y = np.arange(n, dtype=np.float32), np.arange(k, dtype=np.float32)
    staged = sk.function(lambda x, y: x + sk.sum(y))
    for _ in range(2):
        assert staged(x, y).tolist() == (x + y.sum()).tolist()
