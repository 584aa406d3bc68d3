"""Prices of a million European calls and puts by Black and Scholes 1973: elementwise, with erf.

NumPy and numexpr have no erf, and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.workloads import Make
from benchmarks.workloads.forms import pure

N = 1_000_000
RATE, VOLATILITY = 0.02, 0.3

TITLE = "Black-Scholes, 1M options"
TOLERANCE = 1e-5
TRAFFIC = 5 * 4 * N


def data() -> list[np.ndarray]:
    """Spot prices, strike prices and years."""
    draw = np.random.default_rng(0)
    ranges = ((10, 50), (10, 50), (0.2, 2))
    return [draw.uniform(low, high, N).astype("float32") for low, high in ranges]


def prices(xp: Any, erf: Any) -> Callable[..., tuple[Any, Any]]:
    """The formula in functions that all the libraries spell alike."""

    def normal(d: Any) -> Any:
        return 0.5 + 0.5 * erf(d * 0.5**0.5)

    def both(spot: Any, strike: Any, years: Any) -> tuple[Any, Any]:
        spread = VOLATILITY * xp.sqrt(years)
        d1 = (xp.log(spot / strike) + (RATE + 0.5 * VOLATILITY**2) * years) / spread
        paid = strike * xp.exp(-RATE * years)
        call = spot * normal(d1) - paid * normal(d1 - spread)
        return call, call - spot + paid

    return both


def contenders() -> dict[str, Make]:
    """All that have an erf."""
    return pure(
        data,
        TRAFFIC,
        stagekit=lambda sk: prices(sk, sk.erf),
        torch=lambda torch: prices(torch, torch.erf),
        jax=lambda jax: prices(jax.numpy, jax.scipy.special.erf),
    )
