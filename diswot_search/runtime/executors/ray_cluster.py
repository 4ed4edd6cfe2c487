"""Ray itself: started on this machine, or a cluster that is joined; and its errors in one line."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ..failures import MAX_REASON, MachineError

_ANSWER_S = 15.0
"""Seconds within which a cluster must answer. Ray itself would wait for 40 and then end this process."""

_OBJECT_STORE_BYTES = 512 * 2**20
"""Size of the object store of a Ray of our own, which holds the program; items and results are small."""


def require_ray() -> Any:
    """Import Ray.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(f"The executor ray needs Ray ({error}): pip install 'diswot-search[ray]'") from error


_PROBE = """
import json, sys
try:
    import ray
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    answer = ""
except BaseException as error:
    answer = str(error) or type(error).__name__
print("\\n" + json.dumps(answer), flush=True)
"""
"""Joins a cluster in another process, because Ray ends a process that waits too long for a cluster."""


def _check_answer(address: str) -> None:
    """Refuse a cluster that does not answer, or has other versions.

    Raises:
        MachineError: It does so.
    """
    advice = "Start one with `ray start --head`, or correct the address."
    host, _, port = address.rpartition(":")
    if host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        except OSError as error:
            raise MachineError(f"No Ray cluster answers at {address} ({error}). {advice}") from error
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", _PROBE, address]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"No Ray cluster answers at {address} within {_ANSWER_S:g} s. {advice}") from error
    answer = json.loads((done.stdout.strip().splitlines() or ['"Ray ended the process"'])[-1])
    versions = re.search(r"Ray: (\S+)\s+Python: (\S+).*Ray: (\S+)\s+Python: (\S+)", answer, re.DOTALL)
    if versions:
        theirs, ours = (
            "Ray {} and Python {}".format(*versions.groups()[:2]),
            "Ray {} and Python {}".format(*versions.groups()[2:]),
        )
        raise MachineError(
            f"The Ray cluster at {address} has other versions: {theirs}; here are {ours}. Install the same on all "
            "machines."
        )
    if answer:
        raise MachineError(f"The Ray cluster at {address} cannot be joined: {in_one_line(answer)}")


@contextlib.contextmanager
def _quiet_ray(ray: Any) -> Iterator[None]:
    """Keep Ray's messages out of the terminal. Errors of workers come with their futures."""
    logger = logging.getLogger("ray")
    level, module = logger.level, ray._private.worker
    logger.setLevel(logging.ERROR)
    prints = getattr(module, "_worker_logs_enabled", True)
    module._worker_logs_enabled = False  # Ray prints deaths of workers to stdout, whatever its options say
    try:
        yield
    finally:
        logger.setLevel(level)
        module._worker_logs_enabled = prints


@contextlib.contextmanager
def _same_handler(number: int) -> Iterator[None]:
    """Leave the handler of a signal as it was before the block."""
    handler = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, handler)


def checked_address(address: str | None) -> str | None:
    """The address of a cluster, if it has an allowed form.

    Raises:
        ValueError: It has another.
    """
    if address is None or address == "auto":
        return address
    if address.startswith("ray://"):
        raise ValueError(
            f"ray_address is {address!r}; Ray Client is not supported. Start the command on a machine of "
            "the cluster, with the address auto or HOST:PORT."
        )
    port = re.fullmatch(r"[^\s:/]+:(\d{1,5})|\[[0-9a-fA-F:.]+\]:(\d{1,5})", address)
    if port is None or int(port[1] or port[2]) >= 2**16:
        raise ValueError(f"ray_address is {address!r}; it must be auto or HOST:PORT, such as 10.0.0.1:6379.")
    return address


_DETAILS = re.compile(r"\s*(class_name|actor_id|pid|namespace|name|ip): .*")


def reason(error: Exception) -> str:
    """Ray's reason for the end of an actor, without the numbers and the advice around it."""
    lines = [line for line in str(error).splitlines() if not _DETAILS.fullmatch(line)]
    text = " ".join(lines[1:] or lines)
    return in_one_line(text.partition(" Some common causes include")[0])


def in_one_line(text: str) -> str:
    """The beginning of a text, in one line."""
    return " ".join(text.split())[:MAX_REASON]


_asked: list[str] = []
"""The address by which an executor has joined the present cluster; none if it did so without one, or nobody did."""


def asked_address() -> str | None:
    """The address by which an executor has joined the present cluster, as it was given."""
    return next(iter(_asked), None)


@contextlib.contextmanager
def joined_ray(ray: Any, address: str | None, cpus: int) -> Iterator[None]:
    """Start Ray on this machine, or join a cluster, quietly; and leave it at the end.

    Args:
        ray: The package.
        address: Address of the cluster; None starts Ray here.
        cpus: Number of CPUs of a Ray that starts here.

    Raises:
        MachineError: Ray cannot be started, or the cluster does not answer or has other versions.
    """
    options: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "configure_logging": False}
    if address is None:
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    else:
        _check_answer(address)
    with _quiet_ray(ray):
        try:
            try:
                with _same_handler(signal.SIGTERM):
                    ray.init(**options)
            except Exception as error:
                raise MachineError(f"Ray cannot be started or joined: {in_one_line(str(error))}") from error
            _asked[:] = [address] if address else []
            yield
        finally:
            _asked.clear()
            ray.shutdown()
