"""The contract for SDKs whose own line is ``stamp_botocore``."""

from __future__ import annotations

from typing import Any

import pytest
from contract import HEADERS, StatesUsage, Streams

from cagent_session import Gateway, stamp_botocore


class Stamped(StatesUsage, Streams):
    """The SDK is on botocore, and its own line is ``stamp_botocore``."""

    def make(self, kind: str, url: str, headers: dict[str, str]) -> Any:
        """Make a client. A provider's URL is not the gateway's, and *missing* may be "raise"."""

        def stamp(client: Any, gateway: str, *, headers: dict[str, str]) -> Any:
            known = Gateway(gateway if headers else "https://gateway.example", missing=self.missing)
            return stamp_botocore(client, known, headers=headers or HEADERS)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.example, "stamp_botocore", stamp)
            return super().make(kind, url, headers)
