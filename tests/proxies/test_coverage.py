"""Every proxy on every kind of space: a finite score, or a reason that names what does not fit."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import diswot_search as ds
from diswot_search.networks.contract import ReadingError
from diswot_search.proxies.registry import get_proxy
from diswot_search.readings.core import RECORDED, Readings
from diswot_search.readings.passes import Precision
from diswot_search.study.evaluator import Evaluator
from search_spaces import create_space

WIDTHS = {"semantic_readme", "diswot_readme", "channel_relation_paper", "channel_relation_readme", "ickd"}
"""Defined for networks of equal widths alone."""

SPACES: dict[str, set[str]] = {
    "nasbench201": set(),
    "cifar_resnet_s0": set(),
    "timm/mobilenetv3_32": WIDTHS,
    "timm/regnet_32": WIDTHS,
    "timm/convnext_32": WIDTHS,
    "timm/vit_32": set(),
    "timm/pit_32": set(),
}
"""What cannot be compared with a CIFAR ResNet, by space."""


def read(name: str, samples: int = 8, **options: Any) -> tuple[Readings, Readings]:
    """A student of a space, told all that proxies need, and a teacher."""
    images = torch.randn(samples, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    probe = ds.Probe.from_tensors(images, torch.arange(samples) % 4, num_classes=4)
    space = create_space(name, num_classes=4)
    teacher_model = ds.create_teacher("cifar_resnet20", num_classes=4)
    evaluator = Evaluator(space, teacher_model, probe, "params", device="cpu", **options)
    needs = {need for proxy in map(get_proxy, ds.list_proxies()) for need in proxy.needs}
    teacher = evaluator.read_teacher(0, 0)
    assert teacher is not None
    return evaluator.read_student(space.sample(random.Random(2)), needs=needs), teacher


def refusals(student: Readings, teacher: Readings) -> dict[str, str]:
    """Why proxies have no score; that of all others is finite."""
    refused = {}
    for proxy in map(get_proxy, ds.list_proxies()):
        try:
            assert math.isfinite(proxy(student, teacher)), proxy.name  # type: ignore[operator]
        except ReadingError as error:
            refused[proxy.name] = str(error)
    return refused


@pytest.mark.parametrize("name", SPACES)
def test_every_proxy_scores_every_family_or_says_why_not(name: str) -> None:
    refused = refusals(*read(name))
    assert set(refused) == SPACES[name]
    assert all(len(reason.split()) > 4 for reason in refused.values())


@pytest.mark.parametrize("name", SPACES)
def test_every_proxy_works_in_bfloat16(name: str) -> None:
    """On as many samples as make all 2^16 patterns."""
    assert set(refusals(*read(name, samples=16, precision=Precision(bf16=True)))) == SPACES[name]


class OtherDevice(TorchFunctionMode):
    """Tells what is made on the host from what lies on a device, and refuses to mix the two, as a GPU would.

    What is there before, or is made with `device=`, lies on the device; there is none in fact.
    """

    FACTORIES = frozenset(
        {torch.arange, torch.eye, torch.full, torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm}
        | {torch.tensor, torch.zeros, torch.linspace, torch.empty}
    )
    MOVES = frozenset({Tensor.copy_, Tensor.cpu, Tensor.to, Tensor.__getitem__})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in self.FACTORIES:
            return self.placed(output, on_host="device" not in kwargs)
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        on_host = {hasattr(one, "on_host") for one in given if one.ndim}
        if func is Tensor.cpu or (func is Tensor.to and (len(given) > 1 or isinstance(args[1], torch.device))):
            return self.placed(output.view_as(output), on_host=func is Tensor.cpu)
        if func not in self.MOVES and len(on_host) > 1:
            raise RuntimeError(f"{func} is given tensors of the host and of a device")
        if on_host == {True} or (func in self.MOVES and hasattr(args[0], "on_host")):
            for one in tree_leaves(output):
                if isinstance(one, Tensor):
                    self.placed(one, on_host=True)
        return output

    def placed(self, made: Tensor, *, on_host: bool) -> Tensor:
        if on_host:
            made.on_host = True  # type: ignore[attr-defined]
        return made


def test_nothing_made_on_the_host_meets_what_lies_on_a_device() -> None:
    with OtherDevice():
        with pytest.raises(RuntimeError, match="host and of a device"):
            torch.quantile(torch.rand(4, device="cpu"), torch.arange(2) / 2)
        for name, left_out in SPACES.items():
            assert set(refusals(*read(name))) == left_out


@pytest.mark.parametrize("name", ["nasbench201", "timm/vit_32"])
def test_a_proxy_touches_what_it_says_and_no_more(name: str) -> None:
    """What is noted down for it alone is enough, and none of it is idle."""
    noted = set(RECORDED)
    for proxy in map(get_proxy, ds.list_proxies()):
        student, teacher = read(name)
        with student.watch() as watch:
            try:
                proxy(student, teacher)  # type: ignore[operator]
            except ReadingError:
                continue
        assert {*watch.passes} & noted == {*proxy.needs} & noted, proxy.name
