"""Jobs that a killed run left in the queue of a cluster: they end before the next run starts.

Left alone they would write into the outputs of the jobs that replace them. Whatever trained in them
goes on at its last round. Nothing happens where there is no queue, or while others run here.
"""

import subprocess
import time
from shutil import which


def queued():
    """Ids of one's own jobs that Snakemake sent from this folder (the plugin's comment: rule_...)."""
    line = ["squeue", "--me", "--noheader", "--format=%A|%k|%Z"]
    try:
        text = subprocess.run(line, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return set()
    jobs = [job.split("|", 2) for job in text.splitlines() if job.count("|") >= 2]
    here = str(Path.cwd())
    return {i for i, comment, at in jobs if comment.startswith("rule_") and at == here}


def alone():
    """Whether this process is the only one registered in this copy (`mmfl.running`)."""
    try:
        return len(Path(".snakemake/running").read_text().splitlines()) == 1
    except OSError:
        return False


onstart:
    if which("squeue") and alone() and (left := queued()):
        print(
            f"mmfl: {len(left)} jobs of a run that was killed were still queued or running:"
            " cancelled; what they trained goes on at its last round",
            file=sys.stderr,
            flush=True,
        )
        subprocess.run(["scancel", *left], timeout=60)
        end = (
            time.monotonic() + 120
        )  # seconds; SLURM waits KillWait (30) before it kills
        while left & queued() and time.monotonic() < end:
            time.sleep(1)
