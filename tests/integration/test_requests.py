"""Tests of other features of requests, on real sockets: they work, and keep the session."""

from __future__ import annotations

import io
import pickle
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
import trustme
from requests.auth import HTTPDigestAuth
from urllib3.util import Retry

from cagent_session import SessionIdAdapter, mount, session_scope

MARKED = {"X-Cagent-Forward": "https://api.openai.com/v1"}
CHALLENGE = {
    "WWW-Authenticate": 'Digest realm="gateway", nonce="abc", qop="auth", algorithm=SHA-256'
}


@pytest.fixture(params=["mount", "adapter"])
def session(request: pytest.FixtureRequest, http: requests.Session) -> requests.Session:
    """Return a session after ``mount()``, or a session with the adapter mounted for plain HTTP."""
    if request.param == "mount":
        mount(http)
    else:
        http.mount("http://", SessionIdAdapter())
    http.headers.update(MARKED)
    return http


def test_retries_belong_to_the_session_that_sent(session: requests.Session, gateway: Any) -> None:
    gateway.answer_in_turn("/", (503, {}), (503, {}), (200, {}))
    retries = Retry(3, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    for adapter in session.adapters.values():
        adapter.max_retries = retries  # type: ignore[attr-defined]
    with session_scope("sess-1"):
        assert session.post(gateway.url + "/", timeout=10).status_code == 200
    assert gateway.session_ids == ["sess-1"] * 3


@pytest.mark.parametrize(
    "again",
    [
        lambda r: r.request,
        lambda r: r.request.copy(),
        lambda r: pickle.loads(pickle.dumps(r)).request,
    ],
)
def test_a_request_that_is_sent_again_carries_the_current_session(
    session: requests.Session, gateway: Any, again: Callable[[Any], Any]
) -> None:
    """An ID that this library has set does not count as the caller's ID."""
    gateway.redirect("/moved", "/new", 307)
    with session_scope("sess-1"):
        response = session.post(f"{gateway.url}/moved", allow_redirects=False)
    session.send(again(response))
    with session_scope("sess-2"):
        session.send(again(response))
    assert gateway.session_ids == ["sess-1", None, None, "sess-2", "sess-2"]


def test_a_sent_request_remembers_the_callers_id(session: requests.Session, gateway: Any) -> None:
    with session_scope("sess-1"):
        response = session.post(gateway.url, headers={"X-Cagent-Session-Id": "callers"})
    session.send(response.request)
    response.request.headers["X-Cagent-Session-Id"] = "by hand"
    session.send(response.request)
    assert gateway.session_ids == ["sess-1", "callers", "by hand"]


def test_digest_authentication_keeps_the_session_and_a_redirect_away_drops_it(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """The redirect is followed with the headers of the first request, not of the second."""
    moved = {"Location": elsewhere.url + "/new"}
    gateway.answer_in_turn("/", (401, CHALLENGE), (200, {}), (401, CHALLENGE), (307, moved))
    with session_scope("sess-1"):
        for _ in range(2):
            session.post(gateway.url + "/", auth=HTTPDigestAuth("user", "password"))
    assert gateway.session_ids == ["sess-1"] * 4
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


def send_again_when(
    status: int, headers: dict[str, str]
) -> Callable[..., requests.Response | None]:
    """Return a response hook that sends the request again. Many programs have such a hook."""

    def hook(response: Any, **options: Any) -> requests.Response | None:
        if response.status_code != status:
            return None
        again = response.request.copy()
        again.headers.update(headers)
        return response.connection.send(again, **options)  # type: ignore[no-any-return]

    return hook


def test_a_hook_that_refreshes_a_token_keeps_the_session(
    session: requests.Session, gateway: Any
) -> None:
    """docker-agent refreshes tokens in this way."""
    gateway.answer_in_turn("/", (401, {}), (307, {"Location": "/new"}))
    session.hooks["response"].append(send_again_when(401, {"Authorization": "new"}))
    with session_scope("sess-1"):
        assert session.post(gateway.url + "/", headers={"Authorization": "old"}).status_code == 200
    tokens = [request.get("Authorization") for request in gateway.arrived]
    assert (gateway.session_ids, tokens[:2]) == (["sess-1"] * 3, ["old", "new"])


def test_a_redirect_after_two_hooks_has_no_cagent_headers(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """The second hook sends the first hook's request again."""
    moved = {"Location": elsewhere.url + "/new"}
    gateway.answer_in_turn("/", (401, {}), (429, {}), (307, moved))
    session.hooks["response"] += [send_again_when(401, {}), send_again_when(429, {})]
    with session_scope("sess-1"):
        session.post(gateway.url + "/")
    assert gateway.session_ids == ["sess-1"] * 3
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


def test_streamed_upload_is_sent_once_and_completely(
    session: requests.Session, gateway: Any
) -> None:
    with session_scope("sess-1"):
        session.post(gateway.url, data=(piece for piece in (b"one ", b"two")))
        session.post(gateway.url, data=io.BytesIO(b"three"))
        session.post(gateway.url, files={"file": ("name.txt", io.BytesIO(b"four"))})
    assert [request.body for request in gateway.arrived[:2]] == [b"one two", b"three"]
    assert b"four" in gateway.arrived[2].body
    assert gateway.session_ids == ["sess-1"] * 3


def test_upload_is_rewound_for_a_redirect(session: requests.Session, gateway: Any) -> None:
    gateway.redirect("/old", "/new", 307)
    with session_scope("sess-1"):
        session.post(f"{gateway.url}/old", data=io.BytesIO(b"body"))
    assert [request.body for request in gateway.arrived] == [b"body", b"body"]
    assert gateway.session_ids == ["sess-1", "sess-1"]


def test_streamed_answer_arrives_unbuffered(session: requests.Session, gateway: Any) -> None:
    """The first event is read before the second is written. Upstream tests this, too."""
    read_first = threading.Event()

    def stream(handler: Any, _: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"9\r\ndata: 1\n\n\r\n")
        handler.wfile.write(b"9\r\ndata: 2\n\n\r\n" if read_first.wait(10) else b"4\r\nlate\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    gateway.answers["/"] = stream
    with (
        session_scope("sess-1"),
        session.post(gateway.url + "/", stream=True, timeout=10) as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == b"data: 1"
        read_first.set()
        assert [line for line in lines if line] == [b"data: 2"]
    assert gateway.session_ids == ["sess-1"]


def test_a_stream_belongs_to_the_session_in_which_its_call_was_sent(
    session: requests.Session, gateway: Any
) -> None:
    gateway.answer("/", 200, body=b"streamed")
    with session_scope("sess-1"):
        response = session.post(gateway.url + "/", stream=True)
    with session_scope("sess-2"):
        assert response.content == b"streamed"
    assert gateway.session_ids == ["sess-1"]


def test_plain_http_proxy_gets_the_session(
    session: requests.Session, serve: Callable[..., Any]
) -> None:
    """With plain HTTP, a proxy sees all headers."""
    proxy = serve()
    with session_scope("sess-1"):
        session.post("http://gateway.example/v1", proxies={"http": proxy.url}, timeout=10)
    assert [(request.path, request.session_id) for request in proxy.arrived] == [
        ("http://gateway.example/v1", "sess-1")
    ]


def test_an_https_proxy_does_not_see_the_session(serve: Callable[..., Any], tmp_path: Any) -> None:
    """With https, the proxy only forwards encrypted bytes. It does not see the request."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    gateway = serve(wrap=lambda listening: tls.wrap_socket(listening, server_side=True))
    proxy = serve()
    with requests.Session() as session, session_scope("sess-1"):
        session.trust_env = False
        mount(session, gateway.url).post(
            gateway.url,
            headers=MARKED,
            proxies={"https": proxy.url},
            verify=str(tmp_path / "authority.pem"),
            timeout=10,
        )
    assert gateway.session_ids == ["sess-1"]
    assert [request.method for request in proxy.arrived] == ["CONNECT"]
    assert proxy.arrived[0].cagent_headers == set()
