"""The embedded model: a small random Ming-flash-omni-2.0 in the released layout, made on the machine that needs it."""

from engine.tiny.snapshot import default_cache_dir, ensure_snapshot

__all__ = ["default_cache_dir", "ensure_snapshot"]
