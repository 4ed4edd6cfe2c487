"""A part of a user's own takes one file of the user's: it is found by name, and inherits the contract of its kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .source_tree import ROOT

SPACE = '''
import timm
import diswot_search as ds
from search_spaces import SearchSpace
from timm.models.resnet import BasicBlock, ResNet


class NarrowResNets(SearchSpace):
    """ResNets of few channels."""

    def __init__(self, num_classes=10, input_size=(3, 32, 32)):
        decisions = {"width": [4, 8, 12], "depth": [1, 2]}
        super().__init__("narrow_resnets", decisions, num_classes=num_classes, input_size=input_size)

    def build(self, architecture):
        width, depth = architecture.choices
        channels = (width, width, 2 * width, 2 * width)
        options = {"num_classes": self.num_classes, "in_chans": self.input_size[0]}
        return ResNet(BasicBlock, (depth, 1, 1, 1), channels=channels, stem_width=width, **options)


ds.register_space("narrow_resnets", NarrowResNets)
'''

PROXY = '''
import diswot_search as ds


def logit_spread(student, teacher):
    """The standard deviation of the class scores."""
    return float(student.logits.std())


ds.register_proxy("logit_spread", logit_spread)
'''

DISTILLER = '''
import diswot_search as ds
from torch.nn.functional import smooth_l1_loss


class HuberLogits(ds.Distiller):
    """The smooth L1 distance of the logits."""

    def __init__(self, setting, beta=1.0):
        super().__init__(setting)
        if not beta > 0:
            raise ds.DistillerError(f"beta is {beta!r}; it must be above 0.")
        self.beta = beta

    def forward(self, student, teacher, batch):
        return smooth_l1_loss(student.logits, teacher.logits, beta=self.beta)


ds.register_distiller("huber_logits", HuberLogits)
'''

MEASURE = '''
import diswot_search as ds
import numpy as np


def separation(evidence):
    """The share of the features' variance that lies between classes."""
    features = evidence.features
    within = sum(
        ((features[evidence.labels == label] - features[evidence.labels == label].mean(0)) ** 2).sum()
        for label in np.unique(evidence.labels)
    )
    return 1 - within / ((features - features.mean(0)) ** 2).sum()


def chance(evidence):
    return (len(np.unique(evidence.labels)) - 1) / (len(evidence.labels) - 1)


ds.register_measure("separation", separation, chance=chance)
'''

ALGORITHM = '''
import diswot_search as ds


class Climb(ds.Algorithm):
    """Mutations of the best architecture so far."""

    def __init__(self, space, **common):
        super().__init__(space, **common)
        self.forget()

    def suggest(self, attempt):
        if self.count < 20 or attempt >= 50:
            return self.draw()
        architecture = self.best[1]
        for _ in range(1 + attempt // 10):
            architecture = self.space.mutate(architecture, self.rng)
        return architecture

    def learn(self, evaluated):
        self.count += len(evaluated)
        for architecture, record in evaluated:
            if self.best is None or record.score > self.best[0]:
                self.best = record.score, architecture

    def forget(self):
        self.count, self.best = 0, None


ds.register_algorithm("climb", Climb)
'''

EXECUTOR = '''
from concurrent.futures import ThreadPoolExecutor

from diswot_search.runtime.executors.base import Executor, Placement
from diswot_search.runtime.executors.registry import register_executor


class Threads(Executor):
    """Computes in threads of this process."""

    def __init__(self, workers, *, threads=None, devices=None):
        self.workers, self.pools = workers, []

    def start(self, program):
        if self.pools:
            raise RuntimeError("The executor is started already.")
        self.functions = [program(Placement(worker)) for worker in range(self.workers)]
        self.pools = [ThreadPoolExecutor(1) for _ in range(self.workers)]

    def submit(self, worker, item):
        return self.pools[worker].submit(self.functions[worker], item)

    def replace(self, worker):
        pass

    def close(self, *, at_once=False):
        for pool in self.pools:
            pool.shutdown()
        self.pools = []


register_executor("threads", Threads)
'''

PARTS = {
    "space": (
        SPACE,
        "narrow_resnets",
        """
from diswot_search.testing.spaces import SearchSpaceContract
from own_space import NarrowResNets

class TestSpace(SearchSpaceContract):
    def create(self, **options):
        return NarrowResNets(**options)
""",
    ),
    "proxy": (
        PROXY,
        "logit_spread",
        """
import own_proxy
from diswot_search.testing.proxies import ProxyContract

class TestProxy(ProxyContract):
    def create(self):
        return "logit_spread"
""",
    ),
    "distiller": (
        DISTILLER,
        "huber_logits",
        """
from diswot_search.testing.distillers import DistillerContract
from own_distiller import HuberLogits

class TestDistiller(DistillerContract):
    minimum = 0.0
    wrong_options = {"beta": (0, -1.0)}

    def create(self, setting, **options):
        return HuberLogits(setting, **options)
""",
    ),
    "measure": (
        MEASURE,
        "separation",
        """
import own_measure
from diswot_search.testing.measures import MeasureContract

class TestMeasure(MeasureContract):
    def create(self):
        return "separation"
""",
    ),
    "algorithm": (
        ALGORITHM,
        "climb",
        """
from diswot_search.testing.algorithms import AlgorithmContract
from own_algorithm import Climb

class TestAlgorithm(AlgorithmContract):
    def create(self, space, **common):
        return Climb(space, **common)
""",
    ),
    "executor": (
        EXECUTOR,
        "threads",
        """
from diswot_search.testing.executors import ExecutorContract
from own_executor import Threads

class TestExecutor(ExecutorContract):
    def create(self, workers):
        return Threads(workers)
""",
    ),
}
"""A part of each kind: the user's file, the name that it registers, and the user's test file."""


@pytest.fixture
def own_files(tmp_path: Path) -> Path:
    """A folder of a user's own, with one file for each part and one test file for each."""
    for kind, (code, _, test) in PARTS.items():
        (tmp_path / f"own_{kind}.py").write_text(code)
        (tmp_path / f"test_{kind}.py").write_text(test)
    return tmp_path


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a user's folder, as the user would."""
    paths = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.faults
def test_parts_in_files_of_their_own_pass_their_contracts(own_files: Path) -> None:
    done = run_python(own_files, "-m", "pytest", "-v", "-p", "no:cacheprovider", *(f"test_{kind}.py" for kind in PARTS))
    assert done.returncode == 0, done.stdout
    for kind in PARTS:
        assert f"test_{kind}.py::" in done.stdout


@pytest.mark.faults
def test_parts_in_files_of_their_own_are_found_by_name_and_used_together(own_files: Path) -> None:
    code = """
import diswot_search as ds
import own_algorithm, own_distiller, own_measure, own_proxy, own_space

assert "narrow_resnets" in ds.list_spaces()
assert "logit_spread" in ds.list_proxies()
assert "huber_logits" in ds.list_distillers()
assert "separation" in ds.list_measures()
assert "climb" in ds.list_algorithms()
assert ds.get_distiller("huber_logits") is own_distiller.HuberLogits
assert ds.get_measure("separation").function is own_measure.separation
study = ds.search("narrow_resnets", proxy="logit_spread", algorithm="climb", evaluations=6, out="run", progress=False)
assert len(list(study.records)) == 6
assert str(study.winner.architecture) in map(str, ds.create_space("narrow_resnets"))
"""
    done = run_python(own_files, "-c", code)
    assert done.returncode == 0, done.stderr
    assert (own_files / "run" / "result.json").is_file()


@pytest.mark.faults
def test_a_contract_that_fails_shows_the_values(own_files: Path) -> None:
    """pytest rewrites the assertions of the contracts, so that a user sees what differed."""
    code = (own_files / "own_proxy.py").read_text().replace("float(student.logits.std())", "1.0")
    (own_files / "own_proxy.py").write_text(code)
    done = run_python(own_files, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_proxy.py")
    assert done.returncode == 1
    assert "assert 1 == 3" in done.stdout
