"""The examples of public docstrings run, and say what they show."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import diswot_search
import search_spaces

PACKAGES = (diswot_search, search_spaces)


def _public() -> dict[str, object]:
    """Everything public that has a docstring of its own, by its full name; the functions of public modules, too."""
    objects: dict[str, object] = {}
    for package in PACKAGES:
        for name in package.__all__:
            member = getattr(package, name)
            if isinstance(member, ModuleType):
                functions = inspect.getmembers(member, inspect.isfunction)
                own = {one: function for one, function in functions if function.__module__ == member.__name__}
                objects.update({f"{name}.{one}": function for one, function in own.items() if one[0] != "_"})
            elif inspect.isclass(member) or inspect.isfunction(member):
                objects[f"{package.__name__}.{name}"] = member
    return objects


PUBLIC = _public()
EXAMPLES = sorted(name for name, member in PUBLIC.items() if ">>>" in (inspect.getdoc(member) or ""))
LACKING = """
diswot_search.import_code search_spaces.import_code
diswot_search.AccuracyTable diswot_search.Algorithm diswot_search.ArchitectureError diswot_search.Batch
diswot_search.BudgetError diswot_search.Candidate diswot_search.Comparison diswot_search.DataError
diswot_search.Distiller diswot_search.DivergenceError diswot_search.EpochRow diswot_search.ExportError
diswot_search.ExportReport diswot_search.Finalist diswot_search.MachineError diswot_search.Measure
diswot_search.ModelCard diswot_search.Network diswot_search.NoScoreError diswot_search.OwnCodeError
diswot_search.PipelineResult diswot_search.Probe diswot_search.ProcessExecutor diswot_search.ProxyResult
diswot_search.ReadingError diswot_search.RecipeError diswot_search.Record diswot_search.RunFolderError
diswot_search.ScoreTable diswot_search.SerialExecutor diswot_search.Setting diswot_search.Shortlist
diswot_search.ShortlistError diswot_search.SourceError diswot_search.SourceRanking diswot_search.Splits
diswot_search.Study diswot_search.TeacherBank diswot_search.Training diswot_search.TrainingResult
diswot_search.TrainingTable diswot_search.TransferabilityError diswot_search.Trial diswot_search.UntrustedCodeError
diswot_search.Verdict diswot_search.WorkerDied diswot_search.bootstrap_correlations diswot_search.compare
diswot_search.distill diswot_search.evaluation_mode diswot_search.export diswot_search.import_table
diswot_search.load_ranking diswot_search.load_student diswot_search.rank_sources diswot_search.read_card
diswot_search.read_network diswot_search.read_shortlist diswot_search.register_aggregate
diswot_search.register_algorithm diswot_search.register_distiller diswot_search.register_executor
diswot_search.register_measure diswot_search.register_proxy diswot_search.register_space diswot_search.run
diswot_search.save_student diswot_search.search diswot_search.shortlist diswot_search.sweep diswot_search.tabulate
diswot_search.train losses.ickd_loss losses.nst_loss losses.pkt_loss search_spaces.AccuracyTable
search_spaces.ArchitectureError search_spaces.CifarResNet search_spaces.ClassifierMixin search_spaces.InputSpec
search_spaces.NASBench201Network search_spaces.OwnCodeError search_spaces.UntrustedCodeError
search_spaces.import_table search_spaces.load_checkpoint search_spaces.load_space search_spaces.register_space
search_spaces.searched_network
"""
WITHOUT_EXAMPLE = frozenset(LACKING.split())
"""What has no example yet. A name may leave this list, and none may join it."""


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.filterwarnings("ignore")
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    member = PUBLIC[name]
    module = inspect.getmodule(member)
    globs = {**vars(module), "ds": diswot_search}
    for example in doctest.DocTestFinder(recurse=False).find(member, name, module=module, globs=globs):
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(example)
        assert result.failed == 0


def test_what_is_public_has_an_example() -> None:
    assert {name for name in PUBLIC if name not in EXAMPLES} == WITHOUT_EXAMPLE
