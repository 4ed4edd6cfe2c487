"""The executor on Ray: the contract, machines that are lost, clusters that cannot be used, and a Ray of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import diswot_search as ds
from diswot_search.runtime.executors import ray as ray_module
from diswot_search.runtime.executors.base import Executor, Placement, WorkerDied
from diswot_search.runtime.executors.ray import RayExecutor
from diswot_search.runtime.executors.registry import create_executor, list_executors
from diswot_search.runtime.failures import MachineError
from diswot_search.testing.executor_programs import ActionProgram
from diswot_search.testing.executors import ExecutorContract
from search_spaces import plugins

from ...jobs import workers_parts
from ...source_tree import ROOT
from .programs import FaultyProgram

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("ray")]  # one cluster serves them all


@pytest.fixture(autouse=True)
def _nothing_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import what tests before these have imported of a user's own only where a test asks for it."""
    monkeypatch.setattr(plugins, "_modules", {})
    monkeypatch.setattr(plugins, "_modules_of_names", {})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one machine with two CPUs, which this process has joined."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    # A machine that is killed is missed within a second or two, not within 20.
    health = {"initial_delay_ms": 0, "period_ms": 300, "timeout_ms": 1_000, "failure_threshold": 3}
    system = {f"health_check_{name}": value for name, value in health.items()}
    options = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 2**27, "_system_config": system}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("cluster")
class TestRay(ExecutorContract):
    def create(self, workers: int) -> Executor:
        return create_executor("ray", workers=workers, threads=workers)


# -- faults -------------------------------------------------------------------------------------


class WhereProgram:
    """Returns an item, and the machine of Ray and the process that computed it."""

    def __call__(self, placement: Placement) -> Callable[[Any], Any]:
        return self.compute

    def compute(self, item: int) -> tuple[int, str, int]:
        import ray

        time.sleep(0.02)
        return item, ray.get_runtime_context().get_node_id(), os.getpid()


def losing(cluster: Any, node: Any, executor: Executor) -> Callable[[], None]:
    """Return a function that kills a machine of a cluster with the workers there, which would go on for a while."""
    answers = [executor.submit(worker, 0).result() for worker in range(executor.workers)]
    processes = [process for _, machine, process in answers if machine == node.node_id]
    assert processes

    def lose() -> None:
        cluster.remove_node(node, allow_graceful=False)
        for process in processes:
            os.kill(process, signal.SIGKILL)

    return lose


def compute_all(executor: Executor, items: list[Any], lose: Callable[[], None]) -> list[Any]:
    """Compute items, again where a worker died, and lose a machine in the middle."""
    results: dict[int, Any] = {}
    is_lost = False
    waiting, free = list(range(len(items))), list(range(executor.workers))
    at_work: dict[Future[Any], tuple[int, int]] = {}
    while len(results) < len(items):
        while free and waiting:
            worker, index = free.pop(), waiting.pop(0)
            at_work[executor.submit(worker, items[index])] = worker, index
            if index == len(items) // 2 and not is_lost:
                is_lost = True
                lose()
        for future in wait(at_work, return_when=FIRST_COMPLETED).done:
            worker, index = at_work.pop(future)
            try:
                results[index] = future.result()
            except WorkerDied:
                executor.replace(worker)
                waiting.append(index)
            free.append(worker)
    return [results[index] for index in range(len(items))]


def test_a_machine_that_is_lost_takes_nothing_with_it(cluster: Any) -> None:
    nodes = [cluster.add_node(num_cpus=2, resources={"spot": 2}, object_store_memory=2**27) for _ in range(2)]
    items = list(range(20))
    executor = RayExecutor(2, threads=2, resources={"spot": 1})
    executor.start(WhereProgram())
    _, machine, _ = executor.submit(0, 0).result()
    lost, left = sorted(nodes, key=lambda node: node.node_id != machine)
    results = compute_all(executor, items, losing(cluster, lost, executor))
    assert [item for item, _, _ in results] == items
    machines = {executor.submit(worker, 0).result()[1] for worker in range(2)}
    assert machines == {left.node_id}  # it has room for both
    executor.close()

    executor = RayExecutor(3, threads=3)
    executor.start(WhereProgram())
    lose = losing(cluster, left, executor)
    with pytest.warns(UserWarning, match=r"lost the room for worker \d, which now shares the CPUs of others"):
        results = compute_all(executor, items, lose)
    assert [item for item, _, _ in results] == items
    executor.close()


def test_a_search_loses_nothing_with_a_machine(cluster: Any, tmp_path: Path) -> None:
    first, second = (cluster.add_node(num_cpus=2, resources={"bay": 2}, object_store_memory=2**27) for _ in range(2))
    options: dict[str, Any] = {
        "space_options": {"channels": 4, "cells": 1},
        "proxy": workers_parts.uneven,
        "batch_size": 8,
        "evaluations": 200,
        "algorithm": "evolution",
        "device": "cpu",
        "progress": False,
    }
    out = tmp_path / "run"
    hosts: list[int] = []
    replaced: list[int] = []

    class Losing(RayExecutor):
        """Loses a machine when half of the candidates are handed out."""

        def submit(self, worker: int, item: Any) -> Future[Any]:
            hosts.append(worker)
            if len(hosts) == 100:
                cluster.remove_node(first, allow_graceful=False)
            return super().submit(worker, item)

        def replace(self, worker: int) -> None:
            replaced.append(worker)
            super().replace(worker)

    study = ds.search("nasbench201", **options, executor=Losing(2, threads=2, resources={"bay": 1}), out=out)
    cluster.remove_node(second)
    serial = ds.search("nasbench201", **options)
    found, expected = ([replace(one, seconds=0.0, worker=None) for one in it.records] for it in (study, serial))
    assert found == expected
    assert set(hosts) == {0, 1}
    assert replaced


def test_a_resource_that_is_lost_ends_the_job_with_one_line(cluster: Any) -> None:
    node = cluster.add_node(num_cpus=1, resources={"spot": 1}, object_store_memory=2**27)
    executor = RayExecutor(1, threads=1, resources={"spot": 1})
    executor.start(WhereProgram())
    losing(cluster, node, executor)()
    with pytest.raises(MachineError, match=r"no room any more for worker 0, which asks for 1 CPU and 1 spot"):
        executor.replace(0)
    executor.close()


@pytest.mark.usefixtures("cluster")
def test_errors_warnings_and_deaths_come_with_their_reasons() -> None:
    executor = RayExecutor(1, threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        executor.start(FaultyProgram())
    with pytest.raises(WorkerDied, match=r"worker 0 died at the item \(.*worker process has died"):
        executor.submit(0, ("segmentation fault", None)).result()
    assert executor.submit(0, ("threads", None)).result() == (1, "1")
    assert repr(executor.submit(0, ("odd", None)).exception()) == "OddError('1 and 2')"
    with pytest.raises(ValueError, match=r"item cannot be sent .*\[1\], the function .*lambda"):
        executor.submit(0, ("same", lambda: 3))
    with pytest.warns(UserWarning, match="a small fault"):
        executor.submit(0, ("warn", "a small fault")).result()
    assert executor.submit(0, ("warn", "a small fault")).result() == "a small fault"  # it is shown once
    executor.close()


# -- what cannot be used ------------------------------------------------------------------------


@pytest.mark.usefixtures("cluster")
def test_more_than_the_cluster_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match=r"room for 2 of 3 workers: each asks for 1 CPU, and 1 machine has 2 CPU"):
        RayExecutor(3, threads=3).start(ActionProgram())
    with pytest.raises(MachineError, match=r"room for 0 of 1 workers: each asks for 1 CPU and 0\.5 GPU"):
        RayExecutor(1, threads=1, devices=["cuda"], resources={"GPU": 0.5}).start(ActionProgram())
    first, second = RayExecutor(2, threads=2), RayExecutor(1, threads=1)
    first.start(ActionProgram())
    monkeypatch.setattr(ray_module, "_PLACE_S", 1.0)
    with pytest.raises(MachineError, match=r"only 0 of 1 workers in 1 s, since other work .* free are 0 CPU"):
        second.start(ActionProgram())
    first.close()
    with pytest.raises(ValueError, match=r"has joined the Ray at .* already, not 10\.0\.0\.1:6379"):
        RayExecutor(1, address="10.0.0.1:6379").connect()


def test_ray_that_is_not_installed_is_told_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "ray" in list_executors()
    with pytest.raises(ImportError, match=r"pip install 'diswot-search\[ray\]'") as refusal:
        create_executor("ray", workers=2)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0; it must"),
        ({"threads": 3}, "threads is 3 for 2 workers together"),
        ({"address": "ray://head:10001"}, "Ray Client is not supported"),
        ({"address": "head"}, "must be auto or HOST:PORT"),
        ({"address": "head:66666"}, "must be auto or HOST:PORT"),
        ({"devices": ["cuda:0", "cuda:1"]}, "devices is cuda:0, cuda:1; with Ray it must be one of cpu, cuda, mps"),
        ({"resources": {"CPU": 2}}, "The resource CPU is set by threads"),
        ({"resources": {"GPU": 0}}, r"resources\['GPU'\] is 0; it must be a finite number above 0"),
        ({"resources": {"GPU": 1.5}}, r"resources\['GPU'\] is 1\.5; above 1 it must be a whole number"),
    ],
)
def test_what_is_not_allowed_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RayExecutor(**{"workers": 2} | options)


def run_script(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of a user in a folder of its own, in a new process group."""
    (folder / "script.py").write_text(script)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        start_new_session=True,
    )


JOINING = """
import json, os, socket, sys
from diswot_search.runtime.executors import ray_cluster
from diswot_search.runtime.executors.ray import RayExecutor
from diswot_search.testing.executor_programs import ActionProgram

joined = RayExecutor(1, address=sys.argv[1])
joined.start(ActionProgram())
answers = [joined.submit(0, ("root", 4.0)).result()]
joined.close()
assert not joined._ray.is_initialized()

def refusal(address):
    try:
        RayExecutor(1, address=address).connect()
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")

with socket.socket() as silent:
    silent.bind(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    refusal(f"127.0.0.1:{port}")
    silent.listen()
    ray_cluster._ANSWER_S = 2.0
    refusal(f"127.0.0.1:{port}")
ray_cluster._ANSWER_S = 60.0
os.environ["OLD_RAY"] = "2.52.0"
refusal(sys.argv[1])
print(json.dumps(answers))
"""

OLD_RAY = """
import os
if "OLD_RAY" in os.environ:
    import ray
    ray.__version__ = os.environ["OLD_RAY"]
"""
"""The start of each new process, such as the one that tries an address."""


def test_a_cluster_that_cannot_be_joined_is_told_in_one_line(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(OLD_RAY)
    done = run_script(tmp_path, JOINING, cluster.address)
    assert (done.returncode, done.stderr) == (0, "")
    result, closed, silent, old = json.loads(done.stdout)
    assert result == 2.0
    assert closed.startswith("MachineError: No Ray cluster answers at 127.0.0.1:")
    assert "refused" in closed
    assert silent.endswith("within 2 s. Start one with `ray start --head`, or correct the address.")
    assert f"The Ray cluster at {cluster.address} has other versions: Ray " in old
    assert "; here are Ray 2.52.0 and Python " in old
    assert not any("\n" in answer for answer in (closed, silent, old))


# -- a Ray of its own ---------------------------------------------------------------------------

OWN = """
import os, signal, sys
from pathlib import Path
from diswot_search.runtime.executors.ray import RayExecutor
import own_program

class Held:
    def __call__(self, placement):  # of the script itself, which no worker imports
        return own_program.compute

def main():
    handler = signal.getsignal(signal.SIGTERM)
    executor = RayExecutor(2, threads=2)
    executor.start(Held())
    assert signal.getsignal(signal.SIGTERM) is handler
    print(executor.submit(0, "where").result() == str(Path.cwd()), flush=True)
    print(type(executor.submit(1, "die").exception()).__name__, flush=True)
    print(executor.submit(1, "where").result() == executor.submit(0, "where").result(), flush=True)
    process = executor.submit(0, "process").result()
    executor.submit(0, "sleep")
    executor.submit(1, "sleep")
    if sys.argv[1] == "close":
        executor.close(at_once=True)
        assert not executor._ray.is_initialized()
        assert not Path(f"/proc/{process}").exists()
    else:
        os.kill(os.getpid(), signal.SIGKILL)

main()
"""

OWN_PROGRAM = """
import os, signal, time

def compute(item):
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "sleep":
        time.sleep(600)
    return os.getpid() if item == "process" else os.getcwd()
"""


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_ray_of_its_own_is_quiet_and_ends_with_the_script(tmp_path: Path, end: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    (tmp_path / "own_program.py").write_text(OWN_PROGRAM)
    done = run_script(tmp_path, OWN, end)
    assert (done.stdout, done.stderr) == ("True\nWorkerDied\nTrue\n", "")
    assert done.returncode == (0 if end == "close" else -signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (processes := processes_in(tmp_path)) and time.monotonic() < deadline:
        if end == "kill":  # agents of Ray look for its head for a minute before they end
            processes = [line for line in processes if "gent" not in line]
            if not processes:
                break
        time.sleep(0.05)
    assert processes == []


def processes_in(folder: Path) -> list[str]:
    """The command lines of the processes whose working folder this is, as that of all that Ray starts."""
    if not Path("/proc").is_dir():
        pytest.skip("processes are listed as on Linux")
    lines = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").resolve() == folder.resolve():
                lines.append((path / "cmdline").read_text())
        except OSError:
            continue
    return lines
