"""Tests of ``instrument`` and ``uninstrument``, on real sockets."""

from __future__ import annotations

import asyncio
import copy
import importlib.resources
import logging
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import aiohttp
import botocore.httpsession
import httpx
import httpx2
import pytest
import requests
from botocore.awsrequest import AWSRequest
from requests.adapters import BaseAdapter, HTTPAdapter

from cagent_session import (
    Gateway,
    InvalidGatewayURL,
    MissingSessionId,
    SessionExecutor,
    current_session_id,
    explain,
    gateway_headers,
    instrument,
    instrumentation,
    mount,
    session_id_hook,
    session_id_trace_config,
    session_scope,
    uninstrument,
)
from cagent_session.importing import ImportHook

FORWARD = "https://api.openai.com/v1"
MARKED = {"X-Cagent-Forward": FORWARD}
HEADERS = gateway_headers(FORWARD, provider="openai")
SEAMS = [
    (requests.Session, "get_adapter"),
    (httpx.Client, "send"),
    (httpx.AsyncClient, "send"),
    (httpx2.Client, "send"),
    (httpx2.AsyncClient, "send"),
    (aiohttp.ClientSession, "__init__"),
    (aiohttp.ClientSession, "_request"),
    (botocore.httpsession.URLLib3Session, "send"),
]

Send = Callable[[str, dict[str, str]], object]


def seams() -> list[object]:
    return [*(vars(owner)[name] for owner, name in SEAMS), *sys.meta_path]


@pytest.fixture(autouse=True)
def no_trace_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DOCKER_AGENT_MODELS_GATEWAY", raising=False)
    monkeypatch.delenv("CAGENT_MODELS_GATEWAY", raising=False)
    before = seams()
    yield
    uninstrument()
    assert seams() == before


def by_requests(url: str, headers: dict[str, str]) -> object:
    return requests.post(url, headers=headers, timeout=10)


def by_httpx(url: str, headers: dict[str, str]) -> object:
    return httpx.post(url, headers=headers, follow_redirects=True)


def by_async_httpx2(url: str, headers: dict[str, str]) -> object:
    async def send() -> object:
        async with httpx2.AsyncClient(follow_redirects=True) as client:
            return await client.post(url, headers=headers)

    return asyncio.run(send())


def by_aiohttp(url: str, headers: dict[str, str]) -> object:
    async def send() -> object:
        async with (
            aiohttp.ClientSession() as client,
            client.post(url, headers=headers) as response,
        ):
            return await response.read()

    return asyncio.run(send())


each_library = pytest.mark.parametrize("send", [by_requests, by_httpx, by_async_httpx2, by_aiohttp])


@pytest.mark.parametrize("gateway", [None, Gateway()], ids=["no gateway", "no URL"])
def test_without_a_url_of_a_gateway_it_says_what_to_do(gateway: Gateway | None) -> None:
    before = seams()
    with pytest.raises(ValueError, match=r"give it, or set .* DOCKER_AGENT_MODELS_GATEWAY"):
        instrument(gateway)
    assert seams() == before


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({"gateway": "gw.example"}, InvalidGatewayURL, "must be absolute"),
        ({"missing": "ignore"}, ValueError, "missing must be"),
        ({"headers": ["X-Cagent-Forward"]}, TypeError, "must be a mapping"),
        ({"headers": {}}, ValueError, "must contain X-Cagent-Forward"),
        ({"headers": {"X-Cagent-Forward": " "}}, ValueError, "visible ASCII"),
        ({"headers": {**MARKED, "X-Api-Key": "s3cret"}}, ValueError, r"only, got X-Api-Key$"),
        ({"headers": {**MARKED, "x-cagent-session-id": "s"}}, ValueError, "session_scope"),
        ({"headers": {**MARKED, "x-cagent-forward": "s"}}, ValueError, "same name twice"),
    ],
)
def test_a_wrong_argument_leaves_the_settings_as_they_were(
    arguments: dict[str, Any], error: type[Exception], problem: str, gateway: Any
) -> None:
    instrument(gateway.url)
    during = seams()
    with pytest.raises(error, match=problem):
        instrument(**{"gateway": "https://other.example", **arguments})
    assert seams() == during
    with session_scope("sess-1"):
        by_requests(gateway.url, MARKED)
    assert gateway.session_ids == ["sess-1"]


def test_the_gateway_comes_from_the_environment(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAGENT_MODELS_GATEWAY", gateway.url)
    instrument(missing="raise")
    with session_scope("sess-1"):
        by_requests(gateway.url, MARKED)
    assert gateway.session_ids == ["sess-1"]
    with pytest.raises(MissingSessionId):
        by_requests(gateway.url, MARKED)


def test_missing_replaces_the_gateways_own_value(gateway: Any) -> None:
    strict = Gateway(gateway.url, missing="raise")
    instrument(strict)
    with pytest.raises(MissingSessionId):
        by_requests(gateway.url, MARKED)
    instrument(strict, missing="omit")
    by_requests(gateway.url, MARKED)
    assert gateway.session_ids == [None]


PROBE = """
import sys
from cagent_session import instrument, uninstrument
instrument("https://gateway.example")
libraries = "requests", "httpx", "httpx2", "aiohttp", "botocore"
print("imported:", *[name for name in libraries if name in sys.modules])
import importlib.resources
from requests.sessions import Session
from httpx._client import AsyncClient
import aiohttp
import botocore.session  # which imports botocore.httpsession
import requests
print(type(requests.__loader__).__name__, requests.__spec__.loader is requests.__loader__)
print(importlib.resources.files(requests).joinpath("api.py").is_file())
from botocore.httpsession import URLLib3Session
def is_patched():
    seams = Session.get_adapter, AsyncClient.send, aiohttp.ClientSession._request
    return [hasattr(seam, "__wrapped__") for seam in (*seams, URLLib3Session.send)]
print(*is_patched())
uninstrument()
print(*is_patched())
import httpx2
print(hasattr(httpx2.Client.send, "__wrapped__"))
"""


def test_libraries_are_patched_when_the_program_imports_them() -> None:
    lines = subprocess.check_output([sys.executable, "-c", PROBE], text=True).splitlines()
    assert lines == [
        "imported:",
        "SourceFileLoader True",
        "True",
        "True True True True",
        "False False False False",
        "False",
    ]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which a library can be written that instrument() patches: ``a_library``."""

    def patches_of(module: Any) -> Iterator[Any]:
        yield module.Client, "send", lambda send: lambda self: f"patched {send(self)}"

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(instrumentation._LIBRARIES, "a_library", ("Client", patches_of))
    yield tmp_path
    sys.modules.pop("a_library", None)


A_LIBRARY = "class Client:\n    def send(self): return 'sent'\n"


def test_a_library_is_patched_when_it_is_imported(library: Path) -> None:
    (library / "a_library").mkdir()
    (library / "a_library" / "__init__.py").write_text(A_LIBRARY)
    instrument("https://gateway.example")
    module: Any = importlib.import_module("a_library")
    assert module.Client().send() == "patched sent"
    assert type(module.__spec__.loader) is type(module.__loader__) is SourceFileLoader
    assert importlib.resources.files("a_library").joinpath("__init__.py").is_file()
    uninstrument()
    assert module.Client().send() == "sent"


def test_a_library_in_a_zip_file_is_patched(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(library / "archive.zip", "w") as archive:
        archive.writestr("a_library.py", A_LIBRARY)
    monkeypatch.syspath_prepend(str(library / "archive.zip"))
    instrument("https://gateway.example")
    module: Any = importlib.import_module("a_library")
    assert module.Client().send() == "patched sent"


def test_another_copy_of_the_import_hook_may_search_too(library: Path) -> None:
    (library / "a_library.py").write_text(A_LIBRARY)
    instrument("https://gateway.example")
    another = ImportHook({"a_library"}, lambda _: None)
    another.start()
    try:
        module: Any = importlib.import_module("a_library")
    finally:
        another.stop()
    assert module.Client().send() == "patched sent"


AGNO = """
from concurrent.futures import ThreadPoolExecutor
class {name}:
    def __init__(self): self.pool = ThreadPoolExecutor()
    @property
    def background_executor(self): return self.pool
"""


@pytest.mark.parametrize("is_imported_before", [True, False])
@pytest.mark.parametrize("name", ["Agent", "Team"])
def test_a_job_of_agnos_executors_runs_in_the_session_of_the_code_that_submits_it(
    is_imported_before: bool, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new_agent() -> Any:
        return getattr(importlib.import_module(f"agno.{name.lower()}"), name)()

    for each in ("agno", "agno.agent", "agno.team"):
        monkeypatch.setitem(sys.modules, each, None)  # so that it is removed at the end
        del sys.modules[each]
    (tmp_path / "agno").mkdir()
    (tmp_path / "agno" / f"{name.lower()}.py").write_text(AGNO.format(name=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    agents = [new_agent()] if is_imported_before else []
    for _ in range(2):
        instrument("https://gateway.example")
    agents.append(new_agent())
    for agent in agents:
        with agent.background_executor as executor, session_scope("sess-1"):
            job = executor.submit(current_session_id)
            with session_scope(None):
                assert executor.submit(current_session_id).result() is None
            assert job.result() == "sess-1"
    attributes = vars(type(agents[0]))
    ours: Any = attributes["background_executor"]
    uninstrument()
    assert attributes["background_executor"] is ours.__wrapped__
    assert ours.__get__(agents[0]) is agents[0].background_executor is agents[0].pool


def test_a_library_that_is_missing_or_has_no_client_is_left_alone(library: Path) -> None:
    instrument("https://gateway.example")
    with pytest.raises(ModuleNotFoundError, match="a_library"):
        importlib.import_module("a_library")
    (library / "a_library.py").write_text("NAME = 'own'")
    assert importlib.import_module("a_library").NAME == "own"


def test_a_module_of_the_programs_own_may_have_the_name_of_a_library(tmp_path: Path) -> None:
    (tmp_path / "requests.py").write_text("NAME = 'own'")
    program = """
        import sys
        from cagent_session import instrument
        instrument("https://gateway.example")
        sys.path.insert(0, sys.argv[1])
        import requests
        print(requests.NAME)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    assert subprocess.check_output(command, text=True) == "own\n"


def test_a_library_that_is_not_installed_is_not_found_as_before() -> None:
    program = """
        import sys
        from cagent_session import instrument
        instrument("https://gateway.example")
        sys.path[:] = [path for path in sys.path if "site-packages" not in path]
        # Old finders have no find_spec().
        sys.meta_path.append(type("OldFinder", (), {"find_module": lambda *_: None})())
        try:
            import httpx
        except ModuleNotFoundError as error:
            print(error)
    """
    program = textwrap.dedent(program)
    shown = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert shown == "No module named 'httpx'\n"


@each_library
def test_headers_mark_the_requests_to_the_gateway_that_have_no_marker(
    send: Send, gateway: Any, elsewhere: Any
) -> None:
    instrument(gateway.url, headers=HEADERS)
    own = {"X-Cagent-Forward": "https://own.example/v1", "X-Cagent-Model": "gpt-4o"}
    with session_scope("sess-1"):
        for headers in ({}, own, {"x-cagent-forward": "", "X-Cagent-Model": "gpt-4o"}):
            send(gateway.url, headers)
        send(elsewhere.url, {})
        send(elsewhere.url, own)
    unmarked, marked, blank = gateway.arrived
    assert gateway.session_ids == ["sess-1"] * 3
    assert {name: unmarked.get(name) for name in HEADERS} == HEADERS
    assert {name: marked.get(name) for name in own} == own
    assert marked.get("X-Cagent-Provider") is None
    assert (blank.get("X-Cagent-Forward"), blank.get("X-Cagent-Model")) == (FORWARD, "gpt-4o")
    assert [request.cagent_headers for request in elsewhere.arrived] == [set(), set()]


@each_library
def test_headers_are_added_in_no_session_too_and_missing_applies(send: Send, gateway: Any) -> None:
    instrument(gateway.url, headers=HEADERS)
    send(gateway.url, {"X-Cagent-Session-Id": "callers"})
    send(gateway.url, {})
    assert gateway.session_ids == ["callers", None]
    assert {request.get("X-Cagent-Forward") for request in gateway.arrived} == {FORWARD}
    instrument(gateway.url, headers=HEADERS, missing="raise")
    with pytest.raises(MissingSessionId):
        send(gateway.url, {})
    assert len(gateway.arrived) == 2


@each_library
def test_headers_that_were_added_do_not_leave_the_origin(
    send: Send, gateway: Any, elsewhere: Any
) -> None:
    instrument(gateway.url, headers=HEADERS)
    gateway.redirect("/one", "/two", 307)
    gateway.redirect("/two", f"{elsewhere.url}/three", 307)
    elsewhere.redirect("/three", f"{gateway.url}/four", 307)
    with session_scope("sess-1"):
        send(f"{gateway.url}/one", {})
    assert gateway.session_ids == ["sess-1", "sess-1", None]
    assert [request.get("X-Cagent-Forward") for request in gateway.arrived] == [
        FORWARD,
        FORWARD,
        None,
    ]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


def test_the_callers_request_does_not_get_the_headers(gateway: Any) -> None:
    instrument(gateway.url, headers=HEADERS)
    request = requests.Request("GET", gateway.url, {"X-Own": "1"}).prepare()
    with requests.Session() as session:
        for session_id in ("sess-1", "sess-2"):
            with session_scope(session_id):
                response = session.send(request)
                assert response.request.headers["X-Cagent-Forward"] == FORWARD
            assert set(request.headers) == {"X-Own"}
    assert gateway.session_ids == ["sess-1", "sess-2"]


def test_an_sdk_may_mount_its_own_adapters_before_and_after(gateway: Any) -> None:
    class Adapter(HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            request.headers["X-Inner"] = "1"
            return super().send(request, *args, **kwargs)

    with requests.Session() as before, requests.Session() as after:
        before.mount(gateway.url, Adapter())
        instrument(gateway.url)
        after.mount(gateway.url, inner := Adapter(max_retries=3))
        adapter: Any = after.get_adapter(gateway.url)
        assert (adapter.inner, adapter.max_retries.total) == (inner, 3)
        with session_scope("sess-1"):
            for session in (before, after):
                session.get(gateway.url, headers=MARKED)
        assert after.adapters[gateway.url] is inner
    assert gateway.session_ids == ["sess-1", "sess-1"]
    assert [request.get("X-Inner") for request in gateway.arrived] == ["1", "1"]


class KeepsAnotherAdapter(BaseAdapter):
    """It can't be hashed."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = kept

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]  # so that it can't be hashed

    def send(self, *args: Any, **kwargs: Any) -> Any:
        return self.kept.send(*args, **kwargs)

    def close(self) -> None:
        self.kept.close()


def test_a_wrapper_that_an_sdk_keeps_passes_requests_on_after_uninstrument(gateway: Any) -> None:
    with requests.Session() as session:
        inner = session.get_adapter(gateway.url)
        before = dict(vars(inner))
        instrument(gateway.url)
        assert session.get_adapter(gateway.url) is session.get_adapter(gateway.url)
        session.mount("http://", KeepsAnotherAdapter(session.get_adapter(gateway.url)))
        copied = pickle.loads(pickle.dumps(session))
        assert type(copied.get_adapter(gateway.url).inner.kept) is HTTPAdapter
        with session_scope("sess-1"):
            for each in (session, copied):
                each.get(gateway.url, headers=MARKED)
            uninstrument()
            for each in (session, copied):
                each.get(gateway.url, headers={**MARKED, "X-Cagent-Session-Id": "callers"})
        assert vars(inner) == before
    assert gateway.session_ids == ["sess-1", "sess-1", "callers", "callers"]


def test_a_copied_adapter_gets_a_wrapper_of_its_own(gateway: Any) -> None:
    class Adapter(HTTPAdapter):
        def __getstate__(self) -> dict[str, Any]:
            return dict(vars(self))

    instrument(gateway.url)
    with requests.Session() as one, requests.Session() as two:
        one.mount("http://", adapter := Adapter())
        wrapper: Any = one.get_adapter(gateway.url)
        two.mount("http://", copied := copy.copy(adapter))
        other: Any = two.get_adapter(gateway.url)
        assert (wrapper.inner, other.inner) == (adapter, copied)


def test_clients_of_httpx_that_exist_are_covered_and_get_their_hooks_back(gateway: Any) -> None:
    calls: list[str] = []
    with httpx.Client(event_hooks={"request": [lambda _: calls.append("own")]}) as client:
        hooks, before = client.event_hooks["request"], list(client.event_hooks["request"])
        instrument(gateway.url)
        with session_scope("sess-1"):
            client.get(gateway.url, headers=MARKED)
            instrument(gateway.url)
            client.get(gateway.url, headers=MARKED)
        assert len(hooks) == 2
        uninstrument()
        assert client.event_hooks["request"] is hooks
        assert hooks == before
    assert gateway.session_ids == ["sess-1", "sess-1"]
    assert calls == ["own", "own"]


def test_a_hook_that_is_added_later_still_comes_first(gateway: Any) -> None:
    def mark(request: httpx.Request) -> None:
        request.headers.update(MARKED)

    instrument(gateway.url)
    with httpx.Client() as client, session_scope("sess-1"):
        client.get(gateway.url)
        client.event_hooks["request"].append(mark)
        client.get(gateway.url)
    assert gateway.session_ids == [None, "sess-1"]


def test_clients_of_aiohttp_that_exist_are_covered_and_get_their_configs_back(
    gateway: Any,
) -> None:
    async def call() -> None:
        shared = [aiohttp.TraceConfig()]
        before = list(shared)
        async with (
            aiohttp.ClientSession(trace_configs=shared) as one,
            aiohttp.ClientSession(trace_configs=shared) as two,
        ):
            instrument(gateway.url)
            for client in (one, two, one):
                await (await client.get(gateway.url, headers=MARKED)).read()
            uninstrument()
            assert one.trace_configs == two.trace_configs == before

    with session_scope("sess-1"):
        asyncio.run(call())
    assert gateway.session_ids == ["sess-1"] * 3


def test_prepared_clients_keep_their_settings_and_are_stamped_once(
    gateway: Any, elsewhere: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "cagent_session")
    # The user's gateway is elsewhere.
    strict = Gateway(elsewhere.url, missing="raise")

    async def call_by_aiohttp(url: str) -> None:
        configs = [session_id_trace_config(strict)]
        async with aiohttp.ClientSession(trace_configs=configs) as client:
            await (await client.get(url, headers=MARKED)).read()

    instrument(gateway.url)
    with (
        mount(requests.Session(), strict) as session,
        httpx.Client(event_hooks={"request": [session_id_hook(strict)]}) as client,
    ):
        calls: list[Callable[[str], object]] = [
            lambda url: session.get(url, headers=MARKED),
            lambda url: client.get(url, headers=MARKED),
            lambda url: asyncio.run(call_by_aiohttp(url)),
        ]
        for call in calls:
            with session_scope("sess-1"):
                call(elsewhere.url)
                call(gateway.url)
            with pytest.raises(MissingSessionId):
                call(elsewhere.url)
    assert elsewhere.session_ids == ["sess-1"] * 3
    assert [request.cagent_headers for request in gateway.arrived] == [set()] * 3
    each = ["stamped: GET ", "another origin: GET ", "no session: GET "]
    assert [line.partition("http")[0] for line in caplog.messages] == each * 3


def test_a_client_that_is_hooked_later_keeps_the_users_settings(
    gateway: Any, elsewhere: Any
) -> None:
    instrument(gateway.url)
    with httpx.Client() as client, session_scope("sess-1"):
        client.get(gateway.url, headers=MARKED)
        client.event_hooks["request"].append(session_id_hook(elsewhere.url))
        client.get(elsewhere.url, headers=MARKED)
        client.get(gateway.url, headers=MARKED)
        assert len(client.event_hooks["request"]) == 1
    assert gateway.session_ids == ["sess-1", None]
    assert elsewhere.session_ids == ["sess-1"]


def test_the_settings_of_the_second_call_hold(gateway: Any, elsewhere: Any) -> None:
    instrument(gateway.url, missing="raise")
    with requests.Session() as session, httpx.Client() as client, session_scope("sess-1"):
        clients: list[Any] = [session, client]
        for each in clients:
            each.get(gateway.url, headers=MARKED)
        instrument(elsewhere.url, headers=HEADERS)
        for each in clients:
            each.get(gateway.url, headers=MARKED)
            each.get(elsewhere.url)
    assert gateway.session_ids == ["sess-1", "sess-1", None, None]
    assert elsewhere.session_ids == ["sess-1", "sess-1"]


def test_uninstrument_without_instrument_does_nothing() -> None:
    before = seams()
    uninstrument()
    assert seams() == before


@each_library
def test_after_uninstrument_nothing_is_added(send: Send, gateway: Any) -> None:
    instrument(gateway.url, headers=HEADERS)
    uninstrument()
    with session_scope("sess-1"):
        send(gateway.url, MARKED)
    assert gateway.session_ids == [None]


def test_what_another_library_has_put_there_since_stays(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument(gateway.url)
    ours, sent = httpx.Client.send, list[str]()

    def others(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        sent.append(str(request.url))
        return ours(client, request, **options)

    with monkeypatch.context() as patching:
        patching.setattr(httpx.Client, "send", others)
        uninstrument()
        assert vars(httpx.Client)["send"] is others
        with session_scope("sess-1"):
            by_httpx(gateway.url, MARKED)
            instrument(gateway.url)
            by_httpx(gateway.url, MARKED)
        uninstrument()
    httpx.Client.send = ours.__wrapped__  # type: ignore[method-assign, attr-defined]
    assert gateway.session_ids == [None, "sess-1"]
    assert len(sent) == 2


def test_functions_that_another_library_has_kept_pass_calls_on(gateway: Any) -> None:
    instrument(gateway.url, headers=HEADERS)
    send: Any = botocore.httpsession.URLLib3Session.send
    uninstrument()
    request = AWSRequest("GET", gateway.url, MARKED).prepare()
    with session_scope("sess-1"):
        send(botocore.httpsession.URLLib3Session(), request)
    assert gateway.session_ids == [None]


@pytest.mark.parametrize("send", [by_httpx, by_async_httpx2])
def test_a_call_that_has_begun_loses_its_headers_in_a_redirect_after_uninstrument(
    send: Send, gateway: Any, elsewhere: Any
) -> None:
    gateway.redirect("/old", f"{elsewhere.url}/new", 307)
    redirect = gateway.answers["/old"]

    def redirect_later(*arguments: Any) -> None:
        uninstrument()
        redirect(*arguments)

    gateway.answers["/old"] = redirect_later
    instrument(gateway.url, headers=HEADERS)
    with session_scope("sess-1"):
        send(f"{gateway.url}/old", {})
    assert gateway.session_ids == ["sess-1"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


def test_a_hook_that_a_call_still_needs_does_nothing_for_others(gateway: Any) -> None:
    def call_and_redirect(*arguments: Any) -> None:
        uninstrument()
        client.get(gateway.url, headers=MARKED)
        redirect(*arguments)

    gateway.redirect("/old", "/new", 307)
    redirect = gateway.answers["/old"]
    gateway.answers["/old"] = call_and_redirect
    instrument(gateway.url)
    with httpx.Client(follow_redirects=True) as client, session_scope("sess-1"):
        client.get(f"{gateway.url}/old", headers=MARKED)
        assert client.event_hooks["request"] == []
    assert [(r.path, r.session_id) for r in gateway.arrived] == [
        ("/old", "sess-1"),
        ("/", None),
        ("/new", "sess-1"),
    ]


def test_a_class_may_have_been_replaced_before(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session(requests.Session):
        pass

    original = requests.Session
    with monkeypatch.context() as patching:
        patching.setattr(requests, "Session", Session)
        patching.setattr(httpx, "AsyncClient", object())
        instrument(gateway.url)
        with session_scope("sess-1"), original() as session:
            session.get(gateway.url, headers=MARKED)
        uninstrument()
    assert gateway.session_ids == ["sess-1"]


def test_trace_configs_that_are_no_list_stay_as_they_are(gateway: Any) -> None:
    async def call() -> None:
        configs: Any = (aiohttp.TraceConfig(),)
        async with aiohttp.ClientSession(trace_configs=configs) as client:
            await (await client.get(gateway.url, headers=MARKED)).read()
            assert client.trace_configs == configs

    instrument(gateway.url)
    asyncio.run(call())
    assert gateway.session_ids == [None]


def test_a_request_of_botocore_may_be_sent_again_to_another_host(
    gateway: Any, elsewhere: Any
) -> None:
    instrument(gateway.url, headers=HEADERS)
    request: Any = AWSRequest("GET", gateway.url).prepare()
    http = botocore.httpsession.URLLib3Session()
    for session_id in ("sess-1", "sess-2"):
        with session_scope(session_id):
            http.send(request)
    request.url = elsewhere.url
    http.send(request)
    assert gateway.session_ids == ["sess-1", "sess-2"]
    assert [each.cagent_headers for each in elsewhere.arrived] == [set()]


def test_a_client_of_aiohttp_is_free_after_uninstrument_while_another_call_runs(
    gateway: Any,
) -> None:
    ended = threading.Event()

    async def calls() -> None:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        gateway.answer("/slow", 200)
        answer = gateway.answers["/slow"]

        def answer_later(*arguments: Any) -> None:
            loop.call_soon_threadsafe(arrived.set)
            ended.wait(30)
            answer(*arguments)

        async def call(path: str) -> None:
            async with client.get(f"{gateway.url}{path}") as response:
                await response.read()

        gateway.answers["/slow"] = answer_later
        async with aiohttp.ClientSession(headers=MARKED) as client:
            slow = asyncio.create_task(call("/slow"))
            await arrived.wait()
            uninstrument()
            await call("/")
            ended.set()
            await slow

    instrument(gateway.url)
    with session_scope("sess-1"):
        asyncio.run(calls())
    assert gateway.session_ids == ["sess-1", None]


def test_the_hooks_of_a_client_can_be_pickled(gateway: Any) -> None:
    instrument(gateway.url)
    with httpx.Client() as client, session_scope("sess-1"):
        client.get(gateway.url, headers=MARKED)
        copied = pickle.loads(pickle.dumps(client.event_hooks))
    with httpx.Client(event_hooks=copied) as other, session_scope("sess-2"):
        other.get(gateway.url, headers=MARKED)
        uninstrument()
        other.get(gateway.url, headers=MARKED)
    assert gateway.session_ids == ["sess-1", "sess-2", None]


def test_a_client_need_not_be_hashable(gateway: Any) -> None:
    class Client(httpx.Client):
        __hash__ = None  # type: ignore[assignment]  # as of a dataclass

    instrument(gateway.url)
    with Client() as client, session_scope("sess-1"):
        client.get(gateway.url, headers=MARKED)
        uninstrument()
        assert client.event_hooks["request"] == []
    assert gateway.session_ids == ["sess-1"]


FORK = """
import os, threading
from cagent_session import instrumentation
locked, done = threading.Event(), threading.Event()
def hold():
    with instrumentation._lock:
        locked.set()
        done.wait()
threading.Thread(target=hold).start()
locked.wait()
child = os.fork()
if not child:
    os._exit(0 if instrumentation._lock.acquire(blocking=False) else 1)
print(os.waitpid(child, 0)[1])
done.set()
"""


def test_a_fork_may_happen_while_a_client_is_prepared() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    assert subprocess.check_output(command, text=True) == "0\n"
    before = instrumentation._lock
    instrumentation._unlock()  # as in the forked process
    assert instrumentation._lock is not before


def test_a_client_gets_no_hook_after_uninstrument(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hooks_of(client: Any) -> Any:
        uninstrument()  # as another thread may do just then
        return client._event_hooks

    instrument(gateway.url)
    with httpx.Client() as client, session_scope("sess-1"):
        monkeypatch.setattr(httpx.Client, "event_hooks", property(hooks_of))
        client.get(gateway.url, headers=MARKED)
        assert client.event_hooks["request"] == []
    assert gateway.session_ids == [None]


def test_a_second_call_repairs_what_another_library_has_undone(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patching:
        patching.setattr(requests.Session, "get_adapter", requests.Session.get_adapter)
        instrument(gateway.url)
    with session_scope("sess-1"):
        by_requests(gateway.url, MARKED)
        instrument(gateway.url)
        by_requests(gateway.url, MARKED)
    assert gateway.session_ids == [None, "sess-1"]


def test_threads_may_call_while_it_is_switched_on_and_off(gateway: Any) -> None:
    done, sessions = threading.Event(), {f"sess-{number}" for number in range(8)}

    def call(client: Any, session_id: str) -> None:
        while not done.is_set():
            client.get(f"{gateway.url}/{session_id}", headers=MARKED)

    with (
        requests.Session() as session,
        httpx.Client(timeout=60) as client,
        SessionExecutor(ThreadPoolExecutor(8)) as pool,
    ):
        jobs: list[Any] = []
        for number in range(8):
            with session_scope(f"sess-{number}"):
                jobs.append(pool.submit(call, (session, client)[number % 2], f"sess-{number}"))
        try:
            times = 0
            while times < 50 or not sessions <= set(gateway.session_ids):  # a thread may be late
                instrument(gateway.url)
                seen = len(gateway.arrived)
                while len(gateway.arrived) < seen + 2:
                    assert not any(job.done() for job in jobs)
                    done.wait(0.001)
                uninstrument()
                times += 1
                assert times < 10_000
        finally:
            done.set()  # also after an error: the pool waits for its threads
        for job in jobs:
            job.result()
        assert client.event_hooks["request"] == []
    assert set(gateway.session_ids) - {None} == sessions
    assert all(r.session_id in (None, r.path.removeprefix("/")) for r in gateway.arrived)


@pytest.mark.parametrize("again", [str, Gateway], ids=["an equal gateway", "the same gateway"])
def test_a_call_that_ends_after_it_is_switched_on_again_leaves_no_hook(again: Any) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        uninstrument()
        instrument(known)
        return httpx.Response(200)

    known = again("https://gateway.example")
    instrument(known)
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        client.get("https://gateway.example")
        uninstrument()
        assert client.event_hooks["request"] == []


def test_other_threads_wait_while_a_client_is_prepared(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a call could lose its hook to one that another call has added."""
    free: list[bool] = []

    def try_lock() -> None:
        free.append(instrumentation._lock.acquire(blocking=False))
        if free[-1]:
            instrumentation._lock.release()

    def try_lock_in_a_thread() -> None:
        thread = threading.Thread(target=try_lock)
        thread.start()
        thread.join()

    class Adapters(weakref.WeakSet[Any]):
        """If it changes while ``uninstrument`` reads it, that fails."""

        def add(self, item: Any) -> None:
            try_lock_in_a_thread()
            super().add(item)

    def make_hook(hook: Any, *arguments: Any) -> None:
        try_lock_in_a_thread()
        init(hook, *arguments)

    init: Any = instrumentation._Hook.__init__
    monkeypatch.setattr(instrumentation._Hook, "__init__", make_hook)
    monkeypatch.setattr(instrumentation, "_adapters", Adapters())
    instrument(gateway.url)
    by_requests(gateway.url, MARKED)
    by_httpx(gateway.url, MARKED)
    uninstrument()
    assert free == [False, False]


def test_explain_knows_the_settings(gateway: Any) -> None:
    clients: list[Any] = [requests.Session(), httpx.Client(), requests, httpx, httpx2.AsyncClient()]
    instrument(gateway.url, headers=HEADERS)
    with session_scope("sess-1"):
        for client in clients:
            assert "X-Cagent-Session-Id: sess-1, the ID" in explain(client, gateway.url)
            assert "but the gateway's is" in explain(client, "https://other.example", MARKED)
    assert gateway.arrived == []


def test_explain_knows_the_settings_of_the_second_call(gateway: Any, elsewhere: Any) -> None:
    instrument(gateway.url)
    with httpx.Client() as client, session_scope("sess-1"):
        client.get(gateway.url)
        instrument(elsewhere.url)
        assert "X-Cagent-Session-Id: sess-1" in explain(client, elsewhere.url, MARKED)
