"""Neural ops, eager: convolution, pooling, softmax, normalization and attention, and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import stagekit as sk
from benchmarks.timing import Comparison, goal, interleave, peer, ratio
from stagekit.nn import functional as F

ROUNDS = 15

Run = Callable[..., Any]
Shapes = tuple[tuple[int, ...], ...]


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _layer_norm(x: Any) -> Any:
    d = x - x.mean(-1, keepdims=True)
    return d / np.sqrt((d * d).mean(-1, keepdims=True) + 1e-5)


def _attention(q: Any, k: Any, v: Any) -> Any:
    return _softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5) @ v


def _pooled(x: Any) -> Any:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


# title, stagekit, torch's (given torch.nn.functional), NumPy's if it is a few lines, operands
ROWS: list[tuple[str, Run, Callable[[Any], Run], Run | None, Shapes]] = [
    (
        "conv2d 3x3, 64x3x32x32 to 16",
        lambda x, w: F.conv2d(x, w, padding=1),
        lambda G: lambda x, w: G.conv2d(x, w, padding=1),
        None,
        ((64, 3, 32, 32), (16, 3, 3, 3)),
    ),
    (
        "conv2d 3x3, 32x64x28x28 to 64",
        lambda x, w: F.conv2d(x, w, padding=1),
        lambda G: lambda x, w: G.conv2d(x, w, padding=1),
        None,
        ((32, 64, 28, 28), (64, 64, 3, 3)),
    ),
    (
        "conv2d 1x1, 32x64x28x28 to 64",
        F.conv2d,
        lambda G: G.conv2d,
        None,
        ((32, 64, 28, 28), (64, 64, 1, 1)),
    ),
    (
        "conv2d 3x3 of each channel, 32x64x28x28",
        lambda x, w: F.conv2d(x, w, padding=1, groups=64),
        lambda G: lambda x, w: G.conv2d(x, w, padding=1, groups=64),
        None,
        ((32, 64, 28, 28), (64, 1, 3, 3)),
    ),
    (
        "max_pool2d 2, 32x64x28x28",
        lambda x: F.max_pool2d(x, 2),
        lambda G: lambda x: G.max_pool2d(x, 2),
        _pooled,
        ((32, 64, 28, 28),),
    ),
    (
        "softmax, 512x1000",
        F.softmax,
        lambda G: lambda x: G.softmax(x, -1),
        _softmax,
        ((512, 1000),),
    ),
    (
        "layer_norm, 512x768",
        lambda x: F.layer_norm(x, 768),
        lambda G: lambda x: G.layer_norm(x, (768,)),
        _layer_norm,
        ((512, 768),),
    ),
    (
        "attention, 8x4 heads of 128x64",
        F.attention,
        lambda G: G.scaled_dot_product_attention,
        _attention,
        ((8, 4, 128, 64),) * 3,
    ),
]


def compare() -> Iterator[Comparison]:
    """Each op by itself, then a convolution with the gradients of both operands."""
    for title, ours, theirs, numpys, shapes in ROWS:
        yield _forward(title, ours, theirs, numpys, shapes)
    title, ours, theirs, _, shapes = ROWS[1]
    yield _gradient(title, ours, theirs, shapes)


def _drawn(shapes: Shapes) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def _forward(
    title: str, ours: Run, theirs: Callable[[Any], Run], numpys: Run | None, shapes: Shapes
) -> Comparison:
    arrays = _drawn(shapes)
    tensors = [sk.asarray(a) for a in arrays]
    runs: dict[str, Callable[[], object]] = {"stagekit eager": lambda: ours(*tensors)}
    torch = peer("torch")
    if torch:
        torch.set_num_threads(1)
        leaves, run = [torch.tensor(a) for a in arrays], theirs(torch.nn.functional)
        runs["torch eager"] = lambda: run(*leaves)
    if numpys is not None:
        runs["NumPy"] = lambda: numpys(*arrays)
    return _compared(f"eager {title}", runs)


def _gradient(title: str, ours: Run, theirs: Callable[[Any], Run], shapes: Shapes) -> Comparison:
    arrays = _drawn(shapes)
    tensors = [sk.asarray(a) for a in arrays]
    gradient = sk.grad(lambda *xs: sk.sum(ours(*xs)), argnums=tuple(range(len(shapes))))
    runs: dict[str, Callable[[], object]] = {"stagekit eager": lambda: gradient(*tensors)}
    torch = peer("torch")
    if torch:
        leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
        run = theirs(torch.nn.functional)
        runs["torch eager"] = lambda: torch.autograd.grad(run(*leaves).sum(), leaves)
    return _compared(f"eager gradients of {title}", runs)


def _compared(title: str, runs: dict[str, Callable[[], object]]) -> Comparison:
    found = Comparison(title, interleave(runs, ROUNDS))
    value = ratio(found["stagekit eager"], found["torch eager"])
    wish = goal("within 3 x of torch's eager op", value, 3)
    return Comparison(found.title, found.timings, [wish])
