"""How far floating point alone moves the tables: the same experiment under other instruction sets.

    python benchmarks/exactness.py --out /tmp/exactness            # 6 minutes a setting, alone
    python benchmarks/exactness.py --out /tmp/exactness --csv docs/exactness.csv

The default experiment's ablation (mf with and without FW and MIM, all seeds, both archives) runs
from the simulated pixels to the tables under each setting below. A setting changes rounding and
nothing else: which vector instructions ATen, oneDNN, MKL, NumPy, OpenBLAS and libm may use, or the
number of threads, which the project itself fixes at one. Settings that are there are not run again.

Then, per kind of table cell, the largest difference between any two settings; and per run, how far
its seeds and their mean move. `mmfl.verification.tolerance` is set by it, docs/reproduction.md has
the outcome.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from mmfl.verification.cells import compare_csv

ROOT = Path(__file__).resolve().parents[1]
NO_512 = "X86_V4 AVX512_ICL"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": NO_512,
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F",
}
SSE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": f"X86_V3 {NO_512}",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA",
}
THREADS = "MMFL_BENCHMARK_THREADS"
SETTINGS: dict[str, dict[str, str]] = {
    "native": {},
    "avx2": AVX2,
    "sse": SSE,
    "threads-2": {THREADS: "2"},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "mkl-avx2": {"MKL_CBWR": "AVX2"},
    "numpy-avx2": {"NPY_DISABLE_CPU_FEATURES": NO_512, "OPENBLAS_CORETYPE": "Haswell"},
}
METHODS = ["mf", "mf+fw", "mf+mim", "mf+fw+mim"]


def experiment(rounds: int | None, archives: list[str]) -> dict:
    """params.yaml with the four methods of the ablation."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["archives"] = {name: values["archives"][name] for name in archives}
    values["train"]["methods"] = METHODS
    if rounds:
        values["train"]["rounds"] = rounds
    return values


def inside() -> None:
    """Every step in this process and folder, under the environment that was set."""
    import torch

    from mmfl import cli
    from mmfl.params import load

    threads, fix = int(os.environ.get(THREADS, "1")), torch.set_num_threads
    torch.set_num_threads = lambda asked: fix(threads)  # the switch: the steps ask for one thread
    for archive in load("params.yaml").archives:
        cli.simulate(archive=archive)
        for step in (cli.download, cli.split, cli.partition):
            step(archive=archive)
        for method in METHODS:
            cli.train(archive=archive, method=method, device="cpu")
            cli.evaluate(archive=archive, method=method, device="cpu")
        cli.report(archive=archive)
    Path("finished").write_text(torch.__config__.show() + torch.__config__.parallel_info())


def run(name: str, out: Path, values: dict) -> None:
    """One setting in a folder and process of its own."""
    folder = out / name
    if (folder / "finished").exists():
        return
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MMFL_")}
    command = [sys.executable, str(Path(__file__).resolve()), "--inside"]
    subprocess.run(command, cwd=folder, env=clean | SETTINGS[name], check=True)


def same_bits(out: Path, one: str, two: str) -> dict[str, str]:
    """Which groups of outputs of two settings are equal to the bit."""
    found = {}
    for group in ("data", "runs", "scores", "results"):
        names, other = ({p.relative_to(out / s): p for p in (out / s / group).rglob("*")
                         if p.is_file()} for s in (one, two))  # fmt: skip
        same = sum(
            name in other and digest(path) == digest(other[name]) for name, path in names.items()
        )
        found[group] = f"{same} of {len(names.keys() | other.keys())}"
    return found


@functools.cache
def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cells(out: Path, one: str, two: str) -> pd.DataFrame:
    """Every table cell that may move: archive, run, kind, column, how far."""
    rows = []
    for path in sorted((out / one / "results").rglob("*.csv")):
        if path.parent.name != "tables":
            continue
        other = out / two / path.relative_to(out / one)
        task = "pixel" if path.parents[2].name == "simulated-tiles" else "multilabel"
        compared = compare_csv(task, path.read_bytes(), other.read_bytes())
        assert not compared.faults, compared.faults
        rows += [
            {"archive": path.parents[2].name, "table": path.stem, "row": cell.row,
             "column": cell.column, "kind": cell.kind, "moved": cell.moved}
            for cell in compared.cells
        ]  # fmt: skip
    return pd.DataFrame(rows).assign(pair=f"{one} / {two}")


def seeds(out: Path, settings: list[str]) -> pd.DataFrame:
    """First score on all modalities per archive, method and seed; a column per setting."""
    found = {}
    for name in settings:
        for path in sorted((out / name / "scores").rglob("scores.csv")):
            archive, _, method, _, seed = path.relative_to(out / name / "scores").parts[:5]
            table = pd.read_csv(path)
            metric = "ap_macro" if archive == "simulated" else "iou_macro"
            kept = table[(table["kind"] == "subset") & (table["policy"] == "modality")]
            kept = kept[(kept["modalities"] == "s1+s2") & (kept["metric"] == metric)]
            found[archive, method, seed, name] = float(kept["value"].iloc[0])
    return pd.Series(found).unstack()


def compare(out: Path, settings: list[str], csv: Path | None) -> None:
    """Print what moved, and write it per pair of settings, archive and kind."""
    parts = []
    for one, two in itertools.combinations(settings, 2):
        print(f"{one} / {two}: equal files", same_bits(out, one, two))
        parts.append(cells(out, one, two))
    every = pd.concat(parts)
    every = every[every["kind"] != "p"]
    grouped = every.groupby(["pair", "archive", "kind"])["moved"]
    summary = grouped.agg(cells="size", median="median", largest="max").reset_index()
    if csv is not None:
        summary.to_csv(csv, index=False, lineterminator="\n", float_format="%.3g")
    print(summary.to_string(index=False))
    print("\nlargest of all pairs")
    print(every.groupby(["archive", "kind"])["moved"].max().unstack().to_string())
    print(every.reset_index(drop=True).loc[
        lambda frame: frame.groupby("kind")["moved"].idxmax()].to_string(index=False))  # fmt: skip
    by_seed = seeds(out, settings)
    mean = by_seed.groupby(level=[0, 1]).mean()
    print("\nfirst score on all modalities, per seed and their mean, in percent")
    both = pd.concat([by_seed, pd.concat({"mean": mean}).reorder_levels([1, 2, 0])]).sort_index()
    print((100 * both).round(2).assign(range=lambda t: t.max(axis=1) - t.min(axis=1)).to_string())


def main() -> None:
    """Run what is missing and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("/tmp/exactness"))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--archives", nargs="+", default=["simulated", "simulated-tiles"])
    parser.add_argument("--rounds", type=int, help="fewer than in params.yaml: a quick look")
    parser.add_argument("--csv", type=Path, help="write the differences here")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside()
        return
    for name in given.settings:
        run(name, given.out.resolve(), experiment(given.rounds, given.archives))
    if len(given.settings) > 1:
        compare(given.out.resolve(), given.settings, given.csv)


if __name__ == "__main__":
    main()
