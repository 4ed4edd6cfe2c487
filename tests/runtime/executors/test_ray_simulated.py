"""The executor on Ray with a stand-in for Ray: places of workers, and waits for them that a signal ends."""

from __future__ import annotations

import pytest

from diswot_search.runtime.executors import ray as ray_module
from diswot_search.runtime.executors import ray_cluster
from diswot_search.runtime.executors.ray import RayExecutor
from diswot_search.runtime.interruption import Interruption
from diswot_search.testing.executor_programs import ActionProgram

from .simulated_ray import Place, SimulatedRay


def place(machine: str, *cards: str, process: int = 2**22 + 1) -> Place:
    """A place on another host, with cards there."""
    return f"host of {machine}", process, machine, list(cards)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> SimulatedRay:
    ray = SimulatedRay([place("a", "0"), place("b", "0"), place("a", "0", "1"), place("a", "2"), place("a", "1")])
    ray.is_begun = True
    monkeypatch.setattr(ray_module, "require_ray", lambda: ray)
    return ray


@pytest.mark.usefixtures("simulated")
def test_workers_with_a_part_of_the_same_card_are_neighbours() -> None:
    executor = RayExecutor(5, threads=5, address="auto", devices=["cuda"], resources={"GPU": 0.25})
    executor.start(ActionProgram())
    near = [executor.neighbours(worker) for worker in range(5)]
    assert near == [[0, 2], [1], [0, 2, 4], [3], [2, 4]]
    executor.close()


def test_workers_without_a_card_are_alone_and_those_of_a_mac_share_its_own(simulated: SimulatedRay) -> None:
    simulated.places = [place("a"), place("b"), place("a")]
    for device, expected in (("cpu", [[0], [1], [2]]), ("mps", [[0, 2], [1], [0, 2]])):
        simulated._made = 0
        executor = RayExecutor(3, threads=3, address="auto", devices=[device])
        executor.start(ActionProgram())
        assert [executor.neighbours(worker) for worker in range(3)] == expected
        executor.close()


def test_a_new_worker_has_the_neighbours_of_its_new_place(simulated: SimulatedRay) -> None:
    simulated.places = [place("a", "0"), place("a", "0"), place("a", "1"), place("a", "1")]
    executor = RayExecutor(3, threads=3, address="auto", devices=["cuda"], resources={"GPU": 0.5})
    executor.start(ActionProgram())
    executor.replace(0)  # the fourth that is made
    assert [executor.neighbours(worker) for worker in range(3)] == [[0, 2], [1], [0, 2]]
    executor.close()


@pytest.mark.parametrize("method", ["replace", "submit"])
def test_a_signal_ends_the_wait_for_a_place(method: str, simulated: SimulatedRay) -> None:
    simulated.places = [place("a")]
    executor, interruption = RayExecutor(1, threads=1, address="auto"), Interruption()
    executor.start(ActionProgram())
    before = simulated.looks

    def look() -> None:
        interruption.asked = simulated.looks > before + 3
        interruption.check()

    executor.while_waiting = look  # type: ignore[method-assign]
    executor._actors[0].is_dead = method == "submit"
    with pytest.raises(KeyboardInterrupt):
        executor.replace(0) if method == "replace" else executor.submit(0, None)
    assert simulated.looks <= before + 8
    assert simulated.killed.count(1) == 1  # the one that waited takes no place later
    executor.close(at_once=True)


@pytest.mark.parametrize("address", ["auto", "head.example:6379"])
def test_an_address_is_known_again_as_it_was_given(
    address: str, simulated: SimulatedRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_check_answer", lambda address: None)
    simulated.is_begun = False
    first, second = (RayExecutor(1, address=address) for _ in range(2))
    first.connect()
    second.connect()  # Ray itself knows its cluster by a number
    with pytest.raises(ValueError, match=r"joined the Ray at 10\.0\.0\.1:6379 already, not other:6379"):
        RayExecutor(1, address="other:6379").connect()
    second.disconnect()
    assert simulated.is_begun
    first.disconnect()
    assert not simulated.is_begun
    assert ray_cluster.asked_address() is None


def test_machines_are_not_let_go_of_while_there_are_workers(simulated: SimulatedRay) -> None:
    simulated.is_begun = False
    executor = RayExecutor(1, threads=1)
    executor.start(ActionProgram())
    executor.disconnect()
    assert simulated.is_begun
    executor.close()
    assert not simulated.is_begun
