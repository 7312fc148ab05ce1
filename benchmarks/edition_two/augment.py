"""What cameras and detectors do to a face, done to batches on whatever device they lie: all with 48x48 matrices."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

SIDE = 48


def blur_matrix(sigma: float) -> np.ndarray:
    """(48, 48): rows blurred by a Gaussian, the border repeated."""
    steps = np.arange(-12, 13)
    kernel = np.exp(-(steps**2) / (2 * sigma**2))
    matrix = np.zeros((SIDE, SIDE))
    for row in range(SIDE):
        for step, weight in zip(steps, kernel / kernel.sum(), strict=True):
            matrix[row, min(SIDE - 1, max(0, row + step))] += weight
    return matrix


def shrink_matrix(side: int) -> np.ndarray:
    """(48, 48): averaged down to ``side`` pixels and drawn up again linearly."""
    down, ratio = np.zeros((side, SIDE)), SIDE / side
    for i in range(side):
        for j in range(SIDE):
            down[i, j] = max(0.0, min((i + 1) * ratio, j + 1) - max(i * ratio, j)) / ratio
    up = np.zeros((SIDE, side))
    for i in range(SIDE):
        at = (i + 0.5) / ratio - 0.5
        left, part = math.floor(at), at - math.floor(at)
        up[i, min(side - 1, max(0, left))] += 1 - part
        up[i, min(side - 1, max(0, left + 1))] += part
    return up @ down


_QUANTISATION = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""  # of light in JPEG (ITU-T T.81, annex K)


@dataclass(frozen=True)
class Tables:
    """Matrices of every strength, on one device.

    Attributes:
        blurs: (45, 48, 48), standard deviation 0 to 2.2 pixels in steps of 0.05.
        shrinks: (37, 48, 48), to 12 … 48 pixels.
        cosines: (48, 48), six cosine transforms of eight.
        quantisation: (48, 48), of JPEG at quality 50.
        wide: (48, 48), a blur of 3 pixels: what local contrast is measured against.
    """

    blurs: torch.Tensor
    shrinks: torch.Tensor
    cosines: torch.Tensor
    quantisation: torch.Tensor
    wide: torch.Tensor

    @staticmethod
    def on(device: torch.device) -> "Tables":
        cosines = np.zeros((SIDE, SIDE))
        for start in range(0, SIDE, 8):
            for u in range(8):
                for n in range(8):
                    scale = math.sqrt((1 if u == 0 else 2) / 8)
                    cosines[start + u, start + n] = scale * math.cos((2 * n + 1) * u * math.pi / 16)
        quantisation = np.array(_QUANTISATION.split(), float).reshape(8, 8)
        arrays = (
            np.stack([blur_matrix(0.05 * k) if k else np.eye(SIDE) for k in range(45)]),
            np.stack([shrink_matrix(k) if k < SIDE else np.eye(SIDE) for k in range(12, SIDE + 1)]),
            cosines,
            np.tile(quantisation, (6, 6)),
            blur_matrix(3.0),
        )
        return Tables(*(torch.tensor(array, dtype=torch.float32, device=device) for array in arrays))


def normalise(x: torch.Tensor) -> torch.Tensor:
    """Each crop (n, 48, 48) at mean 0 and spread 1; one gray level squared more keeps an even surface even."""
    centred = x - x.mean((1, 2), keepdim=True)
    return centred / torch.sqrt((centred * centred).mean((1, 2), keepdim=True) + 1.0)


def network_input(x: torch.Tensor, channels: int, tables: Tables) -> torch.Tensor:
    """(n, channels, 48, 48) of normalised crops; the second channel is local contrast."""
    x = x[:, None]
    if channels == 2:
        detail = x - tables.wide @ x @ tables.wide.T
        local = tables.wide @ (detail * detail) @ tables.wide.T
        x = torch.cat([x, detail / torch.sqrt(local + 0.05)], 1)
    return x.to(memory_format=torch.channels_last)


def augment(
    crops: torch.Tensor, tables: Tables, wide_share: torch.Tensor, turn: float | None = None
) -> torch.Tensor:
    """Gray levels (n, 48, 48) of uint8 crops; ``wide_share`` of them changed as other people's cameras and boxes do,
    the others a little. All are turned by up to ``turn`` degrees, or by 25 where they are changed much."""
    n, device = len(crops), crops.device

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(n, device=device) * (high - low) + low

    def some(share: float | torch.Tensor) -> torch.Tensor:
        return (torch.rand(n, device=device) < share).float()

    def each(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None]

    x, wide = crops.float(), some(wide_share)
    strength = 0.35 + 0.65 * wide
    # Boxes: scale 0.78 to 1.42, shift 12 %, 25 degrees, the mirror image.
    scale = torch.exp(torch.where(wide > 0, uniform(math.log(0.78), math.log(1.42)), uniform(-0.12, 0.12)))
    aspect = torch.exp(uniform(-0.08, 0.08) * strength)
    most, share = (25 * strength, 0.8) if turn is None else (turn, 0.85)
    angle = uniform(-1, 1) * most * math.pi / 180 * some(share)
    flip = torch.sign(torch.rand(n, device=device) - 0.5)
    cos, sin, sx, sy = torch.cos(angle), torch.sin(angle), scale * aspect, scale / aspect
    shift_x, shift_y = uniform(-0.24, 0.24) * strength, uniform(-0.24, 0.24) * strength
    rows = ([cos * sx * flip, -sin * sy, shift_x], [sin * sx * flip, cos * sy, shift_y])
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = functional.affine_grid(theta, [n, 1, SIDE, SIDE], align_corners=False)
    x = functional.grid_sample(x[:, None], grid, padding_mode="reflection", align_corners=False)[:, 0]
    # Focus and resolution: blur to 1.9, 14 to 42 pixels, or sharpened.
    blurred = some(0.35) * wide + some(0.12) * (1 - wide)
    sigma = (blurred * uniform(4, 38) * torch.where(wide > 0, 1.0, 0.4)).round().long()
    full = torch.full((n,), 36.0, device=device)
    pixels = torch.where(some(0.28) * wide > 0, uniform(2, 30), full).round().long()
    sharpen = each(some(0.2) * (1 - blurred) * uniform(0.2, 1.2))
    matrix = torch.bmm(tables.shrinks[pixels], tables.blurs[sigma])
    matrix = matrix @ ((1 + sharpen) * torch.eye(SIDE, device=device) - sharpen * tables.blurs[18])
    x = torch.bmm(torch.bmm(matrix, x), matrix.transpose(1, 2)).clamp(0, 255)
    # Light from a side, gamma, contrast, exposure, darkness and its noise.
    across = torch.linspace(-1, 1, SIDE, device=device)
    down = each(uniform(-0.6, 0.6) * some(0.4) * strength) * across[None, :, None]
    right = each(uniform(-0.6, 0.6) * some(0.4) * strength) * across[None, None, :]
    ramp = torch.exp(down + right)
    x = (x * ramp / ramp.mean((1, 2), keepdim=True)).clamp(0, 255)
    gamma = each(torch.exp(uniform(-0.7, 0.7) * strength * some(0.7)))
    x = 255 * (x / 255).clamp_min(1e-4) ** gamma
    mean, contrast = x.mean((1, 2), keepdim=True), each(torch.exp(uniform(-0.7, 0.4) * strength))
    x = ((x - mean) * contrast + mean + each(uniform(-40, 40) * strength)).clamp(0, 255)
    light = each(torch.exp(uniform(math.log(0.1), 0) * some(0.15) * wide))
    noise = each(uniform(0, 8) * some(0.3) * wide) * light + 2.0 * (light < 0.9)
    x = (x * light + torch.randn_like(x) * noise).clamp(0, 255).round()
    # JPEG, quality 15 to 90.
    quality = uniform(15, 90)
    steps = (
        each(torch.where(quality < 50, 50 / quality, 2 - quality / 50).clamp_min(0.02)) * tables.quantisation
    )
    coded = torch.round(tables.cosines @ (x - 128) @ tables.cosines.T / steps) * steps
    coded = (tables.cosines.T @ coded @ tables.cosines + 128).clamp(0, 255)
    x = torch.where(each(some(0.3) * wide) > 0, coded, x)
    # Something in front of the face.
    hidden = each(some(0.35 * wide + 0.15 * (1 - wide))) * rectangle(
        uniform(0, SIDE), uniform(0, SIDE), uniform(0.1, 0.45) * SIDE, uniform(0.1, 0.6) * SIDE
    )
    filling = each(uniform(0, 255)) + torch.randn_like(x) * each(uniform(0, 50) * some(0.5))
    return x * (1 - hidden) + filling.clamp(0, 255) * hidden


def rectangle(y: torch.Tensor, x: torch.Tensor, height: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """(n, 48, 48), 1 inside."""
    at = torch.arange(SIDE, device=x.device) + 0.5
    rows = ((at[None] - y[:, None]).abs() < height[:, None] / 2).float()
    columns = ((at[None] - x[:, None]).abs() < width[:, None] / 2).float()
    return rows[:, :, None] * columns[:, None, :]


def mix(
    x: torch.Tensor, targets: list[torch.Tensor], share: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """MixUp or CutMix with the next of the batch, in a ``share`` of batches, half each; targets (n, k) follow."""
    n, drawn = len(x), torch.rand(1, device=x.device)
    kept = torch.rand(n, device=x.device).sqrt()
    kept = torch.maximum(kept, 1 - kept)
    blend, cut = (drawn < share / 2).float(), ((drawn >= share / 2) & (drawn < share)).float()
    side, y0, x0 = (1 - kept).sqrt() * SIDE, *(torch.rand(2, n, device=x.device) * SIDE)
    weight = 1 - blend * (1 - kept)[:, None, None] - cut * rectangle(y0, x0, side, side)
    part = weight.mean((1, 2))[:, None]
    return weight * x + (1 - weight) * x.roll(1, 0), [part * t + (1 - part) * t.roll(1, 0) for t in targets]
