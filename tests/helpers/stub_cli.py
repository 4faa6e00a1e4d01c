"""Stands for `mmfl` in tests of the workflow: writes each file that a step declares, at once."""

import argparse
import os
import sys
import time
from pathlib import Path

from mmfl import files
from mmfl.params import clients_name, step_values
from mmfl.pipeline import frozen
from mmfl.pipeline.jobs import inputs, outputs

FLAGS = ("--params", "--archive", "--method", "--variant", "--workers", "--gpus")


def main() -> None:
    """Write the outputs of one step, with the values that decide them as content."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step")
    for flag in FLAGS:
        parser.add_argument(flag)
    given = parser.parse_args()
    with Path("calls.txt").open("a", encoding="utf-8") as calls:
        calls.write(f"{given.step} {given.archive} {given.method} {given.params}\n")
    asked = time.monotonic()
    while "STUB_WAITS" in os.environ and not Path(os.environ["STUB_WAITS"]).exists():
        if time.monotonic() - asked > 600:  # whoever asked is gone
            sys.exit(1)
        time.sleep(0.05)
    if given.step == "simulate":
        return
    job = (given.archive, given.method, given.variant or "default")
    params = frozen.check(Path(given.params), given.step, *job).of(given.archive)
    step = given.step
    paths, values = outputs(step, params), step_values(params, step, *job)
    read = [] if step in ("tune", "download") else inputs(step, params, *job)
    values = [values, files.digest([files.file_sha256(path) for path in read])]
    for template in paths:
        path = Path(
            template.format(
                archive=given.archive,
                clients=clients_name(params),
                method=given.method,
                variant=given.variant,
            )
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path} {values}", encoding="utf-8")
        if os.environ.get("STUB_FAILS") == given.step:
            fail(given.step)


def fail(step: str) -> None:
    """End badly, with one output written."""
    print(*(f"line {number} of {step}" for number in range(30)), sep="\n")
    print(f"the last line of {step}", flush=True)
    if number := os.environ.get("STUB_SIGNAL"):
        os.kill(os.getpid(), int(number))
    sys.exit(3)


if __name__ == "__main__":
    main()
