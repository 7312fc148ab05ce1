"""Residual networks for 48x48 gray faces: large teachers and the small student that ships."""

import torch
from torch import nn
from torch.nn import functional


class SqueezeExcite(nn.Module):
    """Weigh channels by what all of the map holds (Hu et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, channels // 8)
        self.a, self.b = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.b(functional.relu(self.a(x.mean((2, 3), keepdim=True)))))


def conv_bn(wide_in: int, wide_out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(wide_in, wide_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(wide_out)
    )


class Block(nn.Module):
    """Two convolutions and a way past them."""

    def __init__(self, wide_in: int, wide_out: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        self.a, self.b = conv_bn(wide_in, wide_out, 3, stride), conv_bn(wide_out, wide_out)
        self.se = SqueezeExcite(wide_out) if squeeze else nn.Identity()
        self.short: nn.Module = nn.Identity()
        if wide_in != wide_out or stride > 1:
            halve = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
            self.short = nn.Sequential(halve, *conv_bn(wide_in, wide_out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.se(self.b(functional.relu(self.a(x)))) + self.short(x))


class Net(nn.Module):
    """A stem at full size, stages of blocks, and two linear heads on the pooled end.

    Args:
        stem: channels of the first convolution.
        widths, blocks: channels and number of blocks of each stage.
        first: stride into the first stage; 2 into every other.
        squeeze: whether channels are weighed.
        drop: dropout before the heads.
        channels: of the input: 1, or 2 with local contrast beside.
    """

    def __init__(
        self,
        stem: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        first: int = 1,
        squeeze: bool = True,
        drop: float = 0.3,
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.stem, self.stages, wide = conv_bn(channels, stem), nn.ModuleList(), stem
        for k, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stride = first if k == 0 else 2
            made = [
                Block(wide if b == 0 else width, width, stride if b == 0 else 1, squeeze)
                for b in range(count)
            ]
            self.stages.append(nn.Sequential(*made))
            wide = width
        self.drop = drop
        self.hard, self.votes = nn.Linear(wide, 7), nn.Linear(wide, 7)

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The end of every stage, (n, c, h, w), for normalised crops (n, channels, 48, 48)."""
        x = functional.relu(self.stem(x))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, 7) of FER2013's labels, and of FER+'s votes."""
        pooled = functional.dropout(self.maps(x)[-1].mean((2, 3)), self.drop, self.training)
        return self.hard(pooled), self.votes(pooled)


STUDENT = {"stem": 32, "widths": (64, 112, 192, 256), "blocks": (2, 2, 2, 1), "first": 2, "drop": 0.1}
"""2.9 million weights, 0.19 billion multiplications a face."""

TEACHERS = {
    "t1": {
        "stem": 64, "widths": (128, 256, 512), "blocks": (2, 2, 2), "first": 2, "squeeze": False, "drop": 0.4,
        "channels": 2,
    },
    "t2": {"stem": 32, "widths": (32, 96, 256, 512), "blocks": (1, 2, 2, 2), "first": 1, "drop": 0.4},
    "t3": {"stem": 64, "widths": (112, 224, 448), "blocks": (2, 3, 2), "first": 2, "drop": 0.4},
}  # fmt: skip
"""Different on purpose: their mean is better than each. The first sees local contrast beside gray levels."""
