"""Running on a cluster: the queue, and Snakemake's executor for it (docs/cluster.md)."""

from importlib.util import find_spec
from shutil import which


def prepare() -> None:
    """Give Snakemake's executor plugin, where it is installed, patience with a silent cluster.

    Raises
    ------
    UserError
        The patience that the environment names is no positive number.
    """
    if not find_spec("snakemake_executor_plugin_slurm"):
        return
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    from mmfl.cluster.executor import Patient
    from mmfl.cluster.queue import patience

    patience()
    ExecutorPluginRegistry().get_plugin("slurm").executor = Patient


def begin() -> None:
    """Cancel what a killed run left in the queue; nothing happens where there is none."""
    from mmfl.cluster.queue import cancel_left_behind

    if which("squeue"):
        cancel_left_behind()
