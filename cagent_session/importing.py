"""Act on a module after the program has imported it."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Container
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any


class ImportHook(MetaPathFinder):
    """An import finder that calls a function after each import of one of *names*.

    :param names: the names of the modules.
    :param after_import: takes the module that was just imported.
    """

    def __init__(self, names: Container[str], after_import: Callable[[ModuleType], None]) -> None:
        self._names = names
        self._after_import = after_import
        self._searches = set[tuple[int, str]]()

    def start(self) -> None:
        """Start to watch imports. A second call does nothing."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Undo :meth:`start`."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        """Return the spec that the other finders have for the module."""
        search = (threading.get_ident(), name)
        if name not in self._names or search in self._searches:
            return None
        self._searches.add(search)  # the other finders may ask all finders, too
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searches.remove(search)
        if spec is not None and spec.loader is not None:
            loader: Any = _Loader(spec.loader, self._after_import)
            spec.loader = loader
        return spec


class _Loader:
    """The loader of a module. It has all that the module's own loader has."""

    def __init__(self, loader: Any, after_import: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._after_import = after_import

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._after_import(module)
