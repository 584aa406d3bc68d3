"""`sk.export` for type checkers; a test holds it against the package."""

from stagekit.export import runtime as runtime
from stagekit.export.loader import load as load
from stagekit.export.writer import save as save
