"""Zero-cost proxies: plain functions of a student's readings and a teacher's; higher is better."""

from . import similarity, size
from .aggregate import RankAggregate
from .base import (
    Proxy,
    ProxyFunction,
    create_aggregate,
    get_proxy,
    list_aggregates,
    list_proxies,
    register_aggregate,
    register_proxy,
)

for _name in ("semantic", "relation", "channel_relation"):
    for _suffix in ("", "_paper", "_readme"):
        register_proxy(_name + _suffix, getattr(similarity, _name + _suffix), needs_teacher=True)
register_proxy("diswot", similarity.diswot, needs_teacher=True, terms=("semantic", "relation", "channel_relation"))
for _suffix in ("_paper", "_readme"):
    _terms = (f"semantic{_suffix}", f"relation{_suffix}")
    register_proxy(f"diswot{_suffix}", getattr(similarity, f"diswot{_suffix}"), needs_teacher=True, terms=_terms)
register_proxy("params", size.params)
register_proxy("macs", size.macs)

__all__ = [
    "Proxy",
    "ProxyFunction",
    "RankAggregate",
    "create_aggregate",
    "get_proxy",
    "list_aggregates",
    "list_proxies",
    "register_aggregate",
    "register_proxy",
]
