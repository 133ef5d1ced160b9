"""Media files with a broken head, of every kind that is decoded."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from random import Random

from tests.engine.inputs.media_files import AUDIO_FILES, VIDEO_FILES, audio_file, image_file, video_file
from tests.pressure.malformed_bodies import encode
from tests.pressure.wire import post


def chat_with_media(random: Random) -> bytes:
    """A valid chat with a file whose head is broken, or a URL that leads nowhere good."""
    kind, (mime, file) = random.choice(list(media_files().items()))
    data = broken_file(random, file)
    claimed = random.choice((mime, mime, mime, "text/html", "", "image/svg+xml"))
    url = data_url(claimed, data)
    if random.random() < 0.1:
        url = random.choice(_URLS)
    part_kind = f"{kind.partition('/')[0]}_url"
    part = {"type": part_kind, part_kind: {"url": url}}
    message = {"role": "user", "content": [part, {"type": "text", "text": "What?"}]}
    return post("/v1/chat/completions", encode({"messages": [message], "max_tokens": 1}))


def data_url(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{b64encode(data).decode()}"


def broken_file(random: Random, file: bytes) -> bytes:
    """A file with a few bytes of its head overwritten, often cut off, sometimes longer than it says."""
    head = bytearray(file)
    for _ in range(random.randint(1, 6)):
        at = random.randrange(min(len(head), 200))
        head[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    cut = random.choice((len(head), len(head), random.randrange(len(head)), 0))
    return bytes(head[:cut]) + random.randbytes(random.choice((0, 0, 50)))


_URLS = (
    *(
        "file:///etc/passwd",
        "/etc/passwd",
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest",
        "https://[::ffff:7f00:1]/",
    ),
    *(
        "data:",
        "data:,",
        "data:image/png,x",
        "data:image/png;base64,%%%",
        "ftp://x/y",
        "javascript:1",
        "",
        "\\\\host\\x",
    ),
    *("http://user@host/", "http://2130706433/", "http://0x7f.1/", "gopher://x", "data:image/png;base64," + "A" * 5000),
)


def media_kinds() -> list[str]:
    """The keys of `media_files`, without a file being made."""
    images = [f"image/{fmt}" for fmt in _IMAGES]
    return images + [f"audio/{kind}" for kind in AUDIO_FILES] + [f"video/{kind}" for kind in VIDEO_FILES]


@cache
def media_files() -> dict[str, tuple[str, bytes]]:
    """(type, file) of every kind that is decoded."""
    images = {f"image/{fmt}": (f"image/{fmt.lower()}", image_file(fmt, (40, 30))) for fmt in _IMAGES}
    sounds = {f"audio/{kind}": (f"audio/{kind.partition('-')[0]}", audio_file(kind, 4000)) for kind in AUDIO_FILES}
    films = {f"video/{kind}": (_VIDEO_TYPES[kind.partition("-")[0]], video_file(kind, 4)) for kind in VIDEO_FILES}
    return images | sounds | films


_VIDEO_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime", "webm": "video/webm"}
_IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
