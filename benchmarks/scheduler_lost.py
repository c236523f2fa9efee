"""A scheduler with two workers of `covct worker`, over TLS; it is killed in the middle of a scan and started again.

    python benchmarks/scheduler_lost.py [--series 12]

Takes a minute; run by hand. The scan has to end with 0, and its tree has to be that of a single process.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"


def keys(folder: Path) -> Path:
    """A certificate that is its own authority, as Dask makes one for an hour."""
    from distributed.security import Security

    folder.mkdir()
    made = Security.temporary()
    for name, text in (
        ("ca.crt", made.tls_ca_file),
        ("tls.crt", made.tls_client_cert),
        ("tls.key", made.tls_client_key),
    ):
        (folder / name).write_text(text)
    return folder


def scheduler(port: int, tls: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("dask"), "scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port",
         str(port), "--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--tls-ca-file", tls / "ca.crt",
         "--tls-cert", tls / "tls.crt", "--tls-key", tls / "tls.key"],
        stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip


def main() -> None:
    import workers as bench

    from support.thresholds import make_weights

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=12)
    series = parser.parse_args().series
    with tempfile.TemporaryDirectory(prefix="covct-scheduler-") as name:
        base = Path(name)
        weights, tls, source = make_weights(base / "weights"), keys(base / "tls"), bench.sources(base, series)
        expected = bench.measured(source, base / "out-0", weights, 0, base, "seg")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        address, environment = f"tls://127.0.0.1:{port}", {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        first = scheduler(port, tls, environment)
        crew = subprocess.Popen(
            [sys.executable, "-m", "covct", "worker", address, "--workers", "2", "--device", "cpu",
             "--workers-tls", tls],
            env=environment,
        )  # fmt: skip
        scan = subprocess.Popen(
            [sys.executable, base / "covct_of_thresholds.py", "scan", source, "-o", base / "out", "--weights", weights,
             "--formats", "seg", "--json", "--scheduler", address, "--workers-tls", tls],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        second, done = None, 0
        for line in scan.stdout:
            done += json.loads(line)["event"] == "done"
            if done == series // 3 and second is None:
                first.kill()
                print(f"{time.strftime('%T')} scheduler killed after {done} series", flush=True)
                time.sleep(5)
                second = scheduler(port, tls, environment)
        code = scan.wait()
        for process in (crew, first, second):
            if process:
                process.terminate()
        same = bench.digest(base / "out") == expected.tree
        print(f"exit code {code}, {done} series done, the tree is {'the same' if same else 'ANOTHER'}")
        print(f"covct worker ended with {crew.wait(30)}")
        raise SystemExit(code or not same)


if __name__ == "__main__":
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]
    main()
