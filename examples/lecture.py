"""The lecture example f = ln x1 + x1 x2 - sin x2 at (2, 5), eagerly and staged.

Its value is 11.652071 and its gradient (5.5, 1.716338): by a tape, by `grad` and by `jvp`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import stagekit as sk


def f(x1: Any, x2: Any) -> Any:
    """ln x1 + x1 x2 - sin x2."""
    return sk.log(x1) + x1 * x2 - sk.sin(x2)


class Found(NamedTuple):
    """The value at a point and the two partial derivatives."""

    value: Any
    d1: Any
    d2: Any

    def __str__(self) -> str:
        return f"{self.value.item():.6f}  ({self.d1.item():.6f}, {self.d2.item():.6f})"


def by_tape(x1: Any, x2: Any) -> Found:
    """Record what runs, then walk the record backwards."""
    with sk.GradientTape() as tape:
        tape.watch((x1, x2))
        y = f(x1, x2)
    return Found(y, *tape.gradient(y, (x1, x2)))


def by_grad(x1: Any, x2: Any) -> Found:
    """The gradient as a function."""
    return Found(f(x1, x2), *sk.grad(f, argnums=(0, 1))(x1, x2))


def by_jvp(x1: Any, x2: Any) -> Found:
    """Forward mode: one directional derivative along each axis."""
    one, zero = sk.ones_like(x1), sk.zeros_like(x1)
    value, d1 = sk.jvp(f, (x1, x2), (one, zero))
    return Found(value, d1, sk.jvp(f, (x1, x2), (zero, one))[1])


def main() -> None:
    """Six ways to one result, and the graph of the staged gradient."""
    x = sk.asarray(2.0, dtype=sk.float64), sk.asarray(5.0, dtype=sk.float64)
    for way in (by_tape, by_grad, by_jvp):
        staged = sk.function(way)
        staged(*x)  # traces; the call below runs the graph
        print(f"{way.__name__:8} eager   {way(*x)}")
        print(f"{'':8} staged  {staged(*x)}")
    print(sk.function(by_grad).trace(*x).graph)


if __name__ == "__main__":
    main()
