"""The measured client."""

from ming_eval.client.client import Client
from ming_eval.client.exchange import Exchange, Timeouts

__all__ = ["Client", "Exchange", "Timeouts"]
