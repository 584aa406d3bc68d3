"""Training steps: a loss and its gradient by each library, and an update of SGD or Adam.

Each library has the form that is fastest for it among those its users write: stagekit Variables;
torch a loss with the optimizer of torch.optim, fused; torch.compile the whole step as one function
with updates in place; JAX a jitted function of a state that it gives away (donates); HIPS autograd
and NumPy updates in place. The tensors compared are the loss and, for SGD, the parameters; for
Adam the first moments, which are linear in the gradients (its steps turn an error of rounding in
a gradient that is all but zero into one of the step's size).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import stagekit as sk
from benchmarks.timing import peer
from benchmarks.workloads import Make, Work

RATE, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8

# Of a list of parameters and the arrays of a batch.
Loss = Callable[..., Any]


@dataclass(frozen=True)
class Task:
    """What is trained: makers of the parameters and of a batch, and whether by Adam or by SGD."""

    parameters: Callable[[], list[np.ndarray]]
    batch: Callable[[], list[np.ndarray]]
    adam: bool


def training(task: Task, **losses: Callable[[Any], Loss]) -> dict[str, Make]:
    """Makers by contender; `losses` by library, each given the library's module."""
    found: dict[str, Make] = {}
    for library, loss in losses.items():
        found |= TRAINING[library](task, loss)  # a later one may replace an earlier one's
    return found


# ----- stagekit -----------------------------------------------------------------------------------


def _stagekit(task: Task, loss: Callable[[Any], Loss]) -> dict[str, Make]:
    def make(wrap: Callable[..., Any]) -> Work:
        parameters = [sk.Variable(a) for a in task.parameters()]
        first, second = ([sk.Variable(sk.zeros(p.shape)) for p in parameters] for _ in range(2))
        count = sk.Variable(sk.zeros(()))
        gradient = sk.value_and_grad(loss(sk))

        def step(*batch: Any) -> Any:
            value, gradients = gradient(parameters, *batch)
            if task.adam:
                _adam(parameters, gradients, first, second, count)
            else:
                for p, g in zip(parameters, gradients):
                    p.assign_sub(RATE * g)
            return value

        batch, function = [sk.asarray(a) for a in task.batch()], wrap(step)
        return Work(lambda: function(*batch), lambda: first if task.adam else parameters)

    return {
        "stagekit": lambda: make(sk.function),
        "stagekit eager": lambda: make(lambda f: f),
    }


def _adam(parameters: Any, gradients: Any, first: Any, second: Any, count: Any) -> None:
    """Kingma and Ba 2015."""
    count.assign_add(1)
    rate = RATE / (1 - BETA1**count)
    scale = sk.rsqrt(1 - BETA2**count)
    for p, g, m, v in zip(parameters, gradients, first, second):
        m.assign(BETA1 * m + (1 - BETA1) * g)
        v.assign(BETA2 * v + (1 - BETA2) * g * g)
        p.assign_sub(rate * m / (sk.sqrt(v) * scale + EPS))


# ----- torch --------------------------------------------------------------------------------------


def _torch(task: Task, loss: Callable[[Any], Loss]) -> dict[str, Make]:
    return {"torch": lambda: _torch_step(task, loss), **_torch_compile(task, loss)}


def _torch_parts(task: Task, loss: Callable[[Any], Loss]) -> dict[str, Make]:
    """A loss that compiles its parts, where the compiler takes minutes for the whole step."""
    return {"torch compile": lambda: _torch_step(task, loss)}


def _torch_step(task: Task, loss: Callable[[Any], Loss]) -> Work:
    torch = peer("torch")
    parameters = [torch.tensor(a, requires_grad=True) for a in task.parameters()]
    batch, of = [torch.tensor(a) for a in task.batch()], loss(torch)
    kind = torch.optim.Adam if task.adam else torch.optim.SGD
    optimizer = kind(parameters, lr=RATE, fused=True)

    def step() -> Any:
        optimizer.zero_grad()
        value = of(parameters, *batch)
        value.backward()
        optimizer.step()
        return value.detach()

    moments = lambda: [optimizer.state[p]["exp_avg"] for p in parameters]
    return Work(step, moments if task.adam else lambda: parameters)


def _torch_compile(task: Task, loss: Callable[[Any], Loss]) -> dict[str, Make]:
    def make() -> Work:
        torch = peer("torch")
        parameters = [torch.tensor(a) for a in task.parameters()]
        batch = [torch.tensor(a) for a in task.batch()]
        first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        count, gradient = torch.zeros(()), torch.func.grad_and_value(loss(torch))

        def step(parameters: Any, first: Any, second: Any, count: Any, batch: Any) -> Any:
            gradients, value = gradient(parameters, *batch)
            if not task.adam:
                torch._foreach_sub_(parameters, gradients, alpha=RATE)
                return value
            count.add_(1)
            rate = RATE / (1 - BETA1**count)
            scale = torch.rsqrt(1 - BETA2**count)
            for p, g, m, v in zip(parameters, gradients, first, second):
                m.mul_(BETA1).add_(g, alpha=1 - BETA1)
                v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
                p.sub_(rate * m / (torch.sqrt(v) * scale + EPS))
            return value

        compiled = torch.compile(step)
        return Work(
            lambda: compiled(parameters, first, second, count, batch),
            lambda: first if task.adam else parameters,
        )

    return {"torch compile": make}


# ----- JAX ----------------------------------------------------------------------------------------


def _jax(task: Task, loss: Callable[[Any], Loss]) -> dict[str, Make]:
    def make() -> Work:
        jax = peer("jax")
        jnp, gradient = jax.numpy, jax.value_and_grad(loss(jax))

        def step(state: Any, batch: Any) -> Any:
            value, gradients = gradient(state[0], *batch)
            if not task.adam:
                return ([p - RATE * g for p, g in zip(state[0], gradients)],), value
            count = state[3] + 1
            rate = RATE / (1 - BETA1**count)
            scale = jax.lax.rsqrt(1 - BETA2**count)
            first = [BETA1 * m + (1 - BETA1) * g for m, g in zip(state[1], gradients)]
            second = [BETA2 * v + (1 - BETA2) * g * g for v, g in zip(state[2], gradients)]
            parameters = [
                p - rate * m / (jnp.sqrt(v) * scale + EPS)
                for p, m, v in zip(state[0], first, second)
            ]
            return (parameters, first, second, count), value

        parameters = [jnp.asarray(a) for a in task.parameters()]
        zeros = [[jnp.zeros_like(p) for p in parameters] for _ in range(2)]
        held = [(parameters, *zeros, jnp.float32(0)) if task.adam else (parameters,)]
        batch, jitted = [jnp.asarray(a) for a in task.batch()], jax.jit(step, donate_argnums=0)

        def once() -> Any:
            held[0], value = jitted(held[0], batch)
            return value.block_until_ready()  # and so the state: they are ready at the same time

        return Work(once, lambda: held[0][1 if task.adam else 0])

    return {"jax": make}


# ----- arrays -------------------------------------------------------------------------------------


def _arrays(task: Task, gradient: Callable[..., Any]) -> Work:
    """Given the parameters and a batch, `gradient` gives the loss and the gradients as arrays."""
    parameters, batch = task.parameters(), task.batch()
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    count = [0]

    def step() -> Any:
        value, gradients = gradient(parameters, *batch)
        count[0] += 1
        rate, scale = RATE / (1 - BETA1 ** count[0]), (1 - BETA2 ** count[0]) ** -0.5
        for p, g, m, v in zip(parameters, gradients, first, second):
            if task.adam:
                m += (1 - BETA1) * (g - m)
                v += (1 - BETA2) * (g * g - v)
                p -= rate * m / (np.sqrt(v) * scale + EPS)
            else:
                p -= RATE * g
        return value

    return Work(step, lambda: first if task.adam else parameters)


def _autograd(task: Task, loss: Callable[[Any], Loss]) -> dict[str, Make]:
    def make() -> Work:
        autograd = peer("autograd")
        return _arrays(task, autograd.value_and_grad(loss(autograd)))

    return {"autograd": make}


def _numpy(task: Task, gradient: Callable[[Any], Loss]) -> dict[str, Make]:
    """Its losses give the gradients too: by hand."""
    return {"NumPy": lambda: _arrays(task, gradient(np))}


TRAINING: dict[str, Callable[[Task, Callable[[Any], Loss]], dict[str, Make]]] = {
    "stagekit": _stagekit,
    "torch": _torch,
    "torch_compile": _torch_compile,
    "torch_parts": _torch_parts,
    "jax": _jax,
    "autograd": _autograd,
    "numpy": _numpy,
}
