"""How is each of the gateways started, and what has it written down? The configurations are the ones beside this file.

What is changed in them is what an operator would change: where the providers are, and where it listens and logs.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from provider import HOSTS, Providers

HERE = Path(__file__).parent
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"])
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
START_SECONDS = 90  # LiteLLM takes ten, when nothing else runs


class NotInstalled(Exception):  # noqa: N818 - reads as what it is
    """Says in a line how to install a program."""


class NotStarted(Exception):  # noqa: N818 - reads as what it is
    """Says what the program said."""


@dataclass(frozen=True)
class Place:
    """Where a gateway runs: its files are in *folder*."""

    folder: Path
    port: int
    providers: Providers

    @property
    def audit(self) -> Path:
        return self.folder / "audit.log"


Edits = Mapping[str, str]


class Program(NamedTuple):
    """What has to be known of one."""

    executable: str
    install: str
    edits: Callable[[Place], Edits]
    command: Callable[[Place], list[str]]
    key: str = ""  # what a client must show


def nginx_edits(place: Place) -> Edits:
    temporary = " ".join(f"{kind}_temp_path {place.folder};" for kind in NGINX_TEMPORARY)
    return {
        "http {": f"http {{ {temporary}",
        "/var/log/nginx/audit.log": str(place.audit),
        "/var/log/nginx/error.log": str(place.folder / "error.log"),
    }


def nginx_command(place: Place) -> list[str]:
    file, pid, log = place.folder / "nginx.conf", place.folder / "nginx.pid", place.folder / "start.log"
    return ["-c", str(file), "-e", str(log), "-g", f"daemon off; pid {pid};"]


NGINX_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

PROGRAMS = {
    "nginx": Program("nginx", "apt-get install nginx", nginx_edits, nginx_command),
}


@dataclass(frozen=True)
class Gateway:
    """One that runs."""

    place: Place
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.place.port}"

    def audit(self, calls: int = 0) -> list[dict[str, Any]]:
        """Return the audit's lines, once there are as many as *calls*: one is written when its answer has ended."""
        deadline = time.monotonic() + 30
        while len(lines := self._lines()) < calls:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the audit has {len(lines)} lines, and not {calls}")
            time.sleep(0.02)
        return [json.loads(line) for line in lines]

    def _lines(self) -> list[bytes]:
        with suppress(FileNotFoundError):
            return [line for line in self.place.audit.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return []


def executable(name: str) -> str:
    """Return the path of a gateway's program.

    :raises NotInstalled: where there is none.
    """
    program = PROGRAMS[name]
    path = shutil.which(program.executable, path=PATH)
    if path is None:
        raise NotInstalled(f"there is no {program.executable}: {program.install}")
    return path


def edited(text: str, edits: Edits) -> str:
    """Return *text* with each of the *edits*; what there is nothing of to replace is a mistake."""
    for old, new in edits.items():
        if old not in text:
            raise LookupError(f"the configuration has no {old!r}")
        text = text.replace(old, new)
    return text


@contextmanager
def running(name: str, folder: Path, providers: Providers, edits: Edits | None = None) -> Iterator[Gateway]:
    """Run the gateway *name*, with its files in *folder*, before the *providers*.

    :param edits: further changes of the configuration; they are made first.
    :raises NotInstalled: where its program is missing.
    :raises NotStarted: where it ends, or does not listen in time.
    """
    program, path = PROGRAMS[name], executable(name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = Place(folder, free.getsockname()[1], providers)
    usual = {
        **{f"{host}:443": providers[host].address for host in HOSTS},
        AUTHORITIES: str(providers.authority),
        "127.0.0.1:8080": f"127.0.0.1:{place.port}",
        **program.edits(place),
    }
    for file in (HERE / name).iterdir():
        if file.suffix != ".rst":
            (folder / file.name).write_text(edited(edited(file.read_text("utf-8"), edits or {}), usual), "utf-8")
    output = folder / "output.log"
    with (
        output.open("wb") as log,
        subprocess.Popen([path, *program.command(place)], cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while not listens(place.port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise NotStarted(f"{name} does not listen: {output.read_text('utf-8', 'replace')[-2000:]}")
                time.sleep(0.01)
            yield Gateway(place, program.key)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
