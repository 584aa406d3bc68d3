"""Handwritten digits with one step function: trained eagerly, trained staged, run from a file.

`make demo` runs it: 1797 images of 8 x 8 pixels (scikit-learn's `load_digits`), an MLP
64-128-64-10, cross-entropy, Adam. Exits non-zero where the trainings differ, an accuracy is low,
staging traced more than twice, or the saved file predicts otherwise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits

import stagekit as sk
from stagekit.nn import functional as F

SIZES = (64, 128, 64, 10)
BATCH = 64
RATE, BETA1, BETA2, EPS = 4e-3, 0.9, 0.999, 1e-8
SEED = 0

# ----- the model and the step: plain stagekit, the same for both stages ---------------------------

Layers = list[tuple[Any, Any]]


@dataclass
class State:
    """All that a step changes: weights and biases, Adam's two moments of each, the step count."""

    layers: Layers
    first: Layers
    second: Layers
    count: sk.Variable


def logits(layers: Layers, x: Any) -> Any:
    """The MLP: relu after every layer but the last."""
    *hidden, (w, b) = layers
    for v, c in hidden:
        x = F.relu(x @ v + c)
    return x @ w + b


def loss_of(layers: Layers, x: Any, y: Any) -> Any:
    """The mean cross-entropy of a batch of any size."""
    return F.cross_entropy(logits(layers, x), y, reduction="sum") / x.shape[0]


def step(state: State, x: Any, y: Any) -> Any:
    """One step of Adam (Kingma & Ba 2015); gives the loss before it."""
    loss, gradients = sk.value_and_grad(loss_of)(state.layers, x, y)
    state.count.assign_add(1)
    rate = RATE * sk.sqrt(1 - BETA2**state.count) / (1 - BETA1**state.count)
    for layer in zip(state.layers, gradients, state.first, state.second, strict=True):
        for p, g, m, v in zip(*layer, strict=True):
            m.assign(BETA1 * m + (1 - BETA1) * g)
            v.assign(BETA2 * v + (1 - BETA2) * g * g)
            p.assign_sub(rate * m / (sk.sqrt(v) + EPS))
    return loss


# ----- data and initial values: NumPy, outside the staged code ------------------------------------


class Data(NamedTuple):
    """Images as rows of 64 numbers in 0..1, and their classes."""

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]


def load() -> tuple[Data, Data]:
    """80 % to train on and 20 % to test on, shuffled by a fixed seed."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    cut = len(y) * 4 // 5
    return Data(x[:cut], y[:cut]), Data(x[cut:], y[cut:])


def initial() -> State:
    """The same state at every call: He-scaled normal weights, all else zero."""
    draw = np.random.default_rng(SEED)

    def weights(n: int, m: int) -> np.ndarray[Any, Any]:
        return draw.normal(0.0, (2 / n) ** 0.5, (n, m)).astype(np.float32)

    def zeros() -> Layers:
        return [(sk.Variable(sk.zeros((n, m))), sk.Variable(sk.zeros(m))) for n, m in pairs]

    pairs = list(pairwise(SIZES))
    layers = [(sk.Variable(weights(n, m)), sk.Variable(sk.zeros(m))) for n, m in pairs]
    return State(layers, zeros(), zeros(), sk.Variable(sk.zeros(())))


def batches(data: Data, epoch: int) -> Iterator[Data]:
    """Batches of 64 in an order of the epoch's own; the last one is what remains."""
    order = np.random.default_rng((SEED, epoch)).permutation(len(data.y))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        yield Data(data.x[rows], data.y[rows])


# ----- training -----------------------------------------------------------------------------------


def train(step: Callable[..., Any], data: Data, epochs: int) -> State:
    """Train from the initial state, printing each epoch's loss and at the end the time per step."""
    state, seconds = initial(), []
    for epoch in range(epochs):
        total, seen = 0.0, 0
        for batch in batches(data, epoch):
            x, y = sk.asarray(batch.x), sk.asarray(batch.y)
            start = time.perf_counter()
            loss = step(state, x, y)
            seconds.append(time.perf_counter() - start)
            total, seen = total + loss.item() * len(batch.y), seen + len(batch.y)
            progress(f"  epoch {epoch + 1:2d}/{epochs}", seen / len(data.y), total / seen)
    print(f"  {median(seconds) * 1e3:.2f} ms a step (median of {len(seconds)}), the first", end=" ")
    print(f"{seconds[0] * 1e3:.0f} ms, {sum(seconds):.2f} s in all")
    return state


def progress(title: str, part: float, loss: float) -> None:
    """One line an epoch: drawn again after each step on a terminal, once at its end elsewhere."""
    live, ended = sys.stdout.isatty(), part >= 1
    if live or ended:
        text = f"{title} [{'#' * int(20 * part):<20}] loss {loss:.4f}"
        print(("\r" if live else "") + text, end="\n" if ended else "", flush=True)


def predictor(state: State) -> Callable[[Any], Any]:
    """The function that is saved: images to classes, with the trained parameters captured."""
    layers = state.layers

    def predict(x: Any) -> Any:
        return sk.argmax(logits(layers, x), axis=1)

    return predict


def accuracy(state: State, data: Data) -> float:
    """The share of images that the model classifies rightly."""
    return float(np.mean(predictor(state)(sk.asarray(data.x)).numpy() == data.y))


def difference(a: State, b: State) -> float:
    """The largest difference between two states' parameters."""
    pairs = zip(sum(a.layers, ()), sum(b.layers, ()), strict=True)
    return max(float(np.max(np.abs(p.numpy() - q.numpy()))) for p, q in pairs)


# ----- the saved file in a process that has only NumPy --------------------------------------------

FRESH = """
import sys, time
import numpy as np
start = time.perf_counter()
from stagekit.export import runtime
imported = time.perf_counter()
program = runtime.load(sys.argv[1])
loaded = time.perf_counter()
np.save(sys.argv[3], program(np.load(sys.argv[2])))
tops = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(f"  modules beyond the standard library: {', '.join(sorted(tops - {'__main__'}))}")
print(f"  runtime imported in {(imported - start) * 1e3:.0f} ms,", end=" ")
print(f"file loaded in {(loaded - imported) * 1e3:.1f} ms")
"""


def bare(folder: Path) -> dict[str, str]:
    """An environment in which Python finds its standard library, NumPy and stagekit alone.

    With `-S` no site-packages are searched; the folder links to the two packages.
    """
    folder.mkdir()
    for package in (np, sk):
        assert package.__file__ is not None
        source = Path(package.__file__).parent
        (folder / source.name).symlink_to(source)
        libraries = source.with_name(f"{source.name}.libs")
        if libraries.exists():
            (folder / libraries.name).symlink_to(libraries)
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def run_saved(predict: Callable[[Any], Any], data: Data, folder: Path) -> np.ndarray[Any, Any]:
    """Save `predict`, and run it in a fresh process that has nothing but NumPy."""
    file, images, classes = (folder / n for n in ("digits.stagekit", "x.npy", "classes.npy"))
    sk.export.save(file, predict, sk.TensorSpec(("n", SIZES[0])))
    print(f"  {file.name}: {file.stat().st_size / 1024:.0f} KiB")
    np.save(images, data.x)
    command = [sys.executable, "-S", "-c", FRESH, str(file), str(images), str(classes)]
    sys.stdout.flush()
    subprocess.run(command, env=bare(folder / "bare"), check=True)
    found: np.ndarray[Any, Any] = np.load(classes)
    return found


# ----- the demo -----------------------------------------------------------------------------------


def faults(accuracy: float, least: float, apart: float, traces: int, unequal: int) -> list[str]:
    """What is not as it should be."""
    wrong = {
        f"accuracy below {least}": not accuracy >= least,
        "the stages differ by more than 1e-4": not apart <= 1e-4,
        "staging made more than 2 traces": traces > 2,
        "the saved file predicts otherwise": unequal > 0,
    }
    return [name for name, is_wrong in wrong.items() if is_wrong]


def main(arguments: list[str] | None = None) -> int:
    """Both trainings and the saved file; the number of things that went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--accuracy", type=float, default=0.96, help="fail below this")
    options = parser.parse_args(arguments)
    training, test = load()

    print("eager")
    eager = train(step, training, options.epochs)
    eager_accuracy = accuracy(eager, test)
    print(f"  test accuracy {eager_accuracy:.4f}")

    print("staged")
    staged_step = sk.function(step)
    staged = train(staged_step, training, options.epochs)
    staged_accuracy = accuracy(staged, test)
    print(f"  test accuracy {staged_accuracy:.4f}")
    print(staged_step.explain())
    apart, traces = difference(eager, staged), staged_step.cache_info().traces
    print(f"  largest difference between the parameters of the two runs: {apart:.3g}")

    print("saved, in a process with NumPy alone")
    predict = predictor(staged)
    with tempfile.TemporaryDirectory() as folder:
        classes = run_saved(predict, test, Path(folder))
    same = int(np.sum(classes == predict(sk.asarray(test.x)).numpy()))
    print(f"  {same} of {len(test.y)} predictions equal")

    worse = min(eager_accuracy, staged_accuracy)
    wrong = faults(worse, options.accuracy, apart, traces, len(test.y) - same)
    print(f"FAILED: {', '.join(wrong)}" if wrong else "all as it should be")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
