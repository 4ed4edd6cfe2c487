"""Search spaces over networks that follow timm's model contract: the candidates for a student.

Importing this package registers our networks with timm (`timm.create_model("nasbench201", arch=...)`).
"""

from __future__ import annotations

from .cifar_resnet import CifarResNet, CifarResNetSpace, cifar_resnet_s0
from .contract import ClassifierMixin
from .cost import Cost, Memory, count_cost, count_memory
from .importers import import_table
from .input_spec import ImageSpec, InputSpec, TokenSpec, input_spec_from_json
from .nasbench101 import NASBench101Network, NASBench101Space
from .nasbench201 import NASBench201Network, NASBench201Space
from .nasbench_macro import NASBenchMacroNetwork, NASBenchMacroSpace
from .nats_size import NATSBenchSizeNetwork, NATSBenchSizeSpace
from .plugins import OwnCodeError, UntrustedCodeError, import_code
from .recipes import create_space, describe_space, list_spaces, register_space
from .registry import UnknownNameError
from .searched import searched_network
from .space import Architecture, ArchitectureError, SearchSpace
from .tables import AccuracyTable, list_columns, read_table, write_table
from .timm_families import TIMM_FAMILIES
from .timm_space import TimmSpace, load_space
from .timm_zoo import TimmZoo
from .union import UnionSpace
from .weights import load_checkpoint

__all__ = [
    "AccuracyTable",
    "Architecture",
    "ArchitectureError",
    "CifarResNet",
    "CifarResNetSpace",
    "ClassifierMixin",
    "Cost",
    "ImageSpec",
    "InputSpec",
    "Memory",
    "NASBench101Network",
    "NASBench101Space",
    "NASBench201Network",
    "NASBench201Space",
    "NASBenchMacroNetwork",
    "NASBenchMacroSpace",
    "NATSBenchSizeNetwork",
    "NATSBenchSizeSpace",
    "OwnCodeError",
    "SearchSpace",
    "TimmSpace",
    "TimmZoo",
    "TokenSpec",
    "UnionSpace",
    "UnknownNameError",
    "UntrustedCodeError",
    "count_cost",
    "count_memory",
    "create_space",
    "describe_space",
    "import_code",
    "import_table",
    "input_spec_from_json",
    "list_columns",
    "list_spaces",
    "load_checkpoint",
    "load_space",
    "read_table",
    "register_space",
    "searched_network",
    "write_table",
]

register_space("nasbench101", NASBench101Space)
register_space("nasbench201", NASBench201Space)
register_space("nasbench_macro", NASBenchMacroSpace)
register_space("nats_bench_size", NATSBenchSizeSpace)
register_space("cifar_resnet", CifarResNetSpace)
register_space("cifar_resnet_s0", cifar_resnet_s0)
for _name, _family in TIMM_FAMILIES.items():
    register_space(_name, _family)
register_space("timm/zoo", TimmZoo)
