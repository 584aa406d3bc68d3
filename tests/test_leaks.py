"""Nothing is kept: functions, signatures, instances and tensors die with their last user."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

import stagekit as sk

pytestmark = pytest.mark.filterwarnings("error::stagekit.errors.StagekitWarning")

MEASURE = """
import gc, weakref
import stagekit as sk
from stagekit.errors import StagekitWarning

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def make(k):
    w = sk.Variable(sk.ones(8))
    def step(x):
        w.assign_add(x * k)
        return sk.sum(w) / x.shape[0]
    return sk.function(step), w

x = sk.ones(8)
{body}
print(dead, alive, grown)
"""

FUNCTIONS = """
refs = []
for k in range(1000):
    f, w = make(k)
    f(x); f(x)
    sk.grad(lambda y: f(y))(x)
    refs += [weakref.ref(f), weakref.ref(f.python_function), weakref.ref(w)]
    del f, w
    if k == 200:
        gc.collect(); start = rss()
gc.collect()
grown = rss() - start
alive = sum(r() is not None for r in refs)
dead = len(refs) - alive
"""

SIGNATURES = """
f = sk.function(lambda x, mode: x * 2)
for k in range(1000):
    f(x, str(k))
    if k == 200:
        gc.collect(); start = rss()
gc.collect()
grown = rss() - start
alive = f.cache_info().currsize
dead = f.cache_info().evictions
"""


def measured(body: str) -> tuple[int, int, int]:
    env = {**os.environ, "PYTHONPATH": str(Path(sk.__file__).parents[1])}
    out = subprocess.run(
        [sys.executable, "-c", MEASURE.format(body=body)], env=env, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    dead, alive, grown = map(int, out.stdout.split())
    return dead, alive, grown


def test_1000_functions_made_called_and_dropped() -> None:
    dead, alive, grown = measured(FUNCTIONS)
    assert (dead, alive) == (3000, 0)
    assert grown < 5e6


def test_1000_signatures_of_one_function() -> None:
    dead, alive, grown = measured(SIGNATURES)
    assert (dead, alive) == (936, 64)
    assert grown < 5e6


def test_arguments_results_and_captures_are_not_kept() -> None:
    f = sk.function(lambda x: x * w)
    x, w = sk.ones(3), sk.ones(3)
    y = f(x)
    z = f(x)
    refs = [weakref.ref(t) for t in (x, y, z)]
    del x, y, z
    gc.collect()
    assert [r() for r in refs] == [None] * 3
    captured = weakref.ref(w)
    w = sk.zeros(3)
    gc.collect()
    assert captured() is None


def test_what_an_exception_dropped_is_not_kept() -> None:
    class Thing:
        pass

    def f(x: Any, thing: Any) -> Any:
        raise KeyError("stop")

    staged = sk.function(f)
    thing = Thing()
    with pytest.raises(KeyError):
        staged(sk.ones(2), thing)
    dead = weakref.ref(thing)
    del thing
    gc.collect()
    assert dead() is None


def test_instances_of_a_staged_method_are_not_kept() -> None:
    class Model:
        def __init__(self) -> None:
            self.w = sk.Variable(sk.ones(2))

        @sk.function
        def step(self, x: Any) -> Any:
            self.w.assign_add(x)
            return self.w * 1, self.w

    refs = []
    for _ in range(10):
        model = Model()
        model.step(sk.ones(2))
        model.step(sk.ones(2))
        refs.append(weakref.ref(model))
    del model
    gc.collect()
    assert [r() for r in refs] == [None] * 10
    assert Model.step.cache_info().currsize == 0


def test_the_report_keeps_no_tensor() -> None:
    f = sk.function(lambda x, y: x + y)
    x = sk.ones(3)
    f(x, x)
    f(x, sk.ones(3))
    report = f.explain()
    dead = weakref.ref(x)
    del x, f
    gc.collect()
    assert dead() is None and "identity of the tensors" in str(report)
