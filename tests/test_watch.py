"""What a trace sees of Python: guards neither missing nor needless, effects with their line."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import gc
import inspect
import itertools
import math
import random
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stagekit.staging.paths import Guard, Path, compile_guards, same_value
from stagekit.staging.watch import Watch


FRAMEWORK: dict[str, Any] = {"__name__": "framework"}
exec(  # a stand-in for the framework's tensor, in a file of its own
    compile(
        """
class Tensor:
    def __init__(self, traced=False):
        self.traced = traced
        self.shape = (2, 3)
    def __mul__(self, other):
        return Tensor(traced=True)
    __rmul__ = __add__ = __radd__ = __sub__ = __matmul__ = __pow__ = __mul__
    def sum(self, axis=None):
        return Tensor(traced=True)
""",
        "<framework>",
        "exec",
    ),
    FRAMEWORK,
)
Tensor: Any = FRAMEWORK["Tensor"]


def watched(fn: Callable[..., object], *args: object, **given: Any) -> Watch:
    """Call `fn` under a watch."""
    bound = inspect.signature(fn).bind(*args)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    if isinstance(fn, types.MethodType):
        arguments = {next(iter(fn.__func__.__code__.co_varnames)): fn.__self__, **arguments}
    watch = Watch(
        fn,
        arguments,
        is_tensor=lambda obj: type(obj) is Tensor,
        is_traced=lambda obj: type(obj) is Tensor and obj.traced,
        internal=lambda filename: filename == "<framework>",
        **given,
    )
    with watch:
        fn(*args)
    return watch


def read(watch: Watch) -> dict[str, str]:
    """The guarded paths and the kinds of their guards, identities left out."""
    out: dict[str, str] = {}
    for guard in watch.guards():
        if guard.kind not in ("identity", "type"):
            out[str(guard.path)] = guard.kind
    return out


def acts(watch: Watch) -> list[tuple[str, str, int]]:
    """The effects; lines are counted from the first line of their function's file section."""
    return [(e.kind, e.path, e.lineno) for e in watch.effects()]


def kinds(watch: Watch) -> list[str]:
    return [e.kind for e in watch.effects()]


def line_of(fn: Any, text: str) -> int:
    """The line on which `text` stands in the source of `fn`."""
    lines, start = inspect.getsourcelines(fn)
    return start + next(i for i, line in enumerate(lines) if text in line)


def program(source: str, **names: object) -> Any:
    """The module of code that has no source file, as a notebook makes it."""
    module = sys.modules["notebook"] = types.ModuleType("notebook")
    vars(module).update(names)
    exec(compile(source, "<cell 1>", "exec"), vars(module))
    return module


@pytest.fixture(autouse=True)
def forget_notebook() -> Any:
    yield
    sys.modules.pop("notebook", None)


x = Tensor()
lr = 0.1
mode = "train"
nothing = None
pair = (1, 2.5, "a")
weight = Tensor()
scales = [1.0, 2.0]
weights = [Tensor(), Tensor()]
state: dict[str, Any] = {"w": Tensor(), "step": 3, "lr": 0.5}
counter = 0
history: list[Any] = []


class Config:
    rate = 0.25

    def __init__(self) -> None:
        self.lr = 0.1
        self.step = 0
        self.deep = SimpleNamespace(eps=1e-5, names=["a", "b"])


config = Config()


class Layer:
    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.w = Tensor()
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x)

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.w * self.scale


class Model:
    def __init__(self) -> None:
        self.layers = [Layer(1.0), Layer(2.0)]
        self.bias = Tensor()
        self.n = 0

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x + self.bias


model = Model()

# ---------------------------------------------------------------------- reads are found


def test_globals_of_every_scalar_kind_are_guarded() -> None:
    def f(x: Tensor) -> object:
        return x * lr, mode, nothing is None, pair[1], pair

    found = read(watched(f, x))
    assert found["lr"] == "number" and found["mode"] == "string"
    assert found["nothing"] == "none" and found["pair"] == "tuple"


def test_a_tensor_is_bound_by_path_and_not_guarded() -> None:
    watch = watched(lambda x: x * weight * state["w"] * weights[1], x)
    assert watch.guards() == ()
    found = [str(watch.path_of(t)) for t in (weight, state["w"], weights[1])]
    assert found == ["weight", "state['w']", "weights[1]"]
    assert watch.path_of(Tensor()) is None


def test_closure_cells() -> None:
    c, w = 2.0, Tensor()
    watch = watched(lambda x: x * c * w, x)
    assert read(watch) == {"cell c": "number"} and str(watch.path_of(w)) == "cell w"
    assert [g.changed({}) for g in watch.guards()] == [None]
    c = 3.0
    assert [g.changed({}) for g in watch.guards()] == ["closure c: 2.0 -> 3.0"]


def test_attributes_of_globals_through_a_helper() -> None:
    def helper(c: Config, x: Tensor) -> object:
        return x * c.lr * c.rate * c.deep.eps

    found = read(watched(lambda x: helper(config, x), x))
    assert found == {"config.lr": "number", "config.rate": "number", "config.deep.eps": "number"}


def test_only_the_entries_read_of_a_dictionary_are_guarded() -> None:
    found = read(watched(lambda x: x * state["w"] * state["lr"], x))
    assert found == {"state['lr']": "number"}


@pytest.mark.parametrize(
    "source",
    [
        "state.get('lr')",
        "state.get('lr', 1.0)",
        "state[key]",
        "[state[k] for k in ('lr',)][0]",
        "getattr(config, 'lr')",
        "getattr(config, 'lr', None)",
        "getattr(config, key)",
        "vars(config)['lr']",
        "config.__dict__['lr']",
        "(lambda c: c.lr)(config)",
        "[c.lr for c in configs][0]",
        "[c.lr for c in table.values()][0]",
        "[v.lr for k, v in table.items()][0]",
        "[c.lr for i, c in enumerate(configs)][0]",
        "[c.lr for c, d in zip(configs, configs)][0]",
        "[c.lr for c in reversed(configs)][0]",
        "[c.lr for c in list(configs)][0]",
        "next(iter(configs)).lr",
        "configs[0].lr",
        "configs[-1].lr",
        "configs[:1][0].lr",
        "configs[i].lr",
        "(config if x else other).lr",
        "(other and config).lr",
        "max(configs, key=id).lr",
        "sorted(configs, key=id)[0].lr",
        "list(map(lambda c: c.lr, configs))[0]",
        "sum(c.lr for c in configs)",
        "get().lr",
        "holder(config).lr()",
        "compose(config).lr",
        "copy.copy(config).lr",
        "dataclasses.replace(data, b=1).lr",
        "operator.attrgetter('lr')(config)",
        "part()",
        "bound()",
        "{**state}['lr']",
        "dict(state)['lr']",
        "state.copy()['lr']",
        "list(state.items())[2]",
        "f'{state}'",
        "(lambda *a, **k: k['c'].lr)(x, c=config)",
        "(lambda *a: a[0].lr)(*configs)",
        "put(config)[0].lr",
        "box(config).c.lr",
        "config.chosen",
        "one(two(config))",
        "[*configs][0].lr",
        "(configs + [])[0].lr",
        "matched(config)",
        "walrus(config)",
        "guarded(config)",
        "loop(config)",
        "gen(config)",
        "nested(config)",
    ],
)
def test_no_read_is_missed(source: str) -> None:
    """Each expression reads `lr`: after a change of it some guard must fail."""
    preamble = """
import copy, dataclasses, functools, operator
from types import SimpleNamespace
class C:
    def __init__(self): self.lr = 0.1; self.other = 1
    @property
    def chosen(self): return self.lr
    def scaled(self): return self.lr
@dataclasses.dataclass
class D:
    lr: float
    b: int
class H:
    def __init__(self, c): self.c = c
    def lr(self): return self.c.lr
class Other:
    lr = 5.0
config = C(); other = Other(); configs = [config]; table = {'c': config}
data = D(0.1, 2); state = {'w': 0, 'step': 1, 'lr': 0.1}; key = 'lr'; i = 0
def get(): return config
def holder(c): return H(c)
def compose(c): return (lambda d: d)(c)
def put(c):
    out = []
    out.append(c)
    return out
def box(c):
    b = SimpleNamespace()
    b.c = c
    return b
def one(v): return v
def two(c): return c.lr
def matched(c):
    match c:
        case C(lr=value): return value
def walrus(c): return v.lr if (v := c) else 0
def guarded(c):
    try: return c.lr
    finally: pass
def loop(c):
    total = 0.0
    for _ in range(2):
        total += c.lr
        c = c
    return total
def gen(c):
    def inner():
        yield c
    return sum(d.lr for d in inner())
def nested(c):
    def outer():
        def inner(): return c.lr
        return inner
    return outer()()
part = functools.partial(lambda c: c.lr, config)
bound = config.scaled
"""
    m = program(preamble + f"def f(x): return {source}\n")
    watch = watched(m.f, 1)
    check = compile_guards(watch.guards())
    assert check({"x": 1}) == -1 and not watch.effects()
    m.config.lr = m.data.lr = m.state["lr"] = 0.2
    failed = check({"x": 1})
    assert failed >= 0, [str(g.path) for g in watch.guards()]
    assert "0.1" in str(watch.guards()[failed].changed({"x": 1}))


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("sum(scales)", "scales.append(1.0)"),
        ("sum(scales)", "scales[0] = 9.0"),
        ("[x * s for s in scales]", "scales[1] = 9.0"),
        ("len(layers)", "layers.append(1)"),
        ("[l for l in layers]", "layers.pop()"),
        ("[k for k in table]", "table['z'] = 1"),
        ("list(table.items())", "table['a'] = 9"),
        ("'b' in table", "del table['b']"),
        ("'c' in table", "table['c'] = 1"),
        ("table.get('c', 0)", "table['c'] = 1"),
        ("hasattr(config, 'extra')", "config.extra = 1"),
        ("getattr(config, 'extra', 1)", "config.extra = 1"),
        ("trying(config)", "config.extra = 1"),
        ("1 if empty else 2", "empty.append(1)"),
        ("not empty", "empty.append(1)"),
        ("mode is A", "mode = B"),
        ("mode == A", "mode = B"),
        ("colour == Colour.RED", "colour = Colour.BLUE"),
        ("act(x)", "act = lambda x: x"),
        ("config.act(x)", "config.act = abs"),
        ("config.method()", "config.method = lambda: 2"),
        ("config.method()", "C.method = lambda self: 2"),
        ("config.method()", "config = type('D', (C,), {'method': lambda self: 2})()"),
        ("config.klass", "C.klass = 8"),
        ("config.klass", "config.klass = 8"),
        ("C.klass", "C.klass = 8"),
        ("f.knob", "f.knob = 8"),
        ("module.value", "module.value = 8"),
        ("module.sub.value", "module.sub.value = 8"),
        ("default(x)", "default.__defaults__[0][0] = 8"),
        ("x in names", "names.add(7)"),
        ("[n for n in names]", "names.add(7)"),
        ("nt.lr", "nt = NT(8)"),
        ("slotted.lr", "slotted.lr = 8"),
        ("user_dict['lr']", "user_dict['lr'] = 8"),
        ("counts['lr']", "counts['lr'] = 8"),
        ("cached.value", "cached.value.lr = 8"),
        ("reach(chain)", "chain.next.next.lr = 8"),
        ("str(table)", "table['a'] = 9"),
        ("math.prod(shape)", "shape[0] = 7"),
        ("chained['lr']", "chained.maps[1]['lr'] = 7"),
        ("chained['lr']", "chained.maps[0]['lr'] = 7"),
        ("[c.lr for c in series]", "series.inner[0].lr = 7"),
        ("series[0].lr", "series.inner[0].lr = 7"),
        ("lazy.anything.lr", "lazy.inner.lr = 7"),
        ("[a * b for a, b in zip(scales, scales)]", "scales[0] = 7.0"),
        ("[a * i for i, a in enumerate(scales)]", "scales[0] = 7.0"),
        ("[a for a in scales + [1.0]]", "scales[0] = 7.0"),
        ("maybe is None", "maybe = {}"),
        ("maybe or 3", "maybe = 5"),
        ("grid[i][j]", "grid[0][1] = 8"),
        ("grid[0][1]", "grid[0][1] = 8"),
        ("[g[1] for g in grid]", "grid[0][1] = 8"),
        ("[v for row in grid for v in row]", "grid[0][1] = 8"),
        ("[a + b for a, b in grid]", "grid[0][1] = 8"),
        ("made(x)", "made = make(8)"),
        ("made(x)", "made.__closure__[0].cell_contents = 8"),
        ("wrapped(x)", "inner_scale = 8"),
        ("registry['f'](x)", "registry['f'] = abs"),
        ("eval('lr2')", "lr2 = 8"),
        ("Sub().go()", "klass_value = 8"),
        ("data.lr", "data.lr = 8"),
        ("asdict(data)", "data.lr = 8"),
        ("tuple_of[0].lr", "tuple_of[0].lr = 8"),
        ("queue[0]", "queue[0] = 8"),
        ("half - 0.0", "half = -0.0"),
        ("one + 1", "one = True"),
        ("one + 1", "one = 1.0"),
    ],
)
def test_every_change_of_what_was_read_fails_a_guard(source: str, change: str) -> None:
    preamble = """
import collections, enum, functools, math, types
from dataclasses import dataclass, asdict
class C:
    klass = 1
    def __init__(self): self.act = act0
    def method(self): return 1
def act0(x): return x
act = act0
class Colour(enum.Enum):
    RED = 1; BLUE = 2
colour = Colour.RED
A, B = object(), object(); mode = A
scales = [1.0, 2.0]; layers = [C(), C()]; table = {'a': 1, 'b': 2}; config = C(); empty = []
def trying(c):
    try: return c.extra
    except AttributeError: return 0
def default(x, knobs=[1]): return knobs[0]
names = {1, 2}
NT = collections.namedtuple('NT', 'lr'); nt = NT(1)
class S:
    __slots__ = ('lr',)
slotted = S(); slotted.lr = 1
user_dict = collections.UserDict(lr=1); counts = collections.Counter(lr=1)
class Cached:
    def __init__(self): self._v = types.SimpleNamespace(lr=1)
    @property
    def value(self): return self._v
cached = Cached(); _cached_lr = 1
def reach(node):
    while node.next is not None: node = node.next
    return node.lr
chain = types.SimpleNamespace(next=types.SimpleNamespace(next=types.SimpleNamespace(next=None, lr=1)))
class Series:
    def __init__(self): self.inner = [types.SimpleNamespace(lr=1)]
    def __iter__(self): yield from self.inner
    def __getitem__(self, i): return self.inner[i]
series = Series()
class Lazy:
    def __init__(self): self.inner = types.SimpleNamespace(lr=1)
    def __getattr__(self, name): return self.inner
lazy = Lazy()
chained = collections.ChainMap({}, {'lr': 1})
shape = [2, 3]; maybe = None; grid = [[1, 2], [3, 4]]; i = 0; j = 1
def make(c): return lambda x: c
made = make(1)
inner_scale = 1
def deco(fn):
    @functools.wraps(fn)
    def wrapper(*args): return fn(*args)
    return wrapper
@deco
def wrapped(x): return inner_scale
registry = {'f': act0}; lr2 = 1; klass_value = 1
class Base:
    def go(self): return klass_value
class Sub(Base):
    def go(self): return super().go()
@dataclass
class D: lr: float
data = D(1.0)
tuple_of = (types.SimpleNamespace(lr=1),)
queue = collections.deque([1, 2])
half = 0.0; one = 1
"""
    if source == "cached.value":
        source = "cached.value.lr"
    module = types.ModuleType("settings")
    module.value, module.sub = 1, SimpleNamespace(value=1)
    space = vars(program(preamble + f"def f(x): return {source}\n", module=module))
    space["f"].knob = 1
    watch = watched(space["f"], 1)
    check = compile_guards(watch.guards())
    assert check({"x": 1}) == -1, watch.guards()[check({"x": 1})].changed({})
    exec(change, space)
    assert check({"x": 1}) >= 0, [(str(g.path), g.kind) for g in watch.guards()]
