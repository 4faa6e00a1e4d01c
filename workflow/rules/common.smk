"""Parameters, paths and resources that the rules share. Loaded before them."""

import os
import sys
from functools import cache
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

# This copy of the project; another workflow's folder is workflow.basedir where it uses this one as
# a module (docs/workflow.md). Then its configuration, `--config` and `--configfile` are its own.
ROOT = Path(str(workflow.current_basedir.get_path_or_uri(secret_free=True))).parents[1]
MODULE = not workflow.modifier.is_main_snakefile()
SOURCE = ROOT / "src"
sys.path.insert(0, str(SOURCE))

from mmfl.pipeline import frozen, jobs, running
from mmfl.errors import UserError
from mmfl.facts.description import read_description
from mmfl.params import SIMULATED, clients_name, step_values, trials
from mmfl.pipeline.jobs import every, files_of, outputs, published


def stop(message):
    """End with one line and exit status 2 before anything runs."""
    print(f"mmfl: {message}", file=sys.stderr, flush=True)
    os._exit(2)


def parameter_file():
    """The parameter file: the last `--configfile`, else params.yaml; in a module, its `params`."""
    if MODULE and not workflow.is_main_process:
        return os.environ.get("MMFL_PARAMS", "")
    if MODULE:
        return str(config.get("params", "params.yaml"))
    if workflow.config_settings.config:
        keys = ", ".join(workflow.config_settings.config)
        stop(
            f"--config: found {keys}; parameters come from a file, use --configfile FILE"
        )
    return str((workflow.configfiles or ["params.yaml"])[-1])


def started_with(path):
    """The parameters of this run: a copy of the file, which every job reads, and what it says.

    A job on a cluster parses the rules again: it gets the copy that the run started with. A fault
    ends the run before it begins.
    """
    try:
        if workflow.is_main_process:
            copy, params = frozen.freeze(path)
        else:
            copy, params = Path(path), frozen.check(Path(path))
    except UserError as error:
        stop(error)
    except OSError as error:
        stop(f"{error.filename}: {error.strerror}; expected a folder to write in")
    if not MODULE:  # of the jobs that it spawns
        workflow.config_settings.configfiles = [copy.absolute()]
    return str(copy), params


def environment():
    """Which environment trains and evaluates under `--use-conda`."""
    name = os.environ.get("MMFL_ENV", "cpu")
    if name not in ("cpu", "cuda"):
        stop(f"MMFL_ENV: found {name}, expected cpu or cuda")
    return name


def image():
    """The image of every rule under `--sdm apptainer`."""
    name = os.environ.get("MMFL_CONTAINER")
    methods = workflow.deployment_settings.deployment_method
    if DeploymentMethod.APPTAINER in methods and not name:
        stop("--sdm apptainer: no image; set MMFL_CONTAINER to a .sif file or an image")
    return name


def prepend(variable, folder):
    """Put a folder first in a search path that every rule inherits."""
    rest = [item for item in os.environ.get(variable, "").split(os.pathsep) if item]
    if str(folder) not in rest:
        os.environ[variable] = os.pathsep.join([str(folder), *rest])


# The project's package and the interpreter that runs Snakemake reach every rule. In a conda
# environment or a container its own interpreter comes first, and run.sh adds the package.
prepend("PYTHONPATH", SOURCE)
prepend("PATH", Path(sys.executable).parent)

# conda puts an environment where the active one is on the PATH, here behind that interpreter; where
# none is active, in front.
if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    os.environ.pop("CONDA_SHLVL", None)
    os.environ.pop("CONDA_PREFIX", None)

PARAMS_FILE, PARAMS = started_with(parameter_file())
RUN = ROOT / "workflow/scripts/run.sh"
os.environ.update(MMFL_PARAMS=PARAMS_FILE, MMFL_RUN=str(RUN))
if workflow.is_main_process and (notice := running.enter()):
    print(f"mmfl: {notice}", file=sys.stderr, flush=True)
READY = "data/raw/{archive}/.ready"  # a simulated archive is in the cache
CPU = "../envs/cpu.yaml"
TRAINING = f"../envs/{environment()}.yaml"  # MMFL_ENV=cuda: with GPUs
IMAGE = image()


def values_of(step):
    """Parameter function: the values that change the result of a step, and no others."""

    def values(wildcards):
        return step_values(
            PARAMS,
            step,
            wildcards.archive,
            wildcards.get("method"),
            wildcards.get("variant", "default"),
        )

    return values


def reads(step):
    """Input function: what other steps wrote for a job."""

    def files(wildcards):
        return read_by(
            step,
            wildcards.archive,
            wildcards.get("method"),
            wildcards.get("variant", "default"),
        )

    return files


@cache
def read_by(step, archive, method, variant):
    """The same, listed once."""
    return jobs.inputs(step, PARAMS, archive, method, variant)


def code_of(step):
    """Parameter function: the digest of a job's code, of what its parameters choose alone."""

    def digest(wildcards):
        return jobs.source(
            step,
            PARAMS,
            wildcards.archive,
            wildcards.get("method"),
            wildcards.get("variant", "default"),
        )

    return digest


def source(wildcards):
    """What a download starts from: a published manifest, a description, a simulated archive."""
    if wildcards.archive in SIMULATED:
        return READY
    if wildcards.archive in PARAMS.folders:
        described = Path(PARAMS.folders[wildcards.archive]).expanduser()
        table = Path(read_description(described).table).expanduser()
        return [str(described), str(described.parent / table)]
    return str(published(wildcards.archive))


def download_code(wildcards):
    """The files of an archive of your own decide, too."""
    found = [code_of("download")(wildcards)]
    if wildcards.archive in PARAMS.folders:
        from mmfl.archives.folder import state  # needs rasterio

        try:
            found.append(state(Path(PARAMS.folders[wildcards.archive]).expanduser()))
        except UserError as error:
            stop(error)
    return found


def described(path):
    """A results file as Snakemake's own report shows it: with caption and category."""
    stem, kind = Path(path).stem, Path(path).parent.name
    if Path(path).suffix not in (".csv", ".svg") or kind not in ("tables", "figures"):
        return path
    if kind == "figures" and Path(path).suffix == ".csv":
        return path
    caption = f"../report/{kind}.rst"
    return report(
        path,
        caption=caption,
        category=kind.capitalize(),
        subcategory="{archive}",
        labels={"name": stem},
    )


def page_values(wildcards):
    """Parameter function: those of the report, and the archives that the page links to."""
    return [values_of("report")(wildcards), list(PARAMS.archives)]


def memory(megabytes):
    """Resource function: a job that was killed asks for more in its next attempt."""

    def mem_mb(wildcards, attempt):
        return megabytes * attempt

    return mem_mb


def minutes(number):
    """Resource function: the same for time."""

    def runtime(wildcards, attempt):
        return number * attempt

    return runtime
