"""The dry run of a training before any work: its own check, which takes a step of it, in no folder."""

from __future__ import annotations

from typing import Any

from ..data.errors import DataError
from ..options.base import as_typed
from ..runtime.failures import MAX_REASON, stop_if_machine_failed
from ..runtime.files import RunFolderError
from .train import TrainingJob


def dry_run_error(job: TrainingJob[Any], name: str) -> Exception | None:
    """The error of a training's own check; None if it can be trained.

    Args:
        job: The training, without a run folder.
        name: Its name, for the error of a machine that failed.

    Raises:
        DataError, RunFolderError: The data or a run folder is at fault, not the network.
        ValueError: Several processes were started for it.
        OutOfMemory, MachineError: The machine failed.
    """
    try:
        job.check_once()
    except (DataError, RunFolderError):
        raise
    except Exception as error:  # a network may fail to be built in any way
        stop_if_machine_failed(error, f"in the dry run of {name}")
        return error
    if job.training.accelerator.num_processes > 1:
        raise ValueError(
            "A shortlist is started in one process, and shares its trainings among workers: pass `workers=`."
        )
    return None


def reason_of(error: Exception) -> str:
    """An error as the reason of a finalist that is out, in one line."""
    return " ".join(as_typed(error).split())[:MAX_REASON]


def baseline_warning(name: str, reason: str) -> str:
    """The warning of a baseline that cannot be trained."""
    return f"The baseline {name} cannot be trained, so that nothing is compared with it: {reason}"
