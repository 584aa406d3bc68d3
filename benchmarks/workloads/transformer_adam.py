"""An Adam step on one transformer block: 128 features, 4 heads, 64 tokens, batch 8.

x + attention(norm(x)), then x + mlp(norm(x)) with 512 hidden features and gelu by erf; attention is
causal. Query, key and value have no bias: a key's has a gradient of zero, which Adam would turn
into steps of rounding noise. The loss is the mean square to given targets. HIPS autograd and NumPy
are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workloads import Make
from benchmarks.workloads.layer_norm import layer_norm
from benchmarks.workloads.training import Loss, Task, training

BATCH, TOKENS, FEATURES, HEADS, HIDDEN = 8, 64, 128, 4, 512

TITLE = "transformer block d=128, 4 heads, T=64, batch 8, Adam step"
TOLERANCE = 1e-4


def parameters() -> list[np.ndarray]:
    """Norm, query-key-value, projection; norm, and the two layers of the perceptron."""
    draw = np.random.default_rng(0)

    def weight(n: int, m: int) -> np.ndarray:
        return draw.normal(0, n**-0.5, (n, m)).astype("float32")

    def zeros(n: int) -> np.ndarray:
        return np.zeros(n, "float32")

    def norm() -> list[np.ndarray]:
        return [np.ones(FEATURES, "float32"), zeros(FEATURES)]

    attention = [weight(FEATURES, 3 * FEATURES), weight(FEATURES, FEATURES), zeros(FEATURES)]
    mlp = [weight(FEATURES, HIDDEN), zeros(HIDDEN), weight(HIDDEN, FEATURES), zeros(FEATURES)]
    return [*norm(), *attention, *norm(), *mlp]


def batch() -> list[np.ndarray]:
    """What goes in, and what should come out."""
    draw, shape = np.random.default_rng(1), (BATCH, TOKENS, FEATURES)
    return [draw.standard_normal(shape).astype("float32") for _ in range(2)]


def block(xp: Any, norm: Any, attention: Any, gelu: Any, permute: Any) -> Loss:
    """The loss; `attention` is causal, of (batch, heads, tokens, features of a head)."""

    def loss(parameters: Any, x: Any, target: Any) -> Any:
        w1, b1, qkv, out, out_b, w2, b2, up, up_b, down, down_b = parameters
        joined = (norm(x, w1, b1) @ qkv).reshape((BATCH, TOKENS, 3, HEADS, FEATURES // HEADS))
        q, k, v = (permute(joined[:, :, i], (0, 2, 1, 3)) for i in range(3))
        seen = permute(attention(q, k, v), (0, 2, 1, 3)).reshape((BATCH, TOKENS, FEATURES))
        x = x + (seen @ out + out_b)
        x = x + (gelu(norm(x, w2, b2) @ up + up_b) @ down + down_b)
        return xp.mean(xp.square(x - target))

    return loss


def _stagekit(sk: Any) -> Loss:
    F = sk.nn.functional
    attention = lambda q, k, v: F.attention(q, k, v, causal=True)
    norm = lambda x, w, b: F.layer_norm(x, FEATURES, w, b)
    return block(sk, norm, attention, F.gelu, sk.permute_dims)


def _torch(torch: Any) -> Loss:
    F = torch.nn.functional
    attention = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    norm = lambda x, w, b: F.layer_norm(x, (FEATURES,), w, b)
    return block(torch, norm, attention, F.gelu, torch.permute)


def _jax(jax: Any) -> Loss:
    """By hand what jax.nn.dot_product_attention is on a CPU."""
    jnp = jax.numpy

    def attention(q: Any, k: Any, v: Any) -> Any:
        scores = q @ jnp.swapaxes(k, -1, -2) * (FEATURES // HEADS) ** -0.5
        mask = jnp.tril(jnp.ones((TOKENS, TOKENS), bool))
        return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1) @ v

    gelu = lambda x: jax.nn.gelu(x, approximate=False)
    return block(jnp, layer_norm(jnp, jax.lax.rsqrt), attention, gelu, jnp.transpose)


def contenders() -> dict[str, Make]:
    """The three frameworks."""
    task = Task(parameters, batch, adam=True)
    return training(task, stagekit=_stagekit, torch=_torch, jax=_jax)
