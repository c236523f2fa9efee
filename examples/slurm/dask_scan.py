"""covct on Slurm through Dask: one output tree, workers that Slurm starts. Research use only. Not a medical device.

    pip install 'covct[cpu,workers]' dask-jobqueue
    python examples/slurm/dask_scan.py /archive /results --jobs 8 --gpu

Run it on a login node, or in a small job of its own. Archive and results have to be mounted on every node. The scan
owns the output tree; if it ends, so do the workers, and the next one goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from dask_jobqueue import SLURMCluster


def main() -> int:
    parser = argparse.ArgumentParser(description="Scan an archive with workers that Slurm starts.")
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--jobs", type=int, default=4, help="Workers, a job each.")
    parser.add_argument("--gpu", action="store_true", help="A GPU for each.")
    asked, options = parser.parse_known_args()
    cluster = SLURMCluster(
        cores=1,  # a worker does one series at a time
        processes=1,
        job_cpu=4,
        memory="16GB",
        walltime="08:00:00",
        job_extra_directives=["--gres=gpu:1"] if asked.gpu else [],
        worker_extra_args=["--resources", "GPU=1"] if asked.gpu else [],  # by which a scan on GPUs chooses its workers
    )
    with cluster:
        cluster.scale(jobs=asked.jobs)
        options += ["--scheduler", cluster.scheduler_address, "--device", "gpu" if asked.gpu else "cpu"]
        return subprocess.run(["covct", "scan", asked.source, "--out", asked.out, *options]).returncode


if __name__ == "__main__":
    sys.exit(main())
