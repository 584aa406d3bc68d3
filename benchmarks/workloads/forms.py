"""The two forms of a workload, and how each library runs them: pure functions and training steps.

A form takes, by library, what only the library can say (a function of tensors, a loss), and gives
makers of `Work` by contender's name. A maker runs in the worker's process, after its imports.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import stagekit as sk
from benchmarks.timing import peer
from benchmarks.workloads import Make, Work

Data = Callable[[], list[np.ndarray]]

# Given the library's module: the function of its tensors that is measured.
Form = Callable[[Any], Callable[..., Any]]


def pure(data: Data, traffic: int = 0, **forms: Form) -> dict[str, Make]:
    """A function of tensors, called with the same ones each time; forms by name of the library.

    `traffic` is the number of bytes that must be read and written: they are copied, for comparison.
    """
    found: dict[str, Make] = {}
    for library, form in forms.items():
        found |= PURE[library](data, form)
    return found | ({"copy": lambda: copy(traffic)} if traffic else {})


def copy(traffic: int) -> Work:
    """Half of the bytes read and half of them written, by a thread for each core it may use."""
    threads = len(os.sched_getaffinity(0))
    source = np.ones((threads, traffic // 2 // threads), "uint8")
    target = np.zeros_like(source)
    pool = ThreadPoolExecutor(threads)
    return Work(lambda: list(pool.map(np.copyto, target, source)))


def _pure_stagekit(data: Data, form: Form) -> dict[str, Make]:
    def make(wrap: Callable[..., Any]) -> Work:
        function, tensors = wrap(form(sk)), [sk.asarray(a) for a in data()]
        return Work(lambda: function(*tensors))

    return {
        "stagekit": lambda: make(sk.function),
        "stagekit eager": lambda: make(lambda f: f),
    }


def _pure_torch(data: Data, form: Form) -> dict[str, Make]:
    def make() -> Work:
        torch = peer("torch")
        function, tensors = form(torch), [torch.tensor(a) for a in data()]
        return Work(lambda: function(*tensors))

    return {"torch": make, **_pure_torch_compile(data, form)}


def _pure_torch_compile(data: Data, form: Form) -> dict[str, Make]:
    """Given by itself where the compiler wants the same work written in another way."""

    def make() -> Work:
        torch = peer("torch")
        function, tensors = torch.compile(form(torch)), [torch.tensor(a) for a in data()]
        return Work(lambda: function(*tensors))

    return {"torch compile": make}


def _pure_jax(data: Data, form: Form) -> dict[str, Make]:
    """It waits for one result: those of a call are ready at the same time."""

    def make() -> Work:
        jax = peer("jax")
        function, tensors = jax.jit(form(jax)), [jax.numpy.asarray(a) for a in data()]

        def step() -> Any:
            found = function(*tensors)
            (found[0] if isinstance(found, tuple) else found).block_until_ready()
            return found

        return Work(step)

    return {"jax": make}


def _pure_arrays(name: str, library: str) -> Callable[[Data, Form], dict[str, Make]]:
    def contender(data: Data, form: Form) -> dict[str, Make]:
        def make() -> Work:
            function, given = form(peer(library)), data()
            return Work(lambda: function(*given))

        return {name: make}

    return contender


PURE: dict[str, Callable[[Data, Form], dict[str, Make]]] = {
    "stagekit": _pure_stagekit,
    "torch": _pure_torch,
    "torch_compile": _pure_torch_compile,
    "jax": _pure_jax,
    "numpy": _pure_arrays("NumPy", "numpy"),
    "numexpr": _pure_arrays("numexpr", "numexpr"),
    "autograd": _pure_arrays("autograd", "autograd"),
}
