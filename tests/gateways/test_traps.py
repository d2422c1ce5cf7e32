"""Tests of the remedies in the recipes: without a remedy, a recipe fails a test of the contract."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import requests
import test_contract as contract
from calling import Start, statuses
from programs import Edits, Gateway
from provider import HOSTS, Providers

from cagent_session import new_session_id

Promise = Callable[..., None]
"""A test of the contract, which fails without the remedy."""

no_session = contract.test_calls_in_no_session_are_limited
malformed = partial(
    contract.test_calls_with_malformed_ids_are_limited, contract.MALFORMED["a comma"]
)
hostile = partial(contract.test_the_audit_stays_json_whatever_is_in_a_header, "X-Cagent-Model")
wrong_certificate = contract.test_a_server_with_a_wrong_certificate_gets_no_call

NGINX: dict[str, tuple[Edits, Promise]] = {
    "a key that is empty is never limited": (
        {'"(none)" "(none) $remote_addr";': '"(none)" "";'},
        no_session,
    ),
    "each malformed ID has a bucket of its own": (
        {"default  $session;": "default $http_x_cagent_session_id;"},
        malformed,
    ),
    "the call goes to any host that the marker names": (
        {
            'default                                      "";': "default $http_x_cagent_forward;",
            "proxy_pass https://$provider;": "if ($provider ~ ^http) { proxy_pass $provider; } proxy_pass https://$provider;",
        },
        partial(contract.test_a_call_with_an_unlisted_marker_is_refused, "{live}"),
    ),
    "a header that isn't blanked reaches the provider": (
        {'proxy_set_header X-Cagent-Forward "";': ""},
        contract.test_the_provider_gets_none_of_our_headers,
    ),
    "the error log has the query": (
        {"error.log emerg": "error.log error"},
        contract.test_no_log_has_a_key,
    ),
    "the path has the query": (
        {'"path":"$path"': '"path":"$request_uri"'},
        contract.test_no_log_has_a_key,
    ),
    "a prompt of a megabyte is too long": (
        {"client_max_body_size 32m;": ""},
        contract.test_long_prompts_and_long_answers_are_passed_on,
    ),
    "a stream is held back": (
        {"proxy_buffering off;": "gzip on; gzip_types *; gzip_min_length 1;"},
        contract.test_a_stream_arrives_in_pieces,
    ),
    "any server is taken for the provider": ({"proxy_ssl_verify on;": ""}, wrong_certificate),
    "a call is sent again": (
        {
            "server api.openai.com:443;": "server api.openai.com:443; server api.openai.com:443;",
            "proxy_next_upstream error;": "proxy_next_upstream error non_idempotent;",
            "proxy_request_buffering off;": "",
        },
        contract.test_a_call_that_fails_at_the_provider_is_not_sent_again,
    ),
    "a slow model is cut off": (
        {"proxy_read_timeout 600s;": "proxy_read_timeout 300ms;"},  # the default is a minute
        contract.test_the_duration_includes_the_whole_answer,
    ),
    "the audit isn't JSON": ({"escape=json": "escape=none"}, hostile),
}
HAPROXY: dict[str, tuple[Edits, Promise]] = {
    "a header is split at commas": ({"req.fhdr(": "req.hdr("}, malformed),
    "a slow model is cut off": (
        {"timeout server 10m": "timeout server 300ms"},
        contract.test_the_duration_includes_the_whole_answer,
    ),
    "the provider goes on after the client has hung up": (
        {"option abortonclose": ""},
        contract.test_a_client_that_hangs_up_ends_its_call,
    ),
    "a line of the audit is cut": ({"len 4096 ": ""}, hostile),
    "the audit isn't JSON": ({",json(utf8s)": ""}, hostile),
    "the path has the query": (
        {"path,bytes(0,256)": "pathq,bytes(0,256)"},
        contract.test_no_log_has_a_key,
    ),
    "a header that isn't removed reaches the provider": (
        {"http-request del-header X-Cagent- -m beg": ""},
        contract.test_the_provider_gets_none_of_our_headers,
    ),
    "a certificate for any name is accepted": (
        {" sni str(api.openai.com)": "", " verifyhost api.openai.com": ""},
        wrong_certificate,
    ),
    "any server is taken for the provider": (
        {"ssl verify required": "ssl verify none"},
        wrong_certificate,
    ),
    "each malformed ID has a bucket of its own": (
        {
            """set-var(txn.session) 'str("(malformed)")'""": "set-var(txn.session) req.fhdr(X-Cagent-Session-Id)"
        },
        malformed,
    ),
    "the call goes to any host that the marker names": (
        {
            "http-request deny deny_status 421 unless { var(txn.provider) -m found }": (
                "http-request set-dst req.fhdr(X-Cagent-Forward),field(3,/),field(1,:)\n"
                "http-request set-dst-port req.fhdr(X-Cagent-Forward),field(3,/),field(2,:)"
            ),
            "use_backend %[var(txn.provider)]": (
                "use_backend %[var(txn.provider)] if { var(txn.provider) -m found }\n"
                "default_backend anywhere\nbackend anywhere\nserver anywhere 0.0.0.0:0 no-ssl"
            ),
        },
        partial(contract.test_a_call_with_an_unlisted_marker_is_refused, "{live}"),
    ),
    "a sliding window refuses all calls for its whole length": (
        {
            "var(txn.key),table_gpt(0,sessions)": "int(0)",
            "store gpt(1),http_req_cnt": "store http_req_rate(20s),http_req_cnt",
            "429 if session_too_fast": "429 if { var(txn.key),table_http_req_rate(sessions) ge 20 }",
            "http-request sc-set-gpt(0,1) var(txn.session_owes),add(txn.now)": "",
        },
        contract.test_a_refused_session_may_soon_call_again,
    ),
    "a call is sent again": (
        {"retries 0 #": "retries 3\nretry-on all-retryable-errors\noption http-buffer-request #"},
        contract.test_a_call_that_fails_at_the_provider_is_not_sent_again,
    ),
    "a provider that hangs up on a second call leaves no line": (
        {"option httpclose": ""},
        contract.test_a_call_that_fails_at_the_provider_is_not_sent_again,
    ),
    "an answer that is compressed has no tokens": (
        {"http-request del-header Accept-Encoding": ""},
        contract.test_the_audit_has_the_tokens_of_a_provider_that_compresses,
    ),
}
INDENTED = "\n" + " " * 16
ENVOY: dict[str, tuple[Edits, Promise]] = {
    "a limit that isn't enforced counts, and limits nothing": (
        {"filter_enforced: *always  #": "#"},
        contract.test_each_session_has_its_own_limit,
    ),
    "a session is forgotten when twenty others have called": (
        {"max_dynamic_descriptors: 100000  #": "#"},
        contract.test_calls_of_many_other_sessions_do_not_reset_a_sessions_limit,
    ),
    "a call without a descriptor is never limited": (
        {"['cagent.limited']": "['cagent.session']"},
        no_session,
    ),
    "each malformed ID has a bucket of its own": (
        {"? '' : '(malformed)')%": "? '' : request.headers['x-cagent-session-id'])%"},
        malformed,
    ),
    "the local limit doesn't charge when an answer has ended": (
        {
            f"- actions:{INDENTED}- ext": f"- apply_on_stream_done: true{INDENTED}actions:{INDENTED}- ext"
        },
        contract.test_each_session_has_its_own_limit,
    ),
    "a route matches either of two markers": (
        {
            f"filter_state:{INDENTED}  - key: cagent.forward": f"headers:{INDENTED}  - name: x-cagent-forward"
        },
        contract.test_a_call_with_two_markers_is_refused,
    ),
    "a header that isn't removed reaches the provider": (
        {'- remove_on_match: {key_matcher: {safe_regex: {regex: "x[-_]cagent[-_].*"}}}': ""},
        contract.test_the_provider_gets_none_of_our_headers,
    ),
    "Envoy tells the provider the client's address": (
        {"- remove_on_match: {key_matcher: {prefix: x-envoy-}}": ""},
        contract.test_the_provider_gets_none_of_our_headers,
    ),
    "an answer that is compressed has no tokens": (
        {"key: accept-encoding": "key: x-accept-encoding"},
        contract.test_the_audit_has_the_tokens_of_a_provider_that_compresses,
    ),
    "the path has the query": ({"%PATH(NQ:PATH)%": "%REQ(:PATH)%"}, contract.test_no_log_has_a_key),
    "a certificate for any name is accepted": (
        {"auto_sni_san_validation: true": "auto_sni_san_validation: false"},
        wrong_certificate,
    ),
    "a slow model is cut off": (
        {"stream_idle_timeout: 600s": "stream_idle_timeout: 0.3s"},  # the default is five minutes
        contract.test_the_duration_includes_the_whole_answer,
    ),
    "a route's time-out ends the answer": (
        {", timeout: 0s": ", timeout: 0.3s"},  # the default is 15 seconds
        contract.test_the_duration_includes_the_whole_answer,
    ),
}
LITELLM: dict[str, tuple[Edits, Promise]] = {
    "any server is taken for the provider": (
        {"ssl_verify: ": "ssl_verify: false # "},
        wrong_certificate,
    ),
    "a session is forgotten when some hundred others have called": (
        {"MAX_COUNTERS = 100_000": "MAX_COUNTERS = 20"},  # the default is 200
        contract.test_calls_of_many_other_sessions_do_not_reset_a_sessions_limit,
    ),
    "a call is sent again": (
        {"num_retries: 0 #": "num_retries: 2 #"},
        contract.test_a_call_that_fails_at_the_provider_is_not_sent_again,
    ),
    "the model's name decides on the provider, and the marker does not": (
        {"""return {**data, "model": f"{line['provider']}/{line['model']}"}""": "return data"},
        partial(
            contract.test_a_call_with_a_listed_marker_reaches_its_provider,
            "https://api.anthropic.com",
        ),
    ),
    "a call in no session has no limit": (
        {
            "SESSION_REQUIRED = True": "SESSION_REQUIRED = False",
            'whose = {"(none)": self.line["client"]': 'whose = {"(none)": self.id',
        },
        no_session,
    ),
}
TRAPS = {"nginx": NGINX, "haproxy": HAPROXY, "envoy": ENVOY, "litellm": LITELLM}
# LiteLLM takes seconds to start. So one LiteLLM runs with all edits whose tests need no other
# providers. Each of these tests fails because of one of the edits only.
LITELLM_EDITS = {
    old: new
    for edits, promise in LITELLM.values()
    if promise is not wrong_certificate
    for old, new in edits.items()
}


@pytest.mark.parametrize(
    ("name", "edits", "promise"),
    [
        pytest.param(name, edits, promise, id=f"{name}: {what}")
        for name, traps in TRAPS.items()
        for what, (edits, promise) in traps.items()
    ],
)
def test_a_recipe_without_a_remedy_fails(
    name: str,
    edits: Edits,
    promise: Promise,
    start: Start,
    providers: Providers,
    request: pytest.FixtureRequest,
) -> None:
    if name == "litellm" and promise is not wrong_certificate:
        edits = LITELLM_EDITS

    def start_changed(
        name: str, more: Edits | None = None, behind: Providers | None = None
    ) -> Gateway:
        return start(name, {**edits, **(more or {})}, behind)

    given: dict[str, Any] = {"name": name, "start": start_changed}
    wanted = [
        name for name, it in inspect.signature(promise).parameters.items() if it.default is it.empty
    ]
    if "gateway" in wanted:
        given["gateway"] = gateway = start_changed(name)
        assert statuses(gateway, new_session_id(), 1) == [200]  # the gateway still works
        gateway.audit(1)
        for host in HOSTS:
            providers[host].clear()
    values = {
        parameter: given.get(parameter) or request.getfixturevalue(parameter)
        for parameter in wanted
    }
    with pytest.raises((AssertionError, json.JSONDecodeError, requests.RequestException)):
        promise(**values)
    if "httpserver" in values:
        assert values["httpserver"].log  # the call went to the marker's host
