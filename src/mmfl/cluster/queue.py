"""One's own jobs in the queue of a cluster, and those that a killed run left there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from mmfl.errors import UserError

VARIABLE = "MMFL_SLURM_PATIENCE"


def patience() -> float:
    """Seconds that SLURM may be silent before the run ends with a message; `MMFL_SLURM_PATIENCE`.

    Raises
    ------
    UserError
        The variable is no positive number.
    """
    found = os.environ.get(VARIABLE, "600")
    try:
        seconds = float(found)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{VARIABLE}: found {found}, expected seconds, such as 600")
    return seconds


def say(text: str) -> None:
    """One line to the user."""
    print(f"mmfl: {text}", file=sys.stderr, flush=True)


def queue(*options: str) -> list[list[str]] | None:
    """Own jobs as [array's or own id, state, reason, comment, folder]; None: no answer."""
    line = ["squeue", "--me", "--all", "--noheader", "--format=%F|%T|%r|%k|%Z", *options]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    jobs = [job.split("|", 4) for job in done.stdout.splitlines()]
    return [job for job in jobs if len(job) == 5]


def left_behind() -> set[str]:
    """Ids of own unfinished jobs that Snakemake sent from this folder (the plugin's comment)."""
    here = str(Path.cwd())
    return {i for i, _, _, why, at in queue() or [] if why.startswith("rule_") and at == here}


def alone() -> bool:
    """Whether this process is the only one registered in this copy (`mmfl.pipeline.running`)."""
    try:
        return len(Path(".snakemake/running").read_text(encoding="utf-8").splitlines()) == 1
    except OSError:
        return False


def cancel_left_behind() -> None:
    """End the jobs of a killed run: they would write into the outputs of those that follow.

    What they trained goes on at its last round. Nothing happens while others run here.
    """
    if not alone() or not (left := left_behind()):
        return
    say(
        f"{len(left)} jobs of a run that was killed were still queued or running:"
        " cancelled; what they trained goes on at its last round"
    )
    subprocess.run(["scancel", *left], timeout=60, check=False)
    end = time.monotonic() + 120  # seconds; SLURM waits KillWait (30) before it kills
    try:
        while left & left_behind() and time.monotonic() < end:
            time.sleep(1)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
