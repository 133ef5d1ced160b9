"""The garbage collector stays away while something is measured."""

from __future__ import annotations

import gc

from ming_eval.client.garbage import frozen_garbage


def test_garbage_is_frozen_inside_and_thawed_after() -> None:
    with frozen_garbage():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
