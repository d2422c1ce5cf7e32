"""A transport adapter of requests around another one, which hides nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.adapters import BaseAdapter, HTTPAdapter

_OWN = {"inner", "gateway", "send"}  # attributes of a wrapper that are never the inner's


class WrappingAdapter(HTTPAdapter):
    """An adapter whose attributes and methods, but for ``send``, are those of its inner adapter.

    Without an inner adapter it is an :class:`requests.adapters.HTTPAdapter`.
    """

    inner: BaseAdapter | None

    if not TYPE_CHECKING:  # a type checker would accept any attribute

        def __getattr__(self, name: str) -> Any:
            inner = vars(self).get("inner")
            if inner is None or name.startswith("__"):
                return super().__getattribute__(name)  # which raises AttributeError
            return getattr(inner, name)

        def __setattr__(self, name: str, value: Any) -> None:
            if self._is_inners(name):
                setattr(self.inner, name, value)
            else:
                super().__setattr__(name, value)

        def __delattr__(self, name: str) -> None:
            if self._is_inners(name):
                delattr(self.inner, name)
            else:
                super().__delattr__(name)

    def _is_inners(self, name: str) -> bool:
        inner = vars(self).get("inner")
        is_own = inner is None or name in _OWN or name in vars(self)
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


class _InnersMethod:
    """A method that HTTPAdapter defines: the inner adapter's, if there is one.

    Without it a wrapper would run HTTPAdapter's code where the inner adapter has its own.
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
        setattr(WrappingAdapter, _name, _InnersMethod(_name))
