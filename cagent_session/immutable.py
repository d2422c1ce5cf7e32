"""A base class for values that never change."""

from __future__ import annotations

from typing import TYPE_CHECKING


class Immutable:
    """Its attributes can't be set or deleted. The constructor sets them in ``vars(self)``."""

    if not TYPE_CHECKING:  # a type checker would accept any attribute

        def __setattr__(self, name: str, value: object) -> None:
            kind = type(self).__name__
            raise AttributeError(f"a {kind} never changes: make another one to set {name}")

        def __delattr__(self, name: str) -> None:
            kind = type(self).__name__
            raise AttributeError(f"a {kind} never changes: {name} can't be deleted")
