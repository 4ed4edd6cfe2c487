"""What one proxy, distiller, measure, algorithm or space is: its formula and paper, and its options."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from search_spaces.recipes import space_factory
from search_spaces.space import SearchSpace

from ..distillation.base import get_distiller
from ..functional import losses, similarities
from ..options.base import arguments_of, prose
from ..proxies.aggregate import RankAggregate
from ..proxies.registry import get_proxy
from ..sources.transferability import get_measure
from ..study.algorithm import Algorithm
from ..study.algorithms import get_algorithm

Lines = Iterator[object]
"""Tables and lines for a terminal."""


def describe_distiller(name: str) -> Lines:
    """Describe a distiller: what it compares, its loss with the paper, the features that it reads, its options.

    Raises:
        UnknownNameError: No distiller has this name.
    """
    distiller = get_distiller(name)
    yield from _paragraphs(name, distiller, [distiller.forward, distiller.__init__])
    yield f"It reads {', '.join(distiller.reads)} of both networks."
    warmup = f", reached after {distiller.warmup:.0%} of the training," if distiller.warmup else ""
    yield f"Its customary weight is {distiller.weight:g}{warmup} beside {distiller.ce_weight:g} of the cross entropy."
    yield from _options(distiller, ["setting"], f"--distiller '{{{name}: {{OPTION: VALUE}}}}'")


def describe_proxy(name: str) -> Lines:
    """Describe a proxy or an aggregate: its formula and paper, its components, what it needs.

    Raises:
        UnknownNameError: No proxy has this name.
    """
    proxy = get_proxy(name)
    if isinstance(proxy, RankAggregate):
        yield f"{name}: {proxy.summary or 'ranks of several proxies, combined'}"
        yield f"It is {proxy.method} of {', '.join(proxy.component_names)} among all architectures scored so far."
        return
    yield from _paragraphs(name, proxy.function, [proxy.function])
    if proxy.components:
        yield f"Its parts, which are reported next to it: {', '.join(part.name for part in proxy.components)}."
    yield "It compares the student with a teacher." if proxy.needs_teacher else "It needs no teacher."
    if proxy.needs:
        yield f"Beyond a forward pass it reads {', '.join(proxy.needs)}."


def describe_measure(name: str) -> Lines:
    """Describe a measure of transferability: its formula and paper, and what it needs.

    Raises:
        UnknownNameError: No measure has this name.
    """
    measure = get_measure(name)
    yield from _paragraphs(name, measure.function, [])
    yield f"It needs {measure.needs} of a source."


def describe_algorithm(name: str) -> Lines:
    """Describe an algorithm of a search: what it does, its paper, its options.

    Raises:
        UnknownNameError: No algorithm has this name.
    """
    algorithm = get_algorithm(name)
    yield from _paragraphs(name, algorithm, [])
    yield from _options(algorithm, list(inspect.signature(Algorithm).parameters), "--algorithm_options.OPTION VALUE")


def describe_options_of_space(name: str) -> Lines:
    """Describe a space in words, and its options.

    Raises:
        UnknownNameError: No space has this name.
    """
    factory = space_factory(name)
    yield from _paragraphs(name, factory, [])
    yield from _options(factory, [], "--space_options.OPTION VALUE")


def _paragraphs(name: str, documented: object, functions: Sequence[object]) -> Iterator[str]:
    """The prose of a docstring, that of the pure functions that compute the value, and the paper of the module."""
    paragraphs = prose(documented)
    first = paragraphs[0] if paragraphs else "it has no docstring that describes it"
    yield f"{name}: {first}"
    yield from paragraphs[1:]
    used = _used(functions)
    for module, function in used:
        text = prose(function)
        yield f"{module}.{function.__name__}: {text[0] if text else ''}"
        yield from text[1:]
    own = [*paragraphs, *(text for _, function in used for text in prose(function))]
    if not any(re.search(r"Sources?:", text) for text in own):
        module_prose = prose(inspect.getmodule(documented))
        yield from (text for text in module_prose if text.startswith("Source:"))


def _used(functions: Sequence[object]) -> list[tuple[str, types.FunctionType]]:
    """The public tensor functions that functions name, each with the name of its module in Python."""
    used = []
    for function in functions:
        code = getattr(function, "__code__", None)
        for name in code.co_names if code is not None else ():
            for module in (losses, similarities):
                value = vars(module).get(name)
                if isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
                    used.append((f"diswot_search.{module.__name__.rpartition('.')[2]}", value))
    return list(dict.fromkeys(used))


def _options(documented: object, without: Sequence[str], how: str) -> Lines:
    """A table of the options with their defaults."""
    assert callable(documented)
    texts = arguments_of(SearchSpace) | arguments_of(documented)
    table = Table("option", "default", "what it is")
    for parameter in inspect.signature(documented).parameters.values():
        if parameter.name in without or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = "needed" if parameter.default is parameter.empty else str(parameter.default)
        table.add_row(parameter.name, Text(default), Text(texts.get(parameter.name, "")))
    if table.row_count:
        yield f"Its options, given as {how}:"
        yield table
    else:
        yield "It has no options."
