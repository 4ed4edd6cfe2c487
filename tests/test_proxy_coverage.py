"""Every proxy on every kind of space: a finite score, or a reason that names what does not fit."""

from __future__ import annotations

import math
import random

import pytest
import torch

import diswot_search as ds
from diswot_search.evaluation import Evaluator
from diswot_search.proxies import get_proxy
from diswot_search.readings import ReadingError, Readings
from diswot_search.readings.core import RECORDED
from search_spaces import create_space

WIDTHS = {"semantic_readme", "diswot_readme", "channel_relation_paper", "channel_relation_readme", "ickd"}
"""Defined for networks of equal widths alone."""

SPACES: dict[str, set[str]] = {
    "nasbench201": set(),
    "cifar_resnet_s0": set(),
    "timm/mobilenetv3_32": WIDTHS,
    "timm/regnet_32": WIDTHS,
    "timm/convnext_32": WIDTHS,
    "timm/vit_32": {"at", "nst"},  # a token for the class beside the grid
    "timm/pit_32": {"at", "nst"},
}
"""What cannot be compared with a CIFAR ResNet, by space."""


def read(name: str) -> tuple[Readings, Readings]:
    """A student of a space, told all that proxies need, and a teacher."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    probe = ds.Probe.from_tensors(images, torch.arange(8) % 4, num_classes=4)
    space = create_space(name, num_classes=4)
    evaluator = Evaluator(space, ds.create_teacher("cifar_resnet20", num_classes=4), probe, "params", device="cpu")
    needs = {need for proxy in map(get_proxy, ds.list_proxies()) for need in proxy.needs}
    teacher = evaluator.read_teacher(0, 0)
    assert teacher is not None
    return evaluator.read_student(space.sample(random.Random(2)), needs=needs), teacher


@pytest.mark.parametrize("name", SPACES)
def test_every_proxy_scores_every_family_or_says_why_not(name: str) -> None:
    student, teacher = read(name)
    refused = {}
    for proxy in map(get_proxy, ds.list_proxies()):
        try:
            assert math.isfinite(proxy(student, teacher)), proxy.name  # type: ignore[operator]
        except ReadingError as error:
            refused[proxy.name] = str(error)
    assert set(refused) == SPACES[name]
    assert all(len(reason.split()) > 4 for reason in refused.values())


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
