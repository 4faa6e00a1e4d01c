"""Imported at Python's start: each mmfl process notes its beginning and its regular end."""

import atexit
import json
import os
import sys
import time

if "mmfl.cli" in sys.orig_argv and "MMFL_TEST_BODIES" in os.environ:

    def note(event: str) -> None:
        line = {
            "event": event,
            "time": time.time(),
            "pid": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "arguments": sys.orig_argv[sys.orig_argv.index("mmfl.cli") + 1 :],
        }
        with open(os.environ["MMFL_TEST_BODIES"], "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(json.dumps(line) + "\n")

    note("start")
    atexit.register(note, "end")
