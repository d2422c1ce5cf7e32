"""Does a recipe fall into the trap that its comment tells of, once it is changed? Then a test of the contract fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import test_contract as contract
from calling import Start, statuses
from programs import Edits

from cagent_session import new_session_id


class Trap(NamedTuple):
    gateway: str
    edits: Edits
    promise: Callable[..., None]
    """The test of the contract that tells."""


TRAPS = {
    "a key that is empty is never limited": Trap(
        "nginx",
        {'"(none)" "(none) $remote_addr";': '"(none)" "";'},
        contract.test_calls_in_no_session_do_not_escape_the_limit,
    ),
    "each malformed ID has a bucket of its own": Trap(
        "nginx",
        {"default  $session;": "default $http_x_cagent_session_id;"},
        partial(contract.test_calls_with_malformed_ids_do_not_escape_the_limit, contract.MALFORMED["a comma"]),
    ),
    "the call goes wherever the marker says": Trap(
        "nginx",
        {
            'default                                      "";': "default $http_x_cagent_forward;",
            "proxy_pass https://$provider;": "if ($provider ~ ^http) { proxy_pass $provider; } proxy_pass https://$provider;",
        },
        partial(contract.test_a_marker_that_is_not_listed_leads_nowhere, "{live}"),
    ),
    "a header that isn't blanked reaches the provider": Trap(
        "nginx",
        {'proxy_set_header X-Cagent-Forward "";': ""},
        contract.test_the_provider_sees_none_of_our_headers,
    ),
    "the error log has the query": Trap("nginx", {"error.log crit": "error.log error"}, contract.test_no_log_has_a_key),
    "the path has the query": Trap(
        "nginx", {'"path":"$path"': '"path":"$request_uri"'}, contract.test_no_log_has_a_key
    ),
    "a prompt of a megabyte is too long": Trap(
        "nginx", {"client_max_body_size 32m;": ""}, contract.test_long_prompts_and_long_answers_pass
    ),
    "a stream is held back": Trap(
        "nginx",
        {"proxy_buffering off;": "gzip on; gzip_types *; gzip_min_length 1;"},
        contract.test_a_stream_arrives_in_pieces,
    ),
    "whoever answers is the provider": Trap(
        "nginx",
        {"proxy_ssl_verify on;": ""},
        partial(contract.test_an_impostor_gets_no_call, ["elsewhere.example"], known=True),
    ),
    "the audit isn't JSON": Trap(
        "nginx",
        {"escape=json": "escape=none"},
        partial(contract.test_whatever_a_client_sends_its_call_is_a_line_of_json, "X-Cagent-Model"),
    ),
}


@pytest.mark.parametrize("trap", TRAPS.values(), ids=[f"{trap.gateway}: {what}" for what, trap in TRAPS.items()])
def test_a_recipe_that_is_changed_falls_into_it(trap: Trap, start: Start, request: pytest.FixtureRequest) -> None:
    def start_changed(name: str, edits: Edits | None = None, **more: Any) -> Any:
        return start(name, {**trap.edits, **(edits or {})}, **more)

    given: dict[str, Any] = {"name": trap.gateway, "start": start_changed}
    wanted = inspect.signature(trap.promise).parameters
    if "gateway" in wanted:
        given["gateway"] = start_changed(trap.gateway)
        assert statuses(given["gateway"], new_session_id(), 1) == [200]  # it is still a gateway
    values = {
        parameter: given.get(parameter) or request.getfixturevalue(parameter)
        for parameter in wanted
        if parameter in given or wanted[parameter].default is inspect.Parameter.empty
    }
    with pytest.raises((AssertionError, ValueError)):
        trap.promise(**values)
