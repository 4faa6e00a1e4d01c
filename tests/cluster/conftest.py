"""A one-node SLURM with pretend GPUs for the tests of this folder; it ends with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A node of 32 cores and 4 GPUs in five partitions: main, gpu, urgent (goes before the
    others), short (60 minutes), closed (down).

    Where it cannot be started the tests are skipped; with MMFL_CLUSTER=1 they fail.
    """
    tools = ["slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol"]
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [tool for tool in tools if not shutil.which(tool, path=path)]
    if missing:
        absent(f"not installed: {', '.join(missing)}; run tests/cluster/install.sh")
    if os.geteuid() != 0:
        absent("only root can start it")
    lab = tempfile.mkdtemp(prefix="mmfl-slurm-")  # short: sockets have long names
    env = os.environ | {"PATH": path}
    try:
        up = subprocess.run(
            [HERE / "slurm_up.sh", lab], env=env, capture_output=True, text=True, check=False
        )
        if up.returncode:
            absent(up.stderr.strip())
        yield
    finally:
        subprocess.run([HERE / "slurm_down.sh", lab], env=env, capture_output=True, check=False)
        shutil.rmtree(lab, ignore_errors=True)


def absent(why: str) -> None:
    """Fail where the cluster is demanded, else skip and say it aloud."""
    reason = f"SLURM NOT TESTED: no one-node cluster: {why}"
    if os.environ.get("MMFL_CLUSTER") == "1":
        pytest.fail(reason)
    warnings.warn(reason, stacklevel=1)
    pytest.skip(reason)
