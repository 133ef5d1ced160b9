"""File names to kinds of media."""

from __future__ import annotations

from ming_eval.media import media_type


def test_kind_and_type_follow_from_the_suffix() -> None:
    assert media_type("a/b.JPG") == ("image", "image/jpeg")
    assert media_type("clip.webm") == ("video", "video/webm")
    assert media_type("sound.mp3") == ("audio", "audio/mpeg")
    assert media_type("notes.txt") is None
    assert media_type("png") is None
