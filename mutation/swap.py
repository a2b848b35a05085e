"""Give the functions of a running program other code."""

import gc
import inspect
from collections.abc import Iterable
from functools import _lru_cache_wrapper
from types import CodeType, FunctionType
from typing import Any


def functions() -> list[Any]:
    """Return all functions of the program, and those that cache their results."""
    return [o for o in gc.get_objects() if isinstance(o, FunctionType | _lru_cache_wrapper)]


def swap(path: str, before: str, after: str, functions: Iterable[Any]) -> bool:
    """Give the functions of a file the code that they have in its changed source.

    Return whether that makes the whole change. It does not where the change is in what runs
    when the module is imported, such as a constant, the default of a parameter or a decorator,
    and where no such function exists.

    Args:
        path: of the file, as the module was imported.
        before: its source.
        after: the changed source.
        functions: those of the program.
    """
    pairs: list[list[tuple[CodeType, CodeType]]] = []  # of a function, those inside it follow
    if not _compare(compile(before, path, "exec"), compile(after, path, "exec"), pairs):
        return False
    changed = {old: new for function in pairs for old, new in function if old != new}
    found, modules = set(), set()
    for function in functions:
        if isinstance(function, FunctionType) and function.__code__.co_filename == path:
            code = function.__code__
            if code in changed:
                found.add(code)
                modules.add(function.__module__)
                try:
                    function.__code__ = changed[code]
                except ValueError:  # it has other variables of an outer function now
                    return False
    for cached in functions:  # a result of the code as it was
        if isinstance(cached, _lru_cache_wrapper) and cached.__module__ in modules:
            cached.cache_clear()
    outermost = {old for (old, new), *_ in pairs if old != new}
    return bool(outermost) and outermost <= found


def _compare(
    before: CodeType, after: CodeType, pairs: list[list[tuple[CodeType, CodeType]]]
) -> bool:
    """Collect the functions of a module or of a class; return whether the rest is the same."""
    if _rest(before) != _rest(after):
        return False
    for old, new in zip(_inner(before), _inner(after), strict=True):
        if old.co_name != new.co_name:
            return False
        if old.co_flags & inspect.CO_OPTIMIZED:
            pairs.append(_with_inner(old, new))
        elif not _compare(old, new, pairs):  # the body of a class
            return False
    return True


def _with_inner(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]]:
    pairs = [(old, new)]
    if len(_inner(old)) == len(_inner(new)):  # else the function makes others from now on
        for one, other in zip(_inner(old), _inner(new), strict=True):
            pairs += _with_inner(one, other)
    return pairs


def _inner(code: CodeType) -> list[CodeType]:
    return [const for const in code.co_consts if isinstance(const, CodeType)]


def _rest(code: CodeType) -> tuple[object, ...]:
    """Return what a code does, without that of its functions."""
    consts = [
        CodeType if isinstance(const, CodeType) else (type(const), repr(const))
        for const in code.co_consts
    ]
    return code.co_code, code.co_names, code.co_varnames, consts
