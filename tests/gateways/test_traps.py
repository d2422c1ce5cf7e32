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
import test_envoy as envoy
import test_haproxy as haproxy
import test_litellm as litellm
import test_nginx as nginx
import test_tokens as tokens
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


def half_requests(sent: str, limit: Edits, start: Start) -> None:
    """Wait for a shorter time than the test of Envoy does, because a trap takes all of it."""
    envoy.others_are_served(start("envoy", {**limit, **envoy.FEW_CONNECTIONS}), sent, seconds=4)


NGINX: dict[str, tuple[Edits, Promise]] = {
    "a bucket that is empty is never limited": ({'"(none) $remote_addr";': '"";'}, no_session),
    "each malformed ID has a bucket of its own": (
        {r'\(malformed\)$" "(malformed)";': r'\(malformed\)$" $http_x_cagent_session_id;'},
        malformed,
    ),
    "a malformed root is none": (
        {'default                       "(malformed)";': "default $session;"},
        partial(contract.test_calls_with_malformed_roots_are_limited, "{}"),
    ),
    "a new sub-session for each call avoids the limit": (
        {'"$key $root";': '"$key $session";'},
        contract.test_a_new_sub_session_for_each_call_does_not_avoid_the_limit,
    ),
    "another key uses up a session's limit": (
        {'"$key $root";': "$root;"},
        contract.test_the_same_id_with_another_key_is_another_session,
    ),
    "keys with different bytes have one fingerprint": (
        {r"/[^\t -~]/.test(keys[0])": "false"},
        partial(nginx.test_a_key_that_is_not_ascii_is_refused, [], "?key=sk-%ff"),
    ),
    "a call that is refused has no limit": (
        {'try_files "" @call;\n        }\n        location @call {': ""},
        contract.test_calls_with_an_unknown_marker_are_limited,
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
        partial(contract.test_no_log_has_a_key, "?key={}"),
    ),
    "the path has the query": (
        {'"path":"$path"': '"path":"$request_uri"'},
        partial(contract.test_no_log_has_a_key, "?key={}"),
    ),
    "the path has a key in a wrong place": (
        {"[A-Za-z0-9/._:@~-]*": "[^?]*"},
        partial(contract.test_no_log_has_a_key, "#key={}"),
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
        {'path,regsub("[^A-Za-z0-9/._:@~-].*",)': "pathq"},
        partial(contract.test_no_log_has_a_key, "?key={}"),
    ),
    "a header that isn't removed reaches the provider": (
        {"http-request del-header ^x[-_]cagent[-_] -m reg": ""},
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
            "var(txn.bucket),table_gpt(0,sessions)": "int(0)",
            "store gpt(1),http_req_cnt": "store http_req_rate(20s),http_req_cnt",
            "429 if session_too_fast": "429 if { var(txn.bucket),table_http_req_rate(sessions) ge 20 }",
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
    "whoever knows an ID spends its session's limit": (
        {"concat(,txn.key,.),": ""},
        contract.test_the_same_id_with_another_key_is_another_session,
    ),
    "a new sub-session for each call avoids the limit": (
        {"concat(,txn.root)": "concat(,txn.session)"},
        contract.test_a_new_sub_session_for_each_call_does_not_avoid_the_limit,
    ),
    "each malformed root has a bucket of its own": (
        {
            """set-var(txn.root) 'str("(malformed)")'""": "set-var(txn.root) req.fhdr(X-Cagent-Root-Session)"
        },
        partial(
            contract.test_calls_with_malformed_roots_are_limited, contract.MALFORMED["a comma"]
        ),
    ),
    "a stored answer is counted again": (
        {"if METH_POST !spends_none": "if METH_POST"},
        partial(
            tokens.test_tokens_that_no_completion_has_spent_are_not_counted,
            "POST /v1/responses/resp_1/cancel",
        ),
    ),
    "a number of 32 bits begins again at 0": (
        {"int(4294967295)": "var(sess.sum)"},
        partial(haproxy.test_a_number_of_tokens_that_is_too_large_for_the_table_is_the_largest, 1),
    ),
    "a reload forgets the tokens": (
        {"gpt(1) peers gateways # tokens.lua": "gpt(1) # tokens.lua"},
        haproxy.test_a_reload_keeps_calls_and_tokens,
    ),
    "an instance that has just started counts from 1": (
        {"while not has_counts and": "while false and"},
        haproxy.test_a_call_to_an_instance_that_has_just_started_waits_for_the_counts,
    ),
    "an instance that can't ask for the counts goes on without them": (
        {
            "local answer = socket:connect(address) and": "assert(socket:connect(address)) local answer ="
        },
        haproxy.test_calls_wait_if_it_is_not_known_whether_the_counts_are_there,
    ),
    "an address that sends half of each call locks others out": (
        {"tcp-request session reject if": "tcp-request session accept if"},
        partial(
            haproxy.test_an_address_that_sends_halves_of_calls_does_not_lock_others_out,
            "half a body",
        ),
    ),
    "a tunnel passes by the limits": (
        {"http-request deny deny_status 405 if METH_CONNECT": ""},
        haproxy.test_a_tunnel_is_refused,
    ),
    "a WebSocket passes by the limits": (
        {"http-request del-header Upgrade": ""},
        haproxy.test_the_provider_gets_no_header_that_opens_a_tunnel_or_is_ours,
    ),
    "a header with underscores reaches the provider": (
        {"^x[-_]cagent[-_] -m reg": "X-Cagent- -m beg"},
        haproxy.test_the_provider_gets_no_header_that_opens_a_tunnel_or_is_ours,
    ),
}
INDENTED = "\n" + " " * 16
ENVOY: dict[str, tuple[Edits, Promise]] = {
    "a limit that isn't enforced counts, and limits nothing": (
        {"filter_enforced: *always  #": "#"},
        contract.test_each_session_has_its_own_limit,
    ),
    "a session is forgotten when twenty others have called": (
        {"max_dynamic_descriptors: 100000  # sessions": "#"},
        contract.test_calls_of_many_other_sessions_do_not_reset_a_sessions_limit,
    ),
    "a session's budget is forgotten when twenty others have called": (
        {"max_dynamic_descriptors: 100000  # budgets": ""},
        envoy.test_calls_of_many_other_sessions_do_not_reset_a_sessions_budget,
    ),
    "a client is forgotten when twenty others have called": (
        {"max_dynamic_descriptors: 100000  # addresses": ""},
        envoy.test_calls_of_many_other_clients_do_not_reset_a_clients_limit,
    ),
    "a call without a descriptor is never limited": (
        {"['cagent.limited']": "['cagent.payer']"},
        no_session,
    ),
    "each malformed ID has a bucket of its own": (
        {'"[^%w_-]") and id or MALFORMED': '"[^%w_-]") and id or id'},
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
    "the path has the query": (
        {'match("^[%w/:._~@-]*")': 'match("^.*")'},
        partial(contract.test_no_log_has_a_key, "?key={}"),
    ),
    "Envoy's own path has the fragment": (
        {
            "%CEL('cagent.path' in filter_state ? filter_state['cagent.path'] : '')%": "%PATH(NQ:PATH)%"
        },
        partial(contract.test_no_log_has_a_key, "#key={}"),
    ),
    "each sub-session has a limit of its own": (
        {"if session == NONE or session == MALFORMED or root == NONE then": "if true then"},
        contract.test_a_new_sub_session_for_each_call_does_not_avoid_the_limit,
    ),
    "whoever knows an ID uses up its limit": (
        {'limited = key .. " " .. root': "limited = root"},
        contract.test_the_same_id_with_another_key_is_another_session,
    ),
    "two keys that Envoy has joined are taken for one": (
        {'key:find(",") and SEVERAL or ': ""},
        partial(envoy.test_a_key_has_no_comma, *envoy.JOINED),
    ),
    "a call with an unknown forward spends the session's calls": (
        {"session-budget: *without-limit": ""},
        contract.test_a_refused_call_costs_its_session_nothing,
    ),
    "a call with an unknown forward spends the session's rate": (
        {"session-limit: &without-limit": "not-this: &without-limit"},
        contract.test_a_refused_call_costs_its_session_nothing,
    ),
    "clients that send half a header lock others out": (
        {"request_headers_timeout:": "# request_headers_timeout:"},
        partial(half_requests, *envoy.HALF["half a header"]),
    ),
    "clients that send half a body lock others out": (
        {"request_timeout:": "# request_timeout:"},
        partial(half_requests, *envoy.HALF["half a body"]),
    ),
    "clients that send nothing lock others out": (
        {"common_http_protocol_options: {idle_timeout: 30s}  #": "# {idle_timeout: 30s}  #"},
        partial(half_requests, *envoy.HALF["nothing"]),
    ),
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
    "another key spends a session's budget": (
        {"whose.get(self.root, self.key)": "whose.get(self.root, 'all')"},
        contract.test_the_same_id_with_another_key_is_another_session,
    ),
    "a new sub-session for each call has a new budget": (
        {'self.root = self.id_in("x-cagent-root-session") or session': "self.root = session"},
        contract.test_a_new_sub_session_for_each_call_does_not_avoid_the_limit,
    ),
    "the last event of a stream isn't counted if the first one has iterations": (
        {"ModelResponseIterator._handle_usage = add_usage": "pass"},
        partial(
            litellm.test_a_session_is_charged_for_all_iterations_of_a_compacted_message,
            True,
            litellm.ITERATED_FIRST,
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
