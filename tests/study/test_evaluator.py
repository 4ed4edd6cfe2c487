"""Scores that belong to their architecture alone, failures as a status, and input that does not fit."""

from __future__ import annotations

import gc
import json
import math
import os
import pickle
import random
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from diswot_search.data.probe import Probe, create_probe
from diswot_search.networks.network import Network, create_teacher
from diswot_search.proxies.proxy import Proxy
from diswot_search.proxies.registry import create_aggregate, get_proxy
from diswot_search.readings.core import Readings
from diswot_search.readings.passes import Precision
from diswot_search.runtime.devices import resolve_device
from diswot_search.study.evaluator import NO_TEACHER, Condition, Evaluator, ScoreTask, TaskEvaluator, WeightDraw
from diswot_search.study.records import Score
from diswot_search.testing.randomness import random_state
from search_spaces import Architecture, NASBench201Space, UnknownNameError, create_space

CELLS = [
    "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|",
    "|skip_connect~0|+|avg_pool_3x3~0|none~1|+|nor_conv_1x1~0|skip_connect~1|none~2|",
    "|nor_conv_1x1~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
]
DISCONNECTED = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|none~2|"


def make_space(num_classes: int = 10, **options: Any) -> NASBench201Space:
    return NASBench201Space(num_classes, (3, 16, 16), channels=8, cells=1, **options)


def make_probe(seed: int = 0, num_classes: int = 10, **options: Any) -> Probe:
    return create_probe(
        "noise", **{"batch_size": 12, "image_size": 16, "num_classes": num_classes, "seed": seed} | options
    )


def make_teacher(**options: Any) -> Network:
    return create_teacher("cifar_resnet", arch="1x8-1x16", **options)


def make_evaluator(proxy: Any = "diswot", **options: Any) -> Evaluator:
    arguments: Any = {
        "space": make_space(),
        "teacher": make_teacher(),
        "probes": make_probe(),
        "device": "cpu",
    } | options
    return Evaluator(proxy=proxy, **arguments)


def evaluate(evaluator: Evaluator, text: str) -> Score:
    return evaluator.evaluate([evaluator.space.parse(text)])[0]


def score(evaluator: Evaluator, text: str) -> float:
    evaluation = evaluate(evaluator, text)
    assert evaluation.status == "ok", evaluation.reason
    assert evaluation.score is not None
    return evaluation.score


# -- a score belongs to its architecture --------------------------------------------------------


def test_scores_are_the_same_in_any_order() -> None:
    forwards, backwards = make_evaluator(), make_evaluator()
    scores = {text: score(forwards, text) for text in CELLS}
    torch.rand(5)
    assert {text: score(backwards, text) for text in reversed(CELLS)} == scores
    assert {text: score(forwards, text) for text in CELLS} == scores
    assert len(set(scores.values())) == len(CELLS)


IN_ANOTHER_PROCESS = f"""
import torch
torch.set_num_threads({{threads}})
from diswot_search.data.probe import create_probe
from diswot_search.study.evaluator import Evaluator
from diswot_search.networks.network import create_teacher
from search_spaces import NASBench201Space
space = NASBench201Space(10, (3, 16, 16), channels=8, cells=1)
probe = create_probe("noise", batch_size=12, image_size=16, num_classes=10)
evaluator = Evaluator(space, create_teacher("cifar_resnet", arch="1x8-1x16"), probe, "diswot", device="cpu")
print([score.score for score in evaluator.evaluate([space.parse(text) for text in {CELLS[::-1]}])])
"""


@pytest.mark.faults
def test_scores_are_the_same_in_another_process() -> None:
    code = IN_ANOTHER_PROCESS.format(threads=torch.get_num_threads())
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    evaluator = make_evaluator()
    assert json.loads(found.stdout) == [score(evaluator, text) for text in CELLS[::-1]]


def test_equal_cells_share_their_score_and_not_their_cost() -> None:
    lean = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"
    wasteful = "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"  # the first edge leads nowhere
    evaluator = make_evaluator()
    assert score(evaluator, lean) == score(evaluator, wasteful)
    space = evaluator.space
    costs = [evaluator.read_student(space.parse(text)).cost for text in (lean, wasteful)]
    assert costs == [space.cost(space.parse(text)) for text in (lean, wasteful)]
    assert costs[0].params < costs[1].params
    by_size = make_evaluator("params")
    assert score(by_size, lean) == costs[0].params
    assert score(by_size, wasteful) == costs[1].params


def test_weights_depend_on_the_seed_and_the_canonical_architecture() -> None:
    evaluator = make_evaluator()

    def first_weight(text: str, seed: int) -> torch.Tensor:
        return next(evaluator.read_student(evaluator.space.parse(text), seed).model.parameters()).detach()

    assert torch.equal(first_weight(CELLS[0], 0), first_weight(CELLS[0], 0))
    assert not torch.equal(first_weight(CELLS[0], 0), first_weight(CELLS[0], 1))
    assert not torch.equal(first_weight(CELLS[0], 0), first_weight(CELLS[1], 0))


def test_global_random_state_is_left_alone() -> None:
    evaluator = make_evaluator()
    state = random_state()
    score(evaluator, CELLS[0])
    assert random_state() == state


# -- averages and parts -------------------------------------------------------------------------


def test_scores_are_averaged_over_seeds_and_probes() -> None:
    seeds, probes = (3, 5), [make_probe(0), make_probe(1)]
    together = evaluate(make_evaluator(seeds=seeds, probes=probes), CELLS[0])
    singles = [evaluate(make_evaluator(seeds=[s], probes=p), CELLS[0]) for s in seeds for p in probes]
    scores = [single.score for single in singles if single.score is not None]
    assert len(set(scores)) == 4
    # The same numbers are added, so nothing is lost but the last bit.
    assert together.score == pytest.approx(fmean(scores), rel=1e-14)
    assert together.score_std == pytest.approx(pstdev(scores), rel=1e-9)
    for term, value in together.parts.items():
        assert value == pytest.approx(fmean(single.parts[term] for single in singles), rel=1e-14)
    assert singles[0].score_std == 0


@pytest.mark.parametrize(
    ("proxy", "terms", "combine"),
    [
        ("diswot", ["semantic", "relation", "channel_relation"], fmean),
        ("diswot_paper", ["semantic_paper", "relation_paper"], sum),
        ("diswot_readme", ["semantic_readme", "relation_readme"], sum),
        ("semantic", [], None),
        ("params", [], None),
    ],
)
def test_parts_make_up_the_score(proxy: str, terms: list[str], combine: Callable[..., float] | None) -> None:
    teacher = create_teacher("cifar_resnet", arch="1x8-1x32")  # as wide as the cells' last map
    evaluation = evaluate(make_evaluator(proxy, teacher=teacher, seeds=(0, 1)), CELLS[0])
    assert evaluation.status == "ok", evaluation.reason
    assert list(evaluation.parts) == terms
    if combine:
        assert evaluation.score == pytest.approx(combine(evaluation.parts.values()), abs=1e-9)
    for term, value in evaluation.parts.items():
        assert value == score(make_evaluator(term, teacher=teacher, seeds=(0, 1)), CELLS[0])


def test_a_teacher_of_other_classes_serves_diswot() -> None:
    assert math.isfinite(score(make_evaluator(teacher=make_teacher(num_classes=3)), CELLS[0]))


def test_a_plain_function_scores_without_a_teacher() -> None:
    def spread(student: Readings, teacher: Readings | None) -> float:
        assert teacher is None
        return float(student.logits.std())

    assert score(make_evaluator(spread, teacher=None), CELLS[0]) > 0


# -- how often and how long ---------------------------------------------------------------------


def test_a_teacher_is_read_once_for_each_seed_and_a_trained_one_once() -> None:
    for trained, expected in ((False, 2), (True, 1)):
        built: list[int] = []

        def make(built: list[int] = built) -> nn.Module:
            built.append(1)
            return make_teacher().build()

        evaluator = make_evaluator(teacher=Network.from_factory("counted", make, trained=trained), seeds=(0, 1))
        for text in CELLS:
            score(evaluator, text)
        assert len(built) == expected


class CountingSpace(NASBench201Space):
    """Counts the networks that it builds."""

    built = 0

    def build(self, architecture: Architecture) -> nn.Module:
        self.built += 1
        return super().build(architecture)


def test_members_of_an_aggregate_share_the_network_and_score_as_they_do_alone() -> None:
    space = CountingSpace(10, (3, 16, 16), channels=8, cells=1)
    options: Any = {"space": space, "seeds": (0, 1), "probes": [make_probe(0), make_probe(1)]}
    evaluation = evaluate(make_evaluator("log_rank(semantic, relation, macs)", **options), CELLS[0])
    assert space.built == 4
    assert (evaluation.status, evaluation.score, evaluation.score_std) == ("ok", None, None)
    assert evaluation.parts == {
        name: score(make_evaluator(name, **options), CELLS[0]) for name in ("semantic", "relation", "macs")
    }


def test_students_are_let_go_of() -> None:
    seen: list[weakref.ref[Any]] = []

    def watch(student: Readings, teacher: Readings | None) -> float:
        seen.append(weakref.ref(student))
        seen.append(weakref.ref(student.model))
        return float(student.logits.std())

    evaluator = make_evaluator(watch)
    for text in CELLS:
        score(evaluator, text)
    gc.collect()
    assert len(seen) == 2 * len(CELLS)
    assert [reference() for reference in seen] == [None] * len(seen)


def test_formats_of_numbers_reach_student_and_teacher() -> None:
    def formats(student: Readings, teacher: Readings | None) -> float:
        assert teacher is not None
        used.update((student.precision, teacher.precision))
        return 0.0

    used: set[Precision] = set()
    score(make_evaluator(formats, precision=Precision(channels_last=False, bf16=True)), CELLS[0])
    assert used == {Precision(channels_last=False, bf16=True)}


# -- the engine ---------------------------------------------------------------------------------


def test_any_set_of_tasks_gives_the_scores_that_each_task_has_alone() -> None:
    draws = [WeightDraw(3, 0), WeightDraw(3, 1), WeightDraw(5, 1)]
    conditions = [Condition(make_teacher(), treatment) for treatment in (None, "shuffled", "no teacher")]
    proxies = [get_proxy("relation"), get_proxy("grad_norm")]
    tasks = [ScoreTask(proxy, condition, draw) for draw in draws for condition in conditions for proxy in proxies]  # type: ignore[arg-type]
    space, probes = make_space(), [make_probe(0), make_probe(1)]
    evaluator = TaskEvaluator(space, probes, device="cpu")
    cell = space.parse(CELLS[0])
    together = [score.score for score in evaluator.evaluate(cell, tasks)]
    alone = [next(TaskEvaluator(space, probes, device="cpu").evaluate(cell, [task])).score for task in tasks]
    assert together == pytest.approx(alone, rel=1e-5)  # a pass that notes more down may round otherwise
    assert len(set(together)) == 9 + 3  # grad_norm does not look at the teacher
    assert together == [score.score for score in evaluator.evaluate(cell, tasks)]


def test_tasks_stop_where_they_are_not_taken_and_disturb_no_other() -> None:
    calls: list[str] = []

    def counted(student: Readings, teacher: Readings | None) -> float:
        calls.append("counted")
        return 1.0

    broken = Proxy("broken", raising(ZeroDivisionError("by zero")), needs_teacher=False, summary="")
    own = Proxy("counted", counted, needs_teacher=False, summary="")
    tasks = [ScoreTask(proxy, NO_TEACHER, WeightDraw(0)) for proxy in (broken, own)]
    evaluator = TaskEvaluator(make_space(), [make_probe()], device="cpu")
    scores = evaluator.evaluate(evaluator.space.parse(CELLS[0]), tasks)
    assert next(scores).reason == "ZeroDivisionError: by zero"
    assert calls == []
    assert next(scores).score == 1.0
    assert calls == ["counted"]


def test_readings_of_teachers_go_with_their_draw() -> None:
    evaluator = TaskEvaluator(make_space(), [make_probe()], device="cpu")
    cell, condition = evaluator.space.parse(CELLS[0]), Condition(make_teacher(), "shuffled")
    readings: list[weakref.ref[Any]] = []

    def watch(student: Readings, teacher: Readings | None) -> float:
        readings.append(weakref.ref(teacher))
        return 0.0

    proxy = Proxy("watch", watch, needs_teacher=True, summary="")
    for seed in (0, 0, 1):
        list(evaluator.evaluate(cell, [ScoreTask(proxy, condition, WeightDraw(seed))]))
    gc.collect()
    assert readings[0]() is readings[1]() is None
    assert readings[2]() is not None


def test_evaluators_and_tasks_travel_to_other_processes_without_readings() -> None:
    evaluator = make_evaluator("log_rank(grad_norm, macs)", teacher=None)
    expected = score_parts(evaluator)
    copy = pickle.loads(pickle.dumps(evaluator))
    assert score_parts(copy) == expected
    tasks = [ScoreTask(proxy, NO_TEACHER, WeightDraw(0)) for proxy in evaluator.proxy.components]
    engine = TaskEvaluator(make_space(), [make_probe()], device="cpu")
    cell = engine.space.parse(CELLS[0])
    engine_copy, tasks_copy = pickle.loads(pickle.dumps((engine, tasks)))
    assert [s.score for s in engine_copy.evaluate(cell, tasks_copy)] == [s.score for s in engine.evaluate(cell, tasks)]
    list(engine.evaluate(cell, [ScoreTask(get_proxy("relation"), Condition(make_teacher()), WeightDraw(0))]))  # type: ignore[arg-type]
    pickle.dumps(engine)  # it holds readings by now, which are not pickled


def score_parts(evaluator: Evaluator) -> dict[str, float]:
    return evaluate(evaluator, CELLS[0]).parts


# -- failure is a status ------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[..., float]:
    def proxy(student: Readings, teacher: Readings | None) -> float:
        raise error

    return proxy


class BrokenSpace(NASBench201Space):
    def build(self, architecture: Architecture) -> nn.Module:
        raise OSError("no room for this network\nand more lines")


def one_after_another(*scores: float) -> Callable[..., float]:
    left = list(scores)
    return lambda student, teacher: left.pop(0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"proxy": lambda student, teacher: math.nan}, "the score is nan"),
        ({"proxy": lambda student, teacher: -math.inf}, "the score is -inf"),
        ({"proxy": one_after_another(0.5, math.nan), "seeds": (0, 1)}, "the score is nan"),
        ({"proxy": raising(ZeroDivisionError("by zero"))}, "ZeroDivisionError: by zero"),
        ({"proxy": raising(KeyError("x" * 1000))}, "KeyError: 'xxx"),
        ({"proxy": raising(RuntimeError())}, "RuntimeError: "),
        ({"proxy": lambda student, teacher: None}, "TypeError: "),
        (
            {"proxy": "semantic_readme", "teacher": make_teacher(num_classes=3)},
            "ReadingError: .* the proxy 'semantic' without a suffix",
        ),
        ({"proxy": "semantic_paper", "teacher": make_teacher(num_classes=3)}, "the proxy 'semantic' without a suffix"),
        ({"space": BrokenSpace(10, (3, 16, 16))}, "^OSError: no room for this network$"),
    ],
)
def test_what_goes_wrong_with_a_candidate_is_a_status(options: dict[str, Any], reason: str) -> None:
    evaluation = evaluate(make_evaluator(**options), CELLS[0])
    assert (evaluation.status, evaluation.score, evaluation.score_std, evaluation.parts) == ("failed", None, None, {})
    assert evaluation.reason is not None
    assert len(evaluation.reason) <= 300
    assert evaluation.seconds >= 0
    assert re.search(reason, evaluation.reason)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (lambda student, teacher: math.nan, "broken: the score is nan"),
        (one_after_another(0.5, math.inf), "broken: the score is inf"),
        (raising(ZeroDivisionError("by zero")), "broken: ZeroDivisionError: by zero"),
    ],
)
def test_a_member_that_fails_is_named(member: Any, reason: str) -> None:
    broken = Proxy("broken", member, needs_teacher=False, summary="")
    evaluation = evaluate(make_evaluator(create_aggregate(["params", broken]), seeds=(0, 1)), CELLS[0])
    assert (evaluation.status, evaluation.reason, evaluation.score) == ("failed", reason, None)
    assert evaluation.parts == {}


def test_an_interruption_of_a_member_is_no_failure() -> None:
    broken = Proxy("broken", raising(KeyboardInterrupt()), needs_teacher=False, summary="")
    with pytest.raises(KeyboardInterrupt):
        evaluate(make_evaluator(create_aggregate(["params", broken])), CELLS[0])


def test_a_cell_without_a_path_fails_and_the_next_one_does_not() -> None:
    evaluator = make_evaluator()
    evaluation = evaluate(evaluator, DISCONNECTED)
    assert evaluation.status == "failed"
    assert evaluation.reason == "ValueError: the features are zero everywhere, so they have no spectrum"
    assert score(evaluator, CELLS[0]) == score(make_evaluator(), CELLS[0])


def test_an_interruption_is_no_failure() -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(make_evaluator(raising(KeyboardInterrupt())), CELLS[0])


def test_a_teacher_that_cannot_be_read_is_no_failure_of_the_candidate() -> None:
    evaluator = make_evaluator(teacher=create_teacher("vit_tiny_patch16_224", num_classes=10, depth=1))
    with pytest.raises(RuntimeError, match=r"'vit_tiny_patch16_224' cannot be read .*'noise' \(16x16 with 3"):
        evaluate(evaluator, CELLS[0])


# -- input that does not fit --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"proxy": "diswott"}, UnknownNameError, "Did you mean 'diswot'"),
        ({"teacher": None}, ValueError, "'diswot' compares with a teacher; none was given"),
        ({"teacher": None, "proxy": "log_rank(relation, macs)"}, ValueError, r"'log_rank\(relation, macs\)' compares"),
        ({"probes": []}, ValueError, "at least one probe"),
        ({"seeds": ()}, ValueError, "one weight seed"),
        ({"probes": make_probe(image_size=32)}, ValueError, "images of 32x32 with 3 .* made for 16x16 with 3"),
        ({"probes": [make_probe(), make_probe(num_classes=7)]}, ValueError, "7 classes, .* have 10; .*num_classes=7"),
        ({"device": "tpu"}, ValueError, "Unknown device 'tpu'; allowed: auto, cpu, cuda, mps"),
        ({"device": "cuda:first"}, ValueError, "Unknown device 'cuda:first'"),
        ({"device": "cpu:7"}, ValueError, "has no 'cpu:7' that torch can use; it has: cpu"),
    ],
)
def test_input_that_does_not_fit_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_evaluator(**options)


def machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("gpus", "mps", "expected"), [(0, False, "cpu"), (1, False, "cuda"), (0, True, "mps"), (2, True, "cuda")]
)
def test_auto_takes_the_fastest(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, expected: str) -> None:
    machine(monkeypatch, gpus=gpus, mps=mps)
    assert resolve_device("auto") == expected


def test_a_device_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=2, mps=False)
    assert [resolve_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    for absent in ("cuda:2", "mps"):
        with pytest.raises(ValueError, match=rf"no '{absent}' .* it has: cpu \(1\), cuda \(2\)\."):
            resolve_device(absent)
    machine(monkeypatch, gpus=0, mps=False)
    with pytest.raises(ValueError, match="This machine has no 'cuda'"):
        resolve_device("cuda")


# -- config -------------------------------------------------------------------------------------


def test_configs_tell_evaluators_apart() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"space": make_space(num_classes=7), "probes": make_probe(num_classes=7)},
        {"teacher": make_teacher(num_classes=3)},
        {"teacher": None, "proxy": "params"},
        {"probes": make_probe(1)},
        {"probes": [make_probe(0), make_probe(1)]},
        {"proxy": "semantic"},
        {"proxy": "log_rank(semantic, macs)"},
        {"proxy": "mean_rank(semantic, macs)"},
        {"seeds": (1,)},
        {"seeds": (0, 1)},
        {"precision": Precision(channels_last=not Precision().channels_last)},
        {"precision": Precision(bf16=True)},
    ]
    configs = [make_evaluator(**change).config() for change in changes]
    assert all(json.loads(json.dumps(config)) == config for config in configs)
    assert len({json.dumps(config, sort_keys=True) for config in configs}) == len(changes)
    assert make_evaluator().config() == configs[0]


def test_the_number_of_a_gpu_is_no_part_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=2, mps=False)
    configs = [make_evaluator(device=device).config() for device in ("cuda:0", "cuda:1", "cuda", "cpu")]
    assert configs[0] == configs[1] == configs[2] != configs[3]


# -- on a GPU -----------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use through CUDA")
def test_a_gpu_ranks_as_the_cpu_does() -> None:
    space = create_space("nasbench201", cells=1)
    rng = random.Random(0)
    cells: list[Architecture] = []
    while len(cells) < 200:
        cell = space.canonical(space.sample(rng))
        if space.is_trainable(cell) and cell not in cells:
            cells.append(cell)
    scores = []
    for device in ("cpu", "cuda"):
        evaluator = Evaluator(space, create_teacher("cifar_resnet20"), create_probe("digits"), device=device)
        scores.append([score.score for score in evaluator.evaluate(cells)])
    # Single precision on both: what is closer than their rounding may change places.
    assert kendalltau(*scores).statistic >= 0.99
