"""Python side effects of a staged function: reported with their line, and done at every call."""

from __future__ import annotations

import random
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stagekit as sk

X = sk.asarray([1.0, 2.0])
HERE = Path(__file__).name


class Holder:
    n = 0
    kept: Any = None


COUNTER = 0


class World:
    """Everything outside that a staged function may touch, and what it looks like."""

    def __init__(self) -> None:
        self.items: list[Any] = list(range(9))
        self.table: dict[Any, Any] = {"a": 1}
        self.names: set[Any] = {"a"}
        self.queue: deque[Any] = deque([1])
        self.holder = Holder()
        self.numbers: Iterator[int] = iter(range(100))
        self.generator = (k for k in range(100))
        self.local = 0
        self.folder: Path = Path()

    def look(self) -> Any:
        return (
            [i if isinstance(i, int) else type(i) for i in self.items],
            dict(self.table),
            set(self.names),
            list(self.queue),
            vars(self.holder).copy(),
            self.local,
            COUNTER,
        )


def acts(world: World) -> dict[str, Callable[[Any], Any]]:
    items, table, names, queue = world.items, world.table, world.names, world.queue
    holder, numbers, generator = world.holder, world.numbers, world.generator
    local = 0

    def prints_a_string(x: Any) -> Any:
        print("a plain string")  # HERE
        return x * 2

    def prints_a_tensor(x: Any) -> Any:
        print(x * 2)  # HERE
        return x * 2

    def append(x: Any) -> Any:
        items.append(4)  # HERE
        return x * 2

    def extend(x: Any) -> Any:
        items.extend([4, 5])  # HERE
        return x * 2

    def pop(x: Any) -> Any:
        return x * items.pop()  # HERE

    def insert(x: Any) -> Any:
        items.insert(0, 9)  # HERE
        return x * 2

    def sets_an_item(x: Any) -> Any:
        items[0] = 7  # HERE
        return x * 2

    def deletes_an_item(x: Any) -> Any:
        del items[0]  # HERE
        return x * 2

    def plus_equals(x: Any) -> Any:
        nonlocal items
        items += [1]  # HERE
        return x * 2

    def sets_an_entry(x: Any) -> Any:
        table["k"] = len(table)  # HERE
        return x * 2

    def updates(x: Any) -> Any:
        table.update(z=len(table))  # HERE
        return x * 2

    def set_default(x: Any) -> Any:
        table.setdefault(len(table), 1)  # HERE
        return x * 2

    def adds(x: Any) -> Any:
        names.add(len(names))  # HERE
        return x * 2

    def append_left(x: Any) -> Any:
        queue.appendleft(5)  # HERE
        return x * 2

    def counts(x: Any) -> Any:
        holder.n += 1  # HERE
        return x * holder.n

    def set_attribute(x: Any) -> Any:
        setattr(holder, "other", len(items))  # noqa: B010  # HERE
        return x * 2

    def writes_a_global(x: Any) -> Any:
        global COUNTER
        COUNTER = COUNTER + 1  # HERE
        return x * COUNTER

    def writes_a_nonlocal(x: Any) -> Any:
        nonlocal local
        local += 1  # HERE
        world.local = local  # HERE
        return x * local

    def keeps_on_an_attribute(x: Any) -> Any:
        holder.kept = x * 3  # HERE
        return x * 2

    def keeps_in_a_list(x: Any) -> Any:
        items.append(x * 3)  # HERE
        return x * 2

    def keeps_in_a_closure(x: Any) -> Any:
        y = x * 3
        items.append(lambda: y)  # HERE
        return x * 2

    def numpy_random(x: Any) -> Any:
        return x * np.random.rand()  # HERE

    def python_random(x: Any) -> Any:
        return x * random.random()  # HERE

    def the_time(x: Any) -> Any:
        return x * time.time()  # HERE

    def perf_counter(x: Any) -> Any:
        return x * time.perf_counter()  # HERE

    def opens(x: Any) -> Any:
        with open(world.folder / "log.txt", "a") as file:  # HERE
            file.write("line\n")
        return x * 2

    def path_opens(x: Any) -> Any:
        (world.folder / "log.txt").read_text()  # HERE
        return x * 2

    def advances_an_iterator(x: Any) -> Any:
        return x * next(numbers)  # HERE

    def advances_a_generator(x: Any) -> Any:
        return x * next(generator)  # HERE

    found = dict(locals())
    return {name: f for name, f in found.items() if callable(f) and hasattr(f, "__code__")}


NAMES = [n for n in acts(World()) if n != "path_opens"]
READS = ("prints", "numpy_random", "python_random", "the_time", "perf_counter", "opens", "advances")


def marked_lines(f: Callable[..., Any]) -> list[int]:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    first = f.__code__.co_firstlineno
    block = lines[first:]
    end = next((k for k, line in enumerate(block) if not line.strip()), len(block))
    return [first + k + 1 for k, line in enumerate(block[:end]) if line.endswith("# HERE")]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_reported_with_its_line_and_happens_at_every_call(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    global COUNTER
    ends = []
    for stage in (lambda f: f, sk.function):
        world, COUNTER = World(), 0
        world.folder = tmp_path
        f = stage(acts(world)[name])
        random.seed(3)
        np.random.seed(3)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = [f(X).tolist() for _ in range(5)]
        timed = name in ("the_time", "perf_counter")
        ends.append((None if timed else results, world.look(), capsys.readouterr().out))
        if stage is sk.function:
            told = [w for w in caught if issubclass(w.category, sk.StagekitWarning)]
            lines = {int(n) for w in told for n in re.findall(HERE + r":(\d+)", str(w.message))}
            assert lines == set(marked_lines(f.python_function)), [str(w.message) for w in told]
            assert "not staged: " in str(f.explain()) or "eager: " in str(f.explain())
    strip = re.compile(r"<function .*? at \w+>|tensor\(.*?\)")
    assert strip.sub("", str(ends[0])) == strip.sub("", str(ends[1]))


def test_every_call_writes_the_file(tmp_path: Path) -> None:
    world = World()
    world.folder = tmp_path
    f = sk.function(acts(world)["opens"])
    with pytest.warns(sk.StagekitWarning):
        for _ in range(5):
            f(X)
    assert (tmp_path / "log.txt").read_text() == "line\n" * 5
    g = sk.function(acts(world)["path_opens"])
    with pytest.warns(sk.StagekitWarning, match=HERE):
        g(X)


# ----- the same acts on what the call made itself -------------------------------------------------


class Accumulator:
    def __init__(self) -> None:
        self.n = 0
        self.items: list[Any] = []

    def add(self, x: Any) -> None:
        self.n += 1
        self.items.append(x)


def made_inside_append(x: Any) -> Any:
    out = []
    for k in range(3):
        out.append(x * k)
    out.extend([x, x])
    out.pop()
    return sk.stack(out)


def made_inside_dict(x: Any) -> Any:
    table: dict[str, Any] = {}
    table["a"] = x
    table.update(b=x + 1)
    table.setdefault("c", x + 2)
    del table["b"]
    return table["a"] + table["c"]


def made_inside_set(x: Any) -> Any:
    names = {"a"}
    names.add("b")
    names.update({"c"})
    return x * len(names)


def made_inside_object(x: Any) -> Any:
    total = Accumulator()
    for k in range(3):
        total.add(x * k)
    total.extra = x  # type: ignore[attr-defined]
    return total.items[0] + total.items[2] * total.n


def made_inside_nonlocal(x: Any) -> Any:
    count = 0

    def step(y: Any) -> Any:
        nonlocal count
        count += 1
        return y + count

    return step(step(x))


def made_inside_generator(x: Any) -> Any:
    parts = (x * k for k in range(4))
    first = next(parts)
    return first + sum(parts)


def made_inside_iterator(x: Any) -> Any:
    numbers = iter([1.0, 2.0, 3.0])
    return x * next(numbers) + next(numbers)


def made_inside_random(x: Any) -> Any:
    return x * np.random.default_rng(3).random() + random.Random(4).random()


def made_inside_comprehension(x: Any) -> Any:
    return sum([y * 2 for y in [x, x + 1]]) + sum({k: x * k for k in range(3)}.values())


INSIDE = [f for name, f in list(globals().items()) if name.startswith("made_inside")]


@pytest.mark.parametrize("f", INSIDE, ids=lambda f: f.__name__)
def test_the_same_acts_on_objects_made_inside_report_nothing(f: Callable[[Any], Any]) -> None:
    staged = sk.function(f)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            np.testing.assert_allclose(staged(X).numpy(), f(X).numpy(), rtol=1e-6)
    assert staged.cache_info()[:2] == (2, 1)


# ----- how often, and specs -----------------------------------------------------------------------


def test_an_effect_now_and_then_leaves_the_other_calls_staged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @sk.function
    def f(x: Any, step: int) -> Any:
        if step % 10 == 0:
            print("step", step)
        return x * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sk.StagekitWarning)
        for step in range(100):
            assert f(X, step).tolist() == [2.0, 4.0]
    printed = capsys.readouterr().out.split("\n")
    assert printed == [*(f"step {k}" for k in range(0, 100, 10)), ""]
    assert f.cache_info().hits > 85


def test_each_line_is_reported_once() -> None:
    kept: list[int] = []

    @sk.function
    def f(x: Any, mode: str) -> Any:
        kept.append(1)
        return x * 2

    with pytest.warns(sk.StagekitWarning) as record:
        for mode in "abcabcabc":
            f(X, mode)
    assert len(record) == 1 and len(kept) == 9


def test_a_trace_of_specs_reports_effects_too() -> None:
    kept: list[int] = []

    @sk.function
    def f(x: Any) -> Any:
        kept.append(1)
        return x * 2

    with pytest.warns(sk.StagekitWarning, match="kept"):
        f.trace(sk.TensorSpec((2,)))
