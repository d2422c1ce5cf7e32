"""Does everything else that requests does keep working, and keep the session? On real sockets."""

from __future__ import annotations

import io
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
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
def session(request: pytest.FixtureRequest) -> Iterator[requests.Session]:
    """Return a session, mounted by the helper, and with the adapter mounted on plain HTTP only."""
    with requests.Session() as session:
        session.trust_env = False
        if request.param == "mount":
            mount(session)
        else:
            session.mount("http://", SessionIdAdapter())
        session.headers.update(MARKED)
        yield session


def authenticate(handler: Any, request: Any, then: Callable[[Any, Any], None]) -> None:
    if request.get("Authorization") is None:
        reply_to(handler, 401, CHALLENGE)
    else:
        then(handler, request)


def reply_to(handler: Any, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def test_retries_belong_to_the_session_that_sent(session: requests.Session, gateway: Any) -> None:
    """The context is read once a send: when urllib3 tries again, another thread's session is nothing to it."""
    statuses = iter([503, 503, 200])
    gateway.answers["/"] = lambda handler, _: reply_to(handler, next(statuses), {})
    retries = Retry(3, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    for adapter in session.adapters.values():
        adapter.max_retries = retries  # type: ignore[attr-defined]
    with session_scope("sess-1"):
        assert session.post(gateway.url + "/", timeout=10).status_code == 200
    assert gateway.session_ids == ["sess-1"] * 3


def test_prepared_request_sent_again_carries_the_session_of_that_sending(
    session: requests.Session, gateway: Any
) -> None:
    prepared = session.prepare_request(requests.Request("POST", gateway.url, json={"model": "m"}))
    before = dict(prepared.headers)
    for session_id in ("sess-1", "sess-2", None):
        with session_scope(session_id):
            session.send(prepared)
    assert gateway.session_ids == ["sess-1", "sess-2", None]
    assert dict(prepared.headers) == before


@pytest.mark.parametrize(
    "again",
    [
        lambda r: r.request,
        lambda r: r.request.copy(),
        lambda r: pickle.loads(pickle.dumps(r)).request,
    ],
)
def test_the_stamped_copy_sent_again_carries_the_session_of_that_sending(
    session: requests.Session, gateway: Any, again: Callable[[Any], Any]
) -> None:
    """What we set in one session is not the caller's value in the next."""
    with session_scope("sess-1"):
        response = session.post(gateway.url)
    session.send(again(response))
    with session_scope("sess-2"):
        session.send(again(response))
    assert gateway.session_ids == ["sess-1", None, "sess-2"]


def test_the_stamped_copy_sent_again_and_redirected_carries_no_earlier_session(
    session: requests.Session, gateway: Any
) -> None:
    with session_scope("sess-1"):
        response = session.post(f"{gateway.url}/old")
    gateway.redirect("/old", "/new", 307)
    session.send(response.request)
    assert gateway.session_ids == ["sess-1", None, None]


def test_the_stamped_copy_remembers_the_callers_value(
    session: requests.Session, gateway: Any
) -> None:
    with session_scope("sess-1"):
        response = session.post(gateway.url, headers={"X-Cagent-Session-Id": "callers"})
    session.send(response.request)
    response.request.headers["X-Cagent-Session-Id"] = "by hand"
    session.send(response.request)
    assert gateway.session_ids == ["sess-1", "callers", "by hand"]


def test_digest_authentication_keeps_the_session(session: requests.Session, gateway: Any) -> None:
    gateway.answers["/"] = lambda handler, r: authenticate(
        handler, r, lambda h, _: reply_to(h, 200, {})
    )
    with session_scope("sess-1"):
        response = session.post(gateway.url + "/", auth=HTTPDigestAuth("user", "password"))
    assert response.status_code == 200
    assert gateway.session_ids == ["sess-1", "sess-1"]


def test_digest_authentication_whose_answer_redirects_takes_nothing_along(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """The redirect is followed with the headers of the first request, not of the one that was redirected."""
    moved = {"Location": elsewhere.url + "/new"}
    gateway.answers["/"] = lambda handler, r: authenticate(
        handler, r, lambda h, _: reply_to(h, 307, moved)
    )
    with session_scope("sess-1"):
        session.post(gateway.url + "/", auth=HTTPDigestAuth("user", "password"))
    assert gateway.session_ids == ["sess-1", "sess-1"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


def send_again_when(
    status: int, headers: dict[str, str]
) -> Callable[..., requests.Response | None]:
    """Return a response hook of the kind that people write."""

    def hook(response: Any, **options: Any) -> requests.Response | None:
        if response.status_code != status:
            return None
        again = response.request.copy()
        again.headers.update(headers)
        return response.connection.send(again, **options)  # type: ignore[no-any-return]

    return hook


def test_refused_token_refreshed_and_replayed_keeps_the_session(
    session: requests.Session, gateway: Any
) -> None:
    """Upstream has 401, refresh, replay, but no test of it."""
    gateway.answers["/"] = lambda handler, r: reply_to(
        handler, 200 if r.get("Authorization") == "new" else 401, {}
    )
    session.hooks["response"].append(send_again_when(401, {"Authorization": "new"}))
    with session_scope("sess-1"):
        assert session.post(gateway.url + "/", headers={"Authorization": "old"}).status_code == 200
    assert gateway.session_ids == ["sess-1", "sess-1"]


def test_hooks_in_a_row_whose_answer_redirects_take_nothing_along(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    """The second hook sends again what the first one had sent again."""
    answers = iter([(401, {}), (429, {}), (307, {"Location": elsewhere.url + "/new"})])
    gateway.answers["/"] = lambda handler, _: reply_to(handler, *next(answers))
    session.hooks["response"] += [send_again_when(401, {}), send_again_when(429, {})]
    with session_scope("sess-1"):
        session.post(gateway.url + "/")
    assert gateway.session_ids == ["sess-1"] * 3
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


def test_next_request_followed_by_hand_takes_nothing_along(
    session: requests.Session, gateway: Any, elsewhere: Any
) -> None:
    gateway.redirect("/one", "/two")
    gateway.redirect("/two", f"{elsewhere.url}/three")
    with session_scope("sess-1"):
        response = session.get(f"{gateway.url}/one", allow_redirects=False)
        while response.next is not None:
            response = session.send(response.next, allow_redirects=False)
    assert gateway.session_ids == ["sess-1", "sess-1"]
    assert [request.cagent_headers for request in elsewhere.arrived] == [set()]


def test_streamed_upload_is_sent_once_and_whole(session: requests.Session, gateway: Any) -> None:
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
    """Upstream: the first event is read before the second is written."""
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


def test_stream_read_in_another_session_belongs_to_the_one_it_was_sent_in(
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
    """As the README says: a plain-HTTP proxy sees all headers."""
    proxy = serve()
    with session_scope("sess-1"):
        session.post("http://gateway.example/v1", proxies={"http": proxy.url}, timeout=10)
    assert [(request.path, request.session_id) for request in proxy.arrived] == [
        ("http://gateway.example/v1", "sess-1")
    ]


def test_tunnel_keeps_the_session_from_the_proxy(serve: Callable[..., Any], tmp_path: Any) -> None:
    """Over https the proxy is asked for a tunnel to the gateway, and sees nothing of the request."""
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
