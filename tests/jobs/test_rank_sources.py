"""Ranking sources: what is measured on which images, how it goes on, and what a user sees of it.

The features of a batch depend on the batch's size by single precision's rounding alone; values that are computed from
features of other batches are compared with a relative tolerance of 1e-4.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import diswot_search as ds
from diswot_search.data.splits import Splits
from diswot_search.jobs import rank_sources as source_ranking
from diswot_search.jobs.rank_sources import load_ranking, rank_sources
from diswot_search.reports.sources import describe_ranking, format_measures, format_ranking, plot_ranking
from diswot_search.runtime.files import RunFolderError
from diswot_search.runtime.lock import lock_folder
from diswot_search.sources import measures as relatedness_measures
from diswot_search.sources.evidence import Evidence
from diswot_search.sources.folder import RankingFolder
from diswot_search.sources.frozen import load_source
from diswot_search.sources.ranking import RankingError, SourceRanking
from diswot_search.sources.source import SourceError
from diswot_search.sources.transferability import balanced_draws, get_measure, list_measures, source_weights
from search_spaces.registry import UnknownNameError

CLASSES, SIZE = 4, 8
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""A source that sees pixels between 0 and 1 as they are."""


class Linear(nn.Module):
    """Features that are a linear function of the pixels, and a classifier; all batches that come by are kept."""

    seen: ClassVar[list[Tensor]] = []

    def __init__(self, weight: Tensor, classes: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.features = nn.Linear(weight.shape[1], weight.shape[0])
            self.fc = nn.Linear(weight.shape[0], classes)
        self.features.weight.data.copy_(weight)
        self.fc.bias.data[0] = 1.0  # which no initialisation gives
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.fc(self.features(x.flatten(1)))


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Linear.seen.clear()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time, and are tested by themselves."""
    monkeypatch.setattr(source_ranking, "to_png", lambda figure: b"")


def patterns() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 196, (CLASSES, SIZE, SIZE, 3))


def make_splits(images: int = 120, **options: Any) -> Splits:
    """Noisy pictures, a pattern for each class."""
    rng = np.random.default_rng(1)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % CLASSES
        return (patterns()[labels] + rng.integers(-60, 60, (count, SIZE, SIZE, 3))).astype(np.uint8), labels

    return Splits.from_arrays(part(images), part(24), part(40), name="patterns", **options)


class PredictsNaN(Linear):
    """Its weights are numbers, and so are its scores of the few images that show whether it fits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (math.nan if len(x) > 2 else 1)


def looks(pixels: int = 3 * SIZE * SIZE, seed: int = 0, width: int = 8, kind: type[Linear] = Linear) -> Linear:
    """A source that looks at this many values of an image: the more of them, the more it tells of the class."""
    weight = torch.randn(width, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(seed))
    weight[:, pixels:] = 0
    return kind(weight)


def constant() -> Linear:
    return Linear(torch.zeros(8, 3 * SIZE * SIZE))


def grey_layer() -> nn.Conv2d:
    """A layer for grey images whose weights are no initialisation."""
    layer = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.linspace(-3, 5, parameter.numel()).view_as(parameter))
    return layer.eval()


def make_sources() -> dict[str, Any]:
    return {"far": looks(2), "near": looks(), "between": looks(12)}


def rank(sources: Any = None, splits: Splits | None = None, **options: Any) -> SourceRanking:
    options = {"images": 60, "image_draws": 3, "progress": False, "device": "cpu"} | options
    return rank_sources(make_sources() if sources is None else sources, splits or make_splits(), **options)


def shown(ranking: SourceRanking) -> str:
    console = Console(width=200)
    with console.capture() as table:
        console.print(format_ranking(ranking))
    return table.get() + "\n".join(describe_ranking(ranking))


# -- what is measured ---------------------------------------------------------------------------


def test_sources_are_ordered_by_how_much_they_tell_of_the_target() -> None:
    ranking = rank()
    assert ranking.order() == ("near", "between", "far")
    similarities = ranking.similarities()
    assert list(similarities) == ["far", "near", "between"]  # as they were given
    assert similarities["near"] > similarities["between"] + 5
    assert [source.name for source in ranking.sources] == ["far", "near", "between"]
    assert repr(ranking) == "<SourceRanking of 3 sources for patterns by parc, near first, in memory>"


@pytest.mark.parametrize("labelled", [None, 90])
def test_values_are_those_of_the_measures_on_each_draw(labelled: int | None) -> None:
    """Features are taken by the source itself on each draw alone, in one batch."""
    splits = make_splits(labels=labelled)
    places = np.arange(120) if splits.labelled is None else splits.labelled.numpy()
    assert len(places) == (labelled or 120)
    labels = splits.train.labels.numpy()[places]
    ranking = rank(splits=splits, measures=["parc", "knn", "leep", "cka"], seed=3)
    draws = balanced_draws(labels, 60, 3, 3)
    assert ranking.images == tuple(map(len, draws))
    for source in ranking.sources:
        network = load_source(source, splits)
        for place, draw in enumerate(draws):
            images = splits.train.images[torch.from_numpy(places[draw])].float() / 255
            features, logits = network(images)
            expected = {
                "parc": relatedness_measures.parc(features.numpy(), labels[draw]),
                "knn": relatedness_measures.knn(features.numpy(), labels[draw]),
                "leep": relatedness_measures.leep(logits.double().softmax(1).numpy(), labels[draw]),
                "cka": relatedness_measures.cka(features.numpy(), labels[draw]),
            }
            probabilities = None if logits is None else logits.double().softmax(1).numpy()
            given = Evidence(features.double().numpy(), labels[draw], probabilities)
            for name, value in expected.items():
                found, measure = ranking.found[name][source.name], get_measure(name)
                chance = measure.chance(given)
                assert found.values[place] == pytest.approx(value, rel=1e-4)
                assert found.chances[place] == pytest.approx(chance, rel=1e-4)
                similarity = measure.similarity(value, chance)
                assert found.similarities[place] == pytest.approx(similarity, rel=1e-3, abs=1e-4)


def test_similarity_is_the_mean_above_chance_and_weights_follow_it() -> None:
    ranking = rank(measures=["knn", "leep"])
    for name, values in ranking.values["knn"].items():
        assert ranking.similarities()[name] == pytest.approx(np.mean(values) - 1 / CLASSES)  # classes are balanced
        assert ranking.spreads()[name] == pytest.approx(np.std(values))
    for name, values in ranking.values["leep"].items():
        chances = ranking.found["leep"][name].chances
        assert ranking.similarities("leep")[name] == pytest.approx(np.mean(np.exp(values) - np.exp(chances)))
    assert ranking.weights() == source_weights(ranking.similarities(), "weighted", 10.0)
    assert ranking.weights("nearest", measure="leep") == source_weights(ranking.similarities("leep"), "nearest")
    assert ranking.weights("weighted", 0) == pytest.approx(dict.fromkeys(ranking.names, 1 / 3))
    with pytest.raises(UnknownNameError, match=r"'lep'\. Did you mean 'leep'"):
        ranking.similarities("lep")


def test_all_measures_share_one_run_of_each_source_over_the_images() -> None:
    ranking = rank(measures="all")
    assert ranking.measures == tuple(name for name in list_measures() if name != "rsa")
    union = len(np.unique(np.concatenate(balanced_draws(np.arange(120) % CLASSES, 60, 3, 0))))
    examples = 2
    assert sum(len(batch) for batch in Linear.seen if len(batch) != examples) == 3 * union


def test_only_labelled_training_images_are_looked_at() -> None:
    splits = make_splits(labels_per_class=10)
    sources = {"near": {"model": looks(), **PLAIN}}
    rank(sources, splits)
    seen = {
        image.mul(255).round().byte().numpy().tobytes() for batch in Linear.seen if len(batch) > 2 for image in batch
    }
    assert splits.labelled is not None
    allowed = {image.numpy().tobytes() for image in splits.train.images[splits.labelled]}
    assert seen <= allowed
    assert len(seen) >= 32  # 80 % of each draw


def test_neither_order_nor_company_of_sources_matters() -> None:
    together = rank().values["parc"]
    turned = rank(dict(reversed(make_sources().items()))).values["parc"]
    alone = rank({"far": make_sources()["far"]}).values["parc"]
    assert turned == together
    assert alone["far"] == together["far"]


def test_a_draw_is_the_same_however_many_there_are() -> None:
    few, many = rank(image_draws=2).values["parc"], rank(image_draws=4).values["parc"]
    for name, values in few.items():
        assert many[name][:2] == pytest.approx(values, rel=1e-4)
    assert rank(seed=1).values["parc"] != rank().values["parc"]


def test_a_reference_is_compared_with_by_rsa() -> None:
    ranking = rank(measures=["rsa", "parc"], reference=looks())
    assert ranking.order()[0] == "near"
    assert ranking.similarities()["near"] == pytest.approx(100)  # it is the same network
    assert "rsa" in rank(measures="all", reference=looks(width=4)).measures
    with pytest.raises(RankingError, match=r"The reference Linear cannot be compared with\. The features are the same"):
        rank(measures="rsa", reference=constant())


# -- what cannot be had -------------------------------------------------------------------------


def test_what_cannot_be_had_has_a_reason_no_weight_and_the_last_place() -> None:
    sources = {"constant": constant(), **make_sources()}
    ranking = rank(sources, measures=["parc", "knn"])
    assert ranking.order()[-1] == "constant"
    assert math.isnan(ranking.similarities()["constant"])
    assert ranking.values["parc"]["constant"] is None
    assert "the same for all 60 images" in ranking.reasons["constant", "parc"]
    assert ranking.weights()["constant"] == 0.0
    entry = ranking.result()["sources"][-1]
    assert (entry["name"], entry["weight"], entry["measures"]["parc"]["mean"]) == ("constant", 0.0, None)
    assert "no parc of constant, which counts as weight 0 by it: The features are the same" in shown(ranking)


def test_a_measure_is_refused_for_what_it_needs_alone() -> None:
    predicts_nan = looks(kind=PredictsNaN)
    ranking = rank({"constant": constant(), "nan": predicts_nan}, measures=["leep", "parc"])
    assert set(ranking.reasons) == {("constant", "parc"), ("nan", "leep")}
    assert "probabilities of 60 of 60 images have NaN" in ranking.reasons["nan", "leep"]
    assert ranking.similarities("leep")["constant"] == pytest.approx(0, abs=1e-6)  # the same for all but for rounding
    assert ranking.similarities("parc")["nan"] > 5


def test_a_source_that_gives_nan_has_no_similarity() -> None:
    class Broken(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * (math.nan if len(x) > 2 else 1))

    ranking = rank({"broken": looks(kind=Broken), **make_sources()})
    assert ranking.order()[-1] == "broken"
    assert "NaN" in ranking.reasons["broken", "parc"]


def test_without_a_classifier_there_are_no_probabilities() -> None:
    sources = {"features": {"model": looks(), "num_classes": 0}, "classifier": looks(2)}
    ranking = rank(sources, measures=["leep", "parc"])
    assert ranking.order() == ("classifier", "features")
    assert ranking.order("parc") == ("features", "classifier")
    assert set(ranking.reasons) == {("features", "leep")}
    assert "no classifier" in ranking.reasons["features", "leep"]


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_without_a_ranking_is_removed_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    discard, out = RankingFolder.discard, tmp_path / "run"

    def discard_held(folder: RankingFolder, before: Any) -> None:
        with pytest.raises(RunFolderError, match="Another process works on"):
            lock_folder(out)
        discard(folder, before)

    monkeypatch.setattr(RankingFolder, "discard", discard_held)
    with pytest.raises(RankingError, match="No source has a value of leep"):
        rank({"one": looks(kind=PredictsNaN)}, measures=["leep"], out=out)
    assert not out.exists()


@pytest.mark.usefixtures("no_pictures")
def test_if_no_source_has_a_value_it_is_said_of_each_why(tmp_path: Path) -> None:
    broken = looks(kind=PredictsNaN)
    sources = {"one": broken, "two": {"model": looks(), "num_classes": 0}}
    message = r"No source has a value of leep\. one: .* NaN .*; two: .*classifier\. Try more labelled images or"
    with pytest.raises(RankingError, match=message):
        rank(sources, measures="leep", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    splits = make_splits(labels="50%")
    with pytest.raises(RankingError, match=message):
        rank(sources, splits, measures="leep", out=tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    rank(sources, splits, measures="parc", out=tmp_path / "empty")  # another attempt finds nothing in its way
    with pytest.raises(RunFolderError, match="another configuration"):
        rank(sources, splits, measures="leep", out=tmp_path / "empty")
    assert load_ranking(tmp_path / "empty").measures == ("parc",)
    with pytest.raises(RankingError, match=r"No two of the 4 images are of one class.* the weighting 'uniform' needs"):
        rank(splits=make_splits(labels_per_class=1))


@pytest.mark.usefixtures("no_pictures")
def test_what_no_source_can_have_is_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RankingFolder, "__init__", None)
    with pytest.raises(RankingError, match=r"No source has a value of leep\. one: .* this source has no classifier"):
        rank({"one": {"model": looks(), "num_classes": 0}}, measures=["leep"], out=tmp_path / "run")
    with pytest.raises(RankingError, match=r"far: No two of the 4 images are of one class.*; near: No two"):
        rank(splits=make_splits(labels_per_class=1), out=tmp_path / "run")


@pytest.mark.usefixtures("no_pictures")
def test_a_ranking_goes_on_once_the_cause_of_its_failure_is_gone(tmp_path: Path) -> None:
    """Two sources fail, the process ends, and the ranking that goes on has no value either."""
    is_broken = [True]

    class Mended(Linear):
        def forward(self, x: Tensor) -> Tensor:
            if is_broken[0] and len(x) > 2:
                raise ValueError("broken")
            return super().forward(x)

    sources = {"one": looks(kind=Mended), "two": looks(4, kind=Mended)}
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RankingFolder, "discard", lambda folder, before: None)  # as if it had been killed
        with pytest.raises(RankingError, match="ValueError: broken"):
            rank(sources, out=out)
    with pytest.raises(RankingError, match="ValueError: broken"):
        rank(sources, out=out)
    is_broken[0] = False
    assert rank(sources, out=out).order() == rank(sources).order()


@pytest.mark.parametrize("measure", ["parc", "cka", "h_score", "leep", "nce", "knn"])
def test_faint_sources_leave_no_weights_and_say_what_then(measure: str) -> None:
    """Pixels do not depend on the class, so that some sources are below chance."""
    flat = Splits.from_arrays(
        (np.random.default_rng(0).integers(0, 256, (80, SIZE, SIZE, 3), dtype=np.uint8), np.arange(80) % 2),
        (np.zeros((2, SIZE, SIZE, 3), np.uint8), np.arange(2)),
        (np.zeros((2, SIZE, SIZE, 3), np.uint8), np.arange(2)),
    )
    faint = {str(seed): looks(2, seed=seed) for seed in range(8)}
    similarities = rank(faint, flat, measures=measure).similarities()
    least = min(similarities, key=similarities.__getitem__)
    assert similarities[least] < 0
    ranking = rank({"faint": faint[least]}, flat, measures=measure)
    assert ranking.weights() == {}
    assert f"next: look for other sources; by {measure} none of these" in shown(ranking)
    with pytest.raises(RankingError, match=f"By {measure} no source tells more"):
        ranking.teachers()
    plot_ranking(ranking)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"measures": "parcc"}, UnknownNameError, "Unknown measure 'parcc'. Did you mean 'parc'"),
        ({"measures": []}, RankingError, "measures is empty; allowed: all, parc"),
        ({"measures": "rsa"}, RankingError, "rsa compares with a reference model; give reference"),
        ({"reference": looks()}, RankingError, "A reference is given, but no measure compares with it"),
        ({"images": 3}, ValueError, "images is 3; it must be a whole number of at least 4"),
        ({"image_draws": 0}, ValueError, "draws is 0"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"device": "gpu"}, ValueError, "Unknown device 'gpu'"),
        ({"sources": []}, SourceError, "There are no sources"),
        ({"sources": ["resnet-18"]}, UnknownNameError, "resnet18"),
        ({"sources": {"a": looks(), "b": looks()}}, SourceError, "a.*b"),
        ({"labels_per_class": 999}, ValueError, "999"),
        ({"data_options": {"seed": 1}}, ValueError, "data_options cannot be set"),
        ({"sources": [looks(), grey_layer()]}, SourceError, "Conv2d takes grey images"),
    ],
)
def test_bad_input_stops_before_a_folder_is_made(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        rank(**options, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert all(len(batch) == 2 for batch in Linear.seen)  # examples: nothing is measured


def test_random_weights_are_warned_of_and_count_nothing_by_similarity() -> None:
    random = {"model": "cifar_resnet20", "num_classes": 3, "input_size": (3, 8, 8)}
    with pytest.warns(UserWarning, match="cifar_resnet20 has random weights"):
        ranking = rank({"cifar_resnet20": random, "features": {"model": looks(12), "num_classes": 0}}, images=8)
    assert ranking.similarities()["cifar_resnet20"] > 5
    assert ranking.weights() == ranking.weights("nearest") == {"cifar_resnet20": 0, "features": 1}
    assert ranking.weights("uniform") == {"cifar_resnet20": 0.5, "features": 0.5}
    assert ranking.weights({"cifar_resnet20": 1}) == {"cifar_resnet20": 1, "features": 0}
    assert "cifar_resnet20 has random weights, of which nothing can be learnt: by similarity" in shown(ranking)
    with pytest.warns(UserWarning, match="random weights"):
        alone = rank([random], images=8)
    assert alone.weights() == {}
    assert "none of them has trained weights" in shown(alone)
    assert "chance does" not in shown(alone)
    with pytest.raises(RankingError, match="None of the sources has trained weights"):
        alone.teachers()


def test_sources_without_a_classifier_are_not_said_to_teach() -> None:
    lines = shown(rank({"features": {"model": looks(), "num_classes": 0}})).splitlines()
    assert lines[-1].startswith("next: look for sources with a classifier; none of those that count has one")
    assert not any("ds.distill" in line for line in lines)


def test_it_is_said_of_whom_nothing_says_how_it_was_trained() -> None:
    sources = {"plain": {"model": looks(), **PLAIN}, "far": looks(2), "near": looks(4)}
    assert "nothing says how they were trained: far, near; where that differs, give mean and std" in shown(
        rank(sources)
    )


# -- run folders --------------------------------------------------------------------------------


def without_timing(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    assert result.pop("timing")["seconds"] > 0
    return result


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let a run end, as if it were killed, once so many sources are stored; the answer lets it go on."""
    add, added = RankingFolder.add, []

    def add_and_stop(self: RankingFolder, *args: Any) -> None:
        add(self, *args)
        added.append(args)
        if len(added) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(RankingFolder, "add", add_and_stop)
    return lambda: monkeypatch.setattr(RankingFolder, "add", add)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("stored", [1, 2, 3])
def test_a_ranking_that_is_killed_goes_on(stored: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rank(measures=["parc", "leep"], out=tmp_path / "whole")
    proceed = stop_after(stored, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        rank(measures=["parc", "leep"], out=tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    if stored < 3:
        with pytest.raises(RunFolderError, match=f"is not finished: {stored} of 3 sources are measured"):
            load_ranking(tmp_path / "run")
    proceed()
    Linear.seen.clear()
    ranking = rank(measures=["parc", "leep"], out=tmp_path / "run")
    batches = [batch for batch in Linear.seen if len(batch) > 2]
    assert len(batches) == 3 - stored  # those that are stored are not run again; all images are one batch
    assert ranking.values == whole.values
    assert without_timing(tmp_path / "run") == without_timing(tmp_path / "whole")
    assert (tmp_path / "run" / "sources.csv").read_bytes() == (tmp_path / "whole" / "sources.csv").read_bytes()


@pytest.mark.usefixtures("no_pictures")
def test_another_configuration_is_refused(tmp_path: Path) -> None:
    rank(out=tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    for options, message in [
        (
            {"measures": "knn"},
            'measures is \\["parc"\\] there, \\["knn"\\] here. All measures of a source are computed together',
        ),
        ({"image_draws": 2}, "draws is 3 there, 2 here"),
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"splits": make_splits(labels=100)}, "target.labels"),
        ({"sources": make_sources() | {"far": looks(2, seed=7)}}, "sources.far.weights_sha256 is"),
    ]:
        with pytest.raises(RunFolderError, match=f"holds a ranking of another configuration: .*{message}"):
            rank(**options, out=tmp_path)
    with pytest.raises(RunFolderError, match=r"^far, between of the ranking in .* are not among the sources given"):
        rank({"near": looks(), "new": looks(5)}, out=tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.usefixtures("no_pictures")
def test_more_sources_are_measured_beside_those_that_are_known(tmp_path: Path) -> None:
    rank(out=tmp_path / "run")
    Linear.seen.clear()
    more = {"new": looks(5)} | make_sources()
    ranking = rank(more, out=tmp_path / "run")
    assert len([batch for batch in Linear.seen if len(batch) > 2]) == 1
    rank(more, out=tmp_path / "whole")
    assert without_timing(tmp_path / "run") == without_timing(tmp_path / "whole")
    assert ranking.names == tuple(more) == load_ranking(tmp_path / "run").names


@pytest.mark.usefixtures("no_pictures")
def test_a_source_that_does_not_fit_can_be_replaced(tmp_path: Path) -> None:
    wide = Linear(torch.ones(4, 7))
    with pytest.raises(SourceError, match="wide"):
        rank({"near": looks(), "wide": wide}, out=tmp_path)
    assert not list(tmp_path.iterdir())  # the second source, too, is tried before anything is written
    assert rank({"near": looks(), "far": looks(2)}, out=tmp_path).order() == ("near", "far")


@pytest.mark.usefixtures("no_pictures")
def test_a_ranking_is_read_from_its_folder(tmp_path: Path) -> None:
    measured = rank({"broken": constant(), **make_sources()}, measures=["leep", "parc"], out=tmp_path)
    read = load_ranking(tmp_path)
    assert (read.measures, read.names, read.images, read.path) == (
        measured.measures, measured.names, measured.images, tmp_path,
    )  # fmt: skip
    assert read.values == measured.values
    assert read.reasons == measured.reasons
    assert read.config == measured.config
    assert shown(read) == shown(measured)
    with pytest.raises(RankingError, match=r"source broken of the ranking in .* cannot be made again"):
        _ = read.sources
    with pytest.raises(RankingError, match="of data that was given as splits; give these again"):
        _ = read.target
    call = f"next: ds.distill(STUDENT, dataset=SPLITS, sources={str(tmp_path)!r}) teaches"
    assert call in shown(
        rank(out=tmp_path / "known"),
    ).replace(str(tmp_path / "known"), str(tmp_path))


def write_checkpoint(path: Path, seed: int) -> str:
    import timm

    torch.manual_seed(seed)
    torch.save(timm.create_model("cifar_resnet20", num_classes=3).state_dict(), path)
    return str(path)


@pytest.mark.usefixtures("no_pictures")
def test_sources_of_files_are_made_again_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = [
        {"model": "cifar_resnet20", "num_classes": 3, "checkpoint": write_checkpoint(Path(name), seed)}
        for seed, name in enumerate(["first.pt", "second.pt"])
    ]
    ranking = rank(sources, out="run", images=8, image_draws=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    read = load_ranking("../run")
    assert [source.config() for source in read.sources] == [source.config() for source in ranking.sources]
    assert [source.name for source in read.sources] == ["first", "second"]
    write_checkpoint(tmp_path / "first.pt", 7)
    with pytest.raises(RankingError, match=r"source first of .* is another one now .* ranked: checkpoint_sha256 is"):
        _ = load_ranking("../run").sources
    (tmp_path / "first.pt").unlink()
    with pytest.raises(
        RankingError, match=r"source first of the ranking in \.\./run cannot be made again: .*first\.pt"
    ):
        _ = load_ranking("../run").sources
    splits = make_splits()
    assert load_ranking("../run").teachers(splits, {"second": 1}).name == "second"  # of which alone it is made


def test_sources_with_random_weights_are_warned_of_once(tmp_path: Path) -> None:
    random = [{"model": "cifar_resnet20", "num_classes": 3}]
    with pytest.warns(UserWarning, match="random weights"):
        rank(random, out=tmp_path, images=8, image_draws=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not load_ranking(tmp_path).sources[0].trained


def test_what_is_no_ranking_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="There is no run folder"):
        load_ranking(tmp_path / "none")
    with pytest.raises(RunFolderError, match=r"no run folder of a .*ranking of sources"):
        load_ranking(tmp_path)


@pytest.mark.usefixtures("no_pictures")
def test_what_is_measured_of_an_unfinished_ranking_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proceed = stop_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        rank(out=tmp_path)
    ranking = load_ranking(tmp_path, unfinished=True)
    assert ranking.unfinished == ("between",)
    assert ranking.order() == ("near", "far")
    assert "not finished: 2 of 3 sources are measured; run the same again" in shown(ranking)
    assert " between " not in shown(ranking)
    proceed()
    assert rank(out=tmp_path).unfinished == load_ranking(tmp_path, unfinished=True).unfinished == ()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE meta SET value = '{' WHERE key = 'facts'",
        "DELETE FROM meta WHERE key = 'config'",
        "UPDATE meta SET value = '{}' WHERE key = 'config'",
        "UPDATE measured SET measures = 'parc'",
        """UPDATE measured SET measures = '{"parc": {"values": [1.0]}}'""",
        """UPDATE measured SET measures = '{"knn": {"values": [], "chances": [], "similarities": [], "reason": ""}}'""",
    ],
)
def test_a_store_that_does_not_hold_what_it_should_is_damaged(change: str, tmp_path: Path) -> None:
    rank(out=tmp_path)
    with closing(sqlite3.connect(tmp_path / "sources.sqlite")) as store, store:
        store.execute(change)
    with pytest.raises(RunFolderError, match="is damaged"):
        load_ranking(tmp_path)


@pytest.mark.usefixtures("no_pictures")
def test_the_store_of_another_version_is_refused(tmp_path: Path) -> None:
    rank(out=tmp_path)
    with closing(sqlite3.connect(tmp_path / "sources.sqlite")) as store:
        store.execute("PRAGMA user_version = 1")
    with pytest.raises(RunFolderError, match="has format 1; this version reads 4"):
        load_ranking(tmp_path)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("labels", [None, "40%"])
def test_data_of_a_name_is_made_again_wherever_one_is(
    labels: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = make_splits()
    members = {f"{part}_images": getattr(splits, part).images.permute(0, 2, 3, 1).numpy() for part in ("train", "test")}
    members |= {f"{part}_labels": getattr(splits, part).labels.numpy() for part in ("train", "test")}
    np.savez(tmp_path / "some patterns.npz", **members)
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"val_share": 0.2, "label_seed": 4}
    ranking = rank(splits="some patterns.npz", data_options=options, labels=labels, out="run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    read = load_ranking("../run")
    assert read.target.fingerprint == ranking.target.fingerprint
    assert read.target.labelled_indices().tolist() == ranking.target.labelled_indices().tolist()
    assert (tmp_path / "run" / "labels.txt").exists() == (labels is not None)
    at = f" --labels {Path('..') / 'run' / 'labels.txt'}" if labels else ""
    asked = f"--dataset 'some patterns.npz' --data_options.val_share 0.2 --data_options.root {tmp_path}{at}"
    assert "next: diswot search --teacher ../run --proxy diswot  # finds" in shown(read)
    assert f"then: diswot distill {asked} --sources ../run  # teaches" in shown(read)
    np.savez(tmp_path / "some patterns.npz", **members | {"test_images": 255 - members["test_images"]})
    with pytest.raises(RankingError, match=r"data of the ranking in \.\./run is another now .* fingerprint is"):
        _ = load_ranking("../run").target


# -- what is made of it -------------------------------------------------------------------------


def test_the_bank_of_teachers_has_the_weights_of_the_ranking() -> None:
    ranking = rank({"broken": constant(), **make_sources()})
    bank = ranking.teachers()
    weights = ranking.weights()
    assert {teacher.name: weight for teacher, weight in zip(bank.teachers, bank.weights, strict=True)} == {
        name: weight for name, weight in weights.items() if weight
    }
    assert ranking.teachers(weighting="nearest").name == "near"
    assert ranking.teachers(weighting={"far": 3, "near": 1}).weights == (0.75, 0.25)


@pytest.mark.usefixtures("no_pictures")
def test_a_search_takes_a_ranking_and_a_comparison_one_of_its_teachers(tmp_path: Path) -> None:
    ranking = rank(out=tmp_path)
    space = ds.create_space("cifar_resnet_s0", num_classes=CLASSES, input_size=ranking.target.input_size)
    table = ds.AccuracyTable("t", "accuracy", {str(architecture): 60.0 for architecture in islice(space, 3)})
    for teacher, call in ((ranking, "ranking"), (str(tmp_path), f"ds.load_ranking('{tmp_path}')")):
        with pytest.raises(ValueError, match=re.escape(f"is a ranking of sources; {call}.teachers(")):
            ds.compare(space, [], table, teacher=teacher, device="cpu")  # type: ignore[arg-type]
    study = ds.search(space, ranking, algorithm="random", evaluations=1, power=2.0, device="cpu", progress=False)
    weights = {teacher["name"]: teacher["weight"] for teacher in study.config["teacher"]["teachers"]}
    assert weights == pytest.approx({name: w for name, w in ranking.weights(power=2.0).items() if w})
    assert study.config["probes"][0]["fingerprint"] == ranking.target.probe(64).fingerprint
    with pytest.raises(RankingError, match="give these again"):  # the data of this ranking was given as splits
        ds.search(space, str(tmp_path), evaluations=1)
    with pytest.raises(ValueError, match="is no timm model"):
        ds.search("nasbench201", "|" * 5000, evaluations=1)  # too long for the name of a file


def test_a_ranking_is_for_its_target() -> None:
    ranking = rank()
    ranking.check_target("some/folder/patterns", CLASSES)
    for name, classes in (("patterns", CLASSES + 1), ("other", CLASSES)):
        with pytest.raises(RankingError, match="rank them for it"):
            ranking.check_target(name, classes)


def test_the_measures_are_listed_with_what_they_need() -> None:
    console = Console(width=300)
    with console.capture() as table:
        console.print(format_measures())
    for name in list_measures():
        assert f" {name} " in table.get()
        assert get_measure(name).summary in table.get()
    with pytest.raises(UnknownNameError, match="Did you mean 'parc'"):
        format_measures("parcc")


def test_the_table_has_every_source_once_in_order() -> None:
    ranking = rank(measures=["knn", "parc", "cka"])
    lines = shown(ranking).splitlines()
    assert lines[0].strip() == "Sources for patterns by knn: 3 draws of 60 labelled images"
    rows = [line.split("│") for line in lines if line.startswith("│")]
    assert [row[1].strip() for row in rows] == list(ranking.order())
    for row in rows:
        name, values = row[1].strip(), ranking.values["knn"]
        assert row[4].strip() == f"{np.mean(values[name]):.4g} ± {np.std(values[name]):.2g}"
        assert row[7].strip() == f"{ranking.weights()[name]:.3f}"
    chances = [np.mean(found.chances) for found in ranking.found["cka"].values()]
    raised = f"knn 0.25, cka {min(chances):.3g} to {max(chances):.3g}"  # that of cka depends on the source
    assert lines[-2] == f"values of features unrelated to the labels: {raised}"
    assert lines[-1].startswith("next: ds.distill(")


def test_a_single_draw_has_no_spread() -> None:
    assert "±" not in shown(rank(image_draws=1))


def test_the_picture_has_a_panel_for_each_measure_and_a_line_for_each_source(tmp_path: Path) -> None:
    ranking = rank({"constant": constant(), **make_sources()}, measures=["parc", "knn", "leep", "nce"], out=tmp_path)
    figure = plot_ranking(ranking)
    assert [axes.get_xlabel() for axes in figure.axes] == [f"{measure} above chance" for measure in ranking.measures]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == list(ranking.order()[::-1])
    means = [line.get_xdata()[0] for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    known = [ranking.similarities()[name] for name in labels if name != "constant"]
    assert means == pytest.approx(known)
    assert (tmp_path / "ranking.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("measures", [["parc"], ["parc", "leep"]])
@pytest.mark.parametrize("name", ["a", "a-long-name-of-a-source/of-a-long-name-of-a-folder"])
def test_titles_and_legends_stay_on_the_page(measures: list[str], name: str) -> None:
    random = {"model": looks(5), "trained": False}
    with pytest.warns(UserWarning, match="random weights"):
        figure = plot_ranking(rank({name: looks(), "random": random}, measures=measures))
    figure.canvas.draw()
    (legend,), title = figure.legends, figure.texts[0]
    assert {text.get_text() for text in legend.get_texts()} == {
        "draw",
        "features unrelated to the labels",
        "mean and standard deviation",
        "the same of a source of weight 0",
    }
    width, height = figure.bbox.size
    for drawn in (legend, title, *figure.axes[0].get_yticklabels()):
        box = drawn.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
