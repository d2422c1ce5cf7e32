"""The calls of databricks-sdk, which is on requests."""

from __future__ import annotations

import with_databricks
from contract import HEADERS, AttributesCalls

from cagent_session import session_scope
from cagent_session.testing import ModelsGateway

SDK = "databricks-sdk==0.156.0"


class TestDatabricks(AttributesCalls):
    example = with_databricks
    paths = ("/serving-endpoints/model/invocations",)
    retries = True
    missing_raises = "MissingSessionId"
    missing_tries = (1,)

    def test_the_workspaces_metadata_are_fetched_first(
        self, line: str, gateway: ModelsGateway
    ) -> None:
        """The client first asks the gateway for the workspace's metadata. Own line: unmarked."""
        with session_scope("sess-1"):
            self.client(gateway.url, HEADERS)
        (call,) = gateway.calls
        assert call.path == "/.well-known/databricks-config"
        assert call.session_id == ("sess-1" if line == "instrument" else None)
        assert (call.forward is None) == (line == "own lines")
