"""Do the site values of a SLURM profile fit this cluster? One line per fault.

    python workflow/scripts/check_cluster.py                 # or: make check-cluster
    python workflow/scripts/check_cluster.py --profile profiles/mine --params configs/ci.yaml
    python workflow/scripts/check_cluster.py --submit        # and a one-minute job per partition

What jobs will ask for is not repeated here: Snakemake builds the whole graph with the profile, and
every job and group is asked for its resources in each attempt. Run it in the project's folder on
the login node.
Exit status: 0 all is well, 1 faults were found, 2 nothing could be checked.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

POLL = 180  # the executor plugin asks for the state of jobs at least this often, seconds
PROBE = (
    "import json, os, socket, sys; import snakemake, torch; sys.stdout.write(json.dumps("
    "[socket.gethostname(), os.environ.get('CUDA_VISIBLE_DEVICES', ''),"
    " os.access('Snakefile', os.R_OK)]))"
)


class CannotCheck(Exception):
    """Nothing can be said about the site values."""


@dataclass(frozen=True)
class Request:
    """What one job of the cluster asks for: the largest of all with the same rules and attempt."""

    rules: str
    attempt: int
    partition: str
    account: str
    threads: int
    mem_mb: int
    minutes: int
    gpus: int
    sbatch: str  # the options that the executor plugin submits it with

    @property
    def name(self) -> str:
        return f"{self.rules} (attempt {self.attempt})"


def run(*command: str) -> str:
    """Output of a command of SLURM; `CannotCheck` where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCheck(f"{command[0]}: found {error}; is SLURM here and alive?") from None
    if done.returncode:
        raise CannotCheck(f"{shlex.join(command)}: found {' '.join(done.stderr.split())}")
    return done.stdout


def read_profile(folder: Path) -> dict[str, Any]:
    """The profile; its site values may be wrong, its form may not."""
    file = folder / "profile.yaml"
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CannotCheck(f"{file}: found {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or data.get("executor") != "slurm":
        found = data.get("executor") if isinstance(data, dict) else type(data).__name__
        raise CannotCheck(f"{file}: executor: found {found}, expected slurm")
    return data


def requests(profile: Path, params: Path) -> list[Request]:
    """What every job and every group asks for in each attempt, from Snakemake's own graph."""
    from snakemake import cli
    from snakemake.dag import DAG
    from snakemake.workflow import Workflow
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    found: dict[tuple[str, int], Request] = {}
    order: list[str] = []
    group = DAG.update_groups

    def collect(dag: DAG) -> None:
        group(dag)
        with mock.patch.object(Workflow, "local_exec", False):  # a dry run counts as local
            gather(dag)
        raise SystemExit(0)

    def gather(dag: DAG) -> None:
        order.extend(dag.workflow._rules)
        for unit in {dag._group.get(job, job) for job in dag.needrun_jobs()}:
            if unit.is_local:
                continue
            rules = " + ".join(sorted(set(unit.rules), key=order.index))
            for attempt in range(1, unit.restart_times + 2):
                unit.attempt = attempt
                if not unit.is_group():
                    unit.reset_params_and_resources()
                need = unit.resources
                partition, account = need.get("slurm_partition", ""), need.get("slurm_account", "")
                options = {
                    "run_uuid": "check", "slurm_logfile": "/dev/null", "comment_str": rules,
                    "account": f"-A {shlex.quote(str(account))}" if account else "",
                    "partition": f"-p {shlex.quote(str(partition))}" if partition else "",
                    "workdir": os.getcwd(),
                }  # fmt: skip
                line = get_submit_command(unit, options) + set_gres_string(unit)
                request = Request(
                    rules, attempt, str(partition), str(account), unit.threads,
                    int(need.get("mem_mb", 0)), int(need.get("runtime", 0)), gpus(need), line,
                )  # fmt: skip
                before = found.get((rules, attempt))
                if before is None or size(before) < size(request):
                    found[rules, attempt] = request

    line = ["--profile", str(profile), "--configfile", str(params), "--forceall", "--nolock"]
    said = io.StringIO()
    try:
        with (
            mock.patch.object(DAG, "update_groups", collect),
            mock.patch("os._exit", sys.exit),  # what the Snakefile says is not lost
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(action="ignore"),
        ):
            cli.main([*line, "--dry-run", "--quiet", "all"])
    except SystemExit:
        pass
    if not found:
        lines = said.getvalue().splitlines()
        own = [text.removeprefix("mmfl: ") for text in lines if text.startswith("mmfl: ")]
        said_last = [text.strip() for text in lines if "rror" in text] or lines[-5:]
        raise CannotCheck(" ".join(own or [f"{profile}: Snakemake says:", *said_last]))
    return sorted(found.values(), key=lambda r: (order.index(r.rules.split()[0]), r.attempt))


def gpus(need: Any) -> int:
    """Number of GPUs in a job's resources: `gpu`, or the end of `gres` (gpu:2, gpu:a100:2)."""
    text = str(need.get("gres", ""))
    if text.startswith("gpu"):
        last = text.rpartition(":")[2]
        return int(last) if last.isdigit() else 1
    return int(need.get("gpu", 1 if need.get("gpu_model") else 0))


def size(request: Request) -> tuple[int, ...]:
    return request.minutes, request.threads, request.mem_mb, request.gpus


def records(text: str) -> list[dict[str, str]]:
    """Lines of `scontrol show ... --oneliner` as tables."""
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line.strip()]


def settings() -> dict[str, str]:
    """The cluster's own configuration (`scontrol show config`)."""
    lines = [line.partition("=") for line in run("scontrol", "show", "config").splitlines()]
    return {key.strip(): value.strip() for key, _, value in lines}


def minutes(limit: str) -> float:
    """SLURM's [days-]hours:minutes:seconds; a word (UNLIMITED, NONE) is no limit."""
    if not re.fullmatch(r"(\d+-)?[\d:]+", limit):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, mins, seconds = (int(part) for part in clock.split(":"))
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60


def node_has(node: dict[str, str]) -> tuple[int, int, int]:
    """(cores, MB, GPUs) of a node."""
    counts = [int(n) for n in re.findall(r"gpu(?::[^:,(]+)*:(\d+)", node.get("Gres", ""))]
    cores = node.get("CPUEfctv") or node.get("CPUTot", "0")
    return int(cores), int(node.get("RealMemory", 0)), sum(counts)


def partition_faults(
    name: str, asked: list[Request], known: dict[str, dict[str, str]]
) -> list[str]:
    """Does the partition exist, is it up, and has it time and nodes for what is asked of it?"""
    who = ", ".join(dict.fromkeys(request.rules for request in asked))
    if name not in known:
        return [
            f"slurm_partition of {who}: found {name or 'none'}, expected one of "
            f"{', '.join(sorted(known))}; change it at the top of the profile"
        ]
    table = known[name]
    if table.get("State") != "UP":
        return [
            f"partition {name} of {who}: found state {table.get('State')}, expected UP; "
            "take another, or ask its administrator"
        ]
    nodes = records(run("scontrol", "show", "node", "--oneliner"))
    nodes = [node for node in nodes if name in node.get("Partitions", "").split(",")]
    alive = [n for n in nodes if not re.search(r"DOWN|DRAIN|FAIL|NOT_RESP", n.get("State", ""))]
    if not alive:
        return [
            f"partition {name} of {who}: found {len(nodes)} nodes, none in service; "
            "take another, or ask its administrator"
        ]
    faults: dict[tuple[str, str], str] = {}  # the first attempt that does not fit
    limit = minutes(table.get("MaxTime", ""))
    have = [node_has(node) for node in alive]
    for request in asked:
        if request.minutes > limit:
            faults.setdefault(
                (request.rules, "time"),
                f"{request.name}: found runtime {request.minutes} minutes, expected at most "
                f"{limit:.0f} of partition {name}, else it waits for ever; take another "
                "partition, or set `runtime` of the rule or fewer `retries` in the profile",
            )
        need = (request.threads, request.mem_mb, request.gpus)
        if not any(all(a <= b for a, b in zip(need, node, strict=True)) for node in have):
            best = " or ".join(f"{c} cores, {m} MB, {g} GPUs" for c, m, g in sorted(set(have)))
            faults.setdefault(
                (request.rules, "node"),
                f"{request.name}: found {need[0]} cores, {need[1]} MB, {need[2]} GPUs, expected at "
                f"most what a node of partition {name} has: {best}; set `cores`, or the rule's "
                "mem_mb or gpu, in the profile",
            )
    return list(faults.values())


def account_faults(asked: list[Request], config: dict[str, str]) -> list[str]:
    """Is the account one of the user's? Only where accounting runs."""
    accounts = sorted({request.account for request in asked if request.account})
    kind = config.get("AccountingStorageType", "")
    if "none" in kind or not kind:
        return [
            f"slurm_account: found {name}, expected none, since no accounting runs here ({kind}); "
            "remove the line"
            for name in accounts
        ]
    user = getpass.getuser()
    text = run("sacctmgr", "-nP", "list", "associations", f"user={user}", "format=account")
    mine = sorted(set(text.split()))
    return [
        f"slurm_account: found {name}, expected one of {user}'s: "
        f"{', '.join(mine) or 'there is none'}; change it at the top of the profile"
        for name in accounts
        if name not in mine
    ]


def status_faults(profile: dict[str, Any], config: dict[str, str]) -> list[str]:
    """Does the status command see jobs until Snakemake has asked for their end?"""
    command = profile.get("slurm-status-command")
    if command == "sacct":
        if "none" in config.get("AccountingStorageType", "none"):
            return ["slurm-status-command: found sacct, but no accounting runs here; set squeue"]
        run("sacct", "-X", "--noheader", "--format=JobIdRaw,State")
        return []
    if command != "squeue":
        return [f"slurm-status-command: found {command}, expected squeue or sacct"]
    run("squeue", "--states=all", "--noheader")
    age = int(re.match(r"\d*", config.get("MinJobAge", ""))[0] or 0)  # type: ignore[index]
    wanted = max(POLL + 20, 3 * int(profile.get("slurm-init-seconds-before-status-checks", 40)))
    if age < wanted:
        return [
            f"slurm-status-command: found squeue, which forgets a finished job after {age} s "
            f"(MinJobAge), expected {wanted} s or more; set sacct, or ask for a longer MinJobAge"
        ]
    return []


def folder_faults() -> list[str]:
    """Can jobs write where they will?"""
    faults = []
    for folder in (Path.cwd(), Path(os.environ.get("MMFL_CACHE") or ".cache")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            faults.append(f"{folder}: found {error.strerror}, expected a folder to write in")
    return faults


def sbatch_faults(asked: list[Request], clean: set[str]) -> list[str]:
    """What SLURM itself says to the very options of each job whose partition is right."""
    faults: dict[str, str] = {}
    for request in asked:
        if request.partition not in clean or request.rules in faults:
            continue
        line = f"{request.sbatch} --test-only --wrap true"
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join(done.stderr.replace("sbatch: error:", "").split())
            faults[request.rules] = f"{request.name}: sbatch says: {said}; found {request.sbatch}"
    return list(faults.values())


def probe(request: Request, latency: float, patience: float) -> list[str]:
    """Send a job of one minute: does its node see the folder, the interpreter and a GPU?"""
    folder = Path("logs/check_cluster")
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{request.partition}-{request.gpus}.json"
    log = out.with_suffix(".log")
    for file in (out, log):
        file.unlink(missing_ok=True)
    options = re.sub(r" (-t|--mem|--cpus-per-task=|--output) ?\S+", "", request.sbatch)
    # As in a real job: srun finds the cluster without SLURM_CONF.
    step = f"env -u SLURM_CONF srun -n1 {shlex.quote(sys.executable)} -c {shlex.quote(PROBE)}"
    wrapped = shlex.quote(f"{step} > {shlex.quote(str(out))}.part && mv {out}.part {out}")
    line = f"{options} -t 1 --mem 1000 --output {log} --wrap {wrapped}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    where = f"a job on partition {request.partition} for {request.rules}"
    if done.returncode:
        return [f"{where}: sbatch says: {' '.join(done.stderr.split())}"]
    job, started, gone = done.stdout.split(";")[0].strip(), time.monotonic(), None
    while not out.exists():
        now = time.monotonic()
        queued = subprocess.run(["squeue", "-hj", job, "-o", "%T"], capture_output=True, text=True)
        if queued.stdout.split() in ([], ["COMPLETED"], ["FAILED"], ["TIMEOUT"], ["CANCELLED"]):
            gone = gone or now
            text = " ".join(log.read_text().split())[-300:] if log.exists() else "nothing"
            if "rror" in text or now > gone + latency:
                return [
                    f"{where}: found no {out} (its log: {text}), expected the node to see "
                    f"{Path.cwd()} and {sys.executable}; both must be on a shared disk"
                ]
        elif now > started + patience:
            subprocess.run(["scancel", job], check=False)
            return [f"{where}: still {queued.stdout.strip()} after {patience:.0f} s, cancelled"]
        time.sleep(1)
    host, visible, sees = json.loads(out.read_text())
    print(f"check-cluster: {where}: ran on {host}, CUDA_VISIBLE_DEVICES={visible or 'unset'}")
    if not sees:
        return [f"{where}: {host} does not see the Snakefile of {Path.cwd()}"]
    if request.gpus and not visible:
        return [
            f"{where}: found no CUDA_VISIBLE_DEVICES on {host}, expected {request.gpus} GPUs; try "
            "`gpu_model` beside `gpu: 1`, see docs/cluster.md"
        ]
    return []


def check(profile: Path, params: Path, submit: bool, patience: float) -> list[str]:
    """Every fault, in the order in which to repair them."""
    data = read_profile(profile)
    if find_spec("snakemake_executor_plugin_slurm") is None:
        raise CannotCheck("snakemake-executor-plugin-slurm: not installed; run `make env`")
    for tool in ("sbatch", "scontrol", "squeue", "scancel"):
        if shutil.which(tool) is None:
            raise CannotCheck(f"{tool}: not on the PATH; run this on a login node of the cluster")
    config = settings()
    asked = requests(profile, params)
    known = {
        table["PartitionName"]: table
        for table in records(run("scontrol", "show", "partition", "--oneliner"))
    }
    faults, clean = (
        folder_faults() + status_faults(data, config) + account_faults(asked, config),
        set(),
    )
    for name in sorted({request.partition for request in asked}):
        own = partition_faults(name, [r for r in asked if r.partition == name], known)
        faults += own
        if not own:
            clean.add(name)
    faults += sbatch_faults(asked, clean)
    if submit and not faults:
        latency = float(data.get("latency-wait", 5))
        for request in {(r.partition, r.gpus): r for r in asked}.values():
            faults += probe(request, latency, patience)
    if not faults:
        print_summary(asked)
    return faults


def print_summary(asked: list[Request]) -> None:
    """What each job asks for, in its first and its last attempt."""
    print("job                       partition  cores  GPUs  memory (MB)    time (minutes)")
    for rules in dict.fromkeys(request.rules for request in asked):
        first, *_, last = [r for r in asked if r.rules == rules] * 2
        memory, limit = f"{first.mem_mb}..{last.mem_mb}", f"{first.minutes}..{last.minutes}"
        print(
            f"{rules:25} {first.partition:10} {first.threads:5} {first.gpus:5}  {memory:14} {limit}"
        )


def main() -> int:
    """Print every fault; the exit status says whether there were any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--profile", type=Path, default=Path("profiles/slurm"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--submit", action="store_true", help="send a one-minute job per partition")
    parser.add_argument(
        "--patience", type=float, default=600, help="seconds that such a job may queue"
    )
    given = parser.parse_args()
    try:
        faults = check(given.profile, given.params, given.submit, given.patience)
    except CannotCheck as error:
        print(f"check-cluster: {error}", file=sys.stderr)
        return 2
    for fault in faults:
        print(f"check-cluster: {fault}", file=sys.stderr)
    if not faults:
        print("check-cluster: the site values fit this cluster")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
