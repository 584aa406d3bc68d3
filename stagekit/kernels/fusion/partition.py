"""Partitioning: where kernels begin and end. The true centre of code generation.

Nodes are visited in the order of the graph. Each goes into the cluster of its operands if it may,
and else begins one on the next level; clusters of one level never need each other, so merging them
makes no cycle. Every decision and its reason is kept, and prints.

Each axis of a node in a cluster has a label, a loop of the kernel to be: nodes that are computed
element by element from each other share labels. A label that a reduction has folded and that a
later node of the cluster has again (softmax divides each element by its row's sum) is *inner*: the
rows of the kernel run over the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stagekit.graph import Graph
from stagekit.kernels.fusion.labels import Axes, Label, Trial, elements, leads, twice, united
from stagekit.kernels.products.convolution_nodes import Convolution, recognize
from stagekit.kernels.products.matmul import View, is_callable, row_major
from stagekit.node import Node, is_projection
from stagekit.symbolic import Expr
from stagekit.types import DType, bfloat16, float32, float64

SOURCES = frozenset(("full", "iota", "number"))
IDENTITIES = frozenset(("alias", "stop_gradient", "barrier", "custom", "astype"))
MOVERS = frozenset(("slice", "pad", "concat", "flip", "windows"))
# Ops whose elements are long sums or running folds, which have better ways than element by element.
NOT_ELEMENTWISE = frozenset(
    ("matmul", "convolution", "recurrence", "cumulative_sum", "cumulative_prod", "cumulative_max",
     "cumulative_min", "searchsorted", "undefined", "polygamma", "lgamma")
)  # fmt: skip
# What costs much more than a load: not to be computed again for each row.
COSTLY = frozenset(
    ("exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sigmoid", "softplus", "sin", "cos",
     "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "atan2",
     "hypot", "erf", "erfc", "power", "logaddexp", "divide", "sqrt", "rsqrt", "reciprocal",
     "random_bits", "random_normal", "floor_divide", "remainder")
)  # fmt: skip
_FREE = frozenset(
    ("slice", "permute", "broadcast_to", "reshape", "stop_gradient", "alias", "barrier", "custom",
     "flip")
)  # fmt: skip
_HEAVY = 8  # cheap operations and loads that are rather kept than done again
_FEW_PARTS = 4  # of a concatenation whose elements are chosen where they are needed
_SERIAL = 1 << 14  # elements that one row may have where a kernel has no rows
_NARROWING = 8  # a gather may compute its operand again where it keeps at most 1 / 8 of it


class Decision(NamedTuple):
    """Why a node stands where it does."""

    node: Node
    cluster: Cluster
    reason: str


@dataclass(eq=False)
class Cluster:
    """Nodes that become one step of a plan: kernels, or one call of a library.

    `kind` is "kernel", "matmul", "convolution", "reshape" (the same bytes) or "library".
    """

    kind: str
    level: int
    nodes: list[Node] = field(default_factory=list)
    inner: set[Label] = field(default_factory=set)
    apart: set[frozenset[Label]] = field(default_factory=set)  # labels of one node
    external: dict[Node, Axes] = field(default_factory=dict)
    roots: list[Node] = field(default_factory=list)
    merged: Cluster | None = None

    @property
    def home(self) -> Cluster:
        """The cluster that this one has become part of."""
        cluster = self
        while cluster.merged is not None:
            cluster = cluster.merged
        return cluster


class Partition:
    """The clusters of a graph, in an order in which they can run.

    `reason_of(op, types)` says why no kernel has a node, None where one may.
    """

    def __init__(self, graph: Graph, refused: Mapping[Any, str], has_blas: bool) -> None:
        self.graph, self.refused, self.has_blas = graph, refused, has_blas
        self.axes: dict[Node, Axes] = {}
        self.dropped: dict[Node, frozenset[Label]] = {}
        self.costly: set[Node] = set()
        self.made: set[Node] = set()  # of sources alone
        self.weights: dict[Node, int | None] = {}
        self.convolutions: dict[Node, Convolution] = {}
        self.home: dict[Node, Cluster] = {}
        self.clusters: list[Cluster] = []
        self.decisions: list[Decision] = []
        self._labels = 0
        for node in graph.nodes:
            if node.op is not None:
                self._place(node)
        self._merge_siblings()
        self._require_all()
        alive = [c for c in self.clusters if c.merged is None and self._is_alive(c)]
        self.clusters = sorted(alive, key=lambda c: c.level)

    def _is_alive(self, cluster: Cluster) -> bool:
        return bool(cluster.roots) or (not self._live.isdisjoint(cluster.nodes) and (
            cluster.kind != "kernel"
        ))

    # ----- where a node goes

    def _place(self, node: Node) -> None:
        assert node.op is not None
        if is_projection(node):
            self.home[node] = self.home[node.inputs[0]].home
            self.home[node].nodes.append(node)
            return
        if self._is_source(node):
            return
        if self._is_made_of_sources(node):
            self.made.add(node)
            return
        why = self._why_not(node)
        if why is not None:
            self._begin(node, self._kind(node), self._level(node) + 1, why)
            return
        found = self._sources_of(node)
        level = max((c.level for c in found), default=0)
        same = [c for c in dict.fromkeys(found) if c.level == level and level > 0]
        refusal = self._joined(node, same)
        if refusal is not None:
            self._start(node, level + 1, refusal)

    def _kind(self, node: Node) -> str:
        """What runs a node that no kernel has among its elements."""
        assert node.op is not None
        if self.is_reshape_of(node):
            return "reshape"
        if node in self.convolutions:
            return "convolution"
        if not _sizes_agree(node):
            return "library"
        if node.op.name == "matmul" and self.has_blas and node.type.dtype in (float32, float64):
            return "matmul"
        return "library"

    def _is_made_of_sources(self, node: Node) -> bool:
        """Whether a node is computed where it is needed: of numbers that the program knows."""
        op = node.op
        assert op is not None
        if op.name not in IDENTITIES and op.family not in ("elementwise", "movement"):
            return False
        few = elements(node.type.shape) == 1
        return (
            (few or op.name not in COSTLY)
            and all(map(self._is_source, node.inputs))
            and self._why_not(node) is None
        )

    def _is_source(self, node: Node) -> bool:
        """Whether a node costs nothing to make: a number, an index, or what is made of those."""
        if node in self.made:
            return True
        if node.op is None:
            return node.constant is not None and node.constant.size == 1
        if node.op.name == "number":
            return isinstance(dict(node.attrs)["expr"], (int, float, Expr))
        return node.op.name in SOURCES and _native(node.type.dtype)

    def is_reshape_of(self, node: Node) -> bool:
        """Whether a reshape does more than add or remove axes of size 1: the same bytes."""
        if node.op is None or node.op.name != "reshape":
            return False
        before = [n for n in node.inputs[0].type.shape if n != 1]
        return before != [n for n in node.type.shape if n != 1]

    def _why_not(self, node: Node) -> str | None:
        """Why no kernel can have a node among its elements."""
        op = node.op
        assert op is not None
        if op.element is None:
            return op.library
        if op.name in ("convolution", "permute"):
            found = recognize(node)
            if not isinstance(found, str):
                self.convolutions[node] = found
                return "it has a kernel of its own"
            if op.name == "convolution":
                return found
        if op.name in NOT_ELEMENTWISE:
            return "its element is a long fold"
        types = [t.dtype for x in (node, *node.inputs) for t in x.types]
        if not all(map(_native, types)):
            return "complex numbers and bfloat16 are computed by NumPy"
        if self.is_reshape_of(node):
            return "the same bytes in another shape"
        if any(x.is_several for x in node.inputs):
            return "an operand with several results"
        if not _sizes_agree(node):
            return "its sizes are equal by a relation that no name can be replaced by"
        return self.refused.get(kind_of(node))

    def _operand_clusters(self, node: Node) -> list[Cluster]:
        return [self.home[x].home for x in node.inputs if x in self.home]

    def _sources_of(self, node: Node) -> list[Cluster]:
        """The clusters that must have run before a node, or that it may join.

        What only moves elements reads those of a cheap operand by computing them.
        """
        assert node.op is not None
        found: list[Cluster] = []
        for x in node.inputs:
            if x not in self.home:
                continue
            if node.op.name in MOVERS and self.is_free(x):
                found += self._sources_of(x)
            else:
                found.append(self.home[x].home)
        return found

    def _level(self, node: Node) -> int:
        return max((c.level for c in self._operand_clusters(node)), default=0)

    def _begin(self, node: Node, kind: str, level: int, reason: str) -> Cluster:
        cluster = Cluster(kind, level, [node])
        self.clusters.append(cluster)
        self.home[node] = cluster
        self.decisions.append(Decision(node, cluster, reason))
        return cluster

    def _start(self, node: Node, level: int, reason: str) -> None:
        """A kernel that begins with a node: all its operands lie in memory."""
        cluster = self._begin(node, "kernel", level, reason)
        axes, folded = self._labelled(node, {})
        self.axes[node] = axes
        self.dropped[node] = frozenset(folded)
        self._note(node, cluster, axes)

    def _joined(self, node: Node, clusters: Sequence[Cluster]) -> str | None:
        """Put a node into the clusters of its operands, which become one; else say why not."""
        op = node.op
        assert op is not None
        if not clusters:
            return "its operands lie in memory"
        kinds = {c.kind for c in clusters}
        if kinds != {"kernel"}:
            return f"an operand comes from {' and '.join(sorted(kinds - {'kernel'}))}"
        inside = [x for x in node.inputs if x in self.home and self.home[x].home in clusters]
        if op.name in MOVERS:
            return "it reads other elements than those at its own place"
        if op.name not in IDENTITIES and op.family not in (
            "elementwise", "reduction", "movement", "indexing", "checks",
        ):  # fmt: skip
            return f"{op.name} begins a kernel"
        trial = Trial([c.apart for c in clusters])
        known = {x: axes for c in clusters for x, axes in c.external.items()}
        known.update((x, self.axes[x]) for x in inside)
        trial.soft = known.keys() - set(inside)
        axes, folded = self._labelled(node, known, trial)
        self._share(clusters, trial)
        if twice(axes):
            trial.refusal = trial.refusal or "the same loop would stand for two axes"
        refusal = trial.refusal or self._refusal(node, inside, axes, folded, clusters, trial)
        if refusal is not None:
            trial.undo()
            return refusal
        cluster = self._merge(clusters)
        cluster.nodes.append(node)
        self.home[node] = cluster
        self.axes[node] = axes
        shown = {label.root for label in axes if label is not None}
        gone = frozenset().union(*(self.dropped[x] for x in inside)) if inside else frozenset()
        gone = frozenset(label.root for label in gone)
        cluster.inner |= gone & shown
        self.dropped[node] = (gone - shown) | {label.root for label in folded}
        self._note(node, cluster, axes)
        self.decisions.append(Decision(node, cluster, "computed where its operands are"))
        return None

    def _share(self, clusters: Sequence[Cluster], trial: Trial) -> None:
        """Have clusters that become one read what both read by the same loops, where they can."""
        known: dict[Node, Axes] = {}
        for cluster in clusters:
            for x, axes in cluster.external.items():
                for a, b in zip(known.setdefault(x, axes), axes, strict=True):
                    if a is not None and b is not None and a.root is not b.root:
                        trial.unite(a, b, x)

    def _refusal(
        self,
        node: Node,
        inside: Sequence[Node],
        axes: Axes,
        folded: Sequence[Label],
        clusters: Sequence[Cluster],
        trial: Trial,
    ) -> str | None:
        op = node.op
        assert op is not None
        if any(x.op is not None and x.op.name == "concat" and len(x.inputs) > _FEW_PARTS
               for x in inside):  # fmt: skip
            return "a concatenation of many parts is made first"
        shown = {label.root for label in axes if label is not None}
        for x in inside:
            mine = {label.root for label in self.axes[x] if label is not None}
            missing = shown - mine - {label.root for label in self.dropped[x]}
            again = x in self.costly or self.dropped[x]  # a fold, or made of one
            if missing and again and not leads(self.axes[x], axes):
                return f"{x.op and x.op.name} would be computed again for each row"
        gone = {label.root for x in inside for label in self.dropped[x]}
        inner = {label.root for c in clusters for label in c.inner} | (gone & shown)
        if inner and shown | gone:
            labels = {
                label.root
                for c in clusters for n in c.nodes for label in self.axes.get(n, ())
                if label is not None
            } | shown  # fmt: skip
            total = elements(label.extent for label in labels)
            if not labels - inner and total > _SERIAL:
                return "every loop would be inside a row: nothing is left to run in parallel"
            if gone & shown and not self._rows_left(clusters, inner, axes) and total > _SERIAL:
                return "what is folded over the rows is needed in each row"
        return None

    def _rows_left(self, clusters: Sequence[Cluster], inner: set[Label], axes: Axes) -> bool:
        """Whether every fold that rows need again leaves a loop over rows."""
        return any(label is not None and label.root not in inner for label in axes)

    def _merge(self, clusters: Sequence[Cluster]) -> Cluster:
        first, *others = clusters
        for other in others:
            first.nodes += other.nodes
            first.inner |= other.inner
            first.apart |= other.apart
            first.external.update(other.external)
            other.merged, other.nodes = first, []
        first.inner = {label.root for label in first.inner}
        first.apart = {frozenset(label.root for label in pair) for pair in first.apart}
        return first

    def _note(self, node: Node, cluster: Cluster, axes: Axes) -> None:
        labels = [label.root for label in axes if label is not None]
        cluster.apart |= {frozenset((a, b)) for a in labels for b in labels if a is not b}
        op = node.op
        assert op is not None
        wide = op.name in COSTLY and node.type.dtype.kind == "float"
        if wide or any(x in self.costly and self.home.get(x) is cluster for x in node.inputs):
            self.costly.add(node)
        for x in node.inputs:
            if (x not in self.home or self.home[x].home is not cluster) and x in self.axes_of_read:
                cluster.external.setdefault(x, self.axes_of_read[x])

    # ----- labels

    def fresh(self, extent: Any) -> Label:
        self._labels += 1
        return Label(self._labels, extent)

    def _labelled(
        self, node: Node, known: Mapping[Node, Axes], trial: Trial | None = None
    ) -> tuple[Axes, list[Label]]:
        """The labels of a node's axes, and those that it folds; `known` are operands inside."""
        op = node.op
        assert op is not None
        self.axes_of_read: dict[Node, Axes] = {}
        attrs = dict(node.attrs)
        unite = trial.unite if trial is not None else united
        if op.name == "permute":
            x = self._read(node.inputs[0], known)
            return tuple(x[k] for k in attrs["axes"]), []
        if op.name == "reshape":
            left = iter([label for label, n in zip(
                self._read(node.inputs[0], known), node.inputs[0].type.shape) if n != 1])
            return tuple(None if n == 1 else next(left) for n in node.type.shape), []
        if op.family == "reduction":
            axes = attrs["axes"] if "axes" in attrs else (attrs["axis"],)
            x = self._read(node.inputs[0], known)
            kept = tuple(label for k, label in enumerate(x) if k not in axes)
            return kept, [label for k in axes if (label := x[k]) is not None]
        if op.name == "gather":
            return self._gathered(node, known, unite, trial), []
        if op.name == "scatter":
            return self._scattered(node, known, unite, trial), []
        if op.name in MOVERS or (op.family not in ("elementwise", "movement", "checks") and (
            op.name not in IDENTITIES
        )):
            return tuple(None if n == 1 else self.fresh(n) for n in node.type.shape), []
        return self._aligned(node, known, unite, trial), []

    def _read(self, x: Node, known: Mapping[Node, Axes]) -> Axes:
        if x in known:
            return known[x]
        if x not in self.axes_of_read and self._is_source(x):
            return tuple(None if n == 1 else self.fresh(n) for n in x.type.shape)
        if x not in self.axes_of_read:
            self.axes_of_read[x] = tuple(
                None if n == 1 else self.fresh(n) for n in x.type.shape
            )
        return self.axes_of_read[x]

    def _aligned(
        self, node: Node, known: Mapping[Node, Axes], unite: Any, trial: Trial | None
    ) -> Axes:
        """The labels of an op on elements with broadcasting."""
        shape = node.type.shape
        out: list[Label | None] = []
        operands = node.inputs[:1] if node.op and node.op.name == "custom" else node.inputs
        for k, n in enumerate(shape):
            label: Label | None = None
            for x in operands:
                at = k - len(shape) + len(x.type.shape)
                if n == 1 or at < 0 or x.type.shape[at] != n or x not in known:
                    continue
                other = known[x][at]
                if other is None:
                    continue
                if any(other.root is axis.root for axis in out if axis is not None):
                    if trial is not None and x not in trial.soft:
                        trial.refusal = trial.refusal or "the same loop would stand for two axes"
                    continue
                if label is None:
                    label = other
                elif label.root is not other.root and not unite(label, other, x):
                    continue
            out.append(label if label is not None or n == 1 else self.fresh(n))
        for x in operands:
            if x not in known and not self._is_source(x):
                lead = len(shape) - len(x.type.shape)
                self.axes_of_read[x] = tuple(
                    out[lead + at] if n == shape[lead + at] else None
                    for at, n in enumerate(x.type.shape)
                )
        return tuple(out)

    def _linked(self, index: Node) -> int | None:
        """The axis of an index tensor whose own place is the index: it is an iota along it."""
        offset = 0
        node = index
        while node.op is not None and node.op.name in ("reshape", "broadcast_to", "astype"):
            if self.is_reshape_of(node):
                return None
            node = node.inputs[0]
        if node.op is None or node.op.name != "iota":
            return None
        size = node.type.shape[0]
        places = [k for k, n in enumerate(index.type.shape) if n == size and n != 1]
        return places[0] - offset if len(places) == 1 else None

    def _gathered(
        self, node: Node, known: Mapping[Node, Axes], unite: Any, trial: Trial | None
    ) -> Axes:
        """An index that is its own place keeps the label of the axis it indexes."""
        x, *indices = node.inputs
        axes = dict(node.attrs)["axes"]
        source = self._read(x, known)
        at = self._aligned_indices(indices, known, unite)
        for index, axis in zip(indices, axes, strict=True):
            k = self._linked(index)
            if k is not None and source[axis] is not None and x.type.shape[axis] == (
                index.type.shape[k]
            ):
                at[k] = self._united(at[k], source[axis], unite)
            elif trial is not None and x in known and x.type.shape[axis] != 1 and (
                elements(node.type.shape) * _NARROWING > elements(x.type.shape)
            ):
                trial.refusal = trial.refusal or "it reads elements of other places of its kernel"
        rest: list[Label | None] = [label for k, label in enumerate(source) if k not in axes]
        place = axes[0] if axes == tuple(range(axes[0], axes[0] + len(axes))) else 0
        return (*rest[:place], *at, *rest[place:])

    def _united(self, a: Label | None, b: Label | None, unite: Any) -> Label | None:
        if a is not None and b is not None and a.root is not b.root:
            unite(a, b, None)
        return a if b is None else b

    def _aligned_indices(
        self, indices: Sequence[Node], known: Mapping[Node, Axes], unite: Any
    ) -> list[Label | None]:
        at: list[Label | None] = [None] * len(indices[0].type.shape)
        for index in indices:
            if index in known:
                for k, label in enumerate(known[index]):
                    at[k] = self._united(at[k], label, unite)
        shape = indices[0].type.shape
        return [self.fresh(n) if a is None and n != 1 else a for a, n in zip(at, shape)]

    def _scattered(
        self, node: Node, known: Mapping[Node, Axes], unite: Any, trial: Trial | None
    ) -> Axes:
        """One update an element: each index but one is its own place, or stands alone."""
        x, updates, *indices = node.inputs
        axes = dict(node.attrs)["axes"]
        out = list(self._read(x, known))
        at = self._aligned_indices(indices, known, unite)
        linked = {k for index in indices if (k := self._linked(index)) is not None}
        shape = indices[0].type.shape
        if any(n != 1 and k not in linked for k, n in enumerate(shape)):
            if trial is not None:
                trial.refusal = trial.refusal or "several updates may meet in one element"
            return tuple(out)
        place = axes[0] if axes == tuple(range(axes[0], axes[0] + len(axes))) else 0
        own = known.get(updates)
        for index, axis in zip(indices, axes, strict=True):
            k = self._linked(index)
            if k is not None:
                label = at[k]
                if own is not None:
                    label = self._united(label, own[place + k], unite)
                out[axis] = self._united(out[axis], label, unite)
        return tuple(out)

    # ----- siblings

    def _merge_siblings(self) -> None:
        """Kernels of one level that read the same large operand over the same loops are one."""
        levels: dict[int, list[Cluster]] = {}
        for cluster in self.clusters:
            if cluster.merged is None and cluster.kind == "kernel":
                levels.setdefault(cluster.level, []).append(cluster)
        for clusters in levels.values():
            readers: dict[Node, Cluster] = {}
            for cluster in clusters:
                for x in list(cluster.external):
                    if elements(x.type.shape) < 1024:
                        continue
                    other = readers.get(x)
                    if other is not None and other.home is not cluster.home:
                        self._merge_pair(other.home, cluster.home, x)
                    readers[x] = cluster.home

    def _merge_pair(self, a: Cluster, b: Cluster, shared: Node) -> None:
        trial = Trial([a.apart, b.apart])
        pairs = list(zip(a.external[shared], b.external[shared], strict=True))
        if any((p is None) != (q is None) for p, q in pairs):
            return
        for p, q in pairs:
            if p is not None and q is not None and p.root is not q.root:
                trial.unite(p, q, None)
        inner = {label.root for c in (a, b) for label in c.inner}
        labels = {label.root for c in (a, b) for n in c.nodes for label in self.axes[n] if label}
        labels |= {label.root for p, _ in pairs if (label := p) is not None}
        if trial.refusal is not None or not labels - inner:
            trial.undo()
            return
        self._merge([a, b])
        self.decisions.append(Decision(b.nodes[0] if b.nodes else a.nodes[-1], a,
                                       f"reads {shared!r} as a kernel of the same level does"))

    # ----- what lies in memory

    def _require_all(self) -> None:
        """Mark as roots what another cluster, a library or the caller needs in memory."""
        self._required: set[Node] = set()
        self._live: set[Node] = set()  # what a root is made of
        for cluster in self.clusters:
            cluster.nodes = list(dict.fromkeys(cluster.nodes))
        used = {x for node in self.graph.nodes for x in node.inputs}
        for node in self.graph.outputs:
            self.require(node)
        for node in self.graph.checks:  # one that something reads is checked where it is read
            self._live.add(node)
            if node not in used:
                self.require(node)
        for node in reversed(self.graph.nodes):
            if node in self._live and node in self.home:
                self._require_operands(node)

    def _require_operands(self, node: Node) -> None:
        if is_projection(node):
            self._live.add(node.inputs[0])
            return
        cluster = self.home[node].home
        if cluster.kind == "matmul":
            for x in node.inputs:
                self.require(self.operand(x).base)
        elif cluster.kind == "convolution":
            found = self.convolutions[node]
            self.require(found.x)
            self.require(found.w)
        elif cluster.kind != "kernel":
            for x in node.inputs:
                self.require(x)
        else:
            for x in node.inputs:
                if x in self.home and self.home[x].home is cluster:
                    self._live.add(x)
                else:
                    self._needed_by_kernel(x)

    def _needed_by_kernel(self, node: Node) -> None:
        """A kernel computes again what only moves elements of what lies in memory."""
        if node not in self.home:
            if not self._is_source(node):
                self._required.add(node)
            return
        if node in self._required or not self.is_free(node):
            self.require(node)
            return
        for x in node.inputs:
            self._needed_by_kernel(x)

    def is_free(self, node: Node) -> bool:
        """Whether computing a node again costs no more than loading it: it moves elements, or is a
        few cheap operations on what the plan is given.
        """
        op = node.op
        assert op is not None
        if self.home[node].home.kind != "kernel":
            return False
        return op.name in _FREE or (self.weight(node) or _HEAVY) < _HEAVY

    def weight(self, node: Node) -> int | None:
        """How many cheap operations and loads make a node of what lies in memory anyway: inputs,
        and what libraries give; None where it takes others too.
        """
        if node not in self.weights:
            self.weights[node] = self._weighed(node)
        return self.weights[node]

    def _weighed(self, node: Node) -> int | None:
        if self._is_source(node):
            return 0
        if node not in self.home or self.home[node].home.kind != "kernel":
            return 1  # it lies in memory
        op = node.op
        assert op is not None
        few = elements(node.type.shape) == 1
        cheap = op.name in IDENTITIES or op.family in ("elementwise", "movement", "checks")
        one_update = op.name == "scatter" and self._is_source(node.inputs[0])
        cheap = cheap and op.name not in ("concat", "windows", "fold", "pad")
        if not (cheap or one_update) or (op.name in COSTLY and not few):
            return None
        parts = [self.weight(x) for x in node.inputs]
        return None if None in parts else 1 + sum(p for p in parts if p is not None)

    def operand(self, node: Node) -> View:
        """A matrix as cblas can read it: where its elements lie already, else by itself."""
        view = self._view(node)
        return view if is_callable(view) else _contiguous(node)

    def _view(self, node: Node) -> View:
        """The strides of a node that only moves elements of another one; else its own."""
        if node in self.made or node not in self.home or self.home[node].home.kind != "kernel":
            return _contiguous(node)
        if node.op is None or node.op.name not in _FREE:
            return _contiguous(node)
        attrs, shape = dict(node.attrs), tuple(map(Expr.of, node.type.shape))
        inner = self._view(node.inputs[0])
        base, offset, _, steps = inner
        name = node.op.name
        if name == "permute":
            steps = tuple(steps[k] for k in attrs["axes"])
        elif name == "slice":
            for start, step in zip(attrs["starts"], steps, strict=True):
                offset = offset + step * start
            steps = tuple(s * d for s, d in zip(steps, attrs["strides"], strict=True))
        elif name == "reshape":
            kept = iter([s for s, n in zip(steps, inner.shape, strict=True) if n.constant != 1])
            steps = tuple(Expr.of(1) if n.constant == 1 else next(kept) for n in shape)
        elif name == "broadcast_to":
            lead = len(shape) - len(steps)
            steps = tuple(
                Expr.of(0) if k < lead or inner.shape[k - lead] != n else steps[k - lead]
                for k, n in enumerate(shape)
            )
        elif name == "flip":
            return _contiguous(node)
        return View(base, offset, shape, steps)

    def require(self, node: Node) -> None:
        """Have a node in memory."""
        if node in self._required:
            return
        self._required.add(node)
        self._live.add(node)
        if node not in self.home:
            if node.op is not None and node not in self.graph.inputs:
                # a source that something else than a kernel needs
                self._start(node, 0, "something needs it in memory")
                self.home[node].roots.append(node)
            return
        cluster = self.home[node].home
        if node not in cluster.roots:
            cluster.roots.append(node)

    def __str__(self) -> str:
        lines = [f"partition of {self.graph.name}: {len(self.clusters)} steps"]
        for k, cluster in enumerate(self.clusters):
            names = ", ".join(n.op.name for n in cluster.nodes if n.op is not None)
            lines.append(f"  step {k} ({cluster.kind}, level {cluster.level}): {names}")
        lines.append("because:")
        for node, cluster, reason in self.decisions:
            assert node.op is not None
            place = self.clusters.index(cluster.home) if cluster.home in self.clusters else "-"
            lines.append(f"  {node.op.name} {node.type_text} in step {place}: {reason}")
        return "\n".join(lines)


def _sizes_agree(node: Node) -> bool:
    """Whether every axis of an operand is the result's axis, or 1: else indices may be wrong."""
    op = node.op
    assert op is not None
    lead = 2 if op.name == "matmul" else 0
    if not (lead or op.name == "broadcast_to" or op.family == "elementwise"):
        return True
    shape = node.type.shape[: len(node.type.shape) - lead]
    for x in node.inputs:
        own = x.type.shape[: len(x.type.shape) - lead]
        if any(n != 1 and n != m for n, m in zip(own[::-1], shape[::-1], strict=False)):
            return False
    return not lead or node.inputs[0].type.shape[-1] == node.inputs[1].type.shape[-2]


def _contiguous(node: Node) -> View:
    shape = tuple(map(Expr.of, node.type.shape))
    return View(node, Expr.of(0), shape, row_major(shape))


def _native(dtype: DType) -> bool:
    return dtype.kind != "complex" and dtype is not bfloat16


def kind_of(node: Node) -> Any:
    """What decides whether a node can be spelled: its op and types; of a scatter all of it."""
    assert node.op is not None
    if node.op.name == "scatter":
        return node
    return (node.op.name, *(t.dtype.name for x in (node, *node.inputs) for t in x.types))
