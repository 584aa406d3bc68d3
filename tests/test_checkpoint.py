"""`sk.checkpoint` in a staged chain of 64 layers: less memory, more operations, the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np

import stagekit as sk
from tests.classes import near

LAYERS, EVERY, WIDTH = 64, 8, 32


def chain(wrap: Any) -> Any:
    """The gradient of 64 layers, every 8 of them under `wrap`."""

    def segment(x: Any, w: Any) -> Any:
        for _ in range(EVERY):
            x = sk.tanh(x @ w)
        return x

    def loss(x: Any, w: Any) -> Any:
        for _ in range(LAYERS // EVERY):
            x = wrap(segment)(x, w)
        return sk.sum(x * x)

    return sk.function(sk.grad(loss), name="chain")


def operands() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(512, WIDTH)), rng.normal(size=(WIDTH, WIDTH)) / 6
    return sk.asarray(x), sk.asarray(w)


def test_peak_falls_work_rises_bits_stay() -> None:
    x, w = operands()
    plain, saving = chain(lambda fn: fn), chain(sk.checkpoint)
    kept, recomputed = plain.trace(x, w), saving.trace(x, w)
    assert kept.cost().peak_bytes >= 4 * recomputed.cost().peak_bytes
    assert kept.cost().flops < recomputed.cost().flops
    assert kept.graph.count("tanh") == LAYERS
    # the last layer of a segment is recomputed for its own derivative as well
    assert recomputed.graph.count("tanh") == 2 * LAYERS
    assert str(recomputed.graph).count("= tanh(") == 2 * LAYERS
    want, got = plain(x, w), saving(x, w)
    assert want.numpy().tobytes() == got.numpy().tobytes()
    assert plain(x, w).numpy().tobytes() == saving(x, w).numpy().tobytes()
    eager = saving.python_function(x, w)
    assert near(eager, want)  # the order of a product's sum is the library's
