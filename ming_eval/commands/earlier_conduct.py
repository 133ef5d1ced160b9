"""How long an accuracy run took that goes on: where nothing was left to be sent, that is still what it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ming_eval.accuracy_results import SuiteResult, read_accuracy
from ming_eval.evals.item_lines import ITEMS_FILE, read_items
from ming_eval.evals.responses import Response
from ming_eval.evals.runner import SampleKey
from ming_eval.evals.summarise import Conduct

_SuiteKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class EarlierConduct:
    """The suites of the summary that a run already has, and the replies that each rests on, by suite and backend."""

    suites: Mapping[_SuiteKey, SuiteResult]
    replies: Mapping[_SuiteKey, Mapping[SampleKey, str | None]]

    @classmethod
    def read(cls, folder: Path) -> EarlierConduct:
        """Nothing of a run that is new, was killed before there was a summary, or never asked anything.

        Raises:
            DataError: what is there is not what this version writes.
        """
        if not all((folder / name).exists() for name in ("summary.json", ITEMS_FILE)):
            return cls({}, {})
        replies: dict[_SuiteKey, dict[SampleKey, str | None]] = {}
        for item in read_items(folder):
            replies.setdefault((item.suite, item.backend), {})[item.id, item.repeat, item.rotation] = item.response
        return cls({(suite.suite, suite.backend): suite for suite in read_accuracy(folder).suites}, replies)

    def kept(self, suite: str, responses: Mapping[SampleKey, Response], conduct: Conduct) -> Conduct:
        """`conduct` with the time and the number of requests that brought the same replies, where none was sent now."""
        before = self.suites.get((suite, conduct.backend))
        if before is None or conduct.wall_s is not None:
            return conduct
        if self.replies.get((suite, conduct.backend)) != {key: reply.key for key, reply in responses.items()}:
            return conduct  # replies of a third server, from before the last summary
        return replace(conduct, wall_s=before.wall_s, reused=before.reused)
