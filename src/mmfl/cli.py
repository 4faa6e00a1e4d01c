"""The commands: one per step, and a few helpers. Torch is imported only where it is needed."""

from __future__ import annotations

import errno
import logging
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mmfl.errors import UserError
from mmfl.files import read_json, write_json
from mmfl.params import Params, clients_name, load
from mmfl.pipeline import frozen

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

PARAMS = Annotated[Path, typer.Option("--params", help="parameter file")]
ARCHIVE = Annotated[str, typer.Option("--archive", help="one of the archives in the parameters")]
METHOD = Annotated[str, typer.Option("--method", help="a method in train.methods, e.g. mf+fw")]
VARIANT = Annotated[str, typer.Option("--variant", help="default, or a variant's digest")]
DEVICE = Annotated[str, typer.Option("--device", help="auto, cpu or cuda")]
GPUS = Annotated[int, typer.Option(min=0, help="CUDA devices, where there are any; 0: processor")]
FRESH = Annotated[bool, typer.Option("--fresh", help="recompute what is in the cache")]

DEFAULT = Path("params.yaml")
ROOM = "; free room there, or let MMFL_CACHE name a folder on another disk"
RIGHT = "; expected one that may be written, MMFL_CACHE may name another"
REMEDIES = {errno.ENOSPC: ROOM, errno.EDQUOT: ROOM, errno.EROFS: RIGHT, errno.EACCES: RIGHT}
log = logging.getLogger(__name__)


def _load(
    path: Path, archive: str, step: str, method: str | None = None, variant: str = "default"
) -> Params:
    """The parameters that hold for an archive; those of a run in progress are its own."""
    if frozen.is_frozen(path):
        params = frozen.check(path, step, archive, method, variant)
    else:
        params = load(path)
    if archive not in params.archives:
        known = ", ".join(params.archives)
        raise UserError(f"--archive: found {archive}, expected one of archives in {path}: {known}")
    return params.of(archive)


@app.command()
def simulate(
    archive: Annotated[str, typer.Option(help="simulated or simulated-tiles")] = "simulated",
    params: PARAMS = DEFAULT,
    fresh: FRESH = False,
) -> None:
    """Write a simulated archive and its manifest into the cache."""
    from mmfl.steps import simulate as step

    step.run(_load(params, archive, "simulate"), archive, fresh=fresh)


@app.command()
def download(
    archive: ARCHIVE,
    params: PARAMS = DEFAULT,
    parallel: Annotated[int, typer.Option(min=1, max=32, help="files or images at a time")] = 4,
) -> None:
    """Fetch and verify an archive's files and imagery (or register a local copy)."""
    _download(_load(params, archive, "download"), archive, Path("data/raw", archive), parallel)


@app.command()
def split(
    archive: ARCHIVE, params: PARAMS = DEFAULT, workers: int = 1, fresh: FRESH = False
) -> None:
    """Encode an archive's patches into shards, each modality alone."""
    from mmfl.pipeline.units import split_unit
    from mmfl.sealed import Sealed
    from mmfl.steps import split as step

    chosen = _load(params, archive, "split")
    raw = Path("data/raw", archive)
    tables = Sealed(raw, "root.json", "download")
    tables.content("scenes.csv")
    recorded = tables.table("files.csv", ["name", "bytes", "sha256"])
    root = _root(chosen, archive, raw)
    unit = split_unit(chosen, archive, raw)
    if fresh:
        unit.discard()
    with unit.alone():
        step.run(
            archive,
            root=root,
            out=Path("data/patches", archive),
            store=unit.folder,
            shard_size=chosen.split.shard_size,
            snow=chosen.split.snow,
            cloud_or_shadow=chosen.split.cloud_or_shadow,
            on_error=chosen.split.on_error,
            workers=workers,
            recorded=recorded.itertuples(index=False, name=None),
        )


@app.command()
def partition(archive: ARCHIVE, params: PARAMS = DEFAULT) -> None:
    """Decide which client holds which patches in which modality."""
    from mmfl.steps import partition as step

    chosen = _load(params, archive, "partition")
    p = chosen.partition
    step.run(
        patches=_existing(Path("data/patches", archive), "split"),
        out=_manifest(chosen, archive),
        scenario=p.scenario,
        assignment=p.assignment,
        clients=p.clients,
        seed=p.seed,
        alpha=p.alpha,
        modalities=p.modalities,
        countries=p.countries,
        months=p.months,
    )


@app.command()
def train(
    archive: ARCHIVE,
    method: METHOD,
    variant: VARIANT = "default",
    params: PARAMS = DEFAULT,
    device: DEVICE = "auto",
    gpus: GPUS = 1,
    fresh: FRESH = False,
    workers: Annotated[int, typer.Option(min=1, help="processes; the bits stay the same")] = 1,
) -> None:
    """Train every seed of a method; resumes at the last finished round."""
    from mmfl.steps import train as step

    chosen = _load(params, archive, "train", method, variant)
    step.run(
        chosen,
        archive,
        method,
        variant,
        patches=_existing(Path("data/patches", archive), "split"),
        manifest=_existing(_manifest(chosen, archive), "partition"),
        out=Path("runs"),
        measured=Path("measured"),
        device=device,
        gpus=gpus,
        fresh=fresh,
        workers=workers,
    )


@app.command()
def tune(archive: ARCHIVE, params: PARAMS = DEFAULT) -> None:
    """Choose hyper-parameters by the validation scores of the trained trials."""
    from mmfl.steps import tune as step

    chosen = _load(params, archive, "tune")
    out = Path("results/tuning", archive, clients_name(chosen))
    step.run(chosen, archive, trained=_existing(Path("runs"), "train"), out=out)
    typer.echo((out / "chosen.yaml").read_text())


@app.command()
def evaluate(
    archive: ARCHIVE,
    method: METHOD,
    variant: VARIANT = "default",
    params: PARAMS = DEFAULT,
    device: DEVICE = "auto",
    gpus: GPUS = 1,
) -> None:
    """Score every seed of a method: modality subsets, missing rates, classes, clients."""
    from mmfl.steps import evaluate as step

    chosen = _load(params, archive, "evaluate", method, variant)
    step.run(
        chosen,
        archive,
        method,
        variant,
        patches=_existing(Path("data/patches", archive), "split"),
        manifest=_existing(_manifest(chosen, archive), "partition"),
        trained=_existing(Path("runs"), "train"),
        out=Path("scores"),
        device=device,
        gpus=gpus,
    )


@app.command()
def report(archive: ARCHIVE, params: PARAMS = DEFAULT) -> None:
    """Write tables, figures and metrics of an archive."""
    from mmfl.steps import report as step

    step.run(_load(params, archive, "report"), archive)


@app.command()
def page(archive: ARCHIVE, params: PARAMS = DEFAULT) -> None:
    """Write the HTML page of an archive (not versioned: it shows measured seconds too)."""
    from mmfl.steps import page as step

    step.run(_load(params, archive, "page"), archive, params)


@app.command()
def headline(params: PARAMS = DEFAULT) -> None:
    """Print where the pages are and the headline tables."""
    from mmfl.reporting.results import headline as text_of

    chosen = load(params)
    for archive in chosen.archives:
        typer.echo("")
        typer.echo(text_of(Path("results", archive, clients_name(chosen))))
        typer.echo(f"\nThe page: {Path('page', archive + '.html').resolve().as_uri()}")


@app.command()
def inspect(
    path: Path,
    archive: Annotated[str | None, typer.Option(help="which archive lies there")] = None,
    full: Annotated[bool, typer.Option("--full", help="read every band of an archive")] = False,
    page: Annotated[Path | None, typer.Option(help="write a page with a gallery, too")] = None,
) -> None:
    """Say what is in an archive, a store of patches, a partition or a run, and what is damaged.

    Exit status 1 if something is.
    """
    from mmfl.inspection.recognise import inspect as look

    found = look(path, archive=archive, full=full)
    typer.echo(found.text())
    if page is not None:
        found.write_page(page)
        typer.echo(f"\nThe page: {page.resolve().as_uri()}")
    raise typer.Exit(1 if found.damage else 0)


@app.command()
def check(
    description: Annotated[Path, typer.Argument(help="a yaml file, docs/your-own-archive.md")],
    full: Annotated[bool, typer.Option("--full", help="read the pixels of every file")] = False,
    page: Annotated[Path | None, typer.Option(help="write a page with a gallery, too")] = None,
) -> None:
    """Say what an archive of your own holds and what is wrong with it.

    Exit status 1 if something is wrong, 2 if the description cannot be used.
    """
    from mmfl.inspection.check import check as look

    found = look(description, full=full)
    typer.echo(found.text())
    if page is not None:
        found.write_page(page)
        typer.echo(f"\nThe page: {page.resolve().as_uri()}")
    raise typer.Exit(1 if found.damage else 0)


@app.command()
def schema(out: Path = Path("workflow/schemas/params.json")) -> None:
    """Export the JSON schema of the parameter file."""
    write_json(out, Params.model_json_schema())


def _download(params: Params, archive: str, out: Path, parallel: int = 4) -> None:
    """The download step."""
    from mmfl.params.archives import SIMULATED
    from mmfl.pipeline.jobs import published
    from mmfl.steps import download as step
    from mmfl.steps.simulate import manifest_path

    local = params.folders.get(archive) or params.download.local.get(archive)
    step.run(
        archive,
        manifest=manifest_path(params, archive) if archive in SIMULATED else published(archive),
        local=Path(local).expanduser() if local else None,
        store=_cache("download"),
        out=out,
        parallel=parallel,
        imagery=params.imagery,
        extract=params.download.extract,
    )


def _root(params: Params, archive: str, raw: Path) -> Path:
    """Where the archive lies; fetched again where a pull brought only the tables of `download`.

    Raises:
        UserError: what comes now is not what the tables describe.
    """
    from mmfl.params.archives import SIMULATED
    from mmfl.steps.simulate import run

    root = Path(read_json(raw / "root.json", "download")["root"])
    if root.is_file() or (root.is_dir() and all(item.exists() for item in root.iterdir())):
        return root
    log.info("%s: not here, as after a pull; fetching the archive again", root)
    if archive in SIMULATED:
        run(params, archive)
    with tempfile.TemporaryDirectory() as folder:
        _download(params, archive, Path(folder))
        for name in ("root.json", "files.csv", "scenes.csv"):
            if Path(folder, name).read_bytes() != (raw / name).read_bytes():
                raise UserError(
                    f"{raw / name}: found another archive than it describes; run download again"
                )
    return root


@app.command()
def verify(
    against: Annotated[str, typer.Option(help="revision with dvc.lock and tables")] = "HEAD",
    exact: Annotated[bool, typer.Option("--exact", help="only equal bits count")] = False,
) -> None:
    """Say whether the outputs here are those of the committed lock and tables, and how exactly.

    Exit status 1 if something differs or is missing, 2 if nothing can be compared.
    """
    from mmfl.verification.verify import verify as compare

    found = compare(against)
    typer.echo(found.text(exact))
    raise typer.Exit(found.status(exact))


def _manifest(params: Params, archive: str) -> Path:
    return Path("data/clients", archive, clients_name(params) + ".parquet")


def _existing(path: Path, step: str) -> Path:
    if not path.exists():
        raise UserError(f"{path}: not found, expected the output of the step; run {step} first")
    return path


def _cache(step: str) -> Path:
    from mmfl.cache import root

    return root() / step


def main() -> None:
    """Entry point: a user's mistake is one line and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except UserError as error:
        print(f"mmfl: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a read-only folder
        if error.filename is None and error.errno is None:
            raise
        remedy = REMEDIES.get(error.errno or 0, "")
        print(f"mmfl: {error.filename or 'a disk'}: {error.strerror}{remedy}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
