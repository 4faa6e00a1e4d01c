"""The workflow on a real one-node SLURM with pretend GPUs: runs, kills, DVC, the check command.

The long runs are started together and go on in the background while others are tested.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from helpers.cluster_project import (
    HERE,
    PATIENCE,
    Site,
    end_all,
    git_copy,
    hasty,
    kill_controller,
    local,
    option,
    record,
    start_controller,
    wait_until,
)
from helpers.project_copy import ROOT, copy_project
from helpers.warm_python import python

pytestmark = pytest.mark.slow

CI = yaml.safe_load((ROOT / "configs/ci.yaml").read_text())
ROUNDS = 20
KILLED = ["mf", "fedavgm", "scaffold", "fedbn"]
RUN = "runs/simulated/region-duplicate-p0/{}/default/seed-1"


def small(methods: list[str], rounds: int) -> dict:
    """params.yaml in the sizes of configs/ci.yaml, for one archive, one seed and some methods."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {key: params.get(key, {}) | value for key, value in CI.items()}
    params["train"] |= {"methods": methods, "seeds": [1], "rounds": rounds}
    return params | {"archives": {"simulated": {}}}


@pytest.fixture(scope="module", autouse=True)
def background(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """(site, process) of the whole `ci` configuration, and of `dvc repro`, both running."""
    ci = Site(tmp_path_factory.mktemp("ci") / "project")
    dvc = Site(
        tmp_path_factory.mktemp("dvc") / "project", small(["mf"], 1), slurm_partition="urgent"
    )
    dvc.edit_profile(**{"slurm-init-seconds-before-status-checks": 12})  # about what a step takes
    git_copy(dvc.folder)
    ci.python = dvc.python = python()
    running = {
        "ci": (ci, ci.snakemake("--configfile", "configs/ci.yaml")),
        "dvc": (dvc, dvc.start("dvc", "repro", log="run.txt", SNAKEMAKE_PROFILE="profiles/slurm")),
    }
    try:
        yield running
    finally:
        end_all()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with data; its runs are being trained here, without a cluster and a kill."""
    project = copy_project(tmp_path_factory.mktemp("local") / "project")
    params = project / "params.yaml"
    params.write_text(yaml.safe_dump(small(KILLED, ROUNDS)))
    local(project, params, "data/clients/simulated/region-duplicate-p0.parquet").wait()
    local(project, params, *(f"{RUN.format(method)}/run.json" for method in KILLED))
    return project


def trained(project: Path, method: str) -> Path:
    """The finished run of a method in that project."""
    said = project / "local.txt"  # of both runs
    wait_until(lambda: said.read_text().count("(100%) done") == 2, "training without a kill")
    return project / RUN.format(method)


def with_data(undisturbed: Path, folder: Path) -> Site:
    """A site with the same data and nothing trained; a train job has a minute per attempt."""
    site = Site(folder, small(KILLED, ROUNDS), slurm_partition="urgent", runtime="1 * attempt")
    shutil.copytree(undisturbed / "data", folder / "data", dirs_exist_ok=True)
    return site


@pytest.fixture(scope="module")
def halted(
    undisturbed: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Site, subprocess.Popen, dict[str, int]]:
    """(site, controller, last rounds): a job on its way to its time limit, a cancelled one."""
    site = with_data(undisturbed, tmp_path_factory.mktemp("halted") / "project")
    process = site.snakemake(*(f"{RUN.format(method)}/run.json" for method in KILLED[:2]))
    reached = stop_in_the_middle(site, KILLED[:2])
    (body,) = site.bodies("train", method=KILLED[1])
    subprocess.run(["scancel", body["job"]], check=True)
    return site, process, reached


def stop_in_the_middle(site: Site, methods: list[str]) -> dict[str, int]:
    """Halt each training process (SIGSTOP) once it has two rounds; the last round of each."""
    reached: dict[str, int] = {}

    def all_stopped() -> bool:
        for method in set(methods) - set(reached):
            if site.rounds().get(method, 0) >= 2:
                (body,) = site.bodies("train", method=method)
                os.kill(body["pid"], signal.SIGSTOP)
                reached[method] = site.rounds()[method]
        return len(reached) == len(methods)

    wait_until(all_stopped, f"two rounds of {', '.join(methods)}")
    assert all(2 <= last < ROUNDS for last in reached.values())
    return reached


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a run."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def first_round(site: Site, method: str) -> int:
    """The round with which the progress bar in the log of the last attempt begins."""
    log = site.folder / f"logs/train/simulated/region-duplicate-p0/{method}/default.log"
    return int(re.search(rf"(\d+)/{ROUNDS} \[", log.read_text()).group(1))  # type: ignore[union-attr]


def test_a_killed_controller_started_again_goes_on(
    halted: tuple, undisturbed: Path, tmp_path: Path
) -> None:
    """Killed while its jobs are queued, and again while they run."""
    killed = with_data(undisturbed, tmp_path / "project")
    methods = KILLED[2:]
    targets = [f"{RUN.format(method)}/run.json" for method in methods]

    def queued() -> list[str]:
        line = ["squeue", "-h", "-o", "%A|%Z", "-p", "urgent"]
        lines = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
        return [job.split("|")[0] for job in lines if job.endswith(f"|{killed.folder}")]

    def kill(process: subprocess.Popen) -> None:
        process.kill()
        process.wait()

    subprocess.run(["scontrol", "update", "PartitionName=urgent", "State=DOWN"], check=True)
    first = killed.snakemake(*targets, log="first.txt")
    left = wait_until(lambda: len(queued()) == 2 and queued(), "both jobs are queued")
    kill(first)
    second = killed.snakemake(*targets, log="second.txt")
    wait_until(lambda: len(queued()) == 2 and not set(queued()) & set(left), "sent again")
    assert {record(job)["JobState"] for job in left} == {"CANCELLED"}
    subprocess.run(["scontrol", "update", "PartitionName=urgent", "State=UP"], check=True)

    reached = stop_in_the_middle(killed, methods)
    kill(second)
    halted_jobs = [body["job"] for body in killed.bodies("train")]
    assert [record(job)["JobState"] for job in halted_jobs] == ["RUNNING"] * len(methods)
    third = killed.snakemake(*targets, log="third.txt")
    assert third.wait(300) == 0, killed.said("third.txt")
    assert "of a run that was killed" in killed.said("second.txt")
    assert "of a run that was killed" in killed.said("third.txt")

    for method in methods:
        before, after = (record(body["job"]) for body in killed.bodies("train", method=method))
        assert before["EndTime"] <= after["StartTime"]  # never both at once
        assert first_round(killed, method) == reached[method]
        assert len(killed.bodies("train", "end", method)) == 1
        assert digests(killed.folder / RUN.format(method)) == digests(trained(undisturbed, method))


def test_a_job_that_the_scheduler_kills_goes_on_with_the_same_bits(
    halted: tuple[Site, subprocess.Popen, dict[str, int]], undisturbed: Path
) -> None:
    """One at its time limit, one by scancel; the profile's retries send them again."""
    site, process, reached = halted
    assert process.wait(300) == 0, site.said()
    for method, state in zip(KILLED[:2], ("TIMEOUT", "CANCELLED"), strict=True):
        bodies = site.bodies("train", method=method)
        before, after = (record(body["job"]) for body in bodies)
        assert [before["JobState"], after["JobState"]] == [state, "COMPLETED"]
        assert [before["TimeLimit"], after["TimeLimit"]] == ["00:01:00", "00:02:00"]
        assert [before["MinMemoryNode"], after["MinMemoryNode"]] == ["2000M", "4000M"]
        assert first_round(site, method) == reached[method]
        assert len(site.bodies("train", "end", method)) == 1
        assert digests(site.folder / RUN.format(method)) == digests(trained(undisturbed, method))


def test_dvc_repro_sends_its_steps_to_the_cluster(background: dict) -> None:
    site, process = background["dvc"]
    assert process.wait(400) == 0, site.said()
    steps = ["simulate", "download", "split", "partition", "train", "evaluate", "report"]
    for step in steps:
        (body,) = site.bodies(step)
        assert record(body["job"])["JobState"] == "COMPLETED", step
    assert site.start("dvc", "status", log="status.txt").wait() == 0
    assert "up to date" in site.said("status.txt")
    site.start("snakemake", "--cores", "1", "page/simulated.html", log="page.txt").wait()
    assert site.start("snakemake", "--dry-run", log="dry.txt").wait() == 0
    assert "Nothing to be done" in site.said("dry.txt")
    assert Counter(body["arguments"][0] for body in site.bodies()) == Counter([*steps, "page"])


def check(site: Site, *arguments: str, **env: str) -> tuple[int, list[str], str]:
    """(exit status, lines on stderr, stdout) of the check command."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SNAKEMAKE", "MMFL"))}
    done = subprocess.run(
        [python(), "workflow/scripts/check_cluster.py", *arguments],
        cwd=site.folder, env=clean | env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines(), done.stdout


@pytest.fixture(scope="module")
def unused(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site for the check command."""
    return Site(tmp_path_factory.mktemp("unused") / "project", small(["mf"], 1))


def with_values(site: Site, name: str, train: dict, **values: object) -> str:
    """Another profile of the site; its folder."""
    profile = site.values() | values
    profile["set-resources"] = {"train": profile["set-resources"]["train"] | train}
    folder = site.folder / "profiles" / name
    folder.mkdir(parents=True)
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
    return str(folder)


def test_check_the_committed_profile_by_real_jobs(unused: Site) -> None:
    subprocess.run(["cp", ROOT / "profiles/slurm/profile.yaml", unused.profile], check=True)
    wide = with_values(unused, "urgent", {"slurm_partition": "urgent"})
    assert check(unused, "--profile", wide, "--params", "configs/ci.yaml")[0] == 0
    resources = {"slurm_partition": "urgent"}
    fast = with_values(unused, "fast", resources, **{"default-resources": resources})
    status, faults, text = check(unused, "--profile", fast, "--submit")
    assert (status, faults) == (0, [])
    assert re.search(r"urgent for train: ran on \S+, CUDA_VISIBLE_DEVICES=\d", text)
    assert re.search(r"train +urgent +1 +1 +2000\.\.6000 +240\.\.720\n", text)
    assert re.search(r"split \+ partition +urgent +8 +0 +4000\.\.12000 +510\.\.1530\n", text)


@pytest.mark.parametrize(
    ("name", "train", "values", "expected"),
    [
        (
            "names",
            {"slurm_partition": "gpux", "slurm_account": "bank"},
            {"slurm-status-command": "sacct"},
            [
                r"slurm-status-command: found sacct, but no accounting runs here; set squeue",
                r"slurm_account: found bank, expected none, since no accounting runs",
                r"slurm_partition of train: found gpux, expected one of closed, gpu, main",
            ],
        ),
        (
            "limits",
            {"slurm_partition": "short", "gpu": 5},
            {"default-resources": {"slurm_partition": "closed"}},
            [
                r"partition closed of simulate \+ download, .*: found state DOWN, expected UP",
                r"train \(attempt 1\): found runtime 240 minutes, expected at most 60 of partition",
                r"train \(attempt 1\): found 1 cores, 2000 MB, 5 GPUs, expected .*80000 MB, 4 GPUs",
            ],
        ),
        (
            "growth",
            {"mem_mb": "30000 * attempt", "runtime": "4000 * attempt"},
            {},
            [
                r"train \(attempt 3\): found runtime 12000 minutes, expected at most 10080",
                r"train \(attempt 3\): found 1 cores, 90000 MB, 1 GPUs, expected at most",
            ],
        ),
    ],
)
def test_check_says_each_fault_in_a_line(
    unused: Site, name: str, train: dict, values: dict, expected: list[str]
) -> None:
    status, faults, _ = check(unused, "--profile", with_values(unused, name, train, **values))
    assert status == 1
    assert len(faults) == len(expected), faults
    for line, pattern in zip(faults, expected, strict=True):
        assert re.match(f"check-cluster: {pattern}", line), line


@pytest.mark.parametrize(
    ("arguments", "env", "pattern"),
    [
        (["--profile", "nowhere"], {}, r"nowhere/profile.yaml: found .*No such file"),
        (["--profile", "profiles/default"], {}, r".*executor: found None, expected slurm"),
        ([], {"PATH": "/nonexistent"}, r"sbatch: not on the PATH"),
        (
            ["--params", "bad.yaml"],
            {},
            r".*bad.yaml:1: unknown key train.round; did you mean",
        ),
    ],
)
def test_check_that_cannot_check_ends_with_2(
    unused: Site, arguments: list[str], env: dict, pattern: str
) -> None:
    (unused.folder / "bad.yaml").write_text("train: {round: 3}\n")
    status, lines, _ = check(unused, *arguments, **env)
    assert status == 2
    assert len(lines) == 1 and re.match(f"check-cluster: {pattern}", lines[0]), lines


def test_ci_configuration_passes_and_every_body_ran_once(background: dict) -> None:
    site, process = background["ci"]
    assert process.wait(600) == 0, site.said()
    bodies = site.bodies("train")
    names = [
        tuple(option(body, key) for key in ("--archive", "--method", "--variant"))
        for body in bodies
    ]
    methods = len(CI["train"]["methods"]) + len(
        CI["archives"]["simulated-tiles"]["train"]["methods"]
    )
    assert set(Counter(names).values()) == {1} and len(names) == methods
    assert len(site.bodies("train", "end")) == methods
    for archive in CI["archives"]:
        assert (site.folder / f"page/{archive}.html").stat().st_size > 10_000
    dry = site.start("snakemake", "--dry-run", "--configfile", "configs/ci.yaml", log="dry.txt")
    assert dry.wait() == 0 and "Nothing to be done" in site.said("dry.txt")


def test_each_train_job_had_a_gpu_of_its_own(background: dict) -> None:
    site, process = background["ci"]
    process.wait(600)
    ends = {body["pid"]: body["time"] for body in site.bodies("train", "end")}
    bodies = site.bodies("train")
    assert {body["cuda"] for body in bodies} <= {"0", "1", "2", "3"}
    for one, other in combinations(bodies, 2):
        together = one["time"] < ends[other["pid"]] and other["time"] < ends[one["pid"]]
        assert not together or one["cuda"] != other["cuda"]
    assert len({body["job"] for body in bodies}) == len(bodies)
    for body in bodies:
        job = record(body["job"])
        assert job["Partition"] == "gpu" and job["TresPerJob"] == "gres:gpu:1"
        assert (job["MinMemoryNode"], job["TimeLimit"]) == ("2000M", "04:00:00")


def test_short_jobs_share_a_job_of_the_cluster(background: dict) -> None:
    site, process = background["ci"]
    process.wait(600)
    scored = site.bodies("evaluate")
    jobs = Counter(body["job"] for body in scored)
    assert len(scored) == len(site.bodies("train")) and sorted(jobs.values()) == [5, 8]
    for job, count in jobs.items():
        found = record(job)
        assert found["NumCPUs"] == str(count) and found["MinMemoryNode"] == f"{2000 * count}M"
        assert (found["Partition"], found["TimeLimit"]) == ("main", "01:00:00")
    for steps in (("simulate", "download"), ("split", "partition")):
        for archive in CI["archives"]:
            own = [b for s in steps for b in site.bodies(s) if option(b, "--archive") == archive]
            assert len(own) == 2 and len({body["job"] for body in own}) == 1


@pytest.fixture
def one_method(undisturbed: Path, tmp_path: Path) -> tuple[Site, str]:
    """(site with data, target): one method to train."""
    site = Site(tmp_path / "project", small(KILLED[:1], ROUNDS), slurm_partition="urgent")
    shutil.copytree(undisturbed / "data", site.folder / "data", dirs_exist_ok=True)
    return site, f"{RUN.format(KILLED[0])}/run.json"


def test_a_silent_cluster_is_waited_for(one_method: tuple[Site, str], undisturbed: Path) -> None:
    """The controller is dead when the run starts, and again while its job ends.

    Meanwhile the parameters are edited and removed: the job is that of the run's own values.
    """
    site, target = one_method
    kill_controller()
    try:
        run = site.start(
            "snakemake", "--profile", "profiles/slurm", target, log="run.txt", SLURM_CONF=hasty()
        )
        wait_until(lambda: "SLURM does not answer" in site.said(), "the first silence is told")
        params = small(KILLED[:1], ROUNDS)
        params["train"]["learning_rate"] = 0.9
        (site.folder / "params.yaml").write_text(yaml.safe_dump(params))
    finally:
        start_controller()
    stop_in_the_middle(site, KILLED[:1])
    (body,) = site.bodies("train")
    (site.folder / "params.yaml").unlink()
    kill_controller()
    try:
        wait_until(lambda: site.said().count("SLURM does not answer") == 2, "the second, too")
        os.kill(body["pid"], signal.SIGCONT)
        wait_until(lambda: site.bodies("train", "end"), "training ends without a controller")
    finally:
        start_controller()
    assert run.wait(PATIENCE) == 0, site.said()
    assert site.said().count("SLURM answers again") == 2
    assert len(site.bodies("train")) == 1
    run_folder = site.folder / RUN.format(KILLED[0])
    assert digests(run_folder) == digests(trained(undisturbed, KILLED[0]))


def test_a_cluster_silent_for_good_ends_the_run_with_one_line(
    one_method: tuple[Site, str], undisturbed: Path
) -> None:
    """And the next start goes on at the last round, after it cancelled the job."""
    site, target = one_method
    run = site.start(
        "snakemake", "--profile", "profiles/slurm", target, log="run.txt", SLURM_CONF=hasty(),
        MMFL_SLURM_PATIENCE="4",
    )  # fmt: skip
    reached = stop_in_the_middle(site, KILLED[:1])
    (body,) = site.bodies("train")
    wait_until(lambda: "has been submitted" in site.said(), "Snakemake knows the job")
    time.sleep(6)  # the controller saves its jobs every five seconds
    kill_controller()
    try:
        assert run.wait(PATIENCE) == 1, site.said()
    finally:
        start_controller()
    ends = [line for line in site.said().splitlines() if "has not answered" in line]
    assert len(ends) == 1 and "MMFL_SLURM_PATIENCE" in ends[0] and "start it again" in ends[0]
    assert site.snakemake(target, log="again.txt").wait(PATIENCE) == 0, site.said("again.txt")
    assert record(body["job"])["JobState"] == "CANCELLED"
    assert "1 jobs of a run that was killed" in site.said("again.txt")
    assert first_round(site, KILLED[0]) == reached[KILLED[0]]
    run_folder = site.folder / RUN.format(KILLED[0])
    assert digests(run_folder) == digests(trained(undisturbed, KILLED[0]))


def test_a_job_that_sbatch_refuses_is_one_line(one_method: tuple[Site, str]) -> None:
    site, target = one_method
    site.python = python()
    train = site.values()["set-resources"]["train"]
    for name, resources, pattern in (
        ("partition", {"slurm_partition": "gpux"}, "invalid partition specified: gpux; .*"),
        ("gpu", {"gpu": 9}, ".*Requested node configuration is not available"),
    ):
        site.edit_profile(**{"set-resources": {"train": train | resources}})
        assert site.snakemake(target, log=f"{name}.txt").wait(PATIENCE) == 1
        said = [line for line in site.said(f"{name}.txt").splitlines() if "mmfl:" in line]
        assert len(said) == 1, site.said(f"{name}.txt")
        assert re.match(f"mmfl: train: SLURM refuses the job: {pattern}; change the", said[0])


def test_scripts_leave_nothing_behind(tmp_path: Path) -> None:
    """A second cluster is refused while the first one runs, and the first is left alone."""
    before = Path("/etc/slurm/slurm.conf").readlink()
    line = [HERE / "slurm_up.sh", tmp_path]
    up = subprocess.run(line, env=os.environ | {"WAIT": "1"}, capture_output=True, text=True)
    assert up.returncode == 1 and "belongs to another cluster" in up.stderr
    subprocess.run([HERE / "slurm_down.sh", tmp_path], check=True)
    assert Path("/etc/slurm/slurm.conf").readlink() == before
    assert subprocess.run(["scontrol", "ping"], capture_output=True).returncode == 0
