"""What a trace sees of Python: guards neither missing nor needless, effects with their line."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import difflib
import enum
import functools
import gc
import inspect
import itertools
import math
import random
import statistics
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stagekit.staging.python.bytecode import _Machine
from stagekit.staging.python.paths import Guard, Path, compile_guards, same_value
from stagekit.staging.python.watch import Watch

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
        "globals()['state']['lr']",
        "globals()['config'].lr",
        "ref().lr",
        "C.value(config)",
        "Static.helper(config)",
        "Cls.make()",
        "(lambda s=config: s.lr)()",
        "0 < config.lr < 1",
        "one(**{'v': config.lr})",
        "two(**{'c': config})",
        "two(*configs)",
        "'%s' % config.lr",
        "'{}'.format(config.lr)",
        "{k: c.lr for k, c in table.items()}['c']",
        "[c for c in configs if c.lr > 0]",
        "any(c.lr for c in configs)",
        "functools.reduce(lambda a, c: a + c.lr, configs, 0)",
        "sorted(configs, key=lambda c: c.lr)",
        "config.self.self.lr",
        "swap(config, other)",
        "tree(nest)",
        "tries(config)",
        "withs(config)",
        "while_(config)",
        "default_()",
        "kwonly()",
        "descr.value",
        "sub.total()",
        "method(config)",
        "stack(config)",
        "mapped(config)",
        "(yield_(config)).send(None)",
        "unpack(configs)",
        "dispatch['lr'](config)",
        "property_chain.link.link.lr",
        "early(config)",
        "recursive(config, 3)",
        "Inner(config).read()",
        "comp(config)",
        "closure_over(config)()",
        "iterate(Seq(configs))",
        "sum(map(operator.attrgetter('lr'), configs))",
        "bool(zero.lr)",
        "set_then_get(config)",
        "list_of_pairs[0][1].lr",
        "[c.lr for _, c in list_of_pairs][0]",
        "local_class(config)",
        "slots_of_slots.inner.lr",
        "frozen.lr",
        "nt.c.lr",
        "(n := config).lr",
        "queue[-1].lr",
        "ordered['c'].lr",
        "user_list[0].lr",
        "proxy['lr']",
        "list(state.values())[2]",
        "state.setdefault('lr', 3)",
        "state.__getitem__('lr')",
        "operator.getitem(state, 'lr')",
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
import weakref, types, collections
ref = weakref.ref(config); config.self = config
C.value = lambda self: self.lr
class Static:
    @staticmethod
    def helper(c): return c.lr
class Cls:
    c = config
    @classmethod
    def make(cls): return cls.c.lr
def swap(a, b):
    for _ in range(3): a, b = b, a
    return b.lr
def tree(t):
    if isinstance(t, dict): return {k: tree(v) for k, v in t.items()}
    if isinstance(t, list): return [tree(v) for v in t]
    return t.lr
nest = {'a': [config], 'b': {'c': config}}
def tries(c):
    try:
        raise ValueError
    except ValueError:
        v = c
    return v.lr
class Ctx:
    def __init__(self, c): self.c = c
    def __enter__(self): return self.c
    def __exit__(self, *a): pass
def withs(c):
    with Ctx(c) as d: return d.lr
def while_(c):
    i = 0
    while i < 3:
        i += 1
        if i == 2: d = c
        else: d = other
    return c.lr
def default_(c=config): return c.lr
def kwonly(*, c=config): return c.lr
class Descr:
    def __get__(self, obj, cls=None): return obj.c.lr
class HasDescr:
    value = Descr()
    def __init__(self): self.c = config
descr = HasDescr()
class Base:
    def total(self): return self.c.lr
class Sub(Base):
    def __init__(self): self.c = config
    def total(self): return super().total()
sub = Sub()
def method(c): m = c.scaled; return m()
def stack(c):
    todo = [c]
    while todo: last = todo.pop()
    return last.lr
def mapped(c):
    d = {}
    d['x'] = c
    for k in d: return d[k].lr
def yield_(c): yield c.lr
def unpack(cs):
    first, *rest = cs
    return first.lr
dispatch = {'lr': lambda c: c.lr}
class Link:
    def __init__(self, n): self._n = n
    @property
    def link(self): return self._n
property_chain = Link(Link(config))
def early(c):
    if c is None: return 0
    return c.lr
def recursive(c, n): return c.lr if n == 0 else recursive(c, n - 1)
class Inner:
    def __init__(self, c): self.held = c
    def read(self): return self.held.lr
def comp(c): return [[d.lr for d in [c]] for _ in range(2)]
def closure_over(c):
    def inner(): return c.lr
    return inner
class Seq:
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]
def iterate(s): return sum(c.lr for c in s)
zero = config
def set_then_get(c):
    h = SimpleNamespace()
    h.one = SimpleNamespace()
    h.one.two = c
    return h.one.two.lr
list_of_pairs = [(1, config)]
def local_class(c):
    class L:
        held = c
    return L.held.lr
class Slots:
    __slots__ = ('inner',)
slots_of_slots = Slots(); slots_of_slots.inner = config
@dataclasses.dataclass
class Frozen:
    c: object
    @property
    def lr(self): return self.c.lr
frozen = Frozen(config)
nt = collections.namedtuple('NT', 'c')(config); queue = collections.deque([config])
ordered = collections.OrderedDict(c=config); user_list = collections.UserList([config])
proxy = types.MappingProxyType(state)
"""
    m = program(preamble + f"def f(x): return {source}\n")
    m.f(1)  # so that nothing is written for the first time
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
S3 = types.SimpleNamespace(next=None, lr=1)
chain = types.SimpleNamespace(next=types.SimpleNamespace(next=S3))
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


# ---------------------------------------------------------------------- nothing else is guarded


def test_a_model_is_guarded_on_what_it_reads() -> None:
    watch = watched(model.forward, x)
    found = read(watch)
    assert found == {
        "self.layers": "length",
        "self.layers[0].scale": "number",
        "self.layers[1].scale": "number",
    }
    assert str(watch.path_of(model.layers[1].w)) == "self.layers[1].w"
    assert str(watch.path_of(model.bias)) == "self.bias"
    other = Model()
    check = compile_guards(watch.guards())
    assert check({"self": model, "x": x}) == check({"self": other, "x": x}) == -1
    other.layers[1].scale = 3.0
    failed = watch.guards()[check({"self": other, "x": x})]
    assert failed.changed({"self": other}) == "attribute self.layers[1].scale: 2.0 -> 3.0"


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("state['w'] * x", "state['step'] += 1"),
        ("use(state, x)", "state['step'] += 1"),
        ("config.lr * x", "config.step += 1"),
        ("Wrapper(config).value()", "config.step += 1"),
        ("get_state()['w'] * x", "state['step'] += 1"),
        ("get_state().get('w') * x", "state['step'] += 1"),
        ("[x * layer.w for layer in layers]", "layers[0].count += 1"),
        ("'w' in state", "state['w'] = 2"),
        ("hasattr(config, 'step')", "config.step += 1"),
        ("history is None", "history.append(1)"),
        ("x if history else 0", "history.append(1)"),
        ("isinstance(config, C)", "config.step += 1"),
        ("config.method(x)", "config.step += 1"),
        ("config", "config.step += 1"),
        ("(config, x)[1]", "config.step += 1"),
        ("inner(x)", "unused = 2"),
        ("math.pi * x", "math.tau = 3"),
        ("[config.lr for step in range(3)]", "config.step += 1"),
        ("scales[0]", "scales[1] += 1"),
        ("scales[k]", "scales[1] += 1"),
        ("state[name]", "state['step'] += 1"),
        ("holder.c.lr", "holder.c.step += 1"),
        ("holder.c.lr", "holder = Wrapper(config)"),
        ("config.lr", "config = C()"),
        ("x * empty_list_arg([])", "history.append(1)"),
        ("made_inside()", "config.step += 1"),
    ],
)
def test_a_change_of_what_was_not_read_fails_no_guard(source: str, change: str) -> None:
    preamble = """
import math
class C:
    def __init__(self): self.lr = 0.1; self.step = 0; self.w = 1.5; self.count = 0
    def method(self, x): return self.lr * x
class Wrapper:
    def __init__(self, c): self.c = c
    def value(self): return self.c.lr
config = C(); holder = Wrapper(config); layers = [C(), C()]; history = [0]; scales = [1.0, 2.0]
state = {'w': 2, 'step': 0}; unused = 1; k = 0; name = 'w'
def use(s, x): return s['w'] * x
def get_state(): return state
def inner(x):
    def never(): return unused
    return x
def empty_list_arg(l):
    l.append(1)
    return len(l)
def made_inside():
    c = C()
    c.step += 1
    return c.step
"""
    m = program(preamble + f"def f(x): return {source}\n")
    watch = watched(m.f, 1)
    check = compile_guards(watch.guards())
    assert check({"x": 1}) == -1 and not watch.effects()
    exec(change, vars(m))
    failed = check({"x": 1})
    assert failed == -1, watch.guards()[failed].changed({"x": 1})


def test_arguments_that_the_signature_keys_get_no_guards() -> None:
    @dataclasses.dataclass
    class Options:
        scale: float
        layer: Layer

    def f(x: Tensor, n: int, cfg: dict[str, Any], options: Options, layers: list[Layer]) -> object:
        total = x * n * cfg["lr"] * sum(cfg["scales"]) * options.scale * options.layer.scale
        for layer in layers:
            total = total * layer.scale
        return total, len(layers), list(cfg)

    arguments = (x, 3, {"lr": 0.1, "scales": [1, 2]}, Options(1.0, Layer(2.0)), [Layer(3.0)])
    assert read(watched(f, *arguments)) == {
        "options.layer.scale": "number",
        "layers[0].scale": "number",
    }


def test_objects_made_inside_the_call_get_no_guards() -> None:
    def f(x: Tensor) -> object:
        local = Config()
        local.step += 1
        numbers = [1, 2]
        numbers.append(local.step)
        return [x * n * local.lr for n in numbers]

    watch = watched(f, x)
    assert read(watch) == {} and watch.effects() == ()


# ---------------------------------------------------------------------- guards and paths


def test_paths_read_print_and_compare() -> None:
    space = {"model": SimpleNamespace(layers=[SimpleNamespace(w=1)]), "cfg": {"lr": 2, 3: (4,)}}
    base = Path("global", "model", space)
    path = base.attr("layers").item(0).attr("w")
    assert str(path) == "model.layers[0].w" and path.read({}) == 1
    assert str(Path("global", "cfg", space).item("lr")) == "cfg['lr']"
    assert Path("global", "cfg", space).item(3).item(0).read({}) == 4
    assert path == base.attr("layers").item(0).attr("w") and len({path, base, base}) == 2
    assert Path("argument", "self").read({"self": 5}) == 5
    with pytest.raises(AttributeError):
        path.attr("none").read({})
    for gone in (base.attr("layers").item(7), Path("global", "gone", space), path.item(0)):
        with pytest.raises(LookupError):
            gone.read({})
    with pytest.raises(LookupError):
        Path("argument", "self").read({})


def test_reading_a_path_runs_no_user_code() -> None:
    class Loud(dict[str, int]):
        slot = 1

        @property
        def prop(self) -> int:
            raise AssertionError("a property ran")

        def __getattr__(self, name: str) -> int:
            raise AssertionError("__getattr__ ran")

        def __getitem__(self, name: str) -> int:
            raise AssertionError("__getitem__ ran")

        def __missing__(self, name: str) -> int:
            raise AssertionError("__missing__ ran")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("__eq__ ran")

        def __hash__(self) -> int:
            raise AssertionError("__hash__ ran")

        def __len__(self) -> int:
            raise AssertionError("__len__ ran")

        def __iter__(self) -> Any:
            raise AssertionError("__iter__ ran")

        def __repr__(self) -> str:
            raise AssertionError("__repr__ ran")

    loud = Loud(a=1)
    loud.own = [loud]  # type: ignore[attr-defined]
    path = Path("argument", "loud")
    assert path.attr("slot").read({"loud": loud}) == 1
    assert path.item("a").read({"loud": loud}) == 1
    for gone in (path.attr("prop"), path.attr("other"), path.item("b")):
        guard = Guard(gone, "missing", True)
        assert guard.holds({"loud": loud}) and compile_guards([guard])({"loud": loud}) == -1

    def f(x: Tensor) -> object:
        return x * loud.slot, loud is None

    watch = watched(f, x)
    assert compile_guards(watch.guards())({}) == -1 and watch.effects() == ()
    assert all(g.changed({}) is None for g in watch.guards())


SCALARS = [True, 1, 1.0, 0.0, -0.0, math.nan, 1j, "a", b"a", None, (1, 2.0), (1, (True,)), 2**70]


@pytest.mark.parametrize("before", SCALARS, ids=repr)
@pytest.mark.parametrize("now", SCALARS, ids=repr)
def test_scalars_are_compared_by_type_and_value(before: object, now: object) -> None:
    same = repr(before) == repr(now)
    kind = {str: "string", bytes: "string", type(None): "none", tuple: "tuple"}
    guard = Guard(Path("argument", "v"), kind.get(type(before), "number"), before)
    if type(now) is float:
        now = float(repr(now))  # an equal object, not the same one
    assert same_value(before, now) is same
    assert guard.holds({"v": now}) is same
    assert (compile_guards([guard])({"v": now}) == -1) is same
    assert (guard.changed({"v": now}) is None) is same


def test_the_compiled_guards_agree_with_each_guard() -> None:
    m = program(
        """
class C:
    def __init__(self): self.a = 1; self.t = (1, 2); self.l = [1, 2]; self.d = {'k': None}
    def method(self): return self.a
def f(x): return c.a, c.t, len(c.l), c.d['k'], c.d.get('z'), c.method(), cs[0].a, list(c.d)
c = C(); cs = [C()]
"""
    )
    watch = watched(m.f, 1)
    check = compile_guards(watch.guards())
    changes = ["c.a = 2", "c.t = ()", "c.l = 3", "del c.d['k']", "c.d = []", "c = None", "cs = {}"]
    changes += ["del c.a", "C.method = 1", "c.d['z'] = 1", "c = 1", "del c", "cs = [c, c]", "pass"]
    for change in changes:
        exec("c = C(); cs = [C()]", vars(m))
        saved = m.C.method
        assert check({}) == -1
        exec(change, vars(m))
        first = next((i for i, g in enumerate(watch.guards()) if not g.holds({})), -1)
        assert check({}) == first, change
        texts = [g.changed({}) is None for g in watch.guards()]
        assert texts == [g.holds({}) for g in watch.guards()]
        m.C.method = saved


def test_changed_says_what_was_and_what_is() -> None:
    body = "return lr, c['k'], act(x), c.get('z')"
    m = program(f"lr = 0.1; c = {{'k': 1}}; act = len\ndef f(x): {body}\n")
    watch = watched(m.f, "text")
    m.lr, m.act, m.c = 0.2, print, {"k": 2, "z": 1}
    assert [g.changed({}) for g in watch.guards()] == [
        "global lr: 0.1 -> 0.2",
        "element c['k']: 1 -> 2",
        "global act: function len -> function print",
        "element c['z']: absent -> present",
    ]


def test_two_names_of_one_tensor_must_stay_one() -> None:
    m = program("def f(x): return x * a * b\n", a=weight, b=weight)
    watch = watched(m.f, x)
    check = compile_guards(watch.guards())
    assert check({"x": x}) == -1
    m.a = m.b = Tensor()
    assert check({"x": x}) == -1
    m.b = Tensor()
    assert check({"x": x}) >= 0
    watch = watched(m.f, m.a)
    check = compile_guards(watch.guards())
    assert check({"x": m.a}) == -1 and check({"x": x}) >= 0


def test_nothing_holds_an_argument_or_a_function_alive() -> None:
    m = program("def helper(x): return x\nclass C:\n  def go(self, x): return helper(x) * self.s\n")
    obj = m.C()
    obj.s = 2
    watch = watched(obj.go, 3)
    guards, check = watch.guards(), compile_guards(watch.guards())
    refs = [weakref.ref(obj), weakref.ref(m.helper)]
    del watch, obj
    del m.helper
    gc.collect()
    assert [r() for r in refs] == [None, None]
    assert all(not g.holds({"self": m.C()}) for g in guards if g.kind == "identity")
    assert check({"self": m.C()}) >= 0


def test_a_function_that_captures_can_be_dropped() -> None:
    def make(c: float) -> Any:
        def f(x: Tensor) -> object:
            return x * c * f.scale  # type: ignore[attr-defined]

        f.scale = 2.0  # type: ignore[attr-defined]
        f.guards = watched(f, x).guards()  # type: ignore[attr-defined]
        return f

    refs = [weakref.ref(make(float(i))) for i in range(20)]
    gc.collect()
    assert [r() for r in refs] == [None] * 20


# ---------------------------------------------------------------------- effects and their lines


def test_prints_clocks_and_files_are_seen_with_their_line(tmp_path: Any, capsys: Any) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a")
    m = program(
        f"""
import time, datetime, pathlib
from time import perf_counter as clock
def helper():
    print('plain')
def f(x):
    print(x)
    helper()
    time.time(); clock()
    datetime.datetime.now()
    time.sleep(0)
    open({str(file)!r}).close()
    pathlib.Path({str(file)!r}).read_text()
    str(x)
"""
    )
    watch = watched(m.f, 1)
    assert acts(watch) == [
        ("print", "print", 7),
        ("print", "print", 5),
        ("time", "time.time", 9),
        ("time", "time.perf_counter", 9),
        ("time", "datetime.now", 10),
        ("time", "time.sleep", 11),
        ("open", "open", 12),
        ("open", "open", 13),
    ]
    assert {e.filename for e in watch.effects()} == {"<cell 1>"}
    assert watch.effects()[1].function == "helper"


@pytest.mark.parametrize(
    ("act", "kind", "path"),
    [
        ("history.append(x)", "mutation", "history"),
        ("history.extend([x, x])", "mutation", "history"),
        ("history.pop()", "mutation", "history"),
        ("history += [x]", "mutation", "history"),
        ("history[0] = x + 5", "mutation", "history"),
        ("history[:] = [x]", "mutation", "history"),
        ("del history[0]", "mutation", "history"),
        ("history.reverse()", "mutation", "history"),
        ("heapq.heappush(history, -9)", "mutation", "history"),
        ("random.Random(0).shuffle(long)", "mutation", "long"),
        ("table.update(b=x)", "mutation", "table['b']"),
        ("table.setdefault('c', x)", "mutation", "table['c']"),
        ("table['d'] = x", "mutation", "table['d']"),
        ("table['a'] += 1", "mutation", "table['a']"),
        ("names.add(x + 10)", "mutation", "names"),
        ("names.discard(1)", "mutation", "names"),
        ("queue.appendleft(x)", "mutation", "queue"),
        ("counts['a'] += 1", "mutation", "counts['a']"),
        ("groups['new'].append(x)", "mutation", "groups['new']"),
        ("buffer.extend(b'a')", "mutation", "buffer"),
        ("obj.n += 1", "attribute", "obj.n"),
        ("setattr(obj, 'n', 5)", "attribute", "obj.n"),
        ("del obj.n", "attribute", "obj.n"),
        ("obj.new = 1", "attribute", "obj.new"),
        ("obj.__dict__['n'] = 7", "attribute", "obj.n"),
        ("vars(obj).update(n=7)", "attribute", "obj.n"),
        ("obj.bump()", "attribute", "obj.n"),
        ("slotted.n = 2", "attribute", "slotted.n"),
        ("C.total += 1", "attribute", "C.total"),
        ("type(obj).total += 1", "attribute", "C.total"),
        ("obj.inner.items.append(x)", "mutation", "obj.inner.items"),
        ("f.calls += 1", "attribute", "f.calls"),
        ("module.value = 2", "attribute", "module.value"),
        ("rebind()", "global", "flag"),
        ("bump()", "nonlocal", "n"),
        ("cached_sum(obj)", "attribute", "obj.total_sum"),
        ("[h.append(x) for h in [history]]", "mutation", "history"),
        ("list(map(history.append, [x]))", "mutation", "history"),
        ("remember(x)", "mutation", "remember.__defaults__[0]"),
        ("next(stream)", "iterator", "stream"),
        ("list(stream)", "iterator", "stream"),
        ("next(iterator)", "iterator", "iterator"),
        ("[v for v in iterator]", "iterator", "iterator"),
        ("next(numbers)", "iterator", "numbers"),
        ("next(cycle)", "iterator", "cycle"),
        ("next(pairs)", "iterator", "pairs"),
        ("next(obj.stream)", "iterator", "obj.stream"),
        ("random.random()", "random", "random"),
        ("random.gauss(0, 1)", "random", "random"),
        ("random.shuffle([1, 2, 3])", "random", "random"),
        ("own.random()", "random", "own"),
        ("d['k'].append(x)", "mutation", "d['k']"),
        ("x_list.append(1)", "mutation", "x_list"),
        ("list(map(print, [x]))", "print", "print"),
        ("uuid.uuid4()", "random", "os.urandom"),
    ],
)
def test_each_effect_names_its_line(act: str, kind: str, path: str) -> None:
    m = program(
        f"""
import collections, functools, heapq, itertools, random, uuid
class C:
    total = 0
    def __init__(self): self.n = 0; self.stream = (i for i in range(9))
    def bump(self):
        self.n += 1 # here: obj.bump()
    @functools.cached_property
    def total_sum(self): return 3
class S:
    __slots__ = ('n',)
obj = C(); obj.inner = C(); obj.inner.items = []; slotted = S(); slotted.n = 1; flag = 0
history = [1, 2]; table = {{'a': 1}}; names = {{1, 2}}; queue = collections.deque([1], maxlen=4)
long = list(range(50)); counts = collections.Counter(a=1); groups = collections.defaultdict(list)
buffer = bytearray(b'x'); stream = (i for i in range(9)); iterator = iter([1, 2, 3])
numbers = itertools.count(); cycle = itertools.cycle([1, 2]); pairs = enumerate([1, 2])
own = random.Random(1); d = {{'k': []}}
def rebind():
    global flag
    flag = 1 # here: rebind()
def make():
    n = 0
    def bump():
        nonlocal n
        n += 1 # here: bump()
    return bump
bump = make()
def cached_sum(c):
    return c.total_sum # here: cached_sum(obj)
def remember(x, seen=[]):
    seen.append(x) # here: remember(x)
def f(x, x_list):
    global history
    y = x
    {act} # here: otherwise
    return y
f.calls = 0
""",
        module=types.ModuleType("settings"),
    )
    m.module.value = 1
    watch = watched(m.f, 1, [])
    assert [(e.kind, e.path) for e in watch.effects()] == [(kind, path)]
    assert watch.effects()[0].lineno == here(act)


def here(act: str) -> int:
    """The line marked for this act in the program above, else the line of the act itself."""
    source = inspect.getsource(test_each_effect_names_its_line)
    body = source[source.index('f"""') + 4 :].splitlines()
    marks = [i for i, line in enumerate(body) if line.endswith(f"# here: {act}")]
    others = [i for i, line in enumerate(body) if line.endswith("# here: otherwise")]
    return 1 + (marks or others)[0]


@pytest.mark.parametrize(
    "act",
    [
        "h = []; h.append(x); h += [x]; h[0] = 2; del h[0]; h.sort()",
        "d = {}; d['a'] = 1; d.update(b=2); d.pop('a')",
        "c = C(); c.n += 1; c.bump(); c.new = 3; setattr(c, 'n', 4)",
        "s = set(); s.add(1)",
        "it = iter([1, 2]); next(it); list(it)",
        "g = (i for i in range(3)); next(g); list(g)",
        "list(walk())",
        "n = 0\n    def inc():\n        nonlocal n\n        n += 1\n    inc()",
        "r = random.Random(0); r.random()",
        "obj.n = obj.n",
        "obj.n += 1; obj.n -= 1",
        "history.append(1); history.pop()",
        "history.sort()",
        "table['a'] = 1",
        "for v in history: pass",
        "[v for v in table.items()]",
        "cached(3)",
        "class Local: pass\n    Local.x = 1",
        "str(obj); repr(history); len(table); hash(obj)",
        "history.copy().append(1); dict(table).update(z=1)",
        "sorted(history); list(reversed(history))",
        "import math; math.sqrt(2.0)",
        "import json; json.dumps(table)",
        "import copy; copy.deepcopy(obj)",
        "time_table = {'time': 1}; time_table['time']",
    ],
)
def test_acts_on_objects_made_inside_report_nothing(act: str) -> None:
    m = program(
        f"""
import random
import statistics
class C:
    def __init__(self): self.n = 0
    def bump(self): self.n += 1
obj = C(); history = [1, 2]; table = {{'a': 1}}
def cached(x): return x
def walk():
    yield 1
    yield from [2, 3]
def f(x):
    {act}
    return x
"""
    )
    watched(m.f, 1)  # what Python itself caches at the first call is not the user's
    assert watched(m.f, 1).effects() == ()


@pytest.mark.parametrize(
    ("act", "path"),
    [
        ("obj.cache = y", "obj.cache"),
        ("obj.cache = {'loss': [y]}", "obj.cache"),
        ("obj.cache = (lambda: y)", "obj.cache"),
        ("history.append(y)", "history"),
        ("history.append((1, y))", "history"),
        ("table['y'] = y", "table['y']"),
        ("keep(y)", "last"),
        ("hold(y)", "cell"),
        ("names.add(y)", "names"),
        ("C.last = y", "C.last"),
        ("obj.items[0] = y", "obj.items"),
        ("f.last = y", "f.last"),
    ],
)
def test_a_traced_tensor_left_behind_is_a_leak(act: str, path: str) -> None:
    m = program(
        f"""
class C: pass
obj = C(); obj.items = [0]; history = []; table = {{}}; names = set(); last = None
def keep(y):
    global last
    last = y
def make():
    cell = None
    def hold(y):
        nonlocal cell
        cell = y
    return hold
hold = make()
def f(x):
    y = x * 2
    {act}
    return y
"""
    )
    watch = watched(m.f, x)
    assert [(e.kind, e.path) for e in watch.effects()] == [("leak", path)]
    expected = {"keep(y)": 6, "hold(y)": 11}.get(act, 16)
    assert watch.effects()[0].lineno == expected


def test_numpys_global_state() -> None:
    np = pytest.importorskip("numpy")
    m = program("def f(x):\n    a = 1\n    return np.random.rand(2)\n", np=np)
    assert acts(watched(m.f, 1)) == [("np.random", "np.random", 3)]
    m = program("def f(x):\n    return rng.normal()\n", rng=np.random.default_rng(0))
    assert acts(watched(m.f, 1)) == [("np.random", "rng", 2)]
    m = program("def f(x):\n    return np.random.default_rng(0).normal()\n", np=np)
    assert watched(m.f, 1).effects() == ()


# ---------------------------------------------------------------------- the profile function


def test_the_profiler_is_chained_and_restored() -> None:
    seen = []

    def profiler(frame: Any, event: str, arg: object) -> None:
        seen.append(frame.f_code.co_name)

    def marked_function(x: object) -> object:
        return x

    sys.setprofile(profiler)
    try:
        watched(marked_function, 1)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert "marked_function" in seen


def test_an_exception_restores_the_profiler_and_keeps_what_was_seen() -> None:
    def f(x: object) -> object:
        history.append(lr)
        raise KeyError("stop")

    watch = Watch(f, {"x": 1}, is_tensor=lambda obj: False)
    with pytest.raises(KeyError, match="stop"), watch:
        f(1)
    assert sys.getprofile() is None
    assert read(watch) == {"lr": "number"} and kinds(watch) == ["mutation"]
    history.clear()


def test_cprofile_goes_on_afterwards() -> None:
    profile = __import__("cProfile").Profile()
    profile.enable()
    try:
        watched(lambda x: x * lr, x)
        sorted([1])
    finally:
        profile.disable()
    profile.create_stats()
    assert any("sorted" in key[2] for key in profile.stats)


def test_other_threads_are_not_watched() -> None:
    def f(x: object) -> object:
        thread = threading.Thread(target=lambda: (time.time(), state["lr"]))
        thread.start()
        thread.join()
        return x

    assert "time" not in kinds(watched(f, 1))


@functools.lru_cache
def remembered(n: int) -> float:
    return n * lr


def test_callables_of_every_sort() -> None:
    class Callable_:
        def __init__(self) -> None:
            self.gain = 3.0

        def __call__(self, x: Tensor) -> object:
            return x * self.gain

        @classmethod
        def made(cls, x: Tensor) -> object:
            return x * lr

        @staticmethod
        def plain(x: Tensor) -> object:
            return x * lr

    obj = Callable_()

    def generator(x: Tensor) -> Any:
        yield x * lr
        yield x * obj.gain

    remembered.cache_clear()
    assert read(watched(lambda x: obj(x), x)) == {"cell obj.gain": "number"}
    assert read(watched(lambda x: Callable_.made(x), x)) == {"lr": "number"}
    assert read(watched(lambda x: Callable_.plain(x), x)) == {"lr": "number"}
    found = read(watched(lambda x: list(generator(x)), x))
    assert found == {"lr": "number", "cell obj.gain": "number"}
    assert read(watched(lambda x: remembered(2), x)) == {"lr": "number"}
    assert read(watched(lambda x: functools.partial(model.forward)(x), x)).keys() >= {
        "model.layers[0].scale"
    }


def test_the_callback_is_cheap_once_code_is_scanned() -> None:
    """Generous bounds, against an accidental scan at each call."""

    def helper(v: Tensor) -> Tensor:
        return v

    def f(x: Tensor) -> None:
        for _ in range(20_000):
            helper(x)

    start = time.perf_counter()
    watched(f, x)
    assert time.perf_counter() - start < 0.5
    big = list(range(300_000))
    start = time.perf_counter()
    watched(lambda x: big[0], x)
    assert time.perf_counter() - start < 0.5


def test_what_is_read_is_seen_beyond_the_bounds_of_the_walk() -> None:
    far = deep = SimpleNamespace()
    for _ in range(30):
        far.next = SimpleNamespace()
        far = far.next
    far.lr, far.n = 0.1, 0
    many = [SimpleNamespace(lr=0.1, n=0) for _ in range(30_000)]

    def f(x: object) -> object:
        node = deep
        while hasattr(node, "next"):
            node = node.next
        many[25_000].n += 1
        return touch(node), many[25_000].lr

    def touch(node: Any) -> object:
        node.n += 1
        return node.lr

    watch = watched(f, 1)
    paths = [str(g.path) for g in watch.guards()]
    assert "cell many[25000].lr" in paths and any(p.endswith(".next.lr") for p in paths)
    assert kinds(watch).count("attribute") == 2


def test_enumerations_and_counters() -> None:
    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

    box = SimpleNamespace(colour=Colour.RED, count=collections.Counter(a=1))
    numbers = itertools.count(3)
    watch = watched(lambda x: (box.colour.value, box.count["a"], x), x)
    check = compile_guards(watch.guards())
    assert check({}) == -1
    box.colour = Colour.BLUE
    assert check({}) >= 0
    assert kinds(watched(lambda x: next(numbers), x)) == ["iterator"]
    assert kinds(watched(lambda x: random.getstate(), x)) == []


# ---------------------------------------------------------------------- NumPy arrays


def numeric(source: str) -> Any:
    np = pytest.importorskip("numpy")
    return program(source, np=np, data=np.arange(4.0), other=np.zeros(3), half=np.float32(0.5))


def watch_arrays(m: Any) -> Watch:
    watch = Watch(m.f, {"x": x}, is_tensor=lambda obj: isinstance(obj, (Tensor, m.np.ndarray)))
    with watch:
        m.f(x)
    return watch


@pytest.mark.parametrize(
    "source",
    ["data[:2]", "data[0]", "[v for v in data]", "data.mean()", "np.exp(data)", "float(data[0])"]
    + ["data * 2", "2 * data", "data > 1", "data.T", "sum(data)", "np.dot(data, data)"],
)
def test_an_array_that_numpy_computes_with_is_guarded_by_content(source: str) -> None:
    m = numeric(f"def f(x): return x, {source}\n")
    check = compile_guards(watch_arrays(m).guards())
    assert check({}) == -1
    m.data[0] = 9.0
    assert check({}) >= 0
    m.data = m.np.arange(4.0)
    assert check({}) == -1
    m.data = m.np.arange(5.0)
    assert check({}) >= 0


@pytest.mark.parametrize("source", ["x * data", "(data.shape, len(data), x)", "g(data)", "data"])
def test_an_array_that_is_only_passed_on_is_not_guarded(source: str) -> None:
    m = numeric(f"def g(d): return x * d\ndef f(x): return {source}\n")
    m.x = x
    watch = watch_arrays(m)
    check = compile_guards(watch.guards())
    assert str(watch.path_of(m.data)) == "data"
    m.data[0] = 9.0
    assert check({"x": x}) == -1
    (guard,) = watch.array_guards()
    assert guard.holds({}) and str(guard.path) == "data"
    m.data[0] = 8.0
    assert guard.changed({}) == "global data: an array -> an array of other values, shape or type"


def test_numpy_scalars_are_numbers() -> None:
    m = numeric("def f(x): return x * half\n")
    watch = watch_arrays(m)
    assert read(watch) == {"half": "number"}
    check = compile_guards(watch.guards())
    m.half = m.np.float32(0.5)
    assert check({}) == -1
    m.half = m.np.float64(0.5)
    assert check({}) == 0


@pytest.mark.parametrize("act", ["data[0] = 5", "data += 1", "np.add(data, 1, out=data)"])
def test_a_write_into_an_outer_array_is_an_effect(act: str) -> None:
    m = numeric(f"def f(x):\n    global data\n    {act}\n    own = np.ones(2)\n    own[0] = 3\n")
    assert acts(watch_arrays(m)) == [("mutation", "data", 3)]


def test_logging_and_streams_count_as_printing() -> None:
    m = program(
        """
import logging, sys, warnings
def f(x):
    logging.getLogger("quiet").debug("a")
    sys.stdout.write("b")
    warnings.warn("c")
    return len("d")
"""
    )
    with pytest.warns(UserWarning, match="c"):
        watch = watched(m.f, 1)
    assert acts(watch) == [
        ("print", "logging.debug", 4),
        ("print", "sys.stdout.write", 5),
        ("print", "warnings.warn", 6),
    ]


def test_what_printing_runs_is_not_looked_at() -> None:
    class Shown:
        def __str__(self) -> str:
            config.step += 1
            return f"{config.lr}"

    shown = Shown()
    watch = watched(lambda x: print(shown), x)
    config.step = 0
    assert read(watch) == {} and kinds(watch) == ["print"] and sys.getprofile() is None


def test_every_function_of_the_library_can_be_scanned() -> None:
    for module in (argparse, inspect, difflib, functools, statistics):
        for code in codes(compile(inspect.getsource(module), "<library>", "exec")):
            found = _Machine(code).run()
            names = {r.expr[1] for r in found.reads if r.expr[0] == "global"}
            assert names <= set(code.co_names)


def codes(code: types.CodeType) -> Any:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def test_hooks_of_the_garbage_collector_are_not_the_users() -> None:
    times: list[float] = []

    def hook(phase: str, info: dict[str, int]) -> None:
        times.append(time.perf_counter())

    def fn(x: Any) -> Any:
        gc.collect()
        return x * 2

    gc.callbacks.append(hook)
    try:
        watch = watched(fn, Tensor())
    finally:
        gc.callbacks.remove(hook)
    assert times
    assert watch.effects() == ()
