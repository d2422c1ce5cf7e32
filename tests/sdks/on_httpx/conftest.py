"""The environment in which the SDKs on httpx are imported: they call only the gateway."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # else huggingface_hub fetches a list of agents
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else litellm fetches a list of prices
