"""Algorithms by name. A new one: a file with a subclass of `Strategy`, its tests, its docs row."""

from mmfl import chosen
from mmfl.strategies.base import Strategy


def strategy(name: str) -> type[Strategy]:
    """The algorithm of a name: the one subclass of `Strategy` in its file."""
    module = chosen.load("strategies", name)
    (found,) = (
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, Strategy)
        and item.__module__ == module.__name__
    )
    return found
