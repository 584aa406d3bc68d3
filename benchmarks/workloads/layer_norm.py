"""The gradients of layer norm over 4096 rows of 1024: by the rows, the weight and the bias."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.timing import peer
from benchmarks.workloads import Make
from benchmarks.workloads.forms import pure

ROWS, FEATURES = 4096, 1024
EPS = 1e-5

TITLE = "layer-norm gradient, 4096x1024"
TOLERANCE = 1e-5
TRAFFIC = 3 * 4 * ROWS * FEATURES


def data() -> list[np.ndarray]:
    """Rows, weight, bias, and the gradient by what layer norm gives."""
    draw = np.random.default_rng(0)
    shapes = ((ROWS, FEATURES), (FEATURES,), (FEATURES,), (ROWS, FEATURES))
    return [draw.standard_normal(shape).astype("float32") for shape in shapes]


def layer_norm(xp: Any, rsqrt: Any) -> Any:
    """For libraries without one: mean, then the mean square of what is left."""

    def normal(x: Any, weight: Any, bias: Any) -> Any:
        left = x - xp.mean(x, axis=-1, keepdims=True)
        return left * rsqrt(xp.mean(left * left, axis=-1, keepdims=True) + EPS) * weight + bias

    return normal


def _numpy(x: Any, weight: Any, bias: Any, gradient: Any) -> Any:
    left = x - x.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt((left * left).mean(axis=-1, keepdims=True) + np.float32(EPS))
    left *= scale
    scaled = gradient * weight
    along = (scaled * left).mean(axis=-1, keepdims=True)
    dx = (scaled - scaled.mean(axis=-1, keepdims=True) - left * along) * scale
    return dx, (gradient * left).sum(axis=0), gradient.sum(axis=0)


def _stagekit(sk: Any) -> Any:
    def gradients(x: Any, weight: Any, bias: Any, gradient: Any) -> Any:
        norm = sk.nn.functional.layer_norm
        return sk.vjp(lambda x, w, b: norm(x, FEATURES, w, b, EPS), x, weight, bias)[1](gradient)

    return gradients


def _torch(torch: Any) -> Any:
    def gradients(x: Any, weight: Any, bias: Any, gradient: Any) -> Any:
        leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
        out = torch.nn.functional.layer_norm(leaves[0], (FEATURES,), *leaves[1:], EPS)
        return torch.autograd.grad(out, leaves, gradient)

    return gradients


def _torch_compile(torch: Any) -> Any:
    def gradients(x: Any, weight: Any, bias: Any, gradient: Any) -> Any:
        norm = torch.nn.functional.layer_norm
        form = lambda x, w, b: norm(x, (FEATURES,), w, b, EPS)
        return torch.func.vjp(form, x, weight, bias)[1](gradient)

    return gradients


def _jax(jax: Any) -> Any:
    def gradients(x: Any, weight: Any, bias: Any, gradient: Any) -> Any:
        form = layer_norm(jax.numpy, jax.lax.rsqrt)
        return jax.vjp(form, x, weight, bias)[1](gradient)

    return gradients


def _autograd(autograd: Any) -> Any:
    anp = peer("autograd.numpy")
    form = layer_norm(anp, lambda x: 1 / anp.sqrt(x))

    def gradients(x: Any, weight: Any, bias: Any, gradient: Any) -> Any:
        pull, _ = autograd.make_vjp(lambda leaves: form(*leaves))((x, weight, bias))
        return pull(gradient)

    return gradients


def contenders() -> dict[str, Make]:
    """All that differentiate, and NumPy by hand."""
    return pure(
        data,
        TRAFFIC,
        stagekit=_stagekit,
        torch=_torch,
        torch_compile=_torch_compile,
        jax=_jax,
        numpy=lambda np: _numpy,
        autograd=_autograd,
    )
