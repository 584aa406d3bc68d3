"""Lines as a user writes them; `test_typing.py` runs them, and a strict type checker over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

import numpy as np

import stagekit as sk
import stagekit.nn.functional as F


@dataclass
class Linear:
    w: sk.Variable
    b: sk.Variable

    @sk.function
    def __call__(self, x: sk.Tensor) -> sk.Tensor:
        return x @ self.w + self.b


def main(path: str) -> float:
    x = sk.asarray([[1.0, 2.0], [3.0, 4.0]], dtype=sk.float32)
    y = sk.ones((2, 2)) * 2 - np.eye(2, dtype=np.float32) + 1.5
    assert_type(x @ y, sk.Tensor)
    assert_type(x == y, sk.Tensor)
    rows, columns = x.shape
    first, mask = x[0], x > 1
    z = sk.where(mask, x, 0.0).sum(axis=0, keepdims=True).reshape(-1)
    x[0, 1] = 5.0
    updated: sk.Tensor = x.at[0].add(1.0)
    array: np.ndarray[Any, Any] = (sk.exp(updated) + np.float64(2)).numpy()
    lowest, highest = sk.min(x, axis=1), x.max(axis=(0, 1))
    parts: list[sk.Tensor] = sk.split(sk.concat([x, y]), 2, axis=0)
    kind = sk.result_type(x, sk.float64)
    layer = Linear(sk.Variable(sk.zeros((2, 3)), name="w"), sk.Variable(sk.zeros(3)))

    def loss(layer: Linear, x: sk.Tensor, labels: sk.Tensor) -> sk.Tensor:
        return sk.mean((layer(x) - labels) ** 2) + sk.std(layer.w)

    @sk.function(static="scale", verify="first")
    def step(layer: Linear, x: sk.Tensor, scale: float = 0.1) -> sk.Tensor:
        value, gradients = sk.value_and_grad(loss)(layer, x, sk.ones((x.shape[0], 3)))
        layer.w.assign_sub(scale * gradients.w)
        return value

    assert_type(step(layer, x, scale=0.5), sk.Tensor)
    assert_type(layer(x), sk.Tensor)
    assert_type(step.cache_info().traces, int)
    graph: sk.Graph = step.trace(layer, sk.TensorSpec(("n", 2))).graph
    with sk.GradientTape(persistent=True) as tape:
        tape.watch(x)
        total = sk.sum(sk.stop_gradient(x) * x)
    slope = tape.gradient(total, x)
    out, pullback = sk.vjp(sk.sin, x)
    second: Any = sk.hessian(lambda t: (t**3).sum())(first)
    sk.save(path, {"layer": layer, "graph": str(graph), "rows": rows * columns})
    state: dict[str, Any] = sk.load(path)
    sk.export.save(path, step.python_function, layer, sk.TensorSpec((4, 2)))
    with sk.device("cpu"), sk.no_retrace():
        again = step(layer, x, scale=0.5)
    values: tuple[sk.Tensor, ...] = (z, lowest, highest, slope, second, *pullback(out), *parts)
    assert kind is sk.float64 and len(state) == 3 and len(values) > 5 and again.ndim == 0
    return float(total) + array.size + float(again) + float(F.relu(x).sum())
