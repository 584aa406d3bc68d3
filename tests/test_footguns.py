"""Silent failures that users of other systems met, one test a thread: stagekit is right, or raises.

`docs/footguns.md` has a row for each thread of `THREADS`: tested here, in a later issue, or not
applicable; the last tests compare the rows, the list and the names of the tests.
"""

from __future__ import annotations

import gc
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk
from stagekit.source import is_framework

# Threads with a complaint about a staged system, as in the first column of `docs/footguns.md`.
LISTED = """
tensorflow/tensorflow#41347 keiohta/tf2rl#99 pytorch/pytorch#110325 kijai/ComfyUI-MochiWrapper#44
jax-ml/jax#19129
pytorch/pytorch#185382 pytorch/pytorch#138908 tinygrad/tinygrad#14689 ml-explore/mlx#3201
apache/mxnet#18966
tensorflow/tensorflow#31362 jax-ml/jax#4312 tensorflow/tensorflow#42223
pytorch/pytorch#172547 unslothai/unsloth-zoo#901 vincekurtz/hydrax#49 almond-bot/axol#104
jax-ml/jax#22271
jax-ml/jax#16430 tensorflow/tensorflow#40916 pytorch/pytorch#158642 pytorch/pytorch#54602
pytorch/pytorch#116336 apache/mxnet#10875 jax-ml/jax#15754
pytorch/pytorch#105279 pytorch/pytorch#140011 jax-ml/jax#5013 ml-explore/mlx#2607
openxla/xla#41579 pytorch/pytorch#132301 jax-ml/jax#38096
jax-ml/jax#193 cupy/cupy#8191 ScalingIntelligence/KernelBench#68 patrick-kidger/equinox#983
jax-ml/jax#37465 jax-ml/jax#39081 pytorch/pytorch#104601 pytorch/pytorch#116696
tensorflow/tensorflow#57554 microsoft/onnxruntime#20559 pytorch/pytorch#186143 jax-ml/jax#39494
pytorch/executorch#22114
tensorflow/tensorflow#38642 pytorch/pytorch#47751 google-ai-edge/LiteRT#2836
keras-team/keras#20847
jax-ml/jax#3086 jax-ml/jax#13022 jax-ml/jax#16732
pytorch/pytorch#118735 pytorch/pytorch#192635
pytorch/pytorch#148439 pytorch/pytorch#170604 pytorch/pytorch#160281 cupy/cupy#6290
jax-ml/jax#14655 jax-ml/jax#28157 numba/numba#8359 smallbunnies/Solverz#170
tensorflow/tensorflow#27120 tensorflow/tensorflow#40381
tensorflow/tensorflow#124972 tensorflow/tensorflow#31175 jax-ml/jax#9675
pytorch/pytorch#103169 pytorch/pytorch#102853 pytorch/xla#3306
cupy/cupy#9002 cupy/cupy#9008 pytorch/pytorch#91469 pytorch/pytorch#183603
pytorch/pytorch#86812 chaiNNer-org/chaiNNer#1250
pytorch/pytorch#193697 ml-explore/mlx-swift#461 NVIDIA/cccl#9475 ROCm/aiter#4966
HIPS/autograd#58 jax-ml/jax#1333 tensorflow/tensorflow#30895 jax-ml/jax#19267
ROCm/aiter#283 axolotl-ai-cloud/axolotl#3788 pytorch/tutorials#3227

theislab/scCODA#13 tensorflow/tensorflow#38561 tensorflow/tensorflow#44033 instadeepai/Mava#346
tensorflow/addons#807
apache/mxnet#12100 apache/mxnet#17471 apache/mxnet#17275 apache/mxnet#10990 apache/mxnet#16752
StanfordVL/gluon-reid#7 apache/mxnet#16376 apache/mxnet#17676 apache/mxnet#18593
amzn/MXFusion#109

pytorch/pytorch#136662 pytorch/pytorch#96064 pytorch/pytorch#174172 pytorch/pytorch#150993
pytorch/pytorch#119186 pytorch/pytorch#106067
jax-ml/jax#26147 jax-ml/jax#8022 jax-ml/jax#2813 jax-ml/jax#3701 jax-ml/jax#1038
jax-ml/jax#21994 jax-ml/jax#5636
tensorflow/tensorflow#24726
tinygrad/tinygrad#10850 tinygrad/tinygrad#14039 tinygrad/tinygrad#6803 tinygrad/tinygrad#14278
tinygrad/tinygrad#7637
ml-explore/mlx#369 HIPS/autograd#8 safetensors/safetensors#825
"""
THREADS = LISTED.split()


def same(a: Any, b: Any) -> None:
    """Equal to the bit, in type too."""
    left, right = np.asarray(a), np.asarray(b)
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    assert left.tobytes() == right.tobytes()


def both(fn: Callable[..., Any], *calls: tuple[Any, ...]) -> None:
    """The staged function gives what the plain one gives, in every call."""
    staged = sk.function(fn)
    for args in calls:
        same(staged(*args), fn(*args))


def warns(text: str) -> Any:
    return pytest.warns(sk.StagekitWarning, match=text)


# ----- 1: why was it traced again? ----------------------------------------------------------------


def test_tf_41347() -> None:
    f = sk.function(lambda x, y: x + y)
    f(sk.ones(2), sk.ones(2))
    f(sk.ones(2), sk.ones(2, dtype=sk.float64))
    report = str(f.explain())
    assert re.search(r"dtype of y: f32\[2\] -> f64\[2\] \(test_footguns.py:\d+", report)


def test_tf2rl_99() -> None:
    f = sk.function(lambda x, training: x * 2 if training else x)
    for _ in range(5):
        for training in (True, False):
            f(sk.ones(2), training)
    assert f.cache_info().traces == 2
    assert re.search(r"\btraining\b.*True.*False", str(f.explain()))


def test_pytorch_110325() -> None:
    f = sk.function(lambda x, scale: x * scale)
    f(sk.ones(2), scale=2)
    f(sk.ones(2), scale="3" == "4")
    report = str(f.explain())
    assert "scale" in report and "ms" in report


def test_mochiwrapper_44() -> None:
    f = sk.function(lambda x, k: x * len(k), max_traces=8)
    for n in range(20):
        same(f(sk.ones(2), "a" * n), sk.ones(2) * n)
    info = f.cache_info()
    assert (info.traces, info.currsize, info.evictions) == (20, 8, 12)
    f(sk.ones(2), "a" * 19)
    assert f.cache_info().hits == info.hits + 1


def test_jax_19129() -> None:
    f = sk.function(lambda tree, flag: tree["a"]["b"] + flag)
    f({"a": {"b": sk.ones(2)}}, 1)
    f({"a": {"b": sk.ones((2, 2))}}, 1)
    assert "tree['a']['b']" in str(f.explain())


# ----- 2: silently another result than eager ------------------------------------------------------


def test_pytorch_185382() -> None:
    def f(x: Any) -> Any:
        total = 0.0
        for k in range(3):
            x[k] = x[k] * 2
            total = total + x[k].item()
        return x * total

    staged = sk.function(f)
    with warns("item"):
        staged(sk.arange(3.0))
    for start in (1.0, 2.0):
        x, y = sk.arange(3.0) + start, sk.arange(3.0) + start
        same(staged(x), f(y))
        same(x, y)


def test_pytorch_138908() -> None:
    @sk.function
    def add_at(x: Any, i: Any) -> Any:
        x[i] += 1.0
        return x

    x = sk.zeros(4)
    for count in (1, 2, 3):
        assert add_at(x, sk.asarray([1, 2])) is x
        assert x.tolist() == [0.0, count, count, 0.0]


def test_tinygrad_14689() -> None:
    f = sk.function(lambda x: (x * 2, x + 1))
    kept = [(n, f(sk.full((64,), float(n)))) for n in range(20)]
    for n, (twice, more) in kept:
        same(twice, sk.full((64,), 2.0 * n))
        same(more, sk.full((64,), n + 1.0))


def test_mlx_3201() -> None:
    f = sk.function(lambda x: sk.sum(x, axis=0) * x.shape[0] + sk.squeeze(x[:1], axis=0))
    for n in (1, 2, 1, 5, 3):
        x = sk.reshape(sk.arange(n * 2.0), (n, 2))
        same(f(x), f.python_function(x))


def test_mxnet_18966() -> None:
    w = sk.asarray(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))

    def net(x: Any) -> Any:
        h = sk.tanh(x @ w)
        return sk.nn.functional.softmax(h.reshape(-1, 2)) - h.mean()

    both(net, (sk.ones((2, 3)),), (sk.ones((4, 3)) * 2,), (sk.ones((2, 3)) * -1,))


# ----- 3: effects of Python that happen once ------------------------------------------------------


def test_tf_31362() -> None:
    seen: list[int] = []

    @sk.function
    def f(x: Any) -> Any:
        seen.append(len(seen))
        return x + 1

    with warns("seen"):
        f(sk.ones(2))
    f(sk.ones(2))
    f(sk.ones(2))
    assert seen == [0, 1, 2]


def test_jax_4312() -> None:
    f = sk.function(lambda x: x + np.random.standard_normal(2))
    with warns("np.random"):
        draws = [f(sk.zeros(2)).tolist() for _ in range(4)]
    assert len({tuple(d) for d in draws}) == 4


def test_pytorch_118735() -> None:
    def noisy(x: Any) -> Any:
        return x + sk.random.normal(shape=x.shape) * sk.random.bernoulli(0.5, shape=x.shape)

    staged = sk.function(noisy)
    for _ in range(3):
        sk.random.seed(1)
        got = [staged(sk.zeros(5)).tolist() for _ in range(3)]
        sk.random.seed(1)
        assert got == [noisy(sk.zeros(5)).tolist() for _ in range(3)]


def test_pytorch_192635() -> None:
    g = sk.random.Generator(1)

    @sk.function
    def f() -> Any:
        first, second = g.uniform(), g.normal()
        return second, first

    h = sk.function(lambda: (g.uniform(), g.normal())[1])
    other = sk.random.Generator(1)
    for _ in range(3):
        assert [x.item() for x in f()][::-1] == [other.uniform().item(), other.normal().item()]
        other.uniform()  # a draw that nothing uses counts
        assert h().item() == other.normal().item()


def test_tf_42223() -> None:
    rows = iter([1.0, 2.0, 3.0])

    @sk.function
    def f(x: Any) -> Any:
        return x + next(rows)

    with warns("rows"):
        assert [f(sk.zeros(())).item() for _ in range(3)] == [1.0, 2.0, 3.0]

    def over_tensor(x: Any) -> Any:
        total = sk.zeros(2)
        for k, row in enumerate(x):
            total = total + k * row
        return total

    both(over_tensor, (sk.ones((3, 2)),), (sk.ones((3, 2)) * 2,))


# ----- 5: branches on tensors ---------------------------------------------------------------------


def test_jax_16430() -> None:
    f = sk.function(lambda x, default: x or default)
    with warns("bool"):
        assert f(sk.asarray(0.0), sk.asarray(2.0)).item() == 2.0
    assert f(sk.asarray(1.0), sk.asarray(2.0)).item() == 1.0
    assert f(sk.asarray(0.0), sk.asarray(3.0)).item() == 3.0


def branches(x: Any) -> Any:
    if sk.sum(x) > 0:
        return x
    return -x


def test_tf_40916() -> None:
    f = sk.function(branches)
    with warns("branches"):
        same(f(sk.ones(2)), sk.ones(2))
    same(f(-sk.ones(2)), sk.ones(2))
    strict = sk.function(branches, control="error")
    with pytest.raises(sk.DataDependentError, match="branches") as info:
        strict(sk.ones(2))
    assert "where" in str(info.value)


def test_pytorch_158642() -> None:
    f = sk.function(lambda x: x * sk.max(x).item())
    with warns("item"):
        same(f(sk.asarray([1.0, 3.0])), sk.asarray([3.0, 9.0]))
    same(f(sk.asarray([1.0, 4.0])), sk.asarray([4.0, 16.0]))


def test_pytorch_54602() -> None:
    def f(x: Any) -> Any:
        parts = [row * k for k, row in enumerate(x) if k % 2 == 0]
        return sk.stack(parts) / len(x)

    both(f, (sk.ones((4, 2)),), (sk.ones((4, 2)) * 3,))


# ----- 6: errors that point into the framework ----------------------------------------------------


def test_pytorch_116336() -> None:
    with pytest.raises(sk.DataDependentError) as info:
        sk.function(branches).trace(sk.TensorSpec((2,)))
    location = info.value.location
    assert location is not None and location.filename == __file__
    assert location.text == "if sk.sum(x) > 0:"


def test_mxnet_10875() -> None:
    @sk.function
    def f(x: Any) -> Any:
        h = x * 2
        return h @ sk.ones((5, 1))

    with pytest.raises(sk.ShapeError, match=r"matmul.*\(2, 3\).*\(5, 1\)") as info:
        f(sk.ones((2, 3)))
    assert info.value.location and info.value.location.text == "return h @ sk.ones((5, 1))"


def test_jax_15754() -> None:
    with pytest.raises(sk.ShapeError) as info:
        sk.function(sk.grad(lambda x: sk.sum(x @ x)))(sk.ones((2, 3)))
    files = [entry.frame.code.raw.co_filename for entry in info.traceback]
    assert not any(map(is_framework, files))


# ----- 7: sizes -----------------------------------------------------------------------------------


def test_pytorch_105279() -> None:
    f = sk.function(lambda x: sk.sum(x * x) / x.shape[0])
    for n in range(1, 40):
        assert f(sk.ones(n)).item() == 1.0
    assert f.cache_info().traces == 2


def test_pytorch_140011() -> None:
    f = sk.function(lambda x: x * len(x))
    with warns("plain value of n"):
        concrete = f.trace(sk.TensorSpec(("n",)))
    with pytest.raises(sk.ShapeError, match="n =="):
        concrete(sk.ones(3))


def test_jax_5013() -> None:
    f = sk.function(lambda x: sk.reshape(x, (x.shape[0] * x.shape[1] // 2, 2)) + sk.zeros(2))
    for n, m in ((2, 2), (4, 6), (3, 8), (1, 2), (6, 4)):
        x = sk.reshape(sk.arange(float(n * m)), (n, m))
        same(f(x), f.python_function(x))
    assert f.cache_info().traces <= 3


def test_mlx_2607() -> None:
    concrete = sk.function(lambda x, w: x @ w).trace(
        sk.TensorSpec(("n", "k")), sk.TensorSpec(("k", 3))
    )
    assert "f32[n,3]" in str(concrete.graph)
    for n, k in ((1, 1), (2, 5), (7, 2)):
        assert concrete(sk.ones((n, k)), sk.ones((k, 3))).shape == (n, 3)


# ----- 8: numerics --------------------------------------------------------------------------------


def test_xla_41579() -> None:
    x = sk.asarray(np.float32([1.1, 3.3, 1e17]))
    f = sk.function(lambda x, y: x * x - y * y)
    for _ in range(2):
        same(f(x, x), sk.zeros(3))


def test_pytorch_132301() -> None:
    both(lambda x: sk.exp(x * 0.1 + 1.0) * 3.0, *[(sk.linspace(-4, 4, 64).astype(sk.float16),)] * 2)


def test_jax_38096() -> None:
    gradient = sk.grad(lambda x: sk.sqrt(x) + sk.log1p(x - 1.0))
    both(gradient, *[(sk.asarray(0.0),)] * 2)
    assert np.isposinf(gradient(sk.asarray(0.0)).item())


# ----- 10: a compiler on the host -----------------------------------------------------------------


def test_pytorch_116696(tmp_path: Path) -> None:
    code = "import stagekit as sk; print(sk.function(lambda x: sk.exp(x).sum())(sk.zeros(3)))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(Path(sk.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "tensor(3., dtype=float32)\n", run.stderr


# ----- 13: traced values that outlive their trace -------------------------------------------------


@dataclass
class Holder:
    tensor: Any = None


def leaking(holder: Holder) -> Any:
    def f(x: Any) -> Any:
        holder.tensor = x * 2
        return x

    return f


def test_jax_3086() -> None:
    holder = Holder()
    with warns(r"holder\.tensor"):
        sk.function(leaking(holder)).trace(sk.TensorSpec((2,)))
    with pytest.raises(sk.LeakedTensorError, match=r"made at test_footguns.py:\d+ in f"):
        holder.tensor + 1


def test_jax_13022() -> None:
    holder = Holder()
    f = sk.function(leaking(holder))
    with warns(r"holder\.tensor"):
        f(sk.ones(2))
    same(holder.tensor + 1, sk.full((2,), 3.0))


def test_jax_16732(capsys: pytest.CaptureFixture[str]) -> None:
    @sk.function
    def f(x: Any) -> Any:
        print("x is", x)
        return x + 1

    with warns("print"):
        f(sk.ones(2))
    same(f(sk.ones(2) * 2), sk.full((2,), 3.0))
    assert capsys.readouterr().out.count("x is tensor(") == 2


def test_jax_5636() -> None:
    f = sk.function(lambda x: [x * k for k in range(3)][-1])
    same(f(sk.ones(2)), sk.full((2,), 2.0))


# ----- 15: results overwritten by a later call ----------------------------------------------------


def test_pytorch_148439() -> None:
    f = sk.function(lambda x: x + 1)
    first = f(sk.zeros(4))
    view = first.numpy()
    for n in range(5):
        f(sk.full((4,), float(n)))
    same(first, sk.ones(4))
    same(view, sk.ones(4))


def test_pytorch_160281() -> None:
    f, g = sk.function(lambda x: x * 2), sk.function(lambda x: x + 1)
    x = sk.zeros(3)
    for _ in range(4):
        x = g(f(x))
    same(x, sk.full((3,), 15.0))
    same(sk.grad(lambda x: g(f(x)).sum())(x), sk.full((3,), 2.0))


# ----- 16: what a function reads besides its arguments --------------------------------------------

weights = np.ones(300_000, np.float32)


def test_jax_14655() -> None:
    table = sk.ones((400, 400))
    concrete = sk.function(lambda x: x @ table).trace(sk.ones((2, 400)))
    assert [node.name for node in concrete.graph.inputs] == ["x", "cell_table"]
    assert "constant" not in str(concrete.graph)


def test_jax_28157() -> None:
    f = sk.function(lambda x: x + np.full((600, 600), 1.0, np.float32))
    with warns(r"test_footguns.py:\d+"):
        f(sk.ones(()))
    assert "600" in str(f.explain())


def test_numba_8359() -> None:
    global weights

    f = sk.function(lambda x: x + weights)
    weights = np.ones(2, np.float32)
    same(f(sk.zeros(2)), sk.ones(2))
    weights = np.full(2, 5.0, np.float32)
    same(f(sk.zeros(2)), sk.full((2,), 5.0))
    weights[0] = 7.0
    same(f(sk.zeros(2)), sk.asarray([7.0, 5.0]))
    weights = np.ones(3, np.float32)
    same(f(sk.zeros(1)), sk.ones(3))


def test_trap_part_of_an_array() -> None:
    config = {"rates": np.float32([0.5, 0.25])}

    def f(x: Any) -> Any:
        part = x * config["rates"][:1] + float(config["rates"][1])
        return part if config["rates"][0] < 0.75 else -part

    staged = sk.function(f)
    for rates in ([0.5, 0.25], [1.0, 0.25], [1.0, 0.5], [0.5, 0.5]):
        config["rates"][:] = rates
        same(staged(sk.ones(2)), f(sk.ones(2)))
    config["rates"] = np.float32([2.0, 3.0])
    same(staged(sk.ones(2)), f(sk.ones(2)))

    rate = np.float32(0.5)
    decayed = sk.function(lambda x: x * (rate * 2) if rate < 0.75 else x * float(rate))
    same(decayed(sk.ones(2)), sk.ones(2))
    rate = np.float32(0.25)
    same(decayed(sk.ones(2)), sk.full((2,), 0.5))
    rate = np.float32(0.875)
    same(decayed(sk.ones(2)), sk.full((2,), 0.875))


def test_trap_write_into_an_array() -> None:
    count = np.zeros(1)

    @sk.function
    def f(x: Any) -> Any:
        count[0] += 1
        return x + 1

    with warns("count"):
        f(sk.ones(2))
    f(sk.ones(2))
    f(sk.ones(2))
    assert count[0] == 3


def test_solverz_170() -> None:
    global weights

    weights = np.ones(300_000, np.float32)
    f = sk.function(lambda x: sk.sum(x * weights))
    assert f(sk.ones(())).item() == 300_000.0
    weights = weights * 2
    assert f(sk.ones(())).item() == 600_000.0
    assert f.cache_info().traces == 1 and "constant" not in str(f.trace(sk.ones(())).graph)


# ----- 17: Variables made in a staged function ----------------------------------------------------


class Lazy:
    def __init__(self) -> None:
        self.w: Any = None

    @sk.function
    def __call__(self, x: Any) -> Any:
        if self.w is None:
            self.w = sk.Variable(sk.ones(2))
        self.w.assign_add(x)
        return self.w.value


def test_tf_27120() -> None:
    first, second = Lazy(), Lazy()
    with warns(r"self\.w"):
        same(first(sk.ones(2)), sk.full((2,), 2.0))
    same(second(sk.ones(2)), sk.full((2,), 2.0))
    for layer in (first, second):
        same(layer(sk.ones(2)), sk.full((2,), 3.0))
        same(layer(sk.ones(2)), sk.full((2,), 4.0))
    assert first.w is not second.w


def test_tf_40381() -> None:
    @sk.function
    def f(x: Any) -> Any:
        count = sk.Variable(sk.zeros(()))
        count.assign_add(sk.sum(x))
        return count.value

    assert [f(sk.ones(3)).item() for _ in range(3)] == [3.0, 3.0, 3.0]


# ----- 18: caches ---------------------------------------------------------------------------------


def test_tf_124972() -> None:
    f = sk.function(lambda x, k: x + len(k), max_traces=16)
    for n in range(100):
        f(sk.ones(()), (None,) * n)
    assert f.cache_info().currsize == 16


class Model:
    def __init__(self) -> None:
        self.w = sk.ones(2)

    @sk.function
    def __call__(self, x: Any) -> Any:
        return x * self.w


def test_tf_31175() -> None:
    model = Model()
    before = Model.__call__.cache_info()
    for _ in range(4):
        model(sk.ones(2))
    after = Model.__call__.cache_info()
    assert (after.traces - before.traces, after.hits - before.hits) == (1, 3)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


# ----- 19: debugging ------------------------------------------------------------------------------


def test_pytorch_103169() -> None:
    codes = []

    def f(x: Any) -> Any:
        codes.append(sys._getframe().f_code)
        return x

    with warns("codes"):
        sk.function(f)(sk.ones(2))
    assert codes == [f.__code__]


def test_pytorch_102853() -> None:
    values = []
    f = sk.function(lambda x: values.append(x.tolist()) or x + 1)
    with sk.run_eagerly():
        for n in range(3):
            f(sk.ones(()) * n)
    assert values == [0.0, 1.0, 2.0] and f.cache_info().traces == 0


def test_xla_3306() -> None:
    f = sk.function(lambda x: x * 2)
    with sk.run_eagerly():
        for n in range(1, 5):
            repr(f(sk.ones(n)))
    assert f.cache_info().traces == 0


# ----- 20: derivatives of derivatives -------------------------------------------------------------


def test_pytorch_91469() -> None:
    f = sk.function(lambda x: sk.tanh(x) * x)
    inside = sk.function(sk.grad(sk.grad(f)))
    outside = sk.grad(sk.grad(f))
    plain = sk.grad(sk.grad(f.python_function))
    for x in (sk.asarray(0.3), sk.asarray(-2.0)):
        for way in (inside, outside):
            np.testing.assert_allclose(way(x).item(), plain(x).item(), rtol=1e-6)


def test_pytorch_183603() -> None:
    w = sk.asarray([[0.5, -1.0], [2.0, 0.25]])

    @sk.function
    def penalty(x: Any) -> Any:
        gradient = sk.grad(lambda v: sk.sum(sk.tanh(v @ w)))(x)
        return sk.sum(gradient * gradient)

    x = sk.asarray([[0.1, 0.2]])
    same(sk.grad(penalty)(x), sk.grad(penalty.python_function)(x))


# ----- files, threads, source ---------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["FOOTGUN"],)


def test_pytorch_86812(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOOTGUN", str(tmp_path / "executed"))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(sk.ArtifactError):
        sk.load(path)
    assert not (tmp_path / "executed").exists()


def test_chainner_1250(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    sk.save(path, {"w": sk.ones(2)})
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(path.read_bytes())
    same(sk.load(path)["w"], sk.ones(2))


def at_once(count: int, fn: Callable[[int], Any]) -> list[Any]:
    """What `count` threads that start together give."""
    barrier, found = threading.Barrier(count), [None] * count

    def run(k: int) -> None:
        barrier.wait()
        found[k] = fn(k)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_pytorch_193697() -> None:
    f = sk.function(lambda x: sk.sum(sk.exp(x) * x))
    expected = [f.python_function(sk.full((8,), float(k))) for k in range(8)]
    for found, wanted in zip(at_once(8, lambda k: f(sk.full((8,), float(k)))), expected):
        same(found, wanted)


def test_mlx_swift_461() -> None:
    inner = sk.function(lambda x: x * 2)
    outer = sk.function(lambda x: inner(x) + 1)
    found = at_once(2, lambda k: (outer, inner)[k](sk.ones(3)))
    same(found[0], sk.full((3,), 3.0))
    same(found[1], sk.full((3,), 2.0))


def test_autograd_58() -> None:
    def loss(x: Any) -> Any:
        y = x * 1.0
        y[0] = y[1] * 3
        y[1] = 0.0
        return sk.sum(y * y)

    for gradient in (sk.grad(loss), sk.function(sk.grad(loss)), sk.grad(sk.function(loss))):
        same(gradient(sk.asarray([5.0, 2.0, 1.0])), sk.asarray([0.0, 36.0, 2.0]))


def test_autograd_8() -> None:
    w = np.float32([[1.0], [2.0]])
    x = sk.ones((2, 3))
    for product in (lambda x: w.T @ x, lambda x: np.dot(w.T, x), lambda x: sk.asarray(w).T.dot(x)):
        gradient = sk.grad(lambda x: sk.sum(product(x)))
        for way in (gradient, sk.function(gradient), sk.function(gradient)):
            same(way(x), sk.asarray([[1.0] * 3, [2.0] * 3]))

    def swallowed(x: Any) -> Any:
        return sk.sum(w.T.dot(x))

    for fn in (sk.grad(swallowed), sk.function(sk.grad(swallowed))):
        with pytest.raises(sk.TraceError, match="lose the derivative"):
            fn(x)
    with pytest.raises(sk.TraceError, match="lose the derivative"):
        sk.jvp(swallowed, (x,), (x,))
    with warns(r"float\(\)"):
        sk.grad(lambda v: v * math.exp(v))(1.0)


def test_jax_1333() -> None:
    x = np.float64([1.0, 1e-12])
    assert sk.asarray(x).dtype == sk.float64 and (sk.asarray(x) * 2).dtype == sk.float64
    both(lambda x: sk.sum(x) - 1.0, (sk.asarray(x),), (sk.asarray(x),))
    assert sk.asarray([1.0]).dtype == sk.float32


def test_tf_30895() -> None:
    namespace: dict[str, Any] = {"sk": sk}
    exec("def f(x):\n    return x * 2 if x.shape[0] > 2 else x\ng = lambda x: f(x) + 1", namespace)
    both(namespace["g"], (sk.ones(2),), (sk.ones(3),), (sk.ones(2) * 2,))


# ----- C2: tf.function ----------------------------------------------------------------------------


def test_sccoda_13() -> None:
    for k in range(3):
        step = sk.function(lambda x: x * 2)
        same(step(sk.full((2,), float(k))), sk.full((2,), 2.0 * k))
        assert step.cache_info().traces == 1


def test_tf_38561() -> None:
    f = sk.function(lambda x, lr: x - lr * x)
    for k in range(30):
        same(f(sk.ones(2), 0.01 * k), f.python_function(sk.ones(2), 0.01 * k))
    assert f.cache_info().traces == 2


def test_tf_44033() -> None:
    f = sk.function(lambda x, y: sk.sum(x @ y))
    for n in range(1, 12):
        assert f(sk.ones((n, 3)), sk.ones((3, 2 * n))).item() == 6.0 * n * n
    assert f.cache_info().traces <= 3


def test_mava_346() -> None:
    alive = []
    for _ in range(20):
        f = sk.function(lambda x: x + 1)
        f(sk.ones(4))
        alive.append(weakref.ref(f))
    del f
    gc.collect()
    assert not any(ref() for ref in alive)


def test_addons_807() -> None:
    f = sk.function(lambda x: x + 1)
    x = sk.ones(4)
    out = f(x)
    alive = weakref.ref(x), weakref.ref(out)
    del x, out
    gc.collect()
    assert not any(ref() for ref in alive)


# ----- C3: hybridize ------------------------------------------------------------------------------


def test_mxnet_12100() -> None:
    def f(x: Any) -> Any:
        assert x.shape[1] == 3
        first = x[0]
        row = sk.ones(3)
        row[1] = 5.0
        return x + first * row

    both(f, (sk.ones((2, 3)),), (sk.ones((4, 3)),), (sk.ones((5, 3)),))


def test_mxnet_17471() -> None:
    def f(x: Any) -> Any:
        y = x.reshape(-1)
        y[...] = sk.square(y)
        return x + y

    for fn in (f, sk.function(f)):
        x = sk.asarray([1.0, 2.0, 3.0])
        for _ in range(2):
            same(fn(x), sk.asarray([2.0, 6.0, 12.0]))
        same(x, sk.asarray([1.0, 2.0, 3.0]))


def test_mxnet_17275() -> None:
    f = sk.function(lambda x: sk.sqrt(sk.sum(x * x, axis=1)).reshape(-1, 1))
    for n in (2, 2, 5, 1):
        assert f(sk.ones((n, 3))).shape == f.python_function(sk.ones((n, 3))).shape == (n, 1)


def test_mxnet_10990() -> None:
    both(lambda used, unused: used + 1, (sk.ones(2), sk.ones(3)), (sk.ones(2), sk.zeros(3)))


def test_mxnet_16752() -> None:
    f = sk.function(lambda x: {"a": (x * 2, [x * x]), "b": None})
    x = sk.asarray([1.0, 3.0])
    with sk.GradientTape() as tape:
        tape.watch(x)
        out = f(x)
        loss = sk.sum(out["a"][0]) + sk.sum(out["a"][1][0])
    same(tape.gradient(loss, x), sk.asarray([4.0, 8.0]))
    assert out["b"] is None


def test_gluon_reid_7() -> None:
    mask = np.array([True, False])
    both(lambda x: np.exp(x) * np.float32([1, 2]) + mask, (sk.ones(2),), (sk.zeros(2),))


def test_mxnet_16376() -> None:
    kinds = []

    def f(x: Any) -> Any:
        kinds.append((type(x), type(x + 1), type(x.shape)))
        return x

    with warns("kinds"):
        sk.function(f)(sk.ones(2))
    f(sk.ones(2))
    assert kinds == [(sk.Tensor, sk.Tensor, tuple)] * 2


def test_mxnet_17676() -> None:
    def forward(x: Any) -> Any:
        return sk.where(x > 0, x, 0.1 * x).sum(axis=-1, keepdims=True)

    concrete = sk.function(forward).trace(sk.TensorSpec(("n", 2)))
    x = sk.asarray([[1.0, -1.0], [-2.0, 3.0]])
    same(concrete(x), forward(x))


def test_mxnet_18593() -> None:
    def dense(w: Any) -> Callable[[Any], Any]:
        return sk.function(lambda x: sk.tanh(x @ w))

    layers = [dense(sk.ones((3, 3)) * k) for k in (0.1, 0.2)]

    def net(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    both(net, (sk.ones((2, 3)),), (sk.ones((2, 3)) * 2,))
    layers.append(dense(sk.ones((3, 3))))
    same(sk.function(net)(sk.ones((2, 3))), net(sk.ones((2, 3))))


# ----- further silent failures --------------------------------------------------------------------


def test_pytorch_136662() -> None:
    x = sk.asarray([0.5, 2.0])

    def loss(x: Any) -> Any:
        y = x + 0
        y[0] = x[1]
        return sk.sum(y * x)

    same(sk.grad(sk.function(loss))(x), sk.grad(loss)(x))


def test_pytorch_96064() -> None:
    def f(x: Any) -> Any:
        for k in range(6):
            x = sk.where(x > k, x / 2, x + k)
        return x

    both(f, *[(sk.linspace(-5, 9, 15),)] * 2)


def test_pytorch_174172() -> None:
    f = sk.function(lambda x: sk.copysign(1.0, x * -1.0 * 0.0))
    for _ in range(2):
        same(f(sk.ones(2)), sk.full((2,), -1.0))
    g = sk.function(lambda x, k: x * k)
    assert np.signbit(g(sk.ones(()), -0.0).item()) and not np.signbit(g(sk.ones(()), 0.0).item())
    assert np.signbit(sk.function(lambda x: x + -0.0)(sk.asarray(-0.0)).item())


def test_pytorch_150993() -> None:
    def f(x: Any) -> Any:
        x.reshape(7)
        return x

    for fn in (f, sk.function(f)):
        with pytest.raises(sk.ShapeError):
            fn(sk.ones(6))

    def unused_index(x: Any, i: Any) -> Any:
        x[i]
        return x

    staged = sk.function(unused_index)
    staged(sk.ones(3), sk.asarray([1]))
    with pytest.raises(sk.BoundsError):
        staged(sk.ones(3), sk.asarray([3]))


def test_pytorch_119186() -> None:
    def helper(x: Any) -> Any:
        return float(x)

    f = sk.function(lambda x: x * helper(x))
    with warns(r"float\(\) at test_footguns.py.*run eagerly"):
        f(sk.ones(()))
    assert "eager" in str(f.explain())


def test_pytorch_106067() -> None:
    f = sk.function(lambda x, unused: x + 1)
    for n in (0, 1, 2, 5, 1, 0):
        f(sk.ones(3), sk.ones((n, n)))
    assert f.cache_info().traces <= 3


def test_jax_26147() -> None:
    x = sk.asarray(np.float32([1.1, 1e19, 3.7]))
    f = sk.function(lambda x: x * x - x * x)
    for _ in range(2):
        same(f(x)[0], sk.zeros(()))
        same(f(x), f.python_function(x))


def test_jax_8022() -> None:
    def f(x: Any) -> Any:
        total = sk.zeros(())
        for k in range(8):
            total = (total + x[k]) - x[k + 1]
        return total

    both(f, *[(sk.asarray(np.float32([1e8, 1, -1e8, 3, 7e7, 1e-3, 5, 1e8, 2])),)] * 2)


class Options:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and self.scale == other.scale

    def __hash__(self) -> int:
        return hash(self.scale)


def test_jax_2813() -> None:
    f = sk.function(lambda x, options: x * options.scale, static="options")
    for _ in range(3):
        same(f(sk.ones(2), Options(2.0)), sk.full((2,), 2.0))
    assert f.cache_info().traces == 1
    same(f(sk.ones(2), Options(3.0)), sk.full((2,), 3.0))


def test_jax_3701() -> None:
    f = sk.function(lambda x, shape: sk.broadcast_to(x, tuple(shape)), static="shape")
    same(f(sk.ones(()), (2, 3)), sk.ones((2, 3)))
    with pytest.raises(TypeError, match="shape"):
        f(sk.ones(()), [2, 3])


def test_jax_1038() -> None:
    f = sk.function(lambda x, shape: sk.reshape(x, shape))
    for _ in range(3):
        same(f(sk.ones(6), (2, 3)), sk.ones((2, 3)))
        same(f(sk.ones(6), [2, 3]), sk.ones((2, 3)))
    assert f.cache_info().traces == 2


def test_jax_21994() -> None:
    def f(x: Any) -> Any:
        x[x > 1] = 0.0
        return x + 1

    for fn in (f, sk.function(f)):
        for _ in range(2):
            same(fn(sk.arange(4.0)), sk.asarray([1.0, 2.0, 1.0, 1.0]))


def test_tf_24726() -> None:
    f = sk.function(lambda x, k: x * k)
    for k in range(30):
        same(f(sk.ones(2), k), sk.ones(2) * k)
    assert f.cache_info().traces == 2


def test_tinygrad_10850() -> None:
    f = sk.function(lambda parts: parts[0] * 2 + parts[1])
    for k in range(3):
        same(f([sk.full((2,), float(k)), sk.ones(2)]), sk.full((2,), 2.0 * k + 1))
    same(f([sk.ones(2), sk.zeros(2), sk.zeros(5)]), sk.full((2,), 2.0))


def test_tinygrad_14039() -> None:
    f = sk.function(lambda x: x[int(sk.argmax(x).item())])
    with warns("item"):
        assert f(sk.asarray([1.0, 5.0])).item() == 5.0
    assert f(sk.asarray([7.0, 5.0])).item() == 7.0


def test_tinygrad_6803() -> None:
    scale = 2.0

    def f(x: Any) -> Any:
        return x * scale

    staged = sk.function(f)
    same(staged(sk.ones(2)), sk.full((2,), 2.0))
    scale = 3.0
    same(staged(sk.ones(2)), sk.full((2,), 3.0))


def test_tinygrad_14278() -> None:
    f = sk.function(lambda x, y: (x, x + y, x[:], x * 1))
    x = sk.ones(2)
    for _ in range(2):
        same_cell, total, copy, _ = f(x, x)
        assert same_cell is x and copy is not x
        copy[0] = 9.0
        same(x, sk.ones(2))
        same(total, sk.full((2,), 2.0))


def test_tinygrad_7637() -> None:
    state = sk.Variable(sk.zeros(()))

    @sk.function
    def f(x: Any) -> Any:
        state.assign_add(x)
        return state * 2

    f(sk.ones(()))
    _ = f(sk.ones(()))
    f(sk.ones(()))
    assert state.item() == 3.0


def test_mlx_369(tmp_path: Path) -> None:
    x = sk.broadcast_to(sk.arange(3.0), (4, 3))
    sk.save(tmp_path / "x.safetensors", {"x": x, "t": sk.ones((2, 3)).T * 2})
    loaded = sk.load(tmp_path / "x.safetensors")
    same(loaded["x"], x)
    same(loaded["t"], sk.full((3, 2), 2.0))


def test_safetensors_825(tmp_path: Path) -> None:
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(12.0)[::3],
        "reversed": np.arange(4.0)[::-1],
    }
    tree = {name: sk.asarray(array) for name, array in arrays.items()}
    sk.save(tmp_path / "x.safetensors", tree | {"turned": tree["fortran"].T})
    loaded = sk.load(tmp_path / "x.safetensors")
    for name, array in arrays.items():
        same(loaded[name], np.ascontiguousarray(array))
    same(loaded["turned"], np.ascontiguousarray(arrays["fortran"].T))


# ----- the guide's traps (tf.function), which no one thread holds ---------------------------------


def test_trap_attributes_of_one_object() -> None:
    holder = Holder(tensor=sk.ones(2))
    f = sk.function(lambda x: x * holder.tensor)
    same(f(sk.ones(2)), sk.ones(2))
    holder.tensor = sk.full((2,), 4.0)
    same(f(sk.ones(2)), sk.full((2,), 4.0))


def test_trap_recursion() -> None:
    @sk.function
    def power(x: Any, n: int) -> Any:
        return x if n == 1 else x * power(x, n - 1)

    for n in (1, 3, 5, 4):
        same(power(sk.full((2,), 2.0), n), sk.full((2,), 2.0**n))


def test_trap_loop_over_numpy() -> None:
    data = np.arange(4, dtype=np.float32)

    def f(x: Any) -> Any:
        for value in data:
            x = x + value
        return x

    staged = sk.function(f)
    same(staged(sk.zeros(2)), f(sk.zeros(2)))
    data[0] = 10.0
    same(staged(sk.zeros(2)), f(sk.zeros(2)))


def test_trap_python_bool() -> None:
    def f(x: Any, training: Any) -> Any:
        return x * 2 if training else x

    both(f, (sk.ones(2), True), (sk.ones(2), False), (sk.ones(2), True))


def test_trap_several_optimizers() -> None:
    @sk.function
    def step(w: Any, momentum: Any, x: Any) -> None:
        momentum.assign(0.5 * momentum + x)
        w.assign_sub(momentum)

    for start in (1.0, 2.0):
        w, momentum = sk.Variable(sk.ones(2) * start), sk.Variable(sk.zeros(2))
        for _ in range(3):
            step(w, momentum, sk.ones(2))
        same(w.value, sk.full((2,), start - 1 - 1.5 - 1.75))
    assert step.cache_info().traces == 1


def test_trap_dict_and_try() -> None:
    def f(x: Any) -> Any:
        parts = {"a": x}
        try:
            parts["b"] = parts["missing"]
        except KeyError:
            parts["b"] = x * 2
        return sum(parts[k] for k in sorted(parts))

    both(f, (sk.ones(2),), (sk.ones(2) * 3,))


def test_trap_a_signature_not_seen_before() -> None:
    f = sk.function(lambda x: x + 1, signature=sk.TensorSpec((None,)))
    f(sk.ones(2))
    f(sk.ones(5))
    with pytest.raises(sk.StagekitError, match="signature"):
        f(sk.ones((2, 2)))
    assert f.cache_info().traces == 1


# ----- the rows, the list and the tests -----------------------------------------------------------

ROWS = Path(__file__).parents[1] / "docs" / "footguns.md"
TRAPS = "trap_"
SHORT = {"tensorflow": "tf", "ComfyUI-MochiWrapper": "mochiwrapper"}
HEADS = ("-", "thread", "trap")


def name_of(thread: str) -> str:
    """The test of a thread without `test_`: `ml-explore/mlx-swift#461` has `mlx_swift_461`."""
    repository, number = thread.split("/")[1].split("#")
    repository = SHORT.get(repository, repository)
    return re.sub(r"\W", "_", repository.lower()) + "_" + number


def rows() -> dict[str, str]:
    """What `docs/footguns.md` says of each thread."""
    found: dict[str, str] = {}
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 3 and not cells[0].startswith(HEADS):
            assert cells[0] not in found, f"two rows for {cells[0]}"
            found[cells[0]] = cells[2]
    return found


def test_there_is_a_row_for_every_thread() -> None:
    named = {row for row in rows() if "#" in row}
    assert named == set(THREADS) and len(THREADS) == len(set(THREADS))


def test_every_row_is_tested_or_says_why_not() -> None:
    for thread, verdict in rows().items():
        kind = verdict.split(":")[0]
        assert kind in ("tested", "later", "does not apply"), (thread, verdict)
        assert kind == "tested" or verdict.partition(":")[2].strip(), thread


def test_the_tests_are_those_of_the_rows() -> None:
    tested = {
        name_of(row) if "#" in row else TRAPS + row.replace(" ", "_")
        for row, verdict in rows().items()
        if verdict.startswith("tested")
    }
    here = {name.removeprefix("test_") for name, obj in globals().items() if _is_test(name, obj)}
    assert tested == here


def _is_test(name: str, obj: Any) -> bool:
    own = name.startswith(f"test_{TRAPS}") or bool(re.search(r"_\d+$", name))
    return name.startswith("test_") and callable(obj) and own
