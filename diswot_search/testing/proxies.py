"""The contract of proxies."""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import pytest
import timm
import torch

from ..data.probe import Probe
from ..networks.contract import ReadingError
from ..proxies.proxy import Proxy, ProxyFunction
from ..proxies.registry import get_proxy
from ..readings.core import Readings
from .randomness import random_state


class ProxyContract:
    """The tests that every proxy passes.

    Example:
        A file `test_my_proxy.py` of your own; pytest finds the tests in it:

        >>> from diswot_search.testing.proxies import ProxyContract
        >>> class TestMyProxy(ProxyContract):
        ...     def create(self):
        ...         return my_proxy
    """

    any_pair: ClassVar[bool] = True
    """Whether any two networks can be compared; a proxy that needs equal widths, layouts or classes refuses others."""

    def create(self) -> str | Proxy | ProxyFunction:
        """Return the proxy, its function, or the name that it is registered under."""
        raise NotImplementedError

    @pytest.fixture
    def proxy(self) -> Proxy:
        proxy = get_proxy(self.create())
        assert isinstance(proxy, Proxy), "an aggregate is no proxy of one network"
        return proxy

    @pytest.fixture
    def probe(self) -> Probe:
        """Noise with every class in it."""
        images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return Probe.from_tensors(images, torch.arange(12) % 5, num_classes=5)

    @staticmethod
    def read(probe: Probe, name: str, **options: Any) -> Readings:
        """Return the readings of a timm model with random weights from a fixed seed."""
        torch.manual_seed(1)
        model = timm.create_model(name, **{"num_classes": probe.num_classes} | options)
        return Readings(lambda: model, probe)

    def students(self, probe: Probe) -> list[Readings]:
        """Return students that agree with the teacher in classes and in the width and size of the last map."""
        cells = [
            "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|",
            "|skip_connect~0|+|avg_pool_3x3~0|none~1|+|nor_conv_1x1~0|skip_connect~1|none~2|",
        ]
        students = [self.read(probe, "nasbench201", arch=cell, cells=1) for cell in cells]
        return [*students, self.read(probe, "cifar_resnet", arch="1-1-2")]

    def teacher(self, probe: Probe) -> Readings:
        """Return the readings of the teacher."""
        return self.read(probe, "cifar_resnet20")

    def test_has_a_name_and_a_summary(self, proxy: Proxy) -> None:
        assert proxy.name
        assert proxy.summary.strip()

    def test_gives_finite_numbers_that_tell_networks_apart(self, proxy: Proxy, probe: Probe) -> None:
        scores = [proxy(student, self.teacher(probe)) for student in self.students(probe)]
        assert all(type(score) is float and math.isfinite(score) for score in scores)
        assert len(set(scores)) == len(scores)

    def test_scores_do_not_depend_on_what_was_scored_before(self, proxy: Proxy, probe: Probe) -> None:
        teacher = self.teacher(probe)
        scores = [proxy(student, teacher) for student in self.students(probe)]
        backwards = [proxy(student, self.teacher(probe)) for student in reversed(self.students(probe))]
        assert scores == backwards[::-1]

    def test_leaves_networks_and_random_state_alone(self, proxy: Proxy, probe: Probe) -> None:
        student, teacher = self.students(probe)[0], self.teacher(probe)
        models = [student.model.train(), teacher.model.eval()]
        weights = [{key: value.clone() for key, value in model.state_dict().items()} for model in models]
        state = random_state()
        proxy(student, teacher)
        assert random_state() == state
        for model, before, training in zip(models, weights, (True, False), strict=True):
            assert all(module.training == training for module in model.modules())
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
            assert all(p.grad is None and p.requires_grad for p in model.parameters())

    def test_asks_for_the_teacher_that_it_needs(self, proxy: Proxy, probe: Probe) -> None:
        student = self.students(probe)[0]
        if proxy.needs_teacher:
            with pytest.raises(ValueError, match=re.escape(proxy.name)):
                proxy(student)
        else:
            assert proxy(student) == proxy(student, self.teacher(probe))

    def test_compares_any_pair_or_refuses_by_name(self, proxy: Proxy, probe: Probe) -> None:
        first = self.students(probe)[0]
        second = self.read(probe, "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=12)
        for student, teacher in ((first, second), (second, first)):
            if self.any_pair:
                assert math.isfinite(proxy(student, teacher))
            else:
                with pytest.raises(ReadingError, match=r"\w+ \w+"):
                    proxy(student, teacher)
