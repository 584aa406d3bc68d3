"""The public names: lazy, cheap, complete, the same objects under NumPy's names; and the dunders.

Every dunder of `Tensor` is staged, or leaves the trace with a warning, or touches no value at all.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import pickle
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
import stagekit.ops as ops

ROOT = Path(__file__).parents[1]


def fresh(code: str) -> Any:
    """What a fresh process prints as JSON, having run `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Importing

MODULES = "import sys, json; before = set(sys.modules); {}; print(json.dumps(sorted({})))"
NEW = "set(sys.modules) - before"
FOREIGN = f"{{name.split('.')[0] for name in {NEW}}} - sys.stdlib_module_names"


def test_importing_the_package_imports_nothing_else() -> None:
    assert fresh(MODULES.format("import stagekit", NEW)) == ["stagekit"]


def test_importing_a_low_module_does_not_wake_the_package() -> None:
    loaded = fresh(MODULES.format("import stagekit.export.safetensors", NEW))
    assert "stagekit.export.safetensors" in loaded
    assert not {"stagekit.eager", "stagekit.ops", "stagekit.op", "optree"} & set(loaded)


def test_eager_work_imports_no_dependency_but_numpy() -> None:
    work = "import stagekit as sk; sk.nn.functional.relu(sk.asarray([1.0]) @ sk.ones(1)).item()"
    assert fresh(MODULES.format(work, FOREIGN)) == ["numpy", "stagekit"]


@pytest.mark.parametrize(
    "first",
    [
        "from stagekit import Variable; Variable([1.0]).assign_add(1)",
        "from stagekit import *; assert array([1.0]).sum().item() == 1",
        "from stagekit import pi; assert pi > 3",
        "import stagekit.nn.functional as F; import numpy as np; F.relu(np.ones(2)).numpy()",
        "import stagekit as sk; sk.config.trap = None; sk.errors; sk.ops",
        "import stagekit.tensor; import stagekit as sk; sk.tensor.Tensor is sk.Tensor or 1 / 0",
    ],
)
def test_any_first_use_works(first: str) -> None:
    assert fresh(f"{first}\nprint(1)") == 1


def test_first_uses_from_many_threads_at_once() -> None:
    code = """
import threading, stagekit as sk
start, results = threading.Barrier(8), []
def use(name):
    start.wait()
    results.append(getattr(sk, name) is not None)
names = ["Tensor", "grad", "function", "zeros", "save", "nn", "Graph", "from_dlpack"]
threads = [threading.Thread(target=use, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(results) if sk.zeros(1).item() == 0 else None)
"""
    assert fresh(code) == 8


# Names


def test_dir_lists_all_public_names_once() -> None:
    assert sorted(dir(sk)) == sorted({*sk.__all__, "__version__"})


@pytest.mark.parametrize("name", sk.__all__)
def test_every_public_name_is_found_and_kept(name: str) -> None:
    assert getattr(sk, name) is getattr(sk, name)
    assert name in vars(sk)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'zeroes'"):
        sk.zeroes  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        importlib.import_module("stagekit.zeroes")


INTERNAL = {
    "At", "alias", "aligned", "as_shape", "barrier", "convolution", "custom", "fold", "gather",
    "getitem",
    "host_integers", "iota", "located_shapes", "maximum_size", "methods", "multiply_high", "number",
    "on_host", "place", "random_advance", "random_bits", "random_category", "random_normal",
    "require_channels", "root", "scalar", "setitem", "slice", "total", "transposed",
    "unbroadcast", "windows",
}  # fmt: skip


def test_every_name_of_ops_is_public_or_listed_as_internal() -> None:
    public = {name for name in ops.__all__ if getattr(ops, name) is getattr(sk, name, None)}
    assert sorted(set(ops.__all__) - public) == sorted(INTERNAL)
    assert not INTERNAL & set(sk.__all__)


def numpy_groups() -> list[list[str]]:
    """NumPy's public names, grouped by the object they name."""
    groups: dict[int, list[str]] = {}
    for name in np.__all__:
        if callable(getattr(np, name)) and not isinstance(getattr(np, name), type):
            groups.setdefault(id(getattr(np, name)), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


GROUPS = [group for group in numpy_groups() if set(group) & set(sk.__all__)]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0])
def test_names_that_numpy_renamed_are_aliases(group: list[str]) -> None:
    assert len({id(getattr(sk, name)) for name in group}) == 1


def test_the_renamed_names_were_found() -> None:
    assert {"concat", "acos", "pow", "permute_dims", "bitwise_invert"} <= {
        n for g in GROUPS for n in g
    }
    assert sk.array is sk.asarray


def test_data_types_are_named_as_the_standard_does() -> None:
    for name in ("bool", "int8", "uint64", "float16", "float32", "float64"):
        assert getattr(sk, name) == np.dtype(name)
        assert repr(getattr(sk, name)) == name


def test_constants() -> None:
    assert (sk.pi, sk.e, sk.inf, sk.newaxis) == (math.pi, math.e, math.inf, None)
    assert math.isnan(sk.nan)


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sk.__version__ == project["version"]


# Dunders. x is an integer tensor of three elements.

Use = Callable[[Any], Any]

STAGED: dict[str, Use] = {
    "__add__": lambda x: x + 2,
    "__radd__": lambda x: 2 + x,
    "__sub__": lambda x: x - 2,
    "__rsub__": lambda x: 2 - x,
    "__mul__": lambda x: x * 2,
    "__rmul__": lambda x: 2 * x,
    "__truediv__": lambda x: x / 2,
    "__rtruediv__": lambda x: 2 / x,
    "__floordiv__": lambda x: x // 2,
    "__rfloordiv__": lambda x: 2 // x,
    "__mod__": lambda x: x % 2,
    "__rmod__": lambda x: 2 % x,
    "__divmod__": lambda x: divmod(x, 2)[0] + divmod(x, 2)[1],
    "__rdivmod__": lambda x: divmod(2, x)[0] + divmod(2, x)[1],
    "__pow__": lambda x: x**2,
    "__rpow__": lambda x: 2**x,
    "__matmul__": lambda x: x @ x,
    "__rmatmul__": lambda x: np.ones(3, np.int64) @ x,
    "__and__": lambda x: x & 2,
    "__rand__": lambda x: 2 & x,
    "__or__": lambda x: x | 2,
    "__ror__": lambda x: 2 | x,
    "__xor__": lambda x: x ^ 2,
    "__rxor__": lambda x: 2 ^ x,
    "__lshift__": lambda x: x << 2,
    "__rlshift__": lambda x: 2 << x,
    "__rshift__": lambda x: x >> 2,
    "__rrshift__": lambda x: 2 >> x,
    "__eq__": lambda x: x == 2,
    "__ne__": lambda x: x != 2,
    "__lt__": lambda x: x < 2,
    "__le__": lambda x: x <= 2,
    "__gt__": lambda x: x > 2,
    "__ge__": lambda x: x >= 2,
    "__neg__": lambda x: -x,
    "__pos__": lambda x: +x * 2,
    "__abs__": lambda x: abs(x),
    "__invert__": lambda x: ~x,
    "__round__": lambda x: round(x / 2) * 2,
    "__getitem__": lambda x: x[1] + x[::2],
    "__setitem__": lambda x: (y := x + 0, y.__setitem__(0, 7), y)[-1],
    "__len__": lambda x: x * len(x),
    "__iter__": lambda x: sum(item * 2 for item in x),
    "__copy__": lambda x: copy.copy(x) + 1,
    "__array_ufunc__": lambda x: np.add(x, 1),
    "__array_function__": lambda x: np.concatenate([x, x]),
}

LEAVES: dict[str, Use] = {
    "__bool__": lambda x: x + 1 if x[0] > 3 else x - 1,
    "__int__": lambda x: int(x[0]),
    "__float__": lambda x: float(x[0]),
    "__complex__": lambda x: complex(x[0]).real,
    "__index__": lambda x: [0, 1, 2, 3, 4, 5, 6, 7, 8][x[0]],
    "__contains__": lambda x: 4 in x,
    "__array__": lambda x: int(np.asarray(x)[0]),
    "__dlpack__": lambda x: int(np.from_dlpack(x)[0]),
    "__reduce_ex__": lambda x: pickle.loads(pickle.dumps(x)) + 1,
    "__repr__": lambda x: repr(x),
    "__str__": lambda x: str(x),
    "__format__": lambda x: f"{x[0]:3d}",
}

OTHER_WAYS_OUT: dict[str, Use] = {
    "numpy": lambda x: int(x.numpy()[0]),
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "_repr_html_": lambda x: x._repr_html_(),
    "deepcopy": lambda x: copy.deepcopy(x) + 1,
    "math": lambda x: math.sqrt(x[0]),
    "range": lambda x: list(range(x[0])),
    "nonzero": lambda x: x.nonzero()[0],
    "mask": lambda x: x[x > 2],
    "save": lambda x: sk.save("/dev/null/no", x) if int(x[0]) < 0 else 1,
}

# What has to do with the object or its class, and touches no element.
PLAIN = {
    "__array_namespace__", "__array_priority__", "__class__", "__delattr__", "__dir__",
    "__dlpack_device__", "__doc__", "__getattribute__", "__getstate__", "__hash__", "__init__",
    "__init_subclass__", "__module__", "__new__", "__reduce__", "__setattr__", "__sizeof__",
    "__slots__", "__subclasshook__", "__weakref__",
}  # fmt: skip


def test_every_dunder_is_classified_once() -> None:
    present = {name for cls in (sk.Tensor, sk.Variable) for name in dir(cls)}
    dunders = {name for name in present if name.startswith("__") and name.endswith("__")}
    dunders -= {"__final__", "__slotnames__"}  # marks left by typing.final and by pickle
    classes = [set(STAGED), set(LEAVES), PLAIN]
    assert sorted(name for group in classes for name in group) == sorted(dunders)


def test_operators_that_would_be_silent_are_absent() -> None:
    for name in ("__iadd__", "__enter__", "__await__", "__delitem__", "__reversed__"):
        assert not hasattr(sk.Tensor, name)
    assert not callable(sk.zeros(()))


def plain(result: Any) -> Any:
    return np.asarray(result).tolist() if isinstance(result, sk.Tensor) else result


def outcomes(use: Use) -> tuple[list[Any], list[Any], Any, list[str]]:
    """Eager and staged results for three values, the staged function, the texts of its warnings."""
    values = [[1, 2, 3], [4, 5, 6], [8, 4, 2]]
    staged = sk.function(use)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = [plain(staged(sk.asarray(value))) for value in values]
    expected = [plain(use(sk.asarray(value))) for value in values]
    return expected, got, staged, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", STAGED)
def test_a_staged_dunder_is_one_trace_without_a_warning(name: str) -> None:
    expected, got, staged, texts = outcomes(STAGED[name])
    assert got == expected
    assert texts == []
    assert staged.cache_info().traces == 1
    assert staged.cache_info().hits == 2


@pytest.mark.parametrize("name", [*LEAVES, *OTHER_WAYS_OUT])
def test_a_way_out_is_right_and_warns_once_with_the_line(name: str) -> None:
    expected, got, staged, texts = outcomes({**LEAVES, **OTHER_WAYS_OUT}[name])
    assert got == expected
    assert len(texts) == 1
    assert "test_namespace.py:" in texts[0]
    assert "eager" in str(staged.explain())


@pytest.mark.parametrize("name", [*LEAVES, *OTHER_WAYS_OUT])
def test_a_way_out_is_refused_where_there_are_no_values(name: str) -> None:
    use = {**LEAVES, **OTHER_WAYS_OUT}[name]
    with pytest.raises(sk.DataDependentError, match=r"test_namespace\.py"):
        sk.function(use).trace(sk.TensorSpec((3,), sk.int64))
    with pytest.raises(sk.DataDependentError):
        sk.function(use, control="error")(sk.asarray([1, 2, 3]))


def test_plain_dunders_touch_no_value() -> None:
    def f(x: Any) -> Any:
        assert hash(x) == hash(x) and x.__array_namespace__() is sk
        assert x.__dlpack_device__() == (1, 0) and x.__class__ is sk.Tensor
        assert "sum" in dir(x) and sys.getsizeof(x) > 0
        return x + 1

    staged = sk.function(f)
    assert [staged(sk.asarray([k])).item() for k in range(3)] == [1, 2, 3]
    assert staged.cache_info().traces == 1
