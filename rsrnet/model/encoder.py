"""The encoder (section 3.1): a ResNet that keeps its resolution in the shallow layers.

Shapes, for an input of H x W and width w (the paper's is 64)::

    stem + stage 1   w   x H    x W       3x3 convolution instead of 7x7, no pooling
    stage 2          2w  x H/2  x W/2
    stage 3          4w  x H/4  x W/4
    stage 4          8w  x H/8  x W/8     the RSR module works here
    stage 5          8w  x H/16 x W/16    max-pool and three blocks
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from torch import Tensor, nn

from rsrnet.model.double_conv import conv_norm, double_conv
from rsrnet.model.pixelwise import PixelConv

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Residual blocks in stages 1 to 4, by depth (He et al., 2016)."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, with the parameter names of torchvision's ResNets.

    It is written out because importing torchvision costs every process two seconds; a test holds it against the
    original.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                PixelConv(in_channels, channels, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        out = double_conv([x], self.conv1, self.bn1, self.conv2, self.bn2)
        shortcut = conv_norm(x, *self.downsample) if isinstance(self.downsample, nn.Sequential) else x
        return self.relu(out.add_(shortcut))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))


class Encoder(nn.Module):
    """Five res-blocks; the first four have the names and shapes of torchvision's ``layer1`` to ``layer4``."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.channels = (width, 2 * width, 4 * width, 8 * width, 8 * width)
        blocks = BLOCKS[depth]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.layer1 = _stage(width, width, blocks[0], stride=1)
        self.layer2 = _stage(width, 2 * width, blocks[1], stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = _stage(4 * width, 8 * width, blocks[3], stride=2)
        self.layer5 = nn.Sequential(
            nn.MaxPool2d(3, stride=2, padding=1), *_stage(8 * width, 8 * width, 3, stride=1)
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) to the five feature maps, finest first."""
        features = []
        conv, norm, relu = self.stem
        x = relu(conv_norm(x, conv, norm))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4, self.layer5):
            x = stage(x)
            features.append(x)
        return features


def _initialise(module: nn.Module) -> None:
    """Draw convolutions as He et al. (2015) do for ReLU networks: random encoders train poorly otherwise."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class WeightsError(ValueError):
    """Raised when the weights asked for the encoder cannot be had or do not fit."""


def read_resnet_weights(source: str, depth: int) -> dict[str, Tensor]:
    """Read the state dict of a classification ResNet.

    Args:
        source: ``imagenet`` for torchvision's ImageNet weights (downloaded once, then from torch's cache), or the
            path of a ``.pth`` or ``.safetensors`` file with torchvision's parameter names.
        depth: 18 or 34.

    Raises:
        WeightsError: if there is no such file, it cannot be read, or the download fails.
    """
    if source == "imagenet":
        return _download(depth)
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"encoder weights {source!r}: no such file; give a path, `imagenet`, or `none` to start from random weights"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # PyTorch's own message recommends to read it at any rate.
        raise WeightsError(
            f"encoder weights {path}: the file holds other things than tensors, or is damaged. It was not read, as "
            "that could run a program that somebody put there; save only the parameters, with "
            "`torch.save(model.state_dict(), path)` or as safetensors"
        ) from error
    except Exception as error:
        raise WeightsError(f"encoder weights {path}: not a readable ResNet state dict ({error})") from error


def _download(depth: int) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(f"resnet{depth}").DEFAULT
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, URLError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise WeightsError(
            f"the ImageNet weights of ResNet{depth} could not be downloaded ({error}). Three ways out: "
            f"put the file {cache.name} (SHA-256 begins with {cache.stem.split('-')[-1]}) at {cache}; "
            "or set encoder_weights to the path of such a file; "
            "or set encoder_weights to `none` to start from random weights"
        ) from error


def load_resnet_weights(encoder: Encoder, weights: dict[str, Tensor]) -> None:
    """Copy ``layer1`` to ``layer4`` of a ResNet into the encoder; its stem, pooling and classifier have no place.

    Raises:
        WeightsError: if a parameter is missing or has another shape (another depth, or a width other than 64).
    """
    own = {
        name: value
        for name, value in encoder.state_dict().items()
        if name.startswith(("layer1.", "layer2.", "layer3.", "layer4."))
    }
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"encoder weights: {len(missing)} parameters are missing, the first is {missing[0]}; "
            "are they of a ResNet of the same depth?"
        )
    for name, value in own.items():
        if name in weights and weights[name].shape != value.shape:
            raise WeightsError(
                f"encoder weights: {name} has shape {tuple(weights[name].shape)}, the encoder needs "
                f"{tuple(value.shape)}; ImageNet weights fit `width: 64` only"
            )
    encoder.load_state_dict({name: weights.get(name, value) for name, value in own.items()}, strict=False)
