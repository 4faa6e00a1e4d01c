"""Snakemake's executor for SLURM, also while the controller does not answer.

The plugin forgets its jobs when a query of their states fails, gives up a submission at once, and
Snakemake shows neither what sbatch said nor why a job ended. `Patient` is the plugin's executor
with these gaps closed; it uses only what every executor has (run_jobs, check_active_jobs, report_*,
cancel_jobs), so the plugin's own questions and answers stay as they are.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from snakemake_executor_plugin_slurm import Executor
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from mmfl.cluster.queue import VARIABLE, cancel_left_behind, patience, queue, say

FORGOTTEN = 120  # seconds after which a job that SLURM does not list is given up
SOON = 5  # seconds until the next question after an answer that was missing or odd
# Reasons to wait that only another request, or an administrator, ends (squeue's manual). A limit of
# how many jobs run at a time, such as QOSMaxJobsPerUserLimit, is none of them.
NEVER = re.compile(
    r"BadConstraints|Invalid(Account|QOS)|JobHeld\w+|Partition(Down|Inactive|NodeLimit|TimeLimit)"
    r"|(Assoc|QOS)M(ax|in)\w+PerJob\w*|QOSMin\w+"
)


def refusal(message: str) -> str:
    """What sbatch said, in one line, from the plugin's message about a failed submission."""
    found = re.search(r"The error message was '(.*?)'\.\n", message, re.DOTALL)
    lines = (found.group(1) if found else message).replace("sbatch: error:", "").splitlines()
    return "; ".join(line.strip() for line in lines if line.strip())


class Patient(Executor):  # type: ignore[misc]
    """The plugin's executor, which waits for a silent SLURM up to `patience` and forgets no job.

    A query that fails leaves every job where it was; a submission that did not reach the controller
    is made again; a job that SLURM answers nothing about counts as failed and is sent again. A
    silence longer than `patience` ends the run with one line.
    """

    def __init__(self, workflow: Any, logger: Any) -> None:
        self.patience = patience()
        self.silent: float | None = None  # since when SLURM does not answer
        self.ending = threading.Event()
        self.begun = False
        self.checked: list[SubmittedJobInfo] = []  # those whose states are being asked for
        self.settled: set[int] = set()  # of them, identity of those that have ended
        self.unknown: dict[str, float] = {}  # id -> since when SLURM does not know the job
        self.told: set[str] = set()
        self.told_lock = threading.Lock()
        super().__init__(workflow, logger)  # starts the thread that asks

    # Silence

    def answered(self) -> None:
        if self.silent is not None:
            silence = time.monotonic() - self.silent
            say(f"SLURM answers again after {silence:.0f} s; the run goes on")
        self.silent = None

    def unanswered(self) -> bool:
        """Note that SLURM did not answer; whether to go on waiting."""
        if self.ending.is_set():
            return False
        if self.silent is None:
            self.silent = time.monotonic()
            say(
                f"SLURM does not answer; asked again for up to {self.patience:.0f} s ({VARIABLE}), "
                "jobs on the nodes go on"
            )
        elif time.monotonic() - self.silent > self.patience:
            self.ending.set()
            error = WorkflowError(
                f"mmfl: SLURM has not answered for {self.patience:.0f} s ({VARIABLE}): the run "
                "ends; start it again once squeue answers: it cancels the jobs that it left in "
                "the queue, and training goes on at its last round"
            )
            self.workflow.scheduler.executor_error_callback(error)
            return False
        return True

    def wait_for_answer(self) -> bool:
        """Wait until the controller answers; False where the run ends instead."""
        while queue() is None:
            if not self.unanswered():
                return False
            self.ending.wait(1)
        self.answered()
        return True

    # Submission

    def run_jobs(self, jobs: list[Any]) -> None:
        if not self.begun:
            self.begun = True
            if not self.wait_for_answer():
                return
            cancel_left_behind()
        super().run_jobs(jobs)

    def run_job(self, job: Any) -> None:
        if self.ending.is_set():
            return
        try:
            super().run_job(job)
        except Exception as error:  # the plugin's own report stumbles over a group, and is lost
            why = error.__context__ or error
            self.report_job_error(SubmittedJobInfo(job), f"{type(why).__name__}: {why}")

    def report_job_success(self, job_info: SubmittedJobInfo) -> None:
        self.settled.add(id(job_info))
        super().report_job_success(job_info)

    def report_job_error(
        self, job_info: SubmittedJobInfo, msg: str | None = None, **kwargs: Any
    ) -> None:
        """Say why, which Snakemake does not; send again what did not reach the controller."""
        self.settled.add(id(job_info))
        if job_info.external_jobid is None:
            unreached = "Unable to contact slurm controller" in (msg or "")
            if unreached or queue() is None:
                if self.unanswered() and self.wait_for_answer():
                    self.run_job(job_info.job)
                return
            self.say_once(
                f"{job_info.job.name}: SLURM refuses the job: {refusal(msg or '')}; change the "
                "profile, `make check-cluster` compares it with the cluster"
            )
            self.workflow.scheduler.error_callback(job_info.job)  # without a page about the job
            return
        said = (msg or f"SLURM-job '{job_info.external_jobid}' failed").splitlines()[0]
        self.say_once(f"{job_info.job.name}: {said}")
        super().report_job_error(job_info, msg, **kwargs)

    def say_once(self, line: str) -> None:
        with self.told_lock:
            if line not in self.told:
                self.told.add(line)
                say(line)

    # States

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncIterator[SubmittedJobInfo]:
        """Ask for the states of jobs, as the plugin does; yield every job that has not ended."""
        self.settled.clear()
        self.checked = active_jobs
        kept: list[SubmittedJobInfo] = []
        if self.ending.is_set():
            return
        async for job_info in super().check_active_jobs(active_jobs):
            kept.append(job_info)
        seen = {id(job_info) for job_info in kept} | self.settled
        dropped = [job_info for job_info in active_jobs if id(job_info) not in seen]
        soon = bool(dropped or self.silent)
        if dropped:  # the plugin drops jobs where its query failed
            self.unanswered()
        elif active_jobs:
            self.answered()
            kept = self.known(kept)
        if soon or self.unknown:
            self.next_seconds_between_status_checks = SOON
        for job_info in [*kept, *dropped]:
            yield job_info
        self.checked = []

    def known(self, jobs: list[SubmittedJobInfo]) -> list[SubmittedJobInfo]:
        """Those that SLURM has not forgotten; the others end as failed. Says what never starts."""
        if not jobs:
            self.unknown.clear()
        if not jobs or (lines := queue("--states=all")) is None:
            return jobs
        reasons = {i: why if state == "PENDING" else "" for i, state, why, _, _ in lines}
        now, kept = time.monotonic(), []
        asked = {str(job_info.external_jobid).split("_")[0] for job_info in jobs}
        self.unknown = {i: since for i, since in self.unknown.items() if i in asked}
        for job_info in jobs:
            job, number = job_info.job, str(job_info.external_jobid).split("_")[0]
            elsewhere = any(job.resources.get(k) for k in ("cluster", "clusters", "slurm_cluster"))
            if number in reasons or elsewhere:
                self.unknown.pop(number, None)
            elif now - self.unknown.setdefault(number, now) > min(FORGOTTEN, self.patience):
                del self.unknown[number]
                self.report_job_error(
                    job_info,
                    f"SLURM has forgotten job {number}; what it finished is in the cache",
                )
                continue
            kept.append(job_info)
            if NEVER.fullmatch(why := reasons.get(number, "")):
                self.say_once(
                    f"{job.name}: job {number} waits, SLURM's reason is {why}: it may never start; "
                    "change the profile, `make check-cluster` compares it with the cluster"
                )
        return kept

    async def sleep(self) -> None:
        """Wait for the next question, or for the end of the run."""
        end = time.monotonic() + self.next_seconds_between_status_checks
        while self.wait and not self.ending.is_set() and time.monotonic() < end:
            await asyncio.sleep(min(1, max(0, end - time.monotonic())))

    # The end

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel jobs, those too whose states are being asked for."""
        self.ending.set()
        known = {id(job_info): job_info for job_info in [*active_jobs, *self.checked]}
        jobs = [job_info for key, job_info in known.items() if key not in self.settled]
        try:
            super().cancel_jobs(jobs)
        except WorkflowError as error:
            say(
                f"{len(jobs)} jobs could not be cancelled ({' '.join(str(error).split())}); "
                "the next start in this folder cancels them"
            )

    def shutdown(self) -> None:
        self.ending.set()
        super().shutdown()
