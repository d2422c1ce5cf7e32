"""What do the tests of the engines share? A gateway, and a broker."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cagent_session.testing import ModelsGateway

# Here, not in a fixture: Ray looks at them when it is imported.
os.environ.update(
    NO_PROXY="127.0.0.1",
    RAY_AUTH_MODE="disabled",  # no token in the home folder
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # as there: listens on loopback, not on every interface
    RAY_USAGE_STATS_ENABLED="0",
)


@pytest.fixture
def gateway() -> Iterator[ModelsGateway]:
    with ModelsGateway() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of our own on loopback, which keeps nothing on disk. Without one CI fails, and others skip."""
    server = shutil.which("redis-server")
    if server is None:
        reason = "there is no redis-server: apt-get install redis-server"
        raise RuntimeError(reason) if "CI" in os.environ else pytest.skip.Exception(reason)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        server,
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    folder: Path = tmp_path_factory.mktemp("redis")
    with subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_it_listens(process, port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    """Connect until the connection is no longer refused: the only sign that Redis has started."""
    deadline = time.monotonic() + 30
    while is_refused(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("redis-server does not listen")
        time.sleep(0.01)


def is_refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0
