"""Readings of activations on the way: blocks, leaves, and codes of neurons."""

from __future__ import annotations

from torch import Tensor

from ..functional import similarities
from ..networks.contract import ReadingError
from ..networks.layouts import FeatureMap, stage_places
from .passes import Passes
from .recording import MapRecord
from .timing import reading


class ActivationReadings(Passes):
    """Readings of blocks and leaves, and the codes of neurons."""

    # -- blocks ---------------------------------------------------------------------------------

    @reading("blocks", controlled=True)
    def block_features(self) -> list[Tensor]:
        """The output of each block in the order of running, each (B, C, T) with class tokens; see `find_blocks`."""
        return [block.rows for block in self._pass_for("block_features").notes.blocks]

    @reading("blocks", controlled=True)
    def block_entropies(self) -> list[float]:
        """Entropy of the spectrum of each block's channel covariance, in nats; see `functional.channel_entropies`.

        There is one number for each block in the order of running. The input of the first block counts as the output
        of a block.

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        return similarities.channel_entropies(self._chain_rows("block_entropies"))

    @reading("blocks", controlled=True)
    def block_spectra(self) -> list[Tensor]:
        """The spectrum of the channels' second moment at the stem and at each block; see `functional.channel_spectrum`.

        Each is (min(C, B T),), for a block of C channels and T tokens, class tokens included.

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        return [similarities.channel_spectrum(rows) for rows in self._chain_rows("block_spectra")]

    def _chain(self, name: str) -> list[MapRecord]:
        """The input of the first block, unless it is the images, and the output of each block."""
        notes = self._pass_for(name).notes
        return notes.blocks if notes.entry is None else [notes.entry, *notes.blocks]

    def _chain_rows(self, name: str) -> list[Tensor]:
        rows = [record.rows for record in self._chain(name)]
        if not rows:
            raise ReadingError("the network has no block that gives a feature map")
        return rows

    @reading("blocks", controlled=True)
    def stage_maps(self) -> list[FeatureMap]:
        """The stages: the last output of a block at each resolution, from fine to coarse; see `networks.features`.

        Each has values (B, C, H, W) without class tokens.

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        taken = self._pass_for("stage_maps")
        if not taken.notes.blocks:
            raise ReadingError("the network has no block that gives a feature map")
        blocks = [block for block in taken.notes.blocks[: taken.notes.body] if block.is_map]
        values = [block.layout.to_map(block.raw.detach()) for block in blocks]
        positions = [each.shape[2] * each.shape[3] for each in values]
        return [FeatureMap(values[place]) for place in stage_places(positions, taken.forward.features.positions)]

    @reading("blocks", controlled=True)
    def stage_features(self) -> list[Tensor]:
        """The stages, each (B, C, P); see `stage_maps`.

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        return [stage.rows for stage in self.stage_maps]

    @reading("blocks", controlled=True)
    def last_stage(self) -> list[Tensor]:
        """The outputs of the blocks on the grid of the last feature map, each (B, C, P) without class tokens.

        If the network's features are class tokens only, these are the blocks on the grid of the last block that gives
        more. Blocks that give a single token are left out.

        Raises:
            ReadingError: The network has no block that gives a feature map.
        """
        taken = self._pass_for("last_stage")
        blocks = [block for block in taken.notes.blocks if block.raw.ndim == 4 or block.raw.shape[1] > 1]
        if not blocks:
            raise ReadingError("the network has no block that gives a feature map")
        maps = [block.layout.to_map(block.raw.detach()).flatten(2) for block in blocks]
        positions = taken.forward.features.positions
        if all(each.shape[2] != positions for each in maps):
            positions = maps[-1].shape[2]
        return [each for each in maps if each.shape[2] == positions]

    @reading("leaves")
    def leaf_maps(self) -> list[Tensor]:
        """The output of each innermost module for the first sample, if it has positions, each (C, P)."""
        return [leaf.rows[0] for leaf in self._pass_for("leaf_maps").notes.leaves]

    @reading("positions")
    def layer_positions(self) -> list[float]:
        """The number of positions, or tokens, of one image at which each of `layers` is applied; 0 for one not run.

        It is a fraction for a layer that runs once for the whole batch, as on a table of positions.
        """
        positions = self._pass_for("layer_positions").notes.positions
        return [positions[id(layer)] for layer in self.layers]

    # -- activation codes -----------------------------------------------------------------------

    @reading("code_gram")
    def code_gram(self) -> Tensor:
        """The number of neurons that are on in both samples or off in both, for each pair, (B, B) in float64.

        A neuron is an input of an activation function. It is on if that input is above zero.

        Raises:
            ReadingError: The network has no activation function.
        """
        gram = self._pass_for("code_gram").notes.code_gram
        if gram is None:
            raise ReadingError("the network calls no activation function whose input could be read")
        return gram

    @reading
    def neurons(self) -> int:
        """The number of neurons that `code_gram` counts."""
        return self._pass_for("code_gram").notes.neurons

    @reading("sign_patterns")
    def sign_patterns(self) -> int:
        """The number of distinct patterns, on or off, that neurons show over the first 16 samples.

        Raises:
            ReadingError: The network has no activation function.
        """
        patterns = self._pass_for("sign_patterns").notes.patterns
        if patterns is None:
            raise ReadingError("the network calls no activation function whose input could be read")
        return int(patterns.sum())
