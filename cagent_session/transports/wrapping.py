"""``WrappingAdapter``: a transport adapter that wraps another one and hides nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.adapters import BaseAdapter, HTTPAdapter

_OWN_ATTRIBUTES = {"inner", "gateway", "send"}  # never attributes of the inner adapter


class WrappingAdapter(HTTPAdapter):
    """An adapter with the attributes and methods of its inner adapter, except ``send``.

    Without an inner adapter it is a plain :class:`requests.adapters.HTTPAdapter`.
    """

    inner: BaseAdapter | None

    if not TYPE_CHECKING:  # a type checker would accept any attribute

        def __getattr__(self, name: str) -> Any:
            inner = vars(self).get("inner")
            if inner is None or name.startswith("__"):
                return super().__getattribute__(name)  # which raises AttributeError
            return getattr(inner, name)

        def __setattr__(self, name: str, value: Any) -> None:
            if self._belongs_to_inner(name):
                setattr(self.inner, name, value)
            else:
                super().__setattr__(name, value)

        def __delattr__(self, name: str) -> None:
            if self._belongs_to_inner(name):
                delattr(self.inner, name)
            else:
                super().__delattr__(name)

    def _belongs_to_inner(self, name: str) -> bool:
        inner = vars(self).get("inner")
        is_own = inner is None or name in _OWN_ATTRIBUTES or name in vars(self)
        return not is_own and hasattr(inner, name)

    def __getstate__(self) -> dict[str, Any]:
        if self.inner is not None:
            return dict(vars(self))
        adapter: Any = super()  # the stubs of requests before 2.34 lack these methods
        return {**adapter.__getstate__(), "inner": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.inner is None:
            adapter: Any = super()
            adapter.__setstate__(state)


class _InnerMethod:
    """A descriptor for a method that HTTPAdapter defines. It gives the inner adapter's method.

    Without it, a wrapper would run HTTPAdapter's method even if the inner adapter overrides it.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, adapter: WrappingAdapter | None, owner: type) -> Any:
        if adapter is None:
            return getattr(HTTPAdapter, self._name)
        inner = vars(adapter).get("inner")  # HTTPAdapter.__init__ calls methods, too
        return getattr(super(WrappingAdapter, adapter) if inner is None else inner, self._name)


for _name, _value in vars(HTTPAdapter).items():
    if callable(_value) and not _name.startswith("_") and _name not in vars(WrappingAdapter):
        setattr(WrappingAdapter, _name, _InnerMethod(_name))
