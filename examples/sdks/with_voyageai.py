"""How is voyageai, on requests, told whose call it makes?"""

from __future__ import annotations

import voyageai
from common import run

from cagent_session import new_session_id, session_factory, session_scope


def main(gateway: str, headers: dict[str, str], model: str) -> None:
    voyageai.requestssession = session_factory(gateway=gateway, headers=headers, max_retries=2)
    client = voyageai.Client(base_url=f"{gateway}/v1")

    for question in ("How are you?", "And you?"):
        with session_scope(new_session_id()) as session_id:
            vector = client.embed([question], model=model).embeddings[0]
            print(session_id, f"embedding of {len(vector)} numbers")


if __name__ == "__main__":
    run(main, forward="https://api.voyageai.com/v1", model="voyage-3.5", key="VOYAGE_API_KEY")
