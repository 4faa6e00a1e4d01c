"""Python processes that begin with the heavy packages imported: forks of one that waits for orders.

A fork is a process of its own: arguments, folder, environment, streams, exit status and signals are
those of the command. The project's package is not imported beforehand, so it is that of the folder.
Commands of `mmfl`, Snakemake, scripts of the workflow and `-c` are forks, also where a fork starts
them by `sys.executable` or by `python` on the PATH, as rules do; else the real interpreter starts.
A fork is killed soon after whoever ordered it is, by `kill` before that returns.

Not for tests about kills of a whole process group, or about a process's parents: the parent of a
fork is the one that waits.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

PRELOADED = (
    "torch", "torch.utils.data", "numpy", "pandas", "pyarrow.parquet", "scipy.stats", "yaml",
    "safetensors.torch", "pydantic", "typer.testing", "jinja2", "matplotlib.figure",
    "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg", "rasterio",
    "rasterio.warp", "requests", "pystac_client", "openpyxl", "tenacity", "tqdm", "zstandard",
    "statsmodels.stats.multitest", "psutil", "snakemake.cli", "snakemake.workflow",
    "snakemake.report", "pulp",
)  # fmt: skip
MODULES, SCRIPTS = ("mmfl.cli", "snakemake"), "workflow/scripts/"
CLIENT = """#!{python} -ISs
import array, json, os, signal, socket, sys
words = sys.argv[1:]
forked = words[0].startswith({scripts!r}) or words[0] == "-m" and words[1] in {modules!r}
if not forked and (words[0] != "-c" or "multiprocessing" in words[1]):
    os.execv({python!r}, [{python!r}, *words])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
order = json.dumps({{"words": words, "folder": os.getcwd(), "env": dict(os.environ)}}).encode()
streams = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
server.sendmsg([b"%d\\n" % len(order)], [streams])
server.sendall(order)
for number, passed in {signals!r}.items():
    signal.signal(number, lambda number, frame, passed=passed: server.sendall(b"%d\\n" % passed))
status = int(server.recv(16) or 70)  # 70: the one that waits is gone
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@cache
def python() -> str:
    """In place of `sys.executable`; the process behind it ends with this one."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))  # short: sockets have long names
    client = folder / "python"
    passed = {int(number): int(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    passed[int(signal.SIGUSR1)] = int(signal.SIGKILL)
    values = {"modules": MODULES, "scripts": SCRIPTS, "address": f"{folder}/orders"}
    values |= {"signals": passed}
    client.write_text(CLIENT.format(python=sys.executable, **values))
    client.chmod(0o755)
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__, folder], env=os.environ | one, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout and server.stdout.readline() == "ready\n"
    _open.append(server)
    return str(client)


def kill(process: subprocess.Popen) -> None:
    """Kill what was started by `python()`, and return when it is gone."""
    process.send_signal(signal.SIGUSR1)
    process.wait()


_open: list[subprocess.Popen[str]] = []  # its standard input stays open


def _receive(order: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """An order, and the three streams that came with it."""
    data, streams, _, _ = socket.recv_fds(order, 4096, 3)
    head, _, body = data.partition(b"\n")
    while len(body) < int(head):
        body += order.recv(1 << 16)
    return json.loads(body), streams


def _serve(folder: Path) -> dict[str, Any]:
    """Wait for orders until standard input ends; returns an order, in the process for it."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "orders"))
    listening.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    running: dict[socket.socket, int] = {}  # order -> process
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                for pid in running.values():
                    os.kill(pid, signal.SIGKILL)
                shutil.rmtree(folder)
                sys.exit()
            if key.fileobj is listening:
                order, _ = listening.accept()
                wanted, streams = _receive(order)
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    for other in (listening, order, *running):
                        other.close()
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                        os.close(stream)
                    return wanted
                for stream in streams:
                    os.close(stream)
                running[order] = pid
                selector.register(order, selectors.EVENT_READ)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, order)
            elif key.data is not None:  # a fork has ended
                selector.unregister(key.fileobj)
                os.close(key.fd)
                order = key.data
                _, status = os.waitpid(running.pop(order), 0)
                with suppress(KeyError, OSError):  # nobody waits for it any more
                    selector.unregister(order)
                    order.sendall(b"%d" % os.waitstatus_to_exitcode(status))
                order.close()
            elif key.fileobj in running:
                said = b""
                with suppress(OSError):
                    said = key.fileobj.recv(64)
                for number in said.split() or [signal.SIGKILL]:
                    os.kill(running[key.fileobj], int(number))
                if not said:
                    selector.unregister(key.fileobj)


def _become(order: dict[str, Any], python: Path, site: list[str]) -> int:
    """Be `python WORDS`; the exit status."""
    os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["env"])
    words = order["words"]
    first = os.getcwd() if words[0] in ("-c", "-m") else str(Path(words[0]).resolve().parent)
    given = order["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [first, *filter(None, given), *site]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    sys.orig_argv[:] = [sys.executable, *words]
    sys.executable = str(python)
    try:
        sys.modules.pop("sitecustomize", None)
        with suppress(ImportError):
            importlib.import_module("sitecustomize")  # as at Python's start
        if words[0] == "-m":
            sys.argv[:] = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv[:] = ["-c", *words[2:]]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(words[1], vars(sys.modules["__main__"]))
        else:
            sys.argv[:] = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, int | None):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException as fault:
        sys.excepthook(type(fault), fault, fault.__traceback__)
        return 1
    return 0


if __name__ == "__main__":
    here = Path(sys.argv[1])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    places = [path for path in sys.path[1:] if path not in given]
    for name in PRELOADED:
        importlib.import_module(name)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    threads = [name for name in threads if name != "jemalloc_bg_thd"]  # pyarrow's, ready for forks
    assert len(threads) == 1, f"{threads}: a fork has only one thread"
    gc.freeze()  # or each fork would go through all of it
    status = _become(_serve(here), here / "python", places)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 255)  # taking down all that was imported would take a second
