from __future__ import annotations

import base64
import re

import pytest

from engine.errors import InvalidRequest
from engine.inputs.media import EncodedMedia, parse_data_url
from engine.inputs.sniff import check_type, sniff
from tests.engine.inputs.media_files import AUDIO_FILES, VIDEO_FILES, audio_file, image_file, video_file

PNG = b"\x89PNG\r\n\x1a\n and more"


def test_data_url() -> None:
    url = "DATA:Image/PNG;charset=x;Base64," + base64.b64encode(PNG).decode()
    assert parse_data_url(url, "image") == EncodedMedia((PNG,), "image/png")


def test_a_type_may_be_left_out() -> None:
    assert parse_data_url("data:;base64,QUJD", "audio") == EncodedMedia((b"ABC",), None)


def test_a_list_of_frames_is_one_url() -> None:
    assert parse_data_url("data:video/jpeg;base64,QUJD,REVG", "video") == EncodedMedia((b"ABC", b"DEF"), "video/jpeg")


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64",
        "data:image/png,QUJD",
        "data:base64,QUJD",
        "file:///etc/passwd",
        "",
        "data:image/png;base64,",
        "data:image/png;base64,QUJ",  # padding missing
        "data:image/png;base64,QUI=QUI=",  # padding inside
        "data:image/png;base64,QU JD",
        "data:image/png;base64,QUJD\n",
        "data:image/png;base64,QU-_",  # the alphabet of URLs
        "data:image/png;base64,QUJ%44",
        "data:image/png;base64,QUJDé",
        "data:image/png;base64,QUJD,QUJD",  # a list, but not of a video
        "data:video/jpeg;base64,QUJD,,QUJD",
    ],
)
def test_bad_data_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_data_url(url, "video" if url.startswith("data:video") else "image")
    assert caught.value.code == "invalid_media"
    assert "QU" not in caught.value.message


def made(kind: str) -> bytes:
    if kind in AUDIO_FILES:
        return audio_file(kind)
    return video_file(kind, num_frames=3) if kind in VIDEO_FILES else image_file(kind)


@pytest.mark.parametrize(
    ("file", "found"),
    [
        *((fmt, fmt.lower()) for fmt in ("PNG", "JPEG", "WEBP", "GIF", "BMP")),
        *((name, name.partition("-")[0]) for name in AUDIO_FILES),
        ("mp4-h264", "mp4"),
        ("mov-hevc", "mp4"),
        ("webm-vp9", "webm"),
    ],
)
def test_real_files_are_recognised(file: str, found: str) -> None:
    assert sniff(made(file)) == found


def test_an_mp3_may_begin_with_a_tag_or_a_frame() -> None:
    assert sniff(b"ID3\x04\x00") == "mp3"
    assert sniff(b"\xff\xfb\x90\x64") == "mp3"
    assert sniff(b"\xff\xf1\x50\x80") is None  # AAC


@pytest.mark.parametrize(
    "data", [b"", b"\x89PN", b"<svg>", b"%PDF-1.7", b"II*\x00", b"\x1aE\xdf\xa3\x01matroska", b"ftyp"]
)
def test_other_content_is_not(data: bytes) -> None:
    assert sniff(data) is None


@pytest.mark.parametrize(
    "mime", [None, "", "image/png", "IMAGE/PNG; charset=binary", "application/octet-stream", "binary/octet-stream"]
)
def test_a_true_or_absent_claim_is_accepted(mime: str | None) -> None:
    assert check_type("image", PNG, mime) == "png"


@pytest.mark.parametrize("mime", ["image/jpeg", "audio/wav", "text/html", "image/svg+xml", "video/jpeg", "png"])
def test_a_false_claim_is_refused(mime: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(repr(mime))) as caught:
        check_type("image", PNG, mime)
    assert caught.value.code == "invalid_media"


@pytest.mark.parametrize(
    ("kind", "data"), [("audio", PNG), ("video", PNG), ("image", b"OggS"), ("image", b"GIF"), ("video", b"")]
)
def test_the_wrong_kind_of_file_is_refused(kind: str, data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="none of the accepted types"):
        check_type(kind, data, None)


def test_a_long_claim_is_cut() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_type("image", PNG, "x" * 10_000)
    assert len(caught.value.message) < 300
