"""A proposal of L2HMC (Levy, Hoffman and Sohl-Dickstein 2018): 10 steps of 200 chains in 2-D.

Each step updates the momentum, one coordinate of the position, the other, and the momentum again,
scaled and moved by what two small networks give; the momentum's updates take the gradient of the
energy, a mixture of two Gaussians. Given back are position, momentum and the logarithm of the
determinant of the Jacobian. It is all small ops: staging must gain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.timing import peer
from benchmarks.workloads import Make
from benchmarks.workloads.forms import pure

CHAINS, STEPS, HIDDEN, EPS = 200, 10, 10, 0.1
APART = 2.0  # between the means of the energy's Gaussians, which have unit variance

TITLE = "L2HMC leapfrog, 10 steps, 200 chains in 2-D"
TOLERANCE = 1e-4

# Of a network: for each of its two inputs and for the time, to the hidden layer, with a bias; from
# there to the scale, the scale of the gradient or momentum, and the translation.
SHAPES = ((2, HIDDEN), (2, HIDDEN), (2, HIDDEN), (HIDDEN,), (HIDDEN, 2), (HIDDEN, 2), (HIDDEN, 2))


def data() -> list[np.ndarray]:
    """Position, momentum, and the weights of the two networks."""
    draw = np.random.default_rng(0)
    tensors = [draw.standard_normal((CHAINS, 2)) for _ in range(2)]
    tensors += [draw.normal(0, 0.5, shape) for shape in SHAPES * 2]
    return [t.astype("float32") for t in tensors]


def times() -> np.ndarray:
    """Cosine and sine of each step's time, a row a step."""
    angles = 2 * np.pi * np.arange(STEPS) / STEPS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")[:, None]


def energy(xp: Any) -> Callable[[Any], Any]:
    """The sum over the chains, so that its gradient is each chain's own."""

    def summed(x: Any) -> Any:
        square = xp.sum(x * x, axis=1)
        distance = APART * x[:, 0]
        both = xp.log(xp.exp(distance) + xp.exp(-distance))
        return xp.sum(0.5 * square - both)

    return summed


def network(xp: Any, weights: Any, a: Any, b: Any, time: Any) -> Any:
    """Two scales between -1 and 1, and a translation."""
    wa, wb, wt, bias, scale, other, move = weights
    h = xp.tanh(a @ wa + b @ wb + (time @ wt + bias))
    return xp.tanh(h @ scale), xp.tanh(h @ other), h @ move


def leapfrog(xp: Any, array: Callable[[Any], Any], gradient: Callable[[Any], Any]) -> Any:
    """The proposal; `gradient` of the energy, `array` makes the library's tensors of constants."""
    rows = [array(row) for row in times()]
    first, second = (array(np.array([m], "float32")) for m in ((1.0, 0.0), (0.0, 1.0)))

    def momentum(x: Any, v: Any, weights: Any, time: Any) -> Any:
        slope = gradient(x)
        scale, other, move = network(xp, weights, x, slope, time)
        v = v * xp.exp(0.5 * EPS * scale) - 0.5 * EPS * (slope * xp.exp(EPS * other) + move)
        return v, xp.sum(0.5 * EPS * scale, axis=1)

    def position(x: Any, v: Any, weights: Any, time: Any, kept: Any, moved: Any) -> Any:
        scale, other, move = network(xp, weights, kept * x, v, time)
        new = x * xp.exp(EPS * scale) + EPS * (v * xp.exp(EPS * other) + move)
        return kept * x + moved * new, xp.sum(moved * (EPS * scale), axis=1)

    def proposal(x: Any, v: Any, *weights: Any) -> Any:
        half = len(SHAPES)
        of_v, of_x, total = weights[:half], weights[half:], xp.sum(0 * x, axis=1)
        for time in rows:
            v, a = momentum(x, v, of_v, time)
            x, b = position(x, v, of_x, time, first, second)
            x, c = position(x, v, of_x, time, second, first)
            v, d = momentum(x, v, of_v, time)
            total = total + (a + b + c + d)
        return x, v, total

    return proposal


def _torch(torch: Any) -> Any:
    """A tape for the energy alone."""
    of = energy(torch)

    def gradient(x: Any) -> Any:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(of(leaf), leaf)[0]

    return torch.no_grad()(leapfrog(torch, torch.tensor, gradient))


def _autograd(autograd: Any) -> Any:
    anp = peer("autograd.numpy")
    return leapfrog(anp, np.array, autograd.grad(energy(anp)))


def contenders() -> dict[str, Make]:
    """All that differentiate."""
    return pure(
        data,
        stagekit=lambda sk: leapfrog(sk, sk.asarray, sk.grad(energy(sk))),
        torch=_torch,
        torch_compile=lambda torch: leapfrog(torch, torch.tensor, torch.func.grad(energy(torch))),
        jax=lambda jax: leapfrog(jax.numpy, jax.numpy.asarray, jax.grad(energy(jax.numpy))),
        autograd=_autograd,
    )
