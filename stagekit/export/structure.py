"""How a function of an artifact is called: nested containers around tensors, and signatures.

Pure Python on builtin containers, so that it serves NumPy arrays and tensors alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from stagekit.symbolic import evaluate
from stagekit.types import TensorType

# ----- structure: nested containers around leaves -------------------------------------------------


class Leaf(NamedTuple):
    """The k-th argument, or the k-th output of the graph."""

    place: int


class Fixed(NamedTuple):
    """A bool, int, float or str that is the same in every call."""

    value: Any


class Computed(NamedTuple):
    """A Python number made of sizes."""

    expr: Any


class Branch(NamedTuple):
    """A container: "none", "tuple", "list", "dict", "namedtuple" or "dataclass".

    `keys` has the keys of a dict or the names of the fields, `name` that of the class.
    """

    kind: str
    items: tuple[Tree, ...] = ()
    keys: tuple[Any, ...] = ()
    name: str = ""


Tree = Leaf | Fixed | Computed | Branch
NONE = Branch("none")


def leaves(tree: Tree) -> list[int]:
    """The places of the leaves, in order."""
    if isinstance(tree, Leaf):
        return [tree.place]
    items = tree.items if isinstance(tree, Branch) else ()
    return [place for item in items for place in leaves(item)]


def take_apart(tree: Tree, obj: Any, path: str, found: dict[int, Any]) -> None:
    """Put the leaves of `obj` into `found` by place; TypeError where its structure is another."""
    if isinstance(tree, Leaf):
        found[tree.place] = obj
    elif isinstance(tree, Branch):
        for item, part, step in zip(tree.items, _parts(tree, obj, path), _steps(tree), strict=True):
            take_apart(item, part, path + step, found)
    elif isinstance(tree, Fixed) and (type(obj) is not type(tree.value) or obj != tree.value):
        raise TypeError(f"{path} is {_seen(obj)}, and the program was made for {tree.value!r}")


def _parts(tree: Branch, obj: Any, path: str) -> Sequence[Any]:
    """What stands in a container, in the order of the tree."""
    if tree.kind == "none":
        if obj is None:
            return ()
    elif tree.kind in ("tuple", "namedtuple"):
        if isinstance(obj, tuple) and len(obj) == len(tree.items):
            return obj
    elif tree.kind == "list":
        if isinstance(obj, list) and len(obj) == len(tree.items):
            return obj
    elif isinstance(obj, Mapping):
        if obj.keys() == set(tree.keys):
            return [obj[key] for key in tree.keys]
    elif tree.kind == "dataclass" and all(hasattr(obj, str(key)) for key in tree.keys):
        return [getattr(obj, key) for key in tree.keys]
    raise TypeError(f"{path} is {_seen(obj)}, not {_wanted(tree)}")


def _steps(tree: Branch) -> Sequence[str]:
    """How the user writes the way to each item: `['w']`, `[0]`, `.bias`."""
    if tree.kind == "dict":
        return [f"[{key!r}]" for key in tree.keys]
    if tree.keys:
        return [f".{key}" for key in tree.keys]
    return [f"[{k}]" for k in range(len(tree.items))]


def _seen(obj: Any) -> str:
    if isinstance(obj, Mapping):
        return f"a {type(obj).__name__} with the keys {list(obj)}"
    if isinstance(obj, (tuple, list)):
        return f"a {type(obj).__name__} of {len(obj)}"
    return repr(obj) if isinstance(obj, (bool, int, float, str, type(None))) else type(obj).__name__


def _wanted(tree: Branch) -> str:
    if tree.kind == "none":
        return "None"
    if tree.keys or tree.kind == "dict":
        return f"a {tree.kind} with the keys {list(tree.keys)}"
    return f"a {tree.kind} of {len(tree.items)}"


def put_together(tree: Tree, values: Sequence[Any], env: Mapping[str, Any]) -> Any:
    """Builtin containers around values: a namedtuple becomes a tuple, a dataclass a dict."""
    if isinstance(tree, Leaf):
        return values[tree.place]
    if isinstance(tree, Branch):
        items = [put_together(item, values, env) for item in tree.items]
        if tree.kind in ("dict", "dataclass"):
            return dict(zip(tree.keys, items, strict=True))
        return None if tree.kind == "none" else items if tree.kind == "list" else tuple(items)
    return tree.value if isinstance(tree, Fixed) else evaluate(tree.expr, env)


def text_of(tree: Tree, types: Sequence[TensorType]) -> str:
    """A structure as it prints in a signature: `{'w': f32[3], 'b': f32[n]}`."""
    if isinstance(tree, Leaf):
        return str(types[tree.place])
    if not isinstance(tree, Branch):
        return repr(tree.value) if isinstance(tree, Fixed) else str(tree.expr)
    items = [text_of(item, types) for item in tree.items]
    if tree.kind == "none":
        return "None"
    if tree.kind == "dict":
        pairs = zip(tree.keys, items, strict=True)
        return "{" + ", ".join(f"{key!r}: {item}" for key, item in pairs) + "}"
    if tree.keys:
        pairs = zip(tree.keys, items, strict=True)
        return f"{tree.name}(" + ", ".join(f"{key}={item}" for key, item in pairs) + ")"
    inside = ", ".join(items)
    if tree.kind == "list":
        return f"[{inside}]"
    return f"({inside},)" if len(items) == 1 else f"({inside})"


# ----- signatures ---------------------------------------------------------------------------------


class Parameter(NamedTuple):
    """A parameter: its name, one of Python's kinds, and the structure of its argument."""

    name: str
    kind: str
    tree: Tree


KINDS = {
    "positional_only": inspect.Parameter.POSITIONAL_ONLY,
    "positional_or_keyword": inspect.Parameter.POSITIONAL_OR_KEYWORD,
    "var_positional": inspect.Parameter.VAR_POSITIONAL,
    "keyword_only": inspect.Parameter.KEYWORD_ONLY,
    "var_keyword": inspect.Parameter.VAR_KEYWORD,
}
EMPTY = inspect.Parameter.empty
VARIADIC = {"var_positional": "*", "var_keyword": "**"}


@dataclass(frozen=True, eq=False)
class Signature:
    """How a function is called and what it gives; prints as `f(x: f32[n,3]) -> f32[n]`."""

    name: str
    parameters: tuple[Parameter, ...]
    result: Tree
    arguments: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]

    @cached_property
    def python(self) -> inspect.Signature:
        """Python's own signature; constants are defaults where no tensor follows them."""
        made: list[inspect.Parameter] = []
        optional = True
        for p in reversed(self.parameters):
            required = p.kind not in VARIADIC and (bool(leaves(p.tree)) or not optional)
            if p.kind.startswith("positional"):
                optional = not required
            default = EMPTY if p.kind in VARIADIC or required else put_together(p.tree, (), {})
            made.append(inspect.Parameter(p.name, KINDS[p.kind], default=default))
        return inspect.Signature(made[::-1])

    def leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The arguments of a call by place; TypeError with the signature where they do not fit."""
        try:
            bound = self.python.bind(*args, **kwargs)
            bound.apply_defaults()
            found: dict[int, Any] = {}
            for p in self.parameters:
                take_apart(p.tree, bound.arguments[p.name], p.name, found)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}\n  fix: call it as {self}") from None
        return [found[place] for place in range(len(self.arguments))]

    def __str__(self) -> str:
        listed = ", ".join(
            f"{VARIADIC.get(p.kind, '')}{p.name}: {text_of(p.tree, self.arguments)}"
            for p in self.parameters
        )
        return f"{self.name}({listed}) -> {text_of(self.result, self.outputs)}"

    def __repr__(self) -> str:
        return f"<signature {self}>"

    def paths(self) -> dict[int, str]:
        """For each argument tensor how the user writes it: `params['w']`."""
        found: dict[int, str] = {}
        for p in self.parameters:
            _name_leaves(p.tree, p.name, found)
        return found


def _name_leaves(tree: Tree, path: str, found: dict[int, str]) -> None:
    if isinstance(tree, Leaf):
        found[tree.place] = path
    elif isinstance(tree, Branch):
        for item, step in zip(tree.items, _steps(tree), strict=True):
            _name_leaves(item, path + step, found)
