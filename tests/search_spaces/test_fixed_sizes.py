"""Networks for images of one size: their errors name both sizes."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import diswot_search as ds
from diswot_search.networks.contract import ReadingError
from search_spaces.cost import count_cost
from search_spaces.fixed_sizes import InputSizeError, fixed_size, sizes_named


class Picky(nn.Module):
    """Fails on images of any size but its own, with a message or without."""

    def __init__(self, message: str = "", **config: Any) -> None:
        super().__init__()
        self.message = message
        self.pretrained_cfg = config
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 32:
            raise AssertionError(*filter(None, [self.message]))
        return self.head(x.mean((2, 3)))


FIXED = {"input_size": (3, 32, 32), "fixed_input_size": True}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Picky(), r"^the network fails on images of 24x24 \(AssertionError\)$"),
        (Picky(**FIXED), r"^made for 32x32, the network fails on images of 24x24 \(AssertionError\)$"),
        (Picky("no grid", **FIXED), r"^made for 32x32, the network fails on images of 24x24 \(AssertionError: no grid"),
        (Picky("no grid"), "^no grid$"),
        (Picky("no grid", **FIXED | {"fixed_input_size": False}), "^no grid$"),
    ],
)
def test_an_error_names_the_sizes_in_costs_and_in_readings(network: nn.Module, message: str) -> None:
    error = AssertionError if message == "^no grid$" else InputSizeError
    with pytest.raises(error, match=message):
        count_cost(network, (3, 24, 24))
    probe = ds.Probe.from_tensors(torch.rand(4, 3, 24, 24), torch.arange(4) % 2, num_classes=2)
    with pytest.raises(error, match=message):
        _ = ds.Readings(lambda: network, probe).logits
    assert count_cost(network, (3, 32, 32)).params == 8


def test_an_error_that_is_not_about_sizes_stays_as_it_is() -> None:
    with pytest.raises(ReadingError, match=r"^$"), sizes_named(Picky(**FIXED), (1, 3, 24, 24), but=ReadingError):
        raise ReadingError
    with pytest.raises(ValueError, match=r"^text$"), sizes_named(Picky(**FIXED), (1, 24)):
        raise ValueError("text")


def test_the_size_of_a_timm_network_is_the_one_that_it_was_built_for() -> None:
    assert fixed_size(timm.create_model("botnet26t_256")) == (256, 256)
    assert fixed_size(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)) == (32, 32)
    assert fixed_size(timm.create_model("resnet10t")) is None


def test_a_search_records_the_sizes() -> None:
    study = ds.search(
        "timm/zoo",
        probe=ds.create_probe(batch_size=4, image_size=48),
        proxy="l2_norm",
        algorithm="exhaustive",
        space_options={"pattern": "botnet26t_256,resnet10t"},
    )
    reason = "cost: InputSizeError: made for 256x256, the network fails on images of 48x48 (AssertionError)"
    assert study.failures == {reason: 1}
