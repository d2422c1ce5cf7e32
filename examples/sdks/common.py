"""How are the examples of the provider SDKs run? Each through a gateway of its own, or through yours.

python examples/sdks/with_groq.py
python examples/sdks/with_groq.py --models-gateway https://gateway.example --model llama-3.1-8b-instant
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from cagent_session import gateway_headers, session_id_hook
from cagent_session.testing import ModelsGateway

GATEWAY_VARIABLES = ("DOCKER_AGENT_MODELS_GATEWAY", "CAGENT_MODELS_GATEWAY")

Main = Callable[[str, dict[str, str], str], None]


def run(main: Main, forward: str, model: str, key: str | None = None) -> None:
    """Call *main* with the gateway's URL, the headers that mark calls for it, and the model's name.

    Without a gateway of yours, what the embedded one saw is printed at the end, and checked: no call without a session.

    :param forward: the provider's base URL.
    :param key: the environment variable in which the SDK looks for its key.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--models-gateway", metavar="URL", help=f"default: ${', else $'.join(GATEWAY_VARIABLES)}"
    )
    parser.add_argument(
        "--forward", metavar="URL", default=forward, help="the provider's; default: %(default)s"
    )
    parser.add_argument("--model", metavar="NAME", default=model, help="default: %(default)s")
    options = parser.parse_args()
    urls = (options.models_gateway, *map(os.environ.get, GATEWAY_VARIABLES))
    url = next(filter(None, ((url or "").strip().removesuffix("/") for url in urls)), None)
    try:
        headers = gateway_headers(options.forward, model=options.model)
        session_id_hook(url)  # checks the URL before an SDK gets it
    except ValueError as error:
        parser.error(str(error))
    if url is None:
        run_embedded(main, headers, options.model, key)
    elif key is None or os.environ.get(key):
        try:
            main(url, headers, options.model)
        except Exception as error:  # noqa: BLE001 - each SDK has its own; its message may hold a key, its type says enough
            sys.exit(f"{parser.prog}: no answer from the models gateway: {type(error).__name__}")
    else:
        parser.error(f"set {key}, to anything if your gateway asks for none")


def run_embedded(main: Main, headers: dict[str, str], model: str, key: str | None) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request otherwise
    os.environ["NO_PROXY"] = "127.0.0.1"
    if key is not None:
        os.environ.setdefault(key, "the-embedded-gateway-asks-for-none")
    with ModelsGateway() as gateway:
        main(gateway.url, headers, model)
        bill = gateway.usage()
    print(f"\n{'session':36}  calls  tokens")
    for session_id, usage in bill.items():
        print(f"{session_id or 'none':36}  {usage.calls:5}  {usage.total_tokens:6}")
    if not bill or None in bill:
        sys.exit("a call was in no session")
