"""Options, golden files and the closing report, for every test.

--full (or STAGEKIT_FULL=1) runs the fuzzers whole instead of a seeded share; --numpy runs staged
functions without native code; --update-golden rewrites tests/golden/. The report gives seconds per
family (a test file) and every skip with its reason; a skip or expected failure that
allowed_skips.txt does not list fails the session.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before the package is read: code that tests compile is nobody's but theirs.
_cache = tempfile.TemporaryDirectory(prefix="stagekit-")
os.environ.setdefault("STAGEKIT_CACHE_DIR", _cache.name)

from stagekit.kernels import backend  # noqa: E402
from stagekit.kernels.machine import engine  # noqa: E402

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"

# A loaded machine is slow to generate, which says nothing about the test.
_common = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("seeded", _common, derandomize=True, max_examples=50)
settings.register_profile("full", _common, derandomize=False, max_examples=2000)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stagekit")
    group.addoption("--full", action="store_true", help="run the fuzzers whole")
    group.addoption("--numpy", action="store_true", help="run staged functions on NumPy's plans")
    group.addoption("--update-golden", action="store_true", help="rewrite tests/golden/")


def runs_full(config: pytest.Config) -> bool:
    return bool(config.getoption("--full")) or os.environ.get("STAGEKIT_FULL", "0") not in ("", "0")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--numpy"):
        without_native_code(pytest.MonkeyPatch())
    settings.load_profile("full" if runs_full(config) else "seeded")
    config.pluginmanager.register(Report(), "stagekit-report")


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether fuzzers run everything rather than a seeded share."""
    return runs_full(pytestconfig)


def without_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Staged functions run NumPy's plans, as where llvmlite is not installed."""
    monkeypatch.setattr(engine, "available", lambda: False)
    monkeypatch.setattr(backend, "_say_once", lambda: None)


# Families that test files, transformations and conformance rather than code: without --full their
# staged functions run NumPy's plans, which need no compiling. Every op and random programs of all
# ops run natively in test_native and test_fuzz.
ON_NUMPY = {"test_export.py", "test_strict.py", "test_vmap.py"}


@pytest.fixture(autouse=True)
def _not_compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.path.name in ON_NUMPY and not runs_full(request.config):
        without_native_code(monkeypatch)


@pytest.fixture
def on_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what comes before code, which believes the graph: code of one that is made wrong
    on purpose would write elsewhere.
    """
    without_native_code(monkeypatch)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)`` compares text with tests/golden/<name>.txt, or rewrites that file."""
    update = request.config.getoption("--update-golden")

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        text = text.rstrip("\n") + "\n"
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists():
            pytest.fail(f"{path} is missing; make it with: pytest --update-golden")
        else:
            assert text == path.read_text(encoding="utf-8"), (
                f"{path.name} differs; if the new text is right: pytest --update-golden"
            )

    return check


def allowed_skips() -> list[str]:
    lines = (HERE / "allowed_skips.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    if hasattr(report, "wasxfail"):
        return f"xfail {report.wasxfail}".rstrip()
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(text.removeprefix("Skipped: ").split())


class Report:
    """Collects durations and skips; prints them ahead of pytest's own closing line."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()
        self.skips: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        family = report.nodeid.partition("::")[0]
        self.seconds[family] += report.duration
        self.tests[family] += report.when == "call"
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped:
            self.skips.append(f"{report.nodeid}: {reason_of(report)}")

    def unlisted(self) -> Iterator[str]:
        patterns = allowed_skips()
        for skip in self.skips:
            # A parametrized nodeid has brackets, which are a character class only in the pattern.
            if not any(fnmatchcase(skip, pattern) for pattern in patterns):
                yield skip

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and any(self.unlisted()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        terminalreporter.section("seconds per family")
        for family, seconds in self.seconds.most_common():
            write(f"{seconds:8.2f} s {self.tests[family]:6d} tests  {family}")
        terminalreporter.section(f"skips: {len(self.skips)}")
        unlisted = set(self.unlisted())
        for skip in self.skips:
            mark = "NOT LISTED in tests/allowed_skips.txt" if skip in unlisted else "listed"
            write(f"{mark}: {skip}", red=skip in unlisted)
