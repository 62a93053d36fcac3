"""What each anatomy is made of. Every function paints one canvas; sizes and places vary with the canvas's generator."""

from __future__ import annotations

import math

import numpy as np

from koosh_models.simulation.shapes import Body, Canvas, Point

AROUND = 0.04
"""Relative spread of sizes and places from one seed to the next."""


def varied(canvas: Canvas, values: Point, spread: float = AROUND) -> Point:
    """The three numbers, each changed by a normal relative `spread`."""
    z, y, x = (v * (1 + spread * canvas.rng.standard_normal()) for v in values)
    return z, y, x


def body(
    canvas: Canvas,
    center: Point,
    radii: Point,
    value: float,
    *,
    turn: float = 0.0,
    power: float = 2.0,
    wobble: float = 0.0,
    grain: float = 0.06,
) -> None:
    """Paint a body whose place, size and value vary a little."""
    brightness = value * (1 + AROUND * canvas.rng.standard_normal())
    canvas.paint(Body(varied(canvas, center), varied(canvas, radii), brightness, turn, power, wobble, grain))


def pair(canvas: Canvas, center: Point, radii: Point, value: float, turn: float = 0.0, grain: float = 0.06) -> None:
    """Paint a body and its mirror image in x."""
    z, y, x = center
    body(canvas, (z, y, x), radii, value, turn=turn, grain=grain)
    body(canvas, (z, y, -x), radii, value, turn=-turn, grain=grain)


def head(canvas: Canvas) -> None:
    """A head: scalp, skull, folded cortex and white matter, ventricles, deep nuclei, cerebellum, eyes, vessels."""
    body(canvas, (-0.75, 0.05, 0), (0.6, 0.42, 0.4), 0.55, power=3, grain=0.15)
    size = varied(canvas, (0.84, 0.86, 0.7), 0.02)
    scale = [(1.0, 0.95, 0.1), (0.95, 0.08, 0.0), (0.9, 0.35, 0.0)]
    for share, value, grain in scale:
        z, y, x = (share * s for s in size)
        canvas.paint(Body((0, 0, 0), (z, y, x), value, grain=grain, wobble=0.006))
    z, y, x = size
    canvas.paint(Body((0, 0, 0), (0.86 * z, 0.86 * y, 0.86 * x), 0.6, wobble=0.035, grain=0.06))
    canvas.paint(Body((0, 0, 0), (0.76 * z, 0.76 * y, 0.74 * x), 0.85, wobble=0.11, grain=0.04))
    canvas.paint(Body((0.1, 0, 0), (0.7 * z, 0.8 * y, 0.012), 0.4))
    deep_brain(canvas)
    body(canvas, (-0.45, 0.42, 0), (0.2, 0.26, 0.4), 0.65, wobble=0.12, grain=0.2)
    body(canvas, (-0.5, 0.08, 0), (0.34, 0.12, 0.13), 0.8)
    pair(canvas, (-0.3, -0.68, 0.27), (0.13, 0.13, 0.13), 0.3, grain=0)
    pair(canvas, (-0.3, -0.76, 0.27), (0.04, 0.03, 0.05), 0.7, grain=0)
    body(canvas, (-0.45, -0.6, 0), (0.12, 0.12, 0.1), 0.03, grain=0)
    for side in (-1, 1):
        canvas.tree((-0.6, -0.02, 0.08 * side), (0.8, -0.2, 0.4 * side), 0.022, 0.3, 1.15, 4)


def deep_brain(canvas: Canvas) -> None:
    """Ventricles, basal nuclei and a few small lesions."""
    pair(canvas, (0.13, 0.02, 0.085), (0.1, 0.3, 0.055), 0.28, turn=0.2, grain=0.01)
    pair(canvas, (0.02, 0.3, 0.2), (0.06, 0.14, 0.05), 0.28, turn=-0.5, grain=0.01)
    body(canvas, (-0.03, 0.03, 0), (0.1, 0.16, 0.018), 0.28, grain=0)
    pair(canvas, (0.03, 0.1, 0.12), (0.1, 0.13, 0.08), 0.68)
    pair(canvas, (0.06, -0.15, 0.17), (0.12, 0.1, 0.045), 0.62, turn=0.3)
    pair(canvas, (0.0, -0.03, 0.24), (0.1, 0.15, 0.055), 0.64, turn=0.2)
    for _ in range(int(canvas.rng.integers(2, 7))):
        z, y, x = canvas.rng.uniform(-0.45, 0.45, 3)
        r = canvas.rng.uniform(0.015, 0.045)
        body(canvas, (z, y, x), (r, r, r), float(canvas.rng.choice([0.45, 1.1])))


def knee(canvas: Canvas) -> None:
    """A knee: skin and fat, muscle, femur, tibia, patella with trabeculae, cartilage, menisci, ligaments, vessels."""
    body(canvas, (0, 0.04, 0), (1.6, 0.74, 0.72), 0.9, power=2.6, wobble=0.02, grain=0.1)
    body(canvas, (0, 0.06, 0), (1.6, 0.62, 0.6), 0.4, power=2.4, wobble=0.05, grain=0.2)
    for z, radii in ((0.62, (0.62, 0.25, 0.27)), (-0.66, (0.6, 0.25, 0.28))):
        body(canvas, (z, 0, 0), radii, 0.06, power=3, grain=0)
        r = (radii[0] - 0.03, radii[1] - 0.035, radii[2] - 0.035)
        body(canvas, (z, 0, 0), r, 0.7, power=3, grain=0.3)
    for side in (-1, 1):
        for share, value, grain in ((1.0, 0.95, 0.05), (0.86, 0.06, 0.0), (0.8, 0.72, 0.3)):
            r = (0.24 * share, 0.34 * share, 0.235 * share)
            body(canvas, (0.2, 0.04, 0.25 * side), r, value, power=2.4, grain=grain)
        body(canvas, (-0.055, 0.03, 0.26 * side), (0.035, 0.3, 0.2), 0.95, grain=0.03)
        body(canvas, (-0.03, 0.03, 0.42 * side), (0.045, 0.24, 0.05), 0.05, grain=0)
    body(canvas, (-0.25, 0.02, 0), (0.19, 0.32, 0.46), 0.72, power=3.5, grain=0.3)
    body(canvas, (0.3, -0.48, 0), (0.2, 0.1, 0.2), 0.06, power=2.5, grain=0)
    body(canvas, (0.3, -0.48, 0), (0.17, 0.075, 0.17), 0.7, power=2.5, grain=0.3)
    for start, end in (((0.15, 0.2, 0.08), (-0.12, -0.12, -0.05)), ((0.15, 0.1, -0.08), (-0.15, 0.3, 0.03))):
        canvas.tube(np.array([start, end]), np.array([0.045, 0.04]), 0.1)
    canvas.tube(np.array([[0.9, -0.6, 0], [0.45, -0.58, 0]]), np.array([0.05, 0.05]), 0.08)
    for x in (-0.05, 0.06):
        canvas.tree((0.95, 0.42, x), (-1, 0.03, 0), 0.035, 0.8, 1.1, 3)


def torso(canvas: Canvas, muscle: float) -> None:
    """Skin and fat, the wall of muscle, spine with discs, and the aorta and vena cava."""
    body(canvas, (0, 0, 0), (1.8, 0.66, 0.9), 0.95, power=2.8, wobble=0.01, grain=0.08)
    body(canvas, (0, 0.01, 0), (1.8, 0.56, 0.8), muscle, power=2.6, wobble=0.015, grain=0.15)
    for level in np.arange(-0.9, 1.0, 0.26):
        canvas.paint(Body((float(level), 0.36, 0), (0.105, 0.12, 0.14), 0.62, power=4, grain=0.15))
        canvas.paint(Body((float(level) + 0.13, 0.36, 0), (0.03, 0.11, 0.13), 0.3, power=3))
    canvas.tube(np.array([[-1.0, 0.5, 0], [1.0, 0.5, 0]]), np.array([0.05, 0.05]), 0.75)


def chest(canvas: Canvas) -> None:
    """A chest: wall and ribs, lungs with branching vessels, heart with chambers, great vessels."""
    torso(canvas, 0.4)
    for side in (-1, 1):
        body(canvas, (0.08, 0.0, 0.42 * side), (0.85, 0.46, 0.3), 0.06, power=2.6, grain=0.35)
        for _ in range(3):
            way = (float(canvas.rng.uniform(-0.8, 0.8)), float(canvas.rng.uniform(-0.4, 0.4)), 1.0 * side)
            canvas.tree((0.1, 0.06, 0.13 * side), way, 0.038, 0.2, 0.75, 5)
        body(canvas, (-0.85, 0.0, 0.4 * side), (0.3, 0.4, 0.36), 0.55, grain=0.06)
        for level in np.arange(-0.7, 0.9, 0.22):
            arc = np.linspace(-0.4 * math.pi, 0.42 * math.pi, 16)
            ring = np.stack([level - 0.12 * np.cos(arc), 0.52 * np.sin(arc), side * 0.76 * np.cos(arc)], axis=1)
            canvas.tube(ring, np.full(16, 0.028), 0.15)
    heart(canvas, (-0.12, -0.12, 0.14), 1.0)
    arch = np.linspace(0, math.pi, 14)
    z = 0.35 + 0.16 * np.sin(arch)
    canvas.tube(np.stack([z, 0.08 - 0.15 * np.cos(arch), np.full(14, 0.02)], 1), np.full(14, 0.065), 0.95)
    canvas.tube(np.array([[0.35, 0.23, 0.05], [-1.0, 0.25, 0.06]]), np.array([0.06, 0.055]), 0.95)


def heart(canvas: Canvas, center: Point, size: float) -> None:
    """Left and right ventricles and atria around `center`."""
    z, y, x = center
    s = size
    canvas.paint(Body((z, y, x), (0.3 * s, 0.26 * s, 0.27 * s), 0.5, wobble=0.03, grain=0.08))
    canvas.paint(Body((z, y, x + 0.06 * s), (0.2 * s, 0.13 * s, 0.12 * s), 0.92, turn=0.4, grain=0.04))
    canvas.paint(Body((z, y - 0.08 * s, x - 0.13 * s), (0.2 * s, 0.11 * s, 0.08 * s), 0.9, turn=-0.5, grain=0.04))
    canvas.paint(Body((z + 0.22 * s, y + 0.08 * s, x + 0.02 * s), (0.11 * s, 0.1 * s, 0.12 * s), 0.9, grain=0.04))


def abdomen(canvas: Canvas) -> None:
    """An abdomen: liver with vessels, spleen, kidneys, stomach, bowel loops, gall bladder, great vessels."""
    torso(canvas, 0.38)
    body(canvas, (0, -0.05, 0), (1.6, 0.42, 0.68), 0.5, power=2.6, grain=0.2)
    body(canvas, (0.3, -0.08, -0.33), (0.5, 0.4, 0.36), 0.66, power=2.4, wobble=0.05, grain=0.05)
    for _ in range(3):
        way = (float(canvas.rng.uniform(-0.3, 0.9)), float(canvas.rng.uniform(-0.6, 0.6)), -0.8)
        canvas.tree((0.2, 0.08, -0.12), way, 0.032, 0.16, 0.95, 4)
    body(canvas, (0.35, 0.15, 0.52), (0.28, 0.2, 0.13), 0.58, turn=0.4, grain=0.05)
    body(canvas, (0.4, -0.15, 0.3), (0.28, 0.2, 0.2), 0.25, wobble=0.05, grain=0.3)
    body(canvas, (0.05, -0.3, -0.25), (0.12, 0.06, 0.06), 1.05, grain=0)
    for side in (-1, 1):
        body(canvas, (-0.12, 0.24, 0.36 * side), (0.28, 0.13, 0.12), 0.75, turn=0.5 * side, wobble=0.03)
        body(canvas, (-0.12, 0.22, 0.32 * side), (0.15, 0.06, 0.05), 0.5, turn=0.5 * side, wobble=0.1)
    loops(canvas)
    for x, value in ((0.06, 0.95), (-0.08, 0.85)):
        canvas.tube(np.array([[1.0, 0.19, x], [-0.5, 0.19, x], [-1.0, 0.2, 3 * x]]), np.full(3, 0.05), value)


def loops(canvas: Canvas) -> None:
    """Bowel: winding tubes with a brighter wall."""
    for _ in range(6):
        points = canvas.rng.uniform((-0.9, -0.3, -0.5), (-0.25, 0.05, 0.5))[None]
        for _ in range(3):
            way = canvas.rng.standard_normal(3) * (0.6, 0.4, 1.0)
            more, way = canvas.wind(points[-1], way, 0.3)
            points = np.concatenate([points, more[1:]])
        points = np.clip(points, (-1.0, -0.36, -0.58), (-0.15, 0.12, 0.58))
        canvas.tube(points, np.full(len(points), 0.075), 0.7)
        canvas.tube(points, np.full(len(points), 0.05), float(canvas.rng.uniform(0.15, 0.45)))


def vessels(canvas: Canvas) -> None:
    """An angiogram: bright winding trees and an aneurysm over a dim, textured background."""
    body(canvas, (0, 0, 0), (0.95, 0.8, 0.8), 0.16, power=2.5, wobble=0.02, grain=0.25)
    body(canvas, (0.1, 0.1, 0), (0.6, 0.55, 0.5), 0.11, wobble=0.1, grain=0.25)
    for side in (-1, 1):
        root = (-0.85, 0.05, 0.16 * side)
        canvas.tree(root, (1.0, -0.1, 0.15 * side), 0.06, 0.5, 1.0, 6)
        canvas.tree((-0.85, 0.3, 0.08 * side), (1.0, 0.1, 0.2 * side), 0.04, 0.4, 0.95, 5)
    r = float(canvas.rng.uniform(0.04, 0.08))
    body(canvas, (-0.25, -0.05, 0.2), (r, r, r), 1.0, grain=0.03)


def short_axis(canvas: Canvas, beat: float) -> None:
    """The heart in short axis at `beat` (0 to 1, end-diastole at 0): the cavity shrinks, the wall thickens."""
    squeeze = 0.5 - 0.5 * math.cos(2 * math.pi * min(beat / 0.75, 1.0))
    body(canvas, (0, 0, 0), (1.8, 0.7, 0.88), 0.95, power=2.8, grain=0.08)
    body(canvas, (0, 0.01, 0), (1.8, 0.6, 0.78), 0.35, power=2.6, grain=0.15)
    for side in (-1, 1):
        body(canvas, (0, 0.02, 0.47 * side), (0.9, 0.46, 0.24), 0.07, power=2.5, grain=0.3)
    body(canvas, (0, 0.42, -0.4), (0.5, 0.16, 0.3), 0.6, grain=0.08)
    body(canvas, (0, 0.4, 0), (0.5, 0.12, 0.13), 0.55, grain=0.15)
    body(canvas, (0, 0.2, 0.12), (0.5, 0.06, 0.06), 0.95, grain=0)
    outer = 0.29 - 0.02 * squeeze
    canvas.paint(Body((0, -0.06, 0.1), (0.5, outer, outer), 0.42, wobble=0.01, grain=0.1))
    inner = 0.2 * (1 - 0.38 * squeeze)
    canvas.paint(Body((0, -0.06, 0.1), (0.5, inner, inner), 1.0, wobble=0.02, grain=0.03))
    right = 1 - 0.25 * squeeze
    canvas.paint(Body((0, -0.12, -0.24), (0.5, 0.22 * right, 0.1 * right), 0.95, turn=-0.3, grain=0.03))
    for angle in (0.6, 2.4):
        spot = (0.0, -0.06 + 0.7 * inner * math.sin(angle), 0.1 + 0.7 * inner * math.cos(angle))
        canvas.paint(Body(spot, (0.1, 0.035, 0.035), 0.45))
