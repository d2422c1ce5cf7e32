"""The program that each example in this folder runs: it asks a question in each of two sessions."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from cagent_session import Gateway, gateway_headers, instrument, new_session_id, session_scope
from cagent_session.testing import ModelsGateway

MakePlainClient = Callable[[str], Any]
MakeClient = Callable[[str, dict[str, str]], Any]
Ask = Callable[[Any, str, str], object]


def run(  # noqa: PLR0913 - the examples differ in all of these
    make_plain_client: MakePlainClient,
    ask: Ask,
    *,
    own_lines: MakeClient | None = None,
    forward: str,
    model: str,
    key: str | None = None,
    has_stand_in: bool = True,
) -> None:
    """Read the command line, make one client, and ask.

    :param make_plain_client: gets the gateway's URL. It is called after ``instrument()``.
    :param ask: gets the client, the model's name and the question, and returns the answer.
    :param own_lines: makes a client with this library's own lines for the SDK. It gets the
        gateway's URL, and the headers that mark calls for it.
    :param forward: the provider's URL, to which the gateway forwards the calls.
    :param key: the environment variable from which the SDK takes its API key.
    :param has_stand_in: whether the gateway for tests can answer the SDK's calls.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--models-gateway",
        metavar="URL",
        help="default: $DOCKER_AGENT_MODELS_GATEWAY, else $CAGENT_MODELS_GATEWAY, else a stand-in "
        "on this machine",
    )
    parser.add_argument(
        "--forward", metavar="URL", default=forward, help="the provider's URL; default: %(default)s"
    )
    parser.add_argument("--model", metavar="NAME", default=model, help="default: %(default)s")
    if own_lines is not None:
        parser.add_argument(
            "--own-lines",
            action="store_true",
            help="use the lines that this SDK has of its own, in place of instrument()",
        )
    options = parser.parse_args()
    given = options.models_gateway
    try:
        headers = gateway_headers(options.forward, model=options.model)
        gateway = Gateway(given) if given else Gateway.from_environment()
        url = base_url_of(gateway) if gateway else None
    except ValueError as error:
        parser.error(str(error))

    def ask_in_two_sessions(url: str) -> None:
        if own_lines is not None and options.own_lines:
            client = own_lines(url, headers)
        else:
            instrument(url, headers=headers)
            client = make_plain_client(url)
        for question in ("How are you?", "And you?"):
            with session_scope(new_session_id()) as session_id:
                print(session_id, ask(client, options.model, question))

    if url is None and not has_stand_in:
        parser.error("the stand-in can't answer this SDK: give --models-gateway")
    if url is None:
        run_with_stand_in(ask_in_two_sessions, key)
        return
    if key is not None and not os.environ.get(key):
        parser.error(f"set {key}; if your gateway needs no key, any value will do")
    try:
        ask_in_two_sessions(url)
    except Exception as error:  # noqa: BLE001 - each SDK has its own errors
        # The message might contain a key.
        sys.exit(f"{parser.prog}: the call failed: {type(error).__name__}")


def base_url_of(gateway: Gateway) -> str:
    """Return the gateway's URL in the form that the lines for the SDKs take."""
    url = gateway.urls[0].removesuffix("/")
    if "?" in url:
        raise ValueError("these examples send no query: give the gateway's URL without one")
    return url


def run_with_stand_in(ask_in_two_sessions: Callable[[str], None], key: str | None) -> None:
    """Start a gateway that answers by itself, and print what it saw.

    The program fails if a call was in no session.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would log each request
    os.environ["NO_PROXY"] = "127.0.0.1"
    if key is not None:
        os.environ.setdefault(key, "the stand-in needs no key")
    print(
        "Gateway, provider and model are stand-ins on this machine. The model repeats the question."
    )
    with ModelsGateway() as gateway:
        ask_in_two_sessions(gateway.url)
        bill = gateway.usage()
    print(f"\nWhat the gateway saw:\n{'session':36}  calls  tokens")
    for session_id, usage in bill.items():
        print(f"{session_id or 'none':36}  {usage.calls:5}  {usage.total_tokens:6}")
    if None in bill:
        sys.exit("A call was in no session.")
    if not bill:
        sys.exit("No call reached the gateway.")
