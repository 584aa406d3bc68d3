"""The demo's training step (MLP 64-128-64-10, batch 64, Adam): one step, and the first call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import stagekit as sk
from benchmarks.timing import Comparison, Timing, interleave, peer, sample
from examples.digits import BATCH, BETA1, BETA2, EPS, RATE, State, batches, initial, load, step

Make = Callable[[], Callable[[], Any]]


def _batch() -> tuple[Any, Any]:
    return tuple(next(batches(load()[0], 0)))  # type: ignore[return-value]


def _stagekit(wrap: Callable[..., Any]) -> Make:
    def make() -> Callable[[], Any]:
        state: State = initial()
        x, y = map(sk.asarray, _batch())
        wrapped = wrap(step)
        return lambda: wrapped(state, x, y)

    return make


def _torch(torch: Any, wrap: Callable[..., Any]) -> Make:
    """The same step as torch users write it, with torch's own Adam."""
    torch.set_num_threads(1)

    def make() -> Callable[[], Any]:
        linear, relu = torch.nn.Linear, torch.nn.ReLU
        model = torch.nn.Sequential(
            linear(64, 128), relu(), linear(128, 64), relu(), linear(64, 10)
        )
        adam = torch.optim.Adam(model.parameters(), lr=RATE, betas=(BETA1, BETA2), eps=EPS)
        x, y = map(torch.tensor, _batch())

        def once() -> Any:
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            adam.step()
            return loss

        return wrap(once)  # type: ignore[no-any-return]

    return make


def _jax(jax: Any) -> Make:
    """The same step on pytrees, with the state given and taken."""
    jnp, tree = jax.numpy, jax.tree_util

    def loss_of(layers: Any, x: Any, y: Any) -> Any:
        *hidden, (w, b) = layers
        for v, c in hidden:
            x = jax.nn.relu(x @ v + c)
        logp = jax.nn.log_softmax(x @ w + b)
        return -jnp.take_along_axis(logp, y[:, None], axis=1).sum() / x.shape[0]

    def jax_step(state: Any, x: Any, y: Any) -> Any:
        layers, first, second, count = state
        loss, g = jax.value_and_grad(loss_of)(layers, x, y)
        count = count + 1
        rate = RATE * jnp.sqrt(1 - BETA2**count) / (1 - BETA1**count)
        first = tree.tree_map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, g)
        second = tree.tree_map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, g)
        layers = tree.tree_map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPS), layers, first, second
        )
        return (layers, first, second, count), loss

    def make() -> Callable[[], Any]:
        s = initial()
        held = [[[jnp.asarray(t.numpy()) for t in pair] for pair in part]
                for part in (s.layers, s.first, s.second)]  # fmt: skip
        state = [(*held, jnp.float32(0))]
        x, y = map(jnp.asarray, _batch())
        jitted = jax.jit(lambda state, x, y: jax_step(state, x, y))

        def once() -> Any:
            state[0], loss = jitted(state[0], x, y)
            return loss.block_until_ready()

        return once

    return make


def _makers() -> dict[str, Make]:
    makers = {
        "stagekit eager": _stagekit(lambda f: f),
        "stagekit staged": _stagekit(sk.function),
    }
    torch, jax = peer("torch"), peer("jax")
    if torch:
        makers["torch eager"] = _torch(torch, lambda f: f)
    if jax:
        makers["jax jit"] = _jax(jax)
    return makers


def compare() -> Iterator[Comparison]:
    """The step when all is warm, and the first call of a newly made one."""
    makers = _makers()
    title = f"training step of the digits demo, batch {BATCH}"
    yield Comparison(title, interleave({name: make() for name, make in makers.items()}))
    samples: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(7):
        for name, make in makers.items():
            samples[name].append(sample(make(), 1))
    yield Comparison(
        "first call of that step: trace and compile", [Timing(n, s) for n, s in samples.items()]
    )
