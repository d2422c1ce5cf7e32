"""Fixtures for the tests of the engines: a gateway, Redis, a Dask cluster and Ray."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

# This is not a fixture, because Ray reads these variables when it is imported.
os.environ.update(
    NO_PROXY="127.0.0.1",
    RAY_AUTH_MODE="disabled",  # no token in the home folder
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # listen on loopback only, as on those systems
    RAY_USAGE_STATS_ENABLED="0",
)


@pytest.fixture
def gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Redis on loopback that stores nothing on disk.

    If there is no redis-server, the tests skip. In CI they fail.
    """
    server = shutil.which("redis-server")
    if server is None:
        reason = "there is no redis-server: apt-get install redis-server"
        raise RuntimeError(reason) if "CI" in os.environ else pytest.skip.Exception(reason)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"--bind 127.0.0.1 --port {port} --appendonly no".split()
    folder = tmp_path_factory.mktemp("redis")
    command = [server, *options, "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_it_listens(process, port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    """Connect until the connection is accepted. Redis gives no other sign that it has started."""
    deadline = time.monotonic() + 30
    while is_refused(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("redis-server does not listen")
        time.sleep(0.01)


def is_refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="session")
def dask_client() -> Iterator[Any]:
    """Return a client of a cluster of processes. The cluster is started in a session."""
    from distributed import Client, LocalCluster  # noqa: PLC0415 - slow, and most tests need none

    with session_scope("starter"):
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0"
        )
        client = Client(cluster)
    with cluster, client:
        yield client


@pytest.fixture(scope="session")
def started_ray() -> Iterator[None]:
    """Start Ray on this machine, in a session."""
    import ray  # noqa: PLC0415 - slow, and most tests need none

    options: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "error",
    }
    # In /tmp, because the paths of Ray's sockets must be short.
    with TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with pytest.MonkeyPatch.context() as patch, session_scope("starter"):
            # With this, the workers find jobs.py.
            patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
            ray.init(num_cpus=4, _temp_dir=folder, **options)
        yield
        ray.shutdown()
