"""The proxy: a named function that scores a student network without training it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from ..readings.core import Readings
from ..runtime.identity import belongs_here, fingerprint

ProxyFunction = Callable[[Readings, "Readings | None"], float]
"""A function of the student's readings and the teacher's, or None, to a score; higher is better."""


@dataclass(frozen=True)
class Proxy:
    """A named proxy. `register_proxy` and `get_proxy` make one from a function.

    Attributes:
        name: The name that users type and that reports print.
        function: Maps (student's readings, teacher's readings or None) to a score; higher is better.
        needs_teacher: Whether the score compares the student with a teacher.
        summary: One line on what the proxy measures.
        components: The proxies that the score is made of. Their values are reported next to the score.
        needs: Names of the student's readings that the function uses and that a plain forward pass does not give, such
            as "gradients". The readings that several proxies need are then recorded in one pass.
        is_registered: Whether `register_proxy` made this proxy, so that its name stands for it.

    Raises:
        UnknownNameError: An entry of `needs` is not the name of a reading.
        TypeError: A component is not a `Proxy`.

    Example:
        >>> from diswot_search.proxies import get_proxy
        >>> [component.name for component in get_proxy("diswot").components]
        ['semantic', 'relation', 'channel_relation']
    """

    name: str
    function: ProxyFunction
    needs_teacher: bool
    summary: str
    components: tuple[Proxy, ...] = ()
    needs: tuple[str, ...] = ()
    # Not an argument, so that a copy with changes is not registered.
    is_registered: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        Readings.check_needs(self.needs)
        for component in self.components:
            if not isinstance(component, Proxy):
                raise TypeError(
                    f"{self.name}: the component {component!r} is a {type(component).__name__}; it must be a Proxy, "
                    "such as get_proxy('macs')."
                )

    @cached_property
    def identity(self) -> str:
        """The text by which a run folder tells this proxy from others.

        A proxy of this package has its name. Any other has its name and a hash of what its function computes. Two
        functions share a hash only where everything that they hold can be compared and is equal. A function that holds
        an object of another kind, such as a network, gets a new identity each time it becomes a proxy, so that its
        stored scores are never mistaken for new ones. See `runtime.identity.fingerprint`.
        """
        if self.is_registered and belongs_here(self.function, self.name):
            return self.name
        return f"{self.name} ({fingerprint(self.function)})"

    def __call__(self, student: Readings, teacher: Readings | None = None) -> float:
        """Score a student.

        Args:
            student: Readings of the student on the probe.
            teacher: Readings of the teacher on the same probe, for a proxy that needs them.

        Returns:
            The score; higher is better. It is not necessarily finite.

        Raises:
            ValueError: The proxy needs a teacher, and no readings of one are given.
        """
        if self.needs_teacher and teacher is None:
            raise ValueError(f"The proxy {self.name!r} compares with a teacher; none was given.")
        return float(self.function(student, teacher))
