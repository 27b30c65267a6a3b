"""Draws scenes with exact ground truth for all three tasks.

A scene is a meadow under a sky with balls, crates, rings and stars in it. Everything follows from one seed. Numpy's
PCG64 is the only source of randomness. Ground truth is exact because every pixel is painted by exactly one owner.

    scene = draw_scene(7)
    scene.image          # uint8 [H, W, 3]
    scene.owner          # int32 [H, W], index into scene.category_ids
    scene.category_ids   # (SKY, GRASS, BALL, ...)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MODEL = Path(__file__).parent / "model"  # which was trained on such scenes

BALL, CRATE, RING, STAR, SKY, GRASS = range(6)
CATEGORIES = ("ball", "crate", "ring", "star", "sky", "grass")
STUFF_IDS = frozenset({SKY, GRASS})

SIZES_HW = ((192, 256), (256, 192), (224, 224), (160, 288))

# disjoint ranges of seeds: no scene is in two splits
TRAIN_SEED, VAL_SEED, TEST_SEED, SHOW_SEED = 1_000_000, 2_000_000, 2_100_000, 3_000_000

# how far a thing reaches from its center, in radii: the corners of the largest crate
REACH = 1.25

Mask = NDArray[np.bool_]
Plane = NDArray[np.float64]
Box = tuple[slice, slice]


@dataclass(frozen=True)
class Scene:
    """A picture and its ground truth: ``image`` uint8 [H, W, 3], ``owner`` int32 [H, W] indexing ``category_ids``."""

    image: NDArray[np.uint8]
    owner: NDArray[np.int32]
    category_ids: tuple[int, ...]

    def masks(self) -> NDArray[np.bool_]:
        """Return all visible segments, bool [N, H, W], in the order of ``category_ids``. They tile the image."""
        return self.owner[None] == np.arange(len(self.category_ids), dtype=np.int32)[:, None, None]


def draw_scene(seed: int) -> Scene:
    """Draw the scene of a seed, the same on every machine and at every call."""
    rng = np.random.default_rng(seed)
    height, width = SIZES_HW[rng.integers(len(SIZES_HW))]
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image, owner = _backdrop(rng, y, x)
    category_ids = [SKY, GRASS]
    things: list[Mask] = []
    for _ in range(rng.integers(2, 7)):
        category = int(rng.integers(4))
        for _attempt in range(20):
            box, inside, color = _draw_thing(rng, category, y, x)
            mask = np.zeros((height, width), bool)
            mask[box] = inside
            if _leaves_enough([*things, mask]):
                break
        else:
            continue
        image[box][inside] = color[inside]
        owner[mask] = len(category_ids)
        things = [thing & ~mask for thing in things] + [mask]
        category_ids.append(category)
    image += rng.normal(0, 4, size=(height, width, 1))
    return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), owner, tuple(category_ids))


def _leaves_enough(stack: list[Mask]) -> bool:
    """Return whether the newest mask leaves at least half of each older one visible."""
    new = stack[-1]
    return all((old & ~new).sum() >= 0.5 * old.sum() for old in stack[:-1])


def _backdrop(rng: np.random.Generator, y: Plane, x: Plane) -> tuple[Plane, NDArray[np.int32]]:
    height, width = y.shape
    horizon = height * rng.uniform(0.3, 0.6)
    horizon = horizon + height * 0.05 * np.sin(x / width * rng.uniform(2, 9) + rng.uniform(0, 6))
    is_grass = y >= horizon
    sky = _paint((100, 160, 225), (200, 225, 245), y / height + 0.4 * _clouds(rng, y, x))
    blades = np.sin(x * 1.9 + 3 * np.sin(y * 0.35)) * 0.5 + rng.normal(0, 0.35, y.shape)
    grass = _paint((40, 110, 35), (120, 170, 60), 0.5 + 0.35 * blades)
    return np.where(is_grass[..., None], grass, sky), is_grass.astype(np.int32)


def _clouds(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    total = np.zeros_like(x)
    for _ in range(4):
        fy, fx = rng.uniform(0.02, 0.09, 2)
        total += np.sin(y * fy + rng.uniform(0, 6)) * np.sin(x * fx + rng.uniform(0, 6))
    return total / 2


def _draw_thing(rng: np.random.Generator, category: int, y: Plane, x: Plane) -> tuple[Box, Mask, Plane]:
    """Return the box of the picture that holds a thing, and in it its mask and its colors."""
    height, width = y.shape
    radius = min(height, width) * rng.uniform(0.12, 0.24)
    # centers keep a thing mostly, not always wholly, inside the picture
    middle = rng.uniform(0.1, 0.95) * height, rng.uniform(0.05, 0.95) * width
    top, left = (max(0, int(center - REACH * radius)) for center in middle)
    bottom, right = (int(center + REACH * radius) + 1 for center in middle)
    box = slice(top, bottom), slice(left, right)
    dy, dx = y[box] - middle[0], x[box] - middle[1]
    turn = rng.uniform(0, 2 * np.pi)
    v, u = dy * np.cos(turn) - dx * np.sin(turn), dy * np.sin(turn) + dx * np.cos(turn)
    light = rng.uniform(0.8, 1.1) - 0.35 * (dy + dx) / (2 * radius)
    mask, color = (_ball, _crate, _ring, _star)[category](rng, v / radius, u / radius)
    return box, mask, color * np.clip(light, 0.5, 1.3)[..., None]


def _ball(rng: np.random.Generator, v: Plane, u: Plane) -> tuple[Mask, Plane]:
    stripes = np.sin(v * rng.uniform(7, 11)) > 0.2
    return np.hypot(v, u) <= 1, np.where(stripes[..., None], (245.0, 225.0, 215.0), (215.0, 40.0, 35.0))


def _crate(rng: np.random.Generator, v: Plane, u: Plane) -> tuple[Mask, Plane]:
    half = rng.uniform(0.6, 0.9)
    mask = (np.abs(v) <= half) & (np.abs(u) <= 0.85)
    planks = (np.abs((v * 3.5) % 1 - 0.5) < 0.4) & (np.abs(u) < 0.72)
    return mask, np.where(planks[..., None], (150.0, 98.0, 52.0), (78.0, 46.0, 22.0))


def _ring(rng: np.random.Generator, v: Plane, u: Plane) -> tuple[Mask, Plane]:
    distance = np.hypot(v, u)
    blocks = (np.arctan2(v, u) * rng.integers(5, 8) / np.pi) % 2 < 1.4
    color = np.where(blocks[..., None], (250.0, 205.0, 30.0), (40.0, 40.0, 45.0))
    return (distance <= 1.05) & (distance >= rng.uniform(0.45, 0.55)), color


def _star(rng: np.random.Generator, v: Plane, u: Plane) -> tuple[Mask, Plane]:
    tip, notch, arm = 1.15, rng.uniform(0.52, 0.62), np.pi / 5
    angle = np.abs((np.arctan2(v, u) + arm) % (2 * arm) - arm)
    edge = tip * notch * np.sin(arm) / (tip * np.sin(angle) + notch * np.sin(arm - angle))
    dots = np.hypot((v * 4) % 1 - 0.5, (u * 4) % 1 - 0.5) < rng.uniform(0.2, 0.3)
    return np.hypot(v, u) <= edge, np.where(dots[..., None], (250.0, 235.0, 250.0), (150.0, 40.0, 175.0))


def _paint(low: tuple[int, int, int], high: tuple[int, int, int], amount: Plane) -> Plane:
    amount = np.clip(amount, 0, 1)[..., None]
    return np.asarray(low) * (1 - amount) + np.asarray(high) * amount
