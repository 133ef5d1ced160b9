"""Plain shapes and block letters on a pixel grid, exact to the pixel whatever libraries are installed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (20, 20, 20)
RED: Colour = (220, 40, 40)
GREEN: Colour = (30, 150, 60)
BLUE: Colour = (40, 80, 210)
YELLOW: Colour = (250, 210, 50)
ORANGE: Colour = (240, 140, 30)

_GLYPH_WIDTH, _GLYPH_HEIGHT = 5, 7

# Seven rows of five dots.
_GLYPHS = {
    "A": (".###.", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "B": ("####.", "#...#", "#...#", "####.", "#...#", "#...#", "####."),
    "C": (".####", "#....", "#....", "#....", "#....", "#....", ".####"),
    "D": ("####.", "#...#", "#...#", "#...#", "#...#", "#...#", "####."),
    "E": ("#####", "#....", "#....", "####.", "#....", "#....", "#####"),
    "H": ("#...#", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "O": (".###.", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
}


class Canvas:
    """A picture, `pixels` [height, width, 3]; places are (x, y) from the upper left corner."""

    def __init__(self, width: int, height: int, colour: Colour = WHITE) -> None:
        self.pixels: Pixels = np.full((height, width, 3), colour, np.uint8)
        self._y, self._x = np.ogrid[:height, :width]

    def circle(self, x: int, y: int, radius: int, colour: Colour) -> None:
        """A disc around (x, y)."""
        self.pixels[(self._x - x) ** 2 + (self._y - y) ** 2 <= radius**2] = colour

    def box(self, x: int, y: int, width: int, height: int, colour: Colour) -> None:
        """A filled rectangle whose upper left corner is (x, y)."""
        self.pixels[y : y + height, x : x + width] = colour

    def text(self, x: int, y: int, text: str, scale: int, colour: Colour = BLACK) -> None:
        """Block letters of 5 x 7 dots, `scale` pixels a dot, one dot apart."""
        for index, letter in enumerate(text):
            dots = np.array([[dot == "#" for dot in row] for row in _GLYPHS[letter]])
            left = x + index * (_GLYPH_WIDTH + 1) * scale
            target = self.pixels[y : y + _GLYPH_HEIGHT * scale, left : left + _GLYPH_WIDTH * scale]
            target[dots.repeat(scale, axis=0).repeat(scale, axis=1)] = colour
