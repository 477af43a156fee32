"""Starting jobs as processes of their own, ending them at a moment, and seeing what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
TOY = ["tests.evaluation.toy"]


class Job:
    """`python -m module …` with all that it starts, known by a mark in their environment."""

    def __init__(self, arguments: Sequence[str], **environment: str):
        self.mark = f"REGFAST_TEST_JOB={uuid.uuid4().hex}"
        name, value = self.mark.split("=")
        own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), name: value, **environment}
        # A shell's background jobs, and what they start, ignore interrupts.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        signal.signal(signal.SIGINT, handler)

    def wait_for(self, there: Callable[[], object], seconds: float = 120) -> None:
        """Until `there()`, or the job has ended."""
        end = time.monotonic() + seconds
        while not there() and self.process.poll() is None:
            assert time.monotonic() < end, f"{self.process.args} did not get there in {seconds} s"
            time.sleep(0.01)

    def alive(self) -> list[int]:
        """Processes with the mark."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                pass  # gone, or not ours to read
        return found

    def end(self, number: signal.Signals, within: float = 30) -> tuple[int, str]:
        """Send the first process `number`; all must end `within` seconds. Exit status and output."""
        self.process.send_signal(number)
        limit = time.monotonic() + within
        while self.alive() and time.monotonic() < limit:
            self.process.poll()
            time.sleep(0.05)
        left = self.alive()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        output = self.process.communicate()[0]
        assert not left, f"processes {left} were left behind: {output[-2000:]}"
        return self.process.returncode, output


def finish(arguments: Sequence[str], seconds: float = 300) -> str:
    """Run to the end; the output."""
    job = Job(arguments)
    output = job.process.communicate(timeout=seconds)[0]
    assert job.process.returncode == 0, output
    return output


def litter(folder: Path) -> list[str]:
    """Temporary files and locks below `folder`."""
    return [str(path) for path in folder.rglob(".*") if path.name.endswith((".tmp", ".lock"))]
