"""The batch job on Dask. It starts a cluster of worker processes.

python examples/workers/on_dask.py
"""

from __future__ import annotations

from batch import Agent, Batch, run
from distributed import Client, LocalCluster

from cagent_session import carry_session, session_scope


def on_dask(agent: Agent, batch: Batch) -> dict[str, str]:
    summaries = {}
    with (
        LocalCluster(n_workers=2, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        for session_id, questions in batch.items():
            with session_scope(session_id):
                answers = client.map(carry_session(agent.answer), questions, pure=False)
                summaries[session_id] = client.submit(
                    carry_session(agent.summarize), answers, pure=False
                )
        gathered: dict[str, str] = client.gather(summaries)
    return gathered


if __name__ == "__main__":
    run(on_dask)
