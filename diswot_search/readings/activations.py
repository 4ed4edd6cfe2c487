"""Readings of what a forward pass notes down on its way: blocks, leaves, activation codes."""

from __future__ import annotations

import math

from torch import Tensor

from ..functional import similarities
from ..networks.contract import ReadingError
from .passes import Passes
from .timing import reading, reading_of


class ActivationReadings(Passes):
    """What blocks and leaves give, and the codes of neurons."""

    # -- blocks ---------------------------------------------------------------------------------

    @reading_of("blocks")
    def block_features(self) -> list[Tensor]:
        """The output of each block in the order of running, each (B, C, P); see `find_blocks` for what a block is."""
        return [self._as_map(block.detach()) for block in self._pass_for("block_features").notes.blocks]

    @reading_of("blocks")
    def block_entropies(self) -> list[float]:
        """Entropy of the spectrum of each block's channel covariance, in nats; see `functional.channel_entropies`.

        What the stem gives the first block counts as the output of a block.

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        maps = [self._as_map(map_.detach()) for map_ in self._chain("block_entropies")]
        if not maps:
            raise ReadingError("the network has no block that gives a feature map")
        return similarities.channel_entropies(maps)

    @reading_of("blocks")
    def block_spectra(self) -> list[Tensor]:
        """The spectrum of the channels' second moment at the stem and at each block; see `functional.channel_spectrum`.

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        maps = [self._as_map(map_.detach()) for map_ in self._chain("block_spectra")]
        if not maps:
            raise ReadingError("the network has no block that gives a feature map")
        return [similarities.channel_spectrum(map_) for map_ in maps]

    def _chain(self, name: str) -> list[Tensor]:
        """What the first block was given, unless these are the images, and the output of each block."""
        notes = self._pass_for(name).notes
        return notes.blocks if notes.entry is None else [notes.entry, *notes.blocks]

    @reading_of("blocks")
    def stage_features(self) -> list[Tensor]:
        """The last output of a block at each number of positions, in the order of running, each (B, C, P).

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        maps = [self._as_map(block.detach()) for block in self._pass_for("stage_features").notes.blocks]
        if not maps:
            raise ReadingError("the network has no block that gives a feature map")
        following = [after.shape[2] for after in maps[1:]] + [None]
        return [map_ for map_, after in zip(maps, following, strict=True) if map_.shape[2] != after]

    @reading_of("blocks")
    def last_stage(self) -> list[Tensor]:
        """The outputs of the blocks that give as many positions as the classifier is given, each (B, C, P).

        Where it is given no positions, but a token of the class, these are the blocks that give as many as the last
        one. That token is of no position: it is left out, and so are blocks that give nothing else. A model says by
        `num_prefix_tokens` how many such tokens there are; else one is told by the others making a square.

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        blocks = self._pass_for("last_stage").notes.blocks
        maps = [self._as_map(block.detach()) for block in blocks if block.ndim == 4 or block.shape[1] > 1]
        if not maps:
            raise ReadingError("the network has no block that gives a feature map")
        given = self.features.shape[2]
        alike = [map_ for map_ in maps if map_.shape[2] == given]
        positions = given if alike else maps[-1].shape[2]
        apart = getattr(self.model, "num_prefix_tokens", 0) if alike else 0
        if not apart and blocks[-1].ndim == 3 and math.isqrt(positions) ** 2 != positions:
            apart = int(math.isqrt(positions - 1) ** 2 == positions - 1)
        return [map_[:, :, apart:] for map_ in maps if map_.shape[2] == positions]

    @reading_of("leaves")
    def leaf_maps(self) -> list[Tensor]:
        """What each innermost module gave for the first sample, where that has positions, each (C, P)."""
        return [self._as_map(leaf[None])[0] for leaf in self._pass_for("leaf_maps").notes.leaves]

    def _as_map(self, raw: Tensor) -> Tensor:
        """A feature map of this network as (B, C, P)."""
        if raw.ndim == 3:
            return raw.float().transpose(1, 2)
        return (raw.flatten(1, 2).transpose(1, 2) if self._has_channels_last(raw) else raw.flatten(2)).float()

    def _has_channels_last(self, raw: Tensor) -> bool:
        """Whether the channels of a (B, ., ., .) map come last, as a block may have them whatever the model says."""
        _, first, second, third = raw.shape
        # A map of square images is square, which tells where the channels are unless they are as many as a side.
        of_square = self.probe.images.shape[2] == self.probe.images.shape[3]
        if of_square and (first == second) != (second == third):
            return first == second
        return str(getattr(self.model, "output_fmt", "NCHW")).upper().endswith("NHWC")

    # -- activation codes -----------------------------------------------------------------------

    @reading_of("code_gram")
    def code_gram(self) -> Tensor:
        """How many neurons agree on each pair of samples, on in both or off in both, (B, B) in float64.

        A neuron is an input of an activation function; it is on where that input is above zero.

        Raises:
            ReadingError: The network has no activation function.
        """
        gram = self._pass_for("code_gram").notes.code_gram
        if gram is None:
            raise ReadingError("the network calls no activation function whose input could be read")
        return gram

    @reading
    def neurons(self) -> int:
        """Neurons that `code_gram` is counted over."""
        return self._pass_for("code_gram").notes.neurons

    @reading_of("sign_patterns")
    def sign_patterns(self) -> int:
        """Number of distinct patterns that neurons show over the first 16 samples, on or off on each.

        Raises:
            ReadingError: The network has no activation function.
        """
        patterns = self._pass_for("sign_patterns").notes.patterns
        if patterns is None:
            raise ReadingError("the network calls no activation function whose input could be read")
        return int(patterns.sum())
