"""Short names of architectures: the same for the same function, others for others, and none for other names."""

from __future__ import annotations

import re

from search_spaces.names import full_name, short_name

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|nor_conv_1x1~0|avg_pool_3x3~1|skip_connect~2|"


def test_short_names_are_of_the_canonical_architecture() -> None:
    same = [f"nasbench201:|{first}~0|+|none~0|none~1|+|none~0|none~1|none~2|" for first in ("none", "nor_conv_3x3")]
    assert short_name(same[0]) == short_name(same[1])  # neither reaches the output
    assert short_name(same[0]) != short_name(full_name("nasbench201", CELL))


def test_other_names_stay_as_they_are() -> None:
    for name in (
        "cifar_resnet20",
        "cifar_resnet_s0:1-3-5",
        "mobilenetv3_small_050.lamb_in1k",
        ":x" * 30,
        "",
        "a.py:" + "Net" * 20,
    ):
        assert short_name(name) == name
    unknown = "own:" + "width=64," * 10
    assert re.fullmatch(r"own-[0-9a-f]{6}", short_name(unknown))
    assert full_name("a + b", "b:x") == "b:x"
    assert full_name("b", "x") == "b:x"
