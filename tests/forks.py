"""`run_forked` runs the project's commands in processes that need not import the libraries, which takes seconds.

A server is started once; it imports the libraries and computes nothing, and each process is forked from it. The modules
of the project are not among what it imports: a command finds and imports its own, as a user's does.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

PROJECT = Path(__file__).parent.parent
STREAMS = ("out", "err")
# What is not found in another version of a library is imported later, and takes its time.
LIBRARIES = ["torch._dynamo", "torch.distributed.checkpoint.state_dict", "accelerate.checkpointing", "datasets"]
LIBRARIES += ["transformers.modeling_utils", "transformers.generation.utils", "transformers.models.auto.modeling_auto"]
LIBRARIES += ["transformers.models.auto.tokenization_auto", "transformers.models.qwen3.modeling_qwen3"]
LIBRARIES += ["transformers.convert_slow_tokenizer", "matplotlib.pyplot"]

# On a Mac the system's own libraries do not bear a fork, so that each process imports all anew.
LINUX = sys.platform == "linux"
CONTEXT = multiprocessing.get_context("forkserver" if LINUX else "spawn")
if LINUX:
    CONTEXT.set_forkserver_preload(LIBRARIES)


def start_forked(folder: Path, *arguments, **environment) -> BaseProcess:
    """Start `python -m MODULE ...`, `python -c PROGRAM` or `python FILE ...`; what it says goes to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in STREAMS:
        (folder / name).write_bytes(b"")
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    process = CONTEXT.Process(target=begin, args=(folder, [str(part) for part in arguments], environment))
    process.start()
    return process


def begin(folder: Path, arguments: list[str], environment: dict[str, str]) -> None:
    """What a forked process does."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(PROJECT)
    for descriptor, name in enumerate(STREAMS, start=1):
        os.dup2(os.open(folder / name, os.O_WRONLY), descriptor)
    if arguments[0] == "-c":
        sys.argv = ["-c"]
        exec(arguments[1], {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def run_forked(
    *arguments, check: bool = True, timeout: int = 300, processes: int = 1, **environment
) -> subprocess.CompletedProcess:
    """As [`tests.conftest.run`], in a process that begins with the libraries imported.

    It is not for what these read from the environment when they are imported, such as the Hub's address.

    Args:
        processes: how many run it together, as `torchrun` starts them; what the first says is returned, and what
            all say of errors.
    """
    shares = [{}] if processes == 1 else ranks(processes)
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / str(number) for number in range(processes)]
        started = [
            start_forked(at, *arguments, **environment, **share) for at, share in zip(folders, shares, strict=True)
        ]
        end = time.monotonic() + timeout
        for process in started:
            process.join(max(0.0, end - time.monotonic()))
        late = [process for process in started if process.exitcode is None]
        for process in late:
            process.kill()
            process.join()
        out, errors = ([(at / name).read_text(encoding="utf-8") for at in folders] for name in STREAMS)
    if late:
        raise subprocess.TimeoutExpired(arguments, timeout, out[0], "\n".join(errors))
    code = next((process.exitcode for process in started if process.exitcode), 0)
    done = subprocess.CompletedProcess(arguments, code, out[0], "\n".join(errors))
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def ranks(processes: int) -> list[dict]:
    """What tells each of some processes of the others."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "ACCELERATE_USE_CPU": "true"}
    shared |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
