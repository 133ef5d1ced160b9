"""Options of `sweep` that say what is asked: modalities, media, data sets, conversations, repetitions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ming_eval.load.media import MediaShape

TaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="TASKS",
        help="Modalities in and out: T2T, I2T, A2T, V2T, T2S, I2S, A2S, V2S; several with commas, each with points of "
        "its own. [default: T2T, or what --dataset is for]",
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="Media and questions of food101, librispeech, ucf101, videomme or seed-tts, or any files of a folder. "
        "[default: made for each request]",
    ),
]
DatasetDirOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where a named data set lies. [default: the hub, through the package datasets]"),
]
FilesOption = Annotated[int, typer.Option(min=1, max=64, help="Media files per request.")]
ImageSizeOption = Annotated[str, typer.Option(metavar="SIZE", help="Made images: 640x480, or 448 for a square.")]
AudioSecondsOption = Annotated[
    float,
    typer.Option(min=0.1, max=3600.0, metavar="SECONDS", help="Made sounds: how long they play."),
]
VideoSecondsOption = Annotated[
    float,
    typer.Option(
        min=0.25,
        max=600.0,
        metavar="SECONDS",
        help="Made clips: how long they play, 8 frames a second.",
    ),
]
VideoSizeOption = Annotated[str, typer.Option(metavar="SIZE", help="Made clips: as --image-size.")]
TurnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="TURNS",
        help="Conversations of so many turns: 4 or 2..6; each sends the turns before it again; --requests counts them.",
    ),
]
ThinkTimeOption = Annotated[
    float,
    typer.Option(min=0.0, metavar="SECONDS", help="Between an answer and the next turn of a conversation."),
]
HistoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="replies|scripted",
        help="What stands between a user's turns: the server's own replies, or drawn texts that are the same for every "
        "server. [default: replies]",
    ),
]
RepeatsOption = Annotated[
    int, typer.Option(min=1, max=100, help="Visit all points so often, with new requests: intervals over the passes.")
]
LogprobsOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=20,
        metavar="N",
        help="Ask for the log probability of each token and of N others, for `compare --agreement`.",
    ),
]
TemperatureOption = Annotated[
    float,
    typer.Option(min=0.0, max=2.0, metavar="T", help="Of every request; 0 takes the most likely token."),
]
SeedPerRequestOption = Annotated[
    bool | None,
    typer.Option(
        "--seed-per-request/--one-seed",
        help="A seed of its own for each request, drawn from --seed: the same on every server and every time. With one "
        "seed all streams draw equal noise. [default: seed-per-request where --temperature is above 0]",
    ),
]


def media_shape(count: int, image_size: str, audio_s: float, video_s: float, video_size: str) -> MediaShape:
    """The media that are made where no data set is named.

    Raises:
        UsageError: a size cannot be read.
    """
    from ming_eval.load.media import MediaShape, parse_size

    return MediaShape(
        count, parse_size(image_size, "--image-size"), audio_s, video_s, parse_size(video_size, "--video-size")
    )
