"""Executors, each against the contract, then the faults of real processes."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from diswot_search.runtime.executors import registry
from diswot_search.runtime.executors.base import Executor, WorkerDied
from diswot_search.runtime.executors.processes import ProcessExecutor
from diswot_search.runtime.executors.registry import create_executor, list_executors, register_executor
from diswot_search.runtime.executors.serial import SerialExecutor
from diswot_search.runtime.failures import MachineError, OutOfMemory, failure_reason
from diswot_search.testing.executor_programs import ActionProgram
from diswot_search.testing.executors import ExecutorContract, compute_all, wait_until
from search_spaces import UnknownNameError, plugins

from ...source_tree import ROOT
from .programs import FaultyProgram, LateProgram, StoringProgram


@pytest.fixture(autouse=True)
def _nothing_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import what tests before these have imported of a user's own only where a test asks for it."""
    monkeypatch.setattr(plugins, "_modules", {})
    monkeypatch.setattr(plugins, "_modules_of_names", {})


class TestSerial(ExecutorContract):
    workers = 1

    def create(self, workers: int) -> Executor:
        return create_executor("serial", workers=workers)


@pytest.mark.faults
class TestProcesses(ExecutorContract):
    def create(self, workers: int) -> Executor:
        return ProcessExecutor(workers, threads=workers)


@pytest.mark.faults
def test_a_start_that_is_interrupted_leaves_no_process() -> None:
    class Impatient(ProcessExecutor):
        def while_waiting(self) -> None:
            raise KeyboardInterrupt

    executor = Impatient(2, threads=2)
    with pytest.raises(KeyboardInterrupt):
        executor.start(ActionProgram())
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("devices", "shared"), [(None, [1]), (["cpu"], [1])])
def test_workers_on_one_graphics_card_share_its_memory(devices: list[str] | None, shared: list[int]) -> None:
    executor = ProcessExecutor(4, threads=4, devices=devices)
    assert list(executor.neighbours(1)) == shared
    executor.devices, executor._is_on_cards = ("cuda:0", "cuda:1"), True  # which this machine may not have
    assert list(executor.neighbours(1)) == [1, 3]


# -- faults -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty() -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(1, threads=1)
    executor.start(FaultyProgram())
    yield executor
    executor.close(at_once=True)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (("exit", 3), "exit code 3"),
        (("exit", 0), "exit code 0"),
        (("sys.exit", 4), "exit code 4"),
        (("segmentation fault", None), r"signal 11 \(SIGSEGV\)"),
        (("fork and exit", 3), "exit code 3"),
        (("killed while it answers", 1 << 26), r"signal 9 \(SIGKILL\)"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_end_of_a_worker_is_told_with_its_reason(faulty: ProcessExecutor, item: Any, reason: str) -> None:
    with pytest.raises(WorkerDied, match=rf"worker 0 died at the item \({reason}\)"):
        faulty.submit(0, item).result()
    assert faulty.submit(0, ("same", 3)).result() == 3  # in another process


def test_a_worker_that_holds_the_interpreter_is_replaced(faulty: ProcessExecutor) -> None:
    future = faulty.submit(0, ("sleep with lock", 600))
    time.sleep(0.1)
    faulty.replace(0)
    with pytest.raises(WorkerDied, match="ended"):
        future.result()
    process = faulty.submit(0, ("pid", None)).result()
    future = faulty.submit(0, ("stopped", None))
    while state_of(process) != "T":
        time.sleep(0.01)
    faulty.replace(0)
    with pytest.raises(WorkerDied, match=r"ended .*SIGKILL"):
        future.result()
    assert faulty.submit(0, ("same", 3)).result() == 3


@pytest.mark.skipif(os.name != "posix", reason="there, terminating a process ends it")
def test_a_worker_that_has_stored_its_state_does_not_wait_to_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int | None] = []

    def kill(process: SpawnProcess) -> None:
        killed.append(process.pid)
        os.kill(process.pid or 0, signal.SIGKILL)

    monkeypatch.setattr(SpawnProcess, "kill", kill)
    executor = ProcessExecutor(1, threads=1)
    executor.start(StoringProgram())
    future = executor.submit(0, ("stored when asked", tmp_path / "begun"))
    wait_until((tmp_path / "begun").exists)
    executor.close(at_once=True)
    assert future.result() == "stored"
    assert killed == []


def test_errors_keep_their_names_and_causes(faulty: ProcessExecutor) -> None:
    error = faulty.submit(0, ("odd", None)).exception()
    assert isinstance(error, ValueError)
    assert failure_reason(error, "") == "OddError: 1 and 2"
    caused = faulty.submit(0, ("cause", None)).exception()
    assert isinstance(caused, ValueError)
    with pytest.raises(OutOfMemory, match="no room"):
        failure_reason(caused, "in a test")
    with pytest.raises(ValueError, match=r"result cannot be sent .*lambda"):
        faulty.submit(0, ("lambda", None)).result()
    with pytest.raises(ValueError, match=r"item cannot be sent .*\[1\], the function .*lambda"):
        faulty.submit(0, ("same", lambda: 3))


def test_warnings_of_workers_are_shown_once_and_break_nothing() -> None:
    executor = ProcessExecutor(2, threads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.filterwarnings("error", "a grave")
        executor.start(FaultyProgram())
    with pytest.warns(UserWarning, match="a small fault") as shown:
        compute_all(executor, 6 * [("warn", "a small fault")])
    assert len(shown) == 1
    with pytest.raises(UserWarning, match="a grave fault"):  # as in this process
        executor.submit(0, ("warn", "a grave fault")).result()
    with pytest.warns(UserWarning, match="late"):
        executor.submit(0, ("warn", "late")).result()  # filters are errors by now
    executor.close()


def test_a_worker_that_cannot_begin_is_no_fault_of_an_item(tmp_path: Path) -> None:
    executor = ProcessExecutor(1, threads=1)
    executor.start(LateProgram(tmp_path / "count", dies_at=(2, 3)))
    with pytest.raises(WorkerDied):
        executor.submit(0, ("exit", 3)).result()
    assert executor.submit(0, ("same", 3)).result() == 3  # after two processes that were killed before they were ready
    executor.close()
    executor.start(LateProgram(tmp_path / "count", dies_at=range(6, 100)))
    with pytest.raises(WorkerDied):
        executor.submit(0, ("exit", 3)).result()
    with pytest.raises(MachineError, match=r"3 processes of worker 0 .* signal 9"):
        executor.submit(0, ("same", 3)).result()
    executor.close()
    with pytest.raises(MachineError, match=r"ended before it was ready \(exit code 7\)"):
        executor.start(ActionProgram(error=SystemExit(7)))  # type: ignore[arg-type]


def test_the_environment_is_left_alone_and_workers_have_their_threads() -> None:
    before = dict(os.environ)
    executor = ProcessExecutor(1, threads=3)
    executor.start(FaultyProgram())
    assert dict(os.environ) == before
    executor.submit(0, ("threads", None)).result()  # loads torch
    assert executor.submit(0, ("threads", None)).result() == (3, "3")
    executor.close()


def test_workers_are_laid_out_over_devices_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    executor = ProcessExecutor(3, threads=3, devices=("cuda:0", "cuda:1"))
    executor.start(ActionProgram())
    places = [executor.submit(worker, ("where", None)).result()[0] for worker in range(3)]
    assert [(place.device, place.threads) for place in places] == [("cuda:0", 1), ("cuda:1", 1), ("cuda:0", 1)]
    executor.close()
    assert create_executor(devices=("cuda:0", "cuda:1"), threads=2).workers == 2


@pytest.mark.faults
def test_functions_of_a_users_files_are_found_in_workers(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("def doubled(item):\n    return 2 * item\n")
    function = plugins.load_code(f"{tmp_path}/random.py:doubled")
    executor = ProcessExecutor(1, threads=1)
    executor.start(functools.partial(FaultyProgram.constant, function))
    assert executor.submit(0, 3).result() == 6
    executor.close()


# -- owners -------------------------------------------------------------------------------------

OWNER = """
import sys
from diswot_search.runtime.executors.processes import ProcessExecutor
from tests.runtime.executors.programs import FaultyProgram

def main():
    executor = ProcessExecutor(2, threads=2)
    print("starts", flush=True)
    executor.start(FaultyProgram())
    print("started", flush=True)
    futures = [executor.submit(worker, (sys.argv[1], float(sys.argv[2]))) for worker in (0, 1)]
    try:
        for future in futures:
            future.result()
    except KeyboardInterrupt:
        for future in futures:
            future.result()
        executor.close()
        sys.exit(130)
    sys.exit("not closed")
"""


def start_owner(tmp_path: Path, *arguments: str, guard: str = 'if __name__ == "__main__":') -> subprocess.Popen[str]:
    """Start a script that starts two workers, in a process group of its own."""
    (tmp_path / "owner.py").write_text(f"{OWNER}\n{guard}\n    main()\n")
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "owner.py", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]


def state_of(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def group_is_gone(group: int, seconds: float = 30.0) -> bool:
    """Whether no process of a group computes any more; the system may not have taken note of all ends."""
    if not Path("/proc").is_dir():
        pytest.skip("processes are listed as on Linux")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        states = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(process_group) == group and state not in "ZX":
                states.append(state)
        if not states:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.faults
@pytest.mark.parametrize("action", ["sleep", "sleep with lock"])
@pytest.mark.parametrize("reached", ["starts", "started"])
def test_no_worker_outlives_an_owner_that_is_killed(tmp_path: Path, action: str, reached: str) -> None:
    with start_owner(tmp_path, action, "600") as owner:
        assert owner.stdout is not None
        for line in owner.stdout:
            if line.strip() == reached:
                break
        time.sleep(random.Random(f"{action} {reached}").uniform(0, 0.3))
        owner.kill()
        owner.wait()
        assert group_is_gone(owner.pid)


@pytest.mark.faults
def test_an_interrupt_is_for_the_owner_to_decide(tmp_path: Path) -> None:
    with start_owner(tmp_path, "sleep", "1") as owner:
        assert owner.stdout is not None
        while owner.stdout.readline().strip() != "started":
            pass
        time.sleep(0.3)
        os.killpg(owner.pid, signal.SIGINT)
        _, errors = owner.communicate()
        assert owner.returncode == 130, errors
        assert errors == ""
        assert group_is_gone(owner.pid)


@pytest.mark.faults
def test_an_owner_that_forgets_to_close_ends_all_the_same(tmp_path: Path) -> None:
    with start_owner(tmp_path, "same", "0") as owner:
        _, errors = owner.communicate()
        assert (owner.returncode, errors) == (1, "not closed\n")
        assert group_is_gone(owner.pid)


@pytest.mark.parametrize("guard", ["if True:", "for _ in [0]:"])
def test_a_script_without_a_guard_gets_one_message(tmp_path: Path, guard: str) -> None:
    with start_owner(tmp_path, "same", "0", guard=guard) as owner:
        output, errors = owner.communicate()
    assert owner.returncode == 1
    assert output == "starts\n"
    assert errors.count('Put what the script does into `if __name__ == "__main__":`') == 1
    assert errors.count("Traceback") == 1


@pytest.mark.faults
def test_a_program_from_standard_input_has_workers(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-", "same", "0"]
    done = subprocess.run(
        command, input=f"{OWNER}\nmain()\n", cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "starts\nstarted\n", "not closed\n")


@pytest.mark.faults
def test_a_session_says_that_its_functions_are_not_in_a_file() -> None:
    code = (
        "from diswot_search.runtime.executors.processes import ProcessExecutor\n"
        "def program(placement): return abs\n"
        "ProcessExecutor(1, threads=1).start(program)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "program is defined in this session, not in a file" in done.stderr


# -- by name ------------------------------------------------------------------------------------


def test_executors_are_known_by_name(tmp_path: Path) -> None:
    assert {"serial", "processes"} <= set(list_executors())
    assert isinstance(create_executor(), SerialExecutor)
    assert isinstance(create_executor(workers=2, threads=2), ProcessExecutor)
    assert isinstance(create_executor("processes", threads=1), ProcessExecutor)
    (tmp_path / "own_executor.py").write_text(
        "from diswot_search.runtime.executors.serial import SerialExecutor\n"
        "class Mine(SerialExecutor):\n"
        "    def __init__(self, workers, *, threads=None, devices=None, address='here'):\n"
        "        super().__init__(threads=threads, devices=devices)\n"
        "        self.address = address\n"
        "number = 3\n"
    )
    mine = create_executor(f"{tmp_path}/own_executor.py:Mine", address="there")
    assert vars(mine)["address"] == "there"
    register_executor("mine", type(mine))
    assert type(create_executor("mine")) is type(mine)
    with pytest.raises(ValueError, match="number is no executor"):
        create_executor(f"{tmp_path}/own_executor.py:number")
    with pytest.raises(ValueError, match="has no option 'adress'; did you mean 'address'"):
        create_executor("mine", adress="there")
    with pytest.raises(UnknownNameError, match="Did you mean 'processes'"):
        create_executor("proceses")
    with pytest.raises(ValueError, match="registered already"):
        register_executor("serial", ProcessExecutor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0; it must be a whole number of at least 1"),
        ({"workers": -1}, "workers is -1; it must"),
        ({"workers": True}, "workers is True; it must"),
        ({"workers": 2, "threads": 0}, "threads is 0; it must"),
        ({"workers": 2, "threads": 5}, r"threads is 5 for 2 workers together.* give 4 \(2 each\) or 6 \(3 each\)"),
        ({"workers": 3, "threads": 2}, r"and each worker gets the same number: give 3 \(1 each\)"),
        ({"workers": 100_000}, r"workers is 100,?000; this machine has \d+ cores, so at most \d+ are possible"),
        ({"threads": 100_000}, "threads of each worker is 100000; this machine"),
        ({"workers": 2, "devices": ("cpu", "cpu")}, "devices is cpu, cpu; cpu is named more than once"),
        ({"workers": 2, "devices": ("gpu",)}, "Unknown device 'gpu'; allowed"),
        ({"workers": 2, "devices": ("cuda:7",)}, "This machine has no 'cuda:7'"),
        ({"name": "serial", "workers": 2}, "workers is 2, but the executor 'serial' computes in this process alone"),
    ],
)
def test_what_is_not_allowed_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_executor(**{"name": "processes"} | options)


def test_one_device_has_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="cuda:0 is named more than once"):
        create_executor("processes", workers=2, devices=("cuda", "cuda:0"))
    with pytest.raises(ValueError, match=r"names 2 devices for 1 worker; .*workers=2 or more"):
        create_executor("processes", workers=1, devices=("cuda:0", "cuda:1"))


def test_more_workers_than_cores_are_allowed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "cores", lambda: 2)
    with pytest.warns(UserWarning, match="3 workers share 2 cores"):
        assert create_executor("processes", workers=3, threads=3).workers == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    with pytest.warns(UserWarning, match="3 workers share 2 cores"):
        assert vars(create_executor("processes", workers=3))["threads"] == 1
    assert vars(create_executor("processes", workers=2))["threads"] == 2


def test_the_serial_executor_computes_with_its_threads_until_it_is_closed() -> None:
    before = torch.get_num_threads()
    executor = create_executor("serial", threads=before + 1, devices=("cpu",))
    executor.start(ActionProgram())
    assert torch.get_num_threads() == before + 1
    assert executor.submit(0, ("where", None)).result()[0].device == "cpu"
    executor.close()
    assert torch.get_num_threads() == before
    with pytest.raises(LookupError):
        executor.start(ActionProgram(error=LookupError("no teacher")))
    assert torch.get_num_threads() == before
