"""A cluster that does not answer: the plugin's own code with commands that fail when told to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_executor_plugin_slurm import Executor, ExecutorSettings
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.settings import SharedFSUsage

from mmfl.cluster.executor import Patient, refusal
from mmfl.cluster.queue import patience
from mmfl.errors import UserError

DOWN = 'echo "Unable to contact slurm controller (connect failure)" >&2; exit 1'
COMMANDS = {
    "squeue": 'case "$*" in *%F*) cat queue ;; *) cat states ;; esac',
    "scontrol": 'echo "MinJobAge = 300 sec"',
    "sacct": 'echo "Slurm accounting storage is disabled" >&2; exit 1',
    "scancel": 'echo "$@" >> cancelled',
}


class Quick(Patient):
    """Asks again at once."""

    async def sleep(self) -> None:
        await asyncio.sleep(0.02)


class Scheduler:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.finished: list[Any] = []
        self.failed: list[Any] = []
        self.errors: list[Exception] = []
        self.submit_callback = lambda job: None
        self.finish_callback = self.finished.append
        self.error_callback = self.failed.append
        self.executor_error_callback = self.errors.append


class Lab:
    """A folder with the commands, and an executor that uses them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scheduler = Scheduler()
        self.executors: list[Executor] = []
        for name, body in COMMANDS.items():
            file = folder / "bin" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"#!/bin/sh\n[ -e down ] && {{ {DOWN}; }}\n{body}\n")
            file.chmod(0o755)
        self.set("RUNNING")

    def set(self, state: str, reason: str = "None") -> None:
        """SLURM knows job 7 in that state; empty: it knows no job."""
        (self.folder / "states").write_text(f"7|{state}\n" if state else "")
        text = f"7|{state}|{reason}|rule_train|/elsewhere\n" if state else ""
        (self.folder / "queue").write_text(text)
        self.reason = reason

    def down(self, is_down: bool) -> None:
        if is_down:
            (self.folder / "down").touch()
        else:
            (self.folder / "down").unlink()

    def executor(self, cls: type = Quick) -> Executor:
        workflow = SimpleNamespace(
            scheduler=self.scheduler, dag=None, workdir_init=str(self.folder), main_snakefile="",
            executor_settings=ExecutorSettings(
                logdir=self.folder / "logs", status_command="squeue",
                init_seconds_before_status_checks=1, status_attempts=1,
            ),
            storage_settings=SimpleNamespace(shared_fs_usage=[SharedFSUsage.SOURCES]),
            remote_execution_settings=SimpleNamespace(
                max_status_checks_per_second=1000, jobname="{jobid}", jobscript=None,
                seconds_between_status_checks=0, immediate_submit=False,
            ),
            executor_plugin=SimpleNamespace(
                common_settings=SimpleNamespace(init_seconds_before_status_checks=0)
            ),
        )  # fmt: skip
        quiet = SimpleNamespace(**dict.fromkeys(("debug", "info", "warning", "error"), ignore))
        executor = cls(workflow, quiet)
        self.executors.append(executor)
        return executor

    def submitted(self, executor: Executor) -> SubmittedJobInfo:
        job = SimpleNamespace(name="train", resources={}, log_error=ignore, register=ignore)
        info = SubmittedJobInfo(job, "7", {"slurm_logfile": self.folder / "7.log"})
        executor.report_job_submission(info, register_job=False)
        return info


def ignore(*args: Any, **kwargs: Any) -> None:
    pass


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    made = Lab(tmp_path)
    yield made
    for executor in made.executors:
        if executor.wait:
            executor.shutdown()


def wait_until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


def test_the_plugin_alone_forgets_its_jobs(lab: Lab) -> None:
    """Why `Patient` is there. Where a release of the plugin no longer does, it may go."""
    executor = lab.executor(Executor)
    lab.down(True)
    info = SubmittedJobInfo(SimpleNamespace(), "7", {"slurm_logfile": lab.folder / "7.log"})

    async def kept() -> list[SubmittedJobInfo]:
        return [job async for job in executor.check_active_jobs([info])]

    assert asyncio.run(kept()) == []


def test_jobs_outlive_a_silence(lab: Lab, capsys: pytest.CaptureFixture) -> None:
    executor = lab.executor()
    lab.down(True)
    info = lab.submitted(executor)
    wait_until(lambda: executor.silent is not None)
    lab.set("COMPLETED")
    lab.down(False)
    wait_until(lambda: lab.scheduler.finished)
    assert lab.scheduler.finished == [info.job] and not lab.scheduler.failed
    wait_until(lambda: executor.silent is None)
    executor.shutdown()
    said = capsys.readouterr().err
    assert said.count("does not answer") == 1 and said.count("answers again") == 1


def test_a_silence_that_lasts_ends_the_run_with_one_line(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMFL_SLURM_PATIENCE", "0.3")
    executor = lab.executor()
    lab.down(True)
    lab.submitted(executor)
    wait_until(lambda: lab.scheduler.errors)
    executor.shutdown()  # as Snakemake does next
    (error,) = lab.scheduler.errors
    assert isinstance(error, WorkflowError)
    assert "has not answered for 0 s (MMFL_SLURM_PATIENCE)" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("state", ["", "COMPLETED"])
def test_a_job_that_the_cluster_has_forgotten_is_sent_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, state: str
) -> None:
    monkeypatch.setenv("MMFL_SLURM_PATIENCE", "0.3")
    executor = lab.executor()
    lab.set(state)
    info = lab.submitted(executor)
    wait_until(lambda: lab.scheduler.failed or lab.scheduler.finished)
    executor.shutdown()
    assert (lab.scheduler.failed == [info.job]) == (state == "")
    assert ("SLURM has forgotten job 7" in capsys.readouterr().err) == (state == "")


@pytest.mark.parametrize("reason", ["PartitionTimeLimit", "AssocMaxWallDurationPerJobLimit"])
def test_a_reason_for_which_a_job_never_starts_is_said_once(
    lab: Lab, capsys: pytest.CaptureFixture, reason: str
) -> None:
    executor = lab.executor()
    asked: list[str] = []
    known = executor.known
    executor.known = lambda jobs: (asked.append(lab.reason), known(jobs))[1]
    lab.set("PENDING", "Priority")
    lab.submitted(executor)
    wait_until(lambda: "Priority" in asked)
    for often, ordinary in ((2, "QOSMaxJobsPerUserLimit"), (3, reason)):
        lab.set("PENDING", ordinary)
        wait_until(lambda often=often, name=ordinary: asked.count(name) > often)
    executor.shutdown()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mmfl: train: job 7 waits, SLURM's reason is {reason}: it may never")


def test_a_submission_that_did_not_arrive_is_made_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, again = lab.executor(), threading.Event()
    monkeypatch.setattr(executor, "run_job", lambda job: again.set())
    lab.down(True)
    message = (
        "SLURM sbatch failed. The error message was 'sbatch: error: Batch job submission failed: "
        "Unable to contact slurm controller (connect failure)'.\n    sbatch call:\n"
    )
    info = SubmittedJobInfo(SimpleNamespace(name="train"))
    thread = threading.Thread(target=executor.report_job_error, args=(info, message))
    thread.start()
    wait_until(lambda: executor.silent)
    assert not again.is_set()
    lab.down(False)
    thread.join(60)
    assert again.is_set() and not lab.scheduler.failed


def test_a_refused_job_is_one_line(lab: Lab, capsys: pytest.CaptureFixture) -> None:
    executor = lab.executor()
    message = (
        "SLURM sbatch failed. The error message was 'sbatch: error: invalid partition specified: "
        "gpux\nsbatch: error: Batch job submission failed: Invalid partition name specified'.\n"
        "    sbatch call:\n        sbatch -p gpux\n"
    )
    for _ in range(3):  # attempts
        executor.report_job_error(SubmittedJobInfo(SimpleNamespace(name="train")), message)
    assert len(lab.scheduler.failed) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "mmfl: train: SLURM refuses the job: invalid partition specified: gpux; Batch job "
        "submission failed: Invalid partition name specified; change the profile"
    )
    raised = "Job submission failed with exception: The given account bank is invalid."
    assert refusal(raised) == raised


def test_a_group_that_cannot_be_submitted_ends(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """An account that does not exist: the plugin alone loses the group, and waits for ever."""

    def refuse(self: Executor, job: Any) -> Iterator[str]:
        raise WorkflowError("The given account bank is invalid.")
        yield

    monkeypatch.setattr(Executor, "get_account_arg", refuse)
    group = SimpleNamespace(
        name="scores", jobid="a1", is_group=lambda: True, jobs=[], resources={}, log_error=ignore
    )
    with pytest.raises(AttributeError):
        lab.executor(Executor).run_job(group)
    lab.executor().run_job(group)
    assert lab.scheduler.failed == [group]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mmfl: scores: SLURM refuses the job: WorkflowError: The given account")


def test_jobs_are_cancelled_while_their_states_are_asked_for(lab: Lab) -> None:
    executor = lab.executor()
    info = lab.submitted(executor)
    executor.wait = False
    executor.wait_thread.join()
    executor.checked, executor.settled = [info], set()
    executor.cancel_jobs([])  # Snakemake's own list is empty at such a moment
    assert (lab.folder / "cancelled").read_text().split() == ["7"]


def test_jobs_that_cannot_be_cancelled_are_told(lab: Lab, capsys: pytest.CaptureFixture) -> None:
    executor = lab.executor()
    lab.down(True)
    executor.cancel_jobs([SubmittedJobInfo(SimpleNamespace(name="train"), "7")])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mmfl: 1 jobs could not be cancelled")
    assert "Unable to contact" in line and line.endswith(
        "the next start in this folder cancels them"
    )


@pytest.mark.parametrize("text", ["soon", "0", "-3", "inf", "nan", ""])
def test_patience_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MMFL_SLURM_PATIENCE", text)
    with pytest.raises(UserError, match="MMFL_SLURM_PATIENCE: found"):
        patience()
