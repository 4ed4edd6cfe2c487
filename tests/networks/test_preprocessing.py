"""Preprocessing of images, written once: channels, size and normalisation of batches and of probes."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from diswot_search.data.probe import Probe
from diswot_search.networks.preprocessing import Preprocessed, Preprocessing, Preprocessor, ProbeConversion

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_images_are_normalised_by_channel() -> None:
    batch = images(2, 3, 4, 5)
    result = Preprocessor(MEAN, STD)(batch)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        torch.testing.assert_close(result[:, channel], (batch[:, channel] - mean) / std, rtol=0, atol=0)


@pytest.mark.parametrize("own", [1, 3])
def test_greyscale_images_get_the_channels_that_the_network_takes(own: int) -> None:
    batch = images(2, 1, 4, 4)
    for given in (batch, batch.expand(-1, 3, -1, -1)):
        result = Preprocessor((0.5,) * own, (0.25,) * own)(given)
        assert torch.equal(result, ((batch - 0.5) / 0.25).expand(-1, own, -1, -1))


def test_images_are_resized_only_where_a_size_is_set_and_another() -> None:
    batch = images(2, 3, 8, 8)
    for size in (None, (8, 8)):
        assert torch.equal(Preprocessor((0.0,) * 3, (1.0,) * 3, size)(batch), batch)
    assert Preprocessor(MEAN, STD, (6, 10))(batch).shape == (2, 3, 6, 10)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_order_is_that_which_was_asked_for(channels_last: bool) -> None:
    order = torch.channels_last if channels_last else torch.contiguous_format
    for given in (images(2, 3, 4, 4), images(2, 3, 4, 4).to(memory_format=torch.channels_last)):
        result = Preprocessor(MEAN, STD, channels_last=channels_last)(given)
        assert result.is_contiguous(memory_format=order)


def test_a_preprocessor_adds_nothing_to_the_weights_of_a_network() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    whole = Preprocessed(network, Preprocessor(MEAN, STD))
    batch = images(2, 3, 4, 4)
    assert torch.equal(whole(batch), network(Preprocessor(MEAN, STD)(batch)))
    assert list(whole.state_dict()) == ["network.1.weight", "network.1.bias"]


def test_what_a_network_leaves_open_comes_from_the_data() -> None:
    assert Preprocessing().filled(MEAN, STD) == Preprocessing(mean=MEAN, std=STD)
    assert Preprocessing(channels=1).filled(MEAN, STD) == Preprocessing(channels=1, mean=MEAN[:1], std=STD[:1])
    own = Preprocessing(3, (4, 4), STD, MEAN)
    assert own.filled(MEAN, STD) == own


def test_a_probe_is_converted_and_says_so() -> None:
    raw = images(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 1])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    probe = Probe.from_tensors((raw - mean) / std, labels)
    conversion = ProbeConversion(Preprocessing(3, (6, 6), (0.1,) * 3, (0.5,) * 3), MEAN, STD, "first")
    converted = conversion(probe)
    # The normalisation is undone in single precision.
    expected = Preprocessor((0.1,) * 3, (0.5,) * 3, (6, 6))(raw)
    torch.testing.assert_close(converted.images, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(converted.labels, labels)
    assert converted.origin["converted"]["size"] == [6, 6]
    other = ProbeConversion(conversion.preprocessing, MEAN, STD, "second")
    assert len({probe.fingerprint, converted.fingerprint, other(probe).fingerprint}) == 3
    again = pickle.loads(pickle.dumps(conversion))(probe)
    assert (again.fingerprint, again.origin) == (converted.fingerprint, converted.origin)
