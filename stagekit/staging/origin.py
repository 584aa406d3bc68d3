"""Whose code is it? Files and classes of the framework, the standard library and NumPy are
foreign: they are not scanned and their state is not the user's. Everything else is the user's."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable

from .paths import instance_dict, module_name

_LIBRARY = tuple({sysconfig.get_paths()[k] + os.sep for k in ("stdlib", "platstdlib")})
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_PACKAGES = ("numpy", "optree", "ml_dtypes")


class Origin:
    """Decides once per file and class; `internal` names the framework's own files."""

    def __init__(self, internal: Callable[[str], bool]) -> None:
        self.internal = internal
        self._files: dict[str, bool] = {}
        self._classes: dict[int, tuple[type, bool]] = {}
        files = [getattr(sys.modules.get(name), "__file__", None) for name in _PACKAGES]
        folders = [os.path.dirname(file) for file in [__file__, *files] if file]
        self._folders = tuple(folder + os.sep for folder in folders)

    def file(self, filename: str) -> bool:
        """Whether code from this file is foreign."""
        known = self._files.get(filename)
        if known is None:
            known = self._files[filename] = self._decide(filename)
        return known

    def generated(self, filename: str, namespace: dict[str, object]) -> bool:
        """Whether code without a file is foreign: what `namedtuple`, a foreign module's dataclass or
        the framework generated."""
        name = namespace.get("__name__")
        if filename.startswith("<stagekit") or str(name).startswith("namedtuple_"):
            return True
        return name != "__main__" and isinstance(name, str) and self.module(sys.modules.get(name))

    def _decide(self, filename: str) -> bool:
        if filename.startswith(("<frozen ", *self._folders)) or self.internal(filename):
            return True
        installed = any(part in filename for part in _INSTALLED)
        return filename.startswith(_LIBRARY) and not installed

    def module(self, module: object) -> bool:
        """Whether a module is foreign; one without a file is when it is built in."""
        namespace = instance_dict(module) or {}
        file = namespace.get("__file__")
        if isinstance(file, str):
            return self.file(file)
        return namespace.get("__name__") in sys.builtin_module_names

    def cls(self, cls: type) -> bool:
        """Whether a class was defined in a foreign module."""
        known = self._classes.get(id(cls))
        if known is None:
            known = self._classes[id(cls)] = cls, self._defined(cls)
        return known[1]

    def _defined(self, cls: type) -> bool:
        name = module_name(cls)
        return name != "__main__" and self.module(sys.modules.get(name))
