"""Zero-cost proxies: plain functions of a student's readings and a teacher's; higher is better.

This file registers the proxies and aggregates of the package. `register_proxy` shows how to add one of your own.
"""

from . import activations, capacity, distillers, gradients, similarity, size, spectra, zen
from .aggregate import RankAggregate, elementary_proxies
from .proxy import Proxy, ProxyFunction
from .registry import (
    create_aggregate,
    get_proxy,
    list_aggregates,
    list_proxies,
    match_proxies,
    register_aggregate,
    register_proxy,
)

for _name in ("semantic", "relation", "channel_relation"):
    for _suffix in ("", "_paper", "_readme"):
        register_proxy(_name + _suffix, getattr(similarity, _name + _suffix), needs_teacher=True)
register_proxy("diswot", similarity.diswot, needs_teacher=True, components=("semantic", "relation", "channel_relation"))
for _suffix in ("_paper", "_readme"):
    _terms = (f"semantic{_suffix}", f"relation{_suffix}")
    _function = getattr(similarity, f"diswot{_suffix}")
    register_proxy(f"diswot{_suffix}", _function, needs_teacher=True, components=_terms)
register_proxy("params", size.params)
register_proxy("macs", size.macs)
for _component in dict.fromkeys((*capacity.COMPONENTS, *capacity.UNIT_COMPONENTS)):
    _needs = ("first_block_spectra",) if _component is capacity.channel_entropy else ()
    register_proxy(_component.__name__, _component, needs=_needs)
_names = [component.__name__ for component in capacity.COMPONENTS]
register_proxy("effective_capacity", capacity.effective_capacity, components=_names, needs=("first_block_spectra",))
_names = [component.__name__ for component in capacity.UNIT_COMPONENTS]
register_proxy("unit_capacity", capacity.unit_capacity, components=_names)
register_proxy("l2_norm", gradients.l2_norm)
register_proxy("synflow", gradients.synflow)
for _name in ("grad_norm", "plain", "snip"):
    register_proxy(_name, getattr(gradients, _name), needs=("gradients",))
register_proxy("grasp", gradients.grasp, needs=("gradients", "hessian_gradients"))
register_proxy("fisher", gradients.fisher, needs=("gradients", "sensitivities"))
for _name in ("jacov", "epe_nas"):
    register_proxy(_name, getattr(gradients, _name), needs=("input_jacobian",))
register_proxy("zico", gradients.zico, needs=("half_gradients",))
for _name in ("expressivity", "progressivity"):
    register_proxy(_name, getattr(spectra, _name), needs=("block_entropies",))
register_proxy("trainability", spectra.trainability, needs=("block_gradients",))
register_proxy("vkdnw", spectra.vkdnw, needs=("fisher_information",))
for _name in ("kd", "at", "sp", "cc", "rkd", "pkt", "nst", "ickd"):
    _needs = ("stage_maps",) if _name in ("at", "sp", "nst", "ickd") else ()
    register_proxy(_name, getattr(distillers, _name), needs_teacher=True, needs=_needs)
register_proxy("nwot", activations.nwot, needs=("code_gram",))
register_proxy("swap", activations.swap, needs=("sign_patterns",))
register_proxy("linear_regions", activations.linear_regions, needs=("code_gram", "neurons"))
register_proxy("ntk", activations.ntk, needs=("ntk",))
register_proxy("meco", activations.meco, needs=("leaf_maps",))
register_proxy("zen", zen.zen)
register_aggregate(
    "te_nas",
    ("ntk", "linear_regions"),
    "mean_rank",
    "TE-NAS: trainability and expressivity, by rank; Chen et al., ICLR 2021.",
)
register_aggregate(
    "az_nas",
    ("expressivity", "progressivity", "trainability", "macs"),
    "log_rank",
    "AZ-NAS: expressivity, progressivity, trainability and size, by rank; Lee and Ham, CVPR 2024.",
)
register_aggregate(
    "vkdnw_rank",
    ("vkdnw", "jacov", "expressivity", "trainability", "macs"),
    "log_rank",
    "VKDNW with jacov, expressivity, trainability and size, by rank; Tybl and Neumann, CVPR 2025.",
)

__all__ = [
    "Proxy",
    "ProxyFunction",
    "RankAggregate",
    "create_aggregate",
    "elementary_proxies",
    "get_proxy",
    "list_aggregates",
    "list_proxies",
    "match_proxies",
    "register_aggregate",
    "register_proxy",
]
