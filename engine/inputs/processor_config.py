"""What preprocessing must know about a checkpoint: patch geometry, pixel statistics, mel bins."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.model_config import AudioConfig, ModelConfig, VisionConfig

log = logging.getLogger(__name__)

Rgb = tuple[float, float, float]
Grid = tuple[int, int, int]

_GEOMETRY = {
    "patch_size": "patch_size",
    "temporal_patch_size": "temporal_patch_size",
    "merge_size": "spatial_merge_size",
}
_STATISTICS = ("image_mean", "image_std")


@dataclass(frozen=True, slots=True)
class ImageProcessorConfig:
    """Patch geometry and normalisation of pixels; the defaults are the released values."""

    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    image_mean: Rgb = (0.48145466, 0.4578275, 0.40821073)
    image_std: Rgb = (0.26862954, 0.26130258, 0.27577711)

    @property
    def factor(self) -> int:
        """Both sides of a resized image are multiples of this many pixels: one side of a merged token."""
        return self.patch_size * self.merge_size

    def num_tokens(self, grid: Grid) -> int:
        """Placeholder tokens of a (t, h, w) grid of patches."""
        t, h, w = grid
        return t * h * w // self.merge_size**2


@dataclass(frozen=True, slots=True)
class AudioProcessorConfig:
    """Mel bins, and kernel and stride of the projector that follows the encoder; released values by default."""

    num_mels: int = 128
    ds_kernel_size: int = 3
    ds_stride: int = 2

    def num_tokens(self, num_frames: int) -> int:
        """Placeholder tokens of a clip of mel frames, 10 ms each: ceil(L / 4) for the released values."""
        encoded = (num_frames - 1) // 2 + 1  # the encoder's second convolution: kernel 3, stride 2, padding 1
        return (encoded - self.ds_kernel_size + 2 * (self.ds_kernel_size // 2)) // self.ds_stride + 1


@dataclass(frozen=True, slots=True)
class MediaConfig:
    """Everything that media preprocessing needs; plain data, so that it can be sent to a worker."""

    image: ImageProcessorConfig = field(default_factory=ImageProcessorConfig)
    audio: AudioProcessorConfig = field(default_factory=AudioProcessorConfig)

    @staticmethod
    def load(directory: Path, model: ModelConfig) -> MediaConfig:
        """From a snapshot's `preprocessor_config.json`, where it has one, and its model configuration.

        Raises:
            ConfigError: the file cannot be read or holds impossible values.
        """
        image = load_image_config(directory, model.vision)
        return MediaConfig(image, _audio_config(model.audio) if model.audio else AudioProcessorConfig())


def load_image_config(directory: Path, vision: VisionConfig | None = None) -> ImageProcessorConfig:
    """Released defaults, overridden by `preprocessor_config.json`; the geometry is that of `vision` where given.

    Repackaged snapshots carry the file of another processor, so keys that are not ours are ignored, and a patch
    geometry that contradicts the tower, whose weights decide it, gives way with a warning.

    Raises:
        ConfigError: the file is no JSON object, or one of our keys has an impossible value.
    """
    stated = _stated_values(directory / "preprocessor_config.json")
    if vision is None:
        return ImageProcessorConfig(**stated)
    geometry = {ours: getattr(vision, theirs) for ours, theirs in _GEOMETRY.items()}
    wrong = {key: stated[key] for key in _GEOMETRY if stated.get(key, geometry[key]) != geometry[key]}
    if wrong:
        log.warning("preprocessor_config.json says %s, vision_config says %s; using the latter", wrong, geometry)
    return ImageProcessorConfig(**(stated | geometry))


def _stated_values(file: Path) -> dict[str, Any]:
    """The keys of `ImageProcessorConfig` that the file has, checked."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); fetch the file again, or remove it") from None
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{file}: holds no JSON object; fetch the file again, or remove it")
    sizes = {key: _positive_int(file, key, tree[key]) for key in _GEOMETRY if tree.get(key) is not None}
    return sizes | {key: _rgb(file, key, tree[key]) for key in _STATISTICS if tree.get(key) is not None}


def _positive_int(file: Path, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{file}: {key} is {value!r}; it must be a positive integer")
    return value


def _rgb(file: Path, key: str, value: Any) -> Rgb:
    numbers = isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value)
    if not numbers or (key == "image_std" and min(value) <= 0):
        raise ConfigError(f"{file}: {key} is {value!r}; it must be three numbers, one for each of R, G, B")
    red, green, blue = map(float, value)
    return red, green, blue


def _audio_config(audio: AudioConfig) -> AudioProcessorConfig:
    return AudioProcessorConfig(audio.whisper_encoder_config.n_mels, audio.ds_kernel_size, audio.ds_stride)
