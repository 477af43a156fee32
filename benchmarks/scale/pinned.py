"""`regfast` pinned to the core with the local rank's number: what `benchmarks.scale.workers` starts."""

import os

from regfast.cli import main

if __name__ == "__main__":
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ.get("LOCAL_RANK", "0")) % len(cores)]})
    main()
