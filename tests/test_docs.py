"""What the documents say: their Python blocks run, the files they name exist, and every row of
docs/boundary.md holds on both sides of the boundary."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import stagekit as sk
from stagekit import tree
from tests.classes import near

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BOUNDARY = ROOT / "docs" / "boundary.md"

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w./-]+\.(?:py|md|pyi|txt|toml)(?:::\w+)?|[\w./-]+/)`")
_LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")


class Block(NamedTuple):
    """A Python block and the place in its document where it begins."""

    document: Path
    line: int
    source: str

    def run(self, namespace: dict[str, Any]) -> dict[str, Any]:
        """Execute it so that every line is known by its place in the document."""
        name = self.document.relative_to(ROOT).as_posix()
        source = "\n" * (self.line - 1) + self.source
        exec(compile(source, name, "exec", dont_inherit=True), namespace)
        return namespace


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(document, text.count("\n", 0, found.start(1)) + 1, found[1])
        for found in _BLOCK.finditer(text)
    ]


def anchor(heading: str) -> str:
    """The name under which a heading can be linked to."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def fault(document: Path, name: str) -> str | None:
    """Why a file or test that a document names is none of the project's; None if it is."""
    file, _, test = name.partition("::")
    places = [ROOT / file, ROOT / "stagekit" / file]
    found = [place for place in places if place.exists()]
    if found and (not test or f"def {test}(" in found[0].read_text(encoding="utf-8")):
        return None
    return f"{document.name} names {name}, which does not exist"


# ----- all documents ------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_files_named_in_documents_exist(document: Path) -> None:
    names = _FILE.findall(document.read_text(encoding="utf-8"))
    assert [f for f in (fault(document, name) for name in names) if f] == []


def test_a_name_of_no_file_is_a_fault() -> None:
    assert fault(BOUNDARY, "stagekit/op.py") is None
    assert fault(BOUNDARY, "stagekit/opp.py") is not None
    assert fault(BOUNDARY, "tests/test_ops.py::test_every_op_stands_in_the_table_once") is None
    assert fault(BOUNDARY, "tests/test_ops.py::test_nothing") is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path, target in _LINK.findall(text):
        if "://" in path:
            continue
        linked = document.parent / path if path else document
        assert linked.exists(), f"{document.name} links to {path}"
        if target:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert target in map(anchor, headings), f"{document.name} links to #{target}"


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d != BOUNDARY and blocks(d)], ids=lambda d: d.name
)
def test_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a document run one after the other, in one namespace and an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "document"}
    for block in blocks(document):
        block.run(namespace)


def test_the_picture_of_the_floors_shows_every_file() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"```text\n(.*?)```", page.split("## The way of a call")[0], re.DOTALL)
    shown = set(re.findall(r"[\w/]+\.py", picture))
    files = {p.relative_to(ROOT / "stagekit").as_posix() for p in ROOT.glob("stagekit/**/*.py")}
    folders = re.findall(r"([\w/]+/) ", picture)
    missing = {f for f in files - shown if not f.startswith(tuple(folders))}
    assert {f for f in missing if not f.endswith("__init__.py")} == set()
    assert shown <= files


# ----- docs/boundary.md ---------------------------------------------------------------------------


class Row(NamedTuple):
    """One heading of the page: its class, its example, and what the last comment promises."""

    title: str
    kind: str
    block: Block

    @property
    def traces(self) -> int | None:
        """How many traces the example costs."""
        found = re.search(r"^# (\d+) traces", self.block.source, re.MULTILINE)
        return int(found[1]) if found else None

    @property
    def warns(self) -> bool:
        return self.kind == "eagerly" or bool(re.search(r"^# .*warns$", self.block.source, re.M))

    @property
    def raises(self) -> str | None:
        found = re.search(r"^# raises (\w+)$", self.block.source, re.MULTILINE)
        return found[1] if found else None


SECTIONS = {
    "Staged": "staged",
    "Guarded": "guarded",
    "Run eagerly, with a warning": "eagerly",
    "Refused": "refused",
    "Different on purpose": "different",
    "Not seen": "not seen",
}


def rows() -> list[Row]:
    text = BOUNDARY.read_text(encoding="utf-8")
    places = [
        (text.count("\n", 0, m.start()) + 1, m[1], m[2])
        for m in re.finditer(r"^(##|###) (.*)$", text, re.MULTILINE)
    ]
    found, kind = [], ""
    by_line = {block.line: block for block in blocks(BOUNDARY)}
    ends = [line for line, _, _ in places[1:]] + [text.count("\n") + 1]
    for (line, level, title), end in zip(places, ends, strict=True):
        if level == "##":
            kind = SECTIONS[title]
        else:
            (block,) = [b for at, b in by_line.items() if line < at < end]
            found.append(Row(title, kind, block))
    return found


ROWS = rows()


def test_the_table_lists_every_row() -> None:
    text = BOUNDARY.read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(.*?)\]\(#.*?\) \| (.*?) \|$", text, re.MULTILINE)
    assert listed == [(row.title, row.kind) for row in ROWS]


class Outcome(NamedTuple):
    """What one side gave: leaves of the result, or the error; warnings; the staged functions."""

    result: list[Any] | None
    error: Exception | None
    warned: list[str]  # the file of the line to which each warning points
    staged: Any


def outcome(row: Row, stage: bool) -> Outcome:
    first, *_ = blocks(BOUNDARY)
    namespace = row.block.run(first.run({"__name__": "boundary"}))
    fn = namespace["f"]
    if stage:
        fn = sk.function(fn, **namespace.get("options", {}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result, error = tree.leaves(namespace["run"](fn)), None
        except Exception as raised:
            result, error = None, raised
    return Outcome(result, error, [w.filename for w in caught], fn if stage else None)


def same(a: list[Any] | None, b: list[Any] | None) -> bool:
    """Equal as results of two stages are, data types included."""
    return a is not None and b is not None and near(a, b)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_boundary(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    eager, staged = outcome(row, stage=False), outcome(row, stage=True)
    assert eager.error is None and eager.warned == []
    info, report = staged.staged.cache_info(), str(staged.staged.explain())
    if row.kind == "refused":
        assert row.raises in [cls.__name__ for cls in type(staged.error).__mro__]
        return
    assert staged.error is None
    assert same(eager.result, staged.result) == (row.kind not in ("different", "not seen"))
    assert bool(staged.warned) == row.warns
    assert set(staged.warned) <= {"docs/boundary.md"}
    assert ("eager: " in report or "not staged: " in report) == (row.kind == "eagerly")
    if row.kind != "eagerly" or row.traces:
        assert info.traces == (1 if row.traces is None else row.traces), report


def test_every_row_says_what_its_class_needs() -> None:
    for row in ROWS:
        assert (row.raises is not None) == (row.kind == "refused"), row.title
        assert (row.traces or 1) > 1 or row.kind != "guarded", row.title
