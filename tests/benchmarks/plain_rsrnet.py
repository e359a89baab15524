"""RSRNet as its equations are usually typed in: what the benchmarks compare `rsrnet` with.

Nothing is rearranged: convolutions of concatenations, one convolution a gate, Eq. 1 and Eq. 2 with their local
averages and norms anew in each of the K iterations, every mask upsampled in its iteration, in training and in
evaluation, and a loss that takes one mask after another (torch's BCE, SSIM by five 2-D convolutions with the 11 x 11
window, IoU in a loop over the images), in the formulation of public code of this field.

The parameters have the names and shapes of :class:`rsrnet.model.network.RSRNet` (the paper's configuration), whose
state dict it loads; tests/rsrnet/test_plain_form.py holds the two together, values and gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import MEAN, STD, RSRNet

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def conv3(in_channels: int, out_channels: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=bias)


class Block(nn.Module):
    """A residual block of ResNet18 and ResNet34."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(in_channels, channels, stride, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3(channels, channels, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


def stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Block(in_channels, channels, stride), *(Block(channels, channels) for _ in range(blocks - 1))
    )


class Encoder(nn.Module):
    """Section 3.1."""

    def __init__(self, depth: int, w: int) -> None:
        super().__init__()
        n1, n2, n3, n4 = BLOCKS[depth]
        self.stem = nn.Sequential(conv3(3, w, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True))
        self.layer1 = stage(w, w, n1, 1)
        self.layer2 = stage(w, 2 * w, n2, 2)
        self.layer3 = stage(2 * w, 4 * w, n3, 2)
        self.layer4 = stage(4 * w, 8 * w, n4, 2)
        self.layer5 = nn.Sequential(nn.MaxPool2d(3, 2, padding=1), *stage(8 * w, 8 * w, 3, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        f1 = self.layer1(self.stem(x))
        f2 = self.layer2(f1)
        f3 = self.layer3(f2)
        f4 = self.layer4(f3)
        return [f1, f2, f3, f4, self.layer5(f4)]


class GRU(nn.Module):
    """The four equations of section 3.2.2."""

    def __init__(self, hidden_channels: int, input_channels: int) -> None:
        super().__init__()
        self.conv_z = conv3(hidden_channels + input_channels, hidden_channels)
        self.conv_r = conv3(hidden_channels + input_channels, hidden_channels)
        self.conv_h = conv3(hidden_channels + input_channels, hidden_channels)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        hx = torch.cat([h, x], dim=1)
        z = torch.sigmoid(self.conv_z(hx))
        r = torch.sigmoid(self.conv_r(hx))
        q = torch.tanh(self.conv_h(torch.cat([r * h, x], dim=1)))
        return (1 - z) * h + z * q


class Upsampling(nn.Module):
    """The weighted combination of nine neighbours, section 3.2.2."""

    def __init__(self, hidden_channels: int, channels: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            conv3(hidden_channels, channels), nn.ReLU(inplace=True), nn.Conv2d(channels, 9 * 64, 1)
        )

    def forward(self, mask: Tensor, h: Tensor) -> Tensor:
        batch, _, height, width = mask.shape
        weights = 0.25 * self.weights(h)
        weights = weights.view(batch, 1, 9, 8, 8, height, width)
        weights = torch.softmax(weights, dim=2)
        up = F.unfold(F.pad(mask, (1, 1, 1, 1), mode="replicate"), 3)
        up = up.view(batch, 1, 9, 1, 1, height, width)
        up = torch.sum(weights * up, dim=2)
        return up.permute(0, 1, 4, 2, 5, 3).reshape(batch, 1, 8 * height, 8 * width)


class Reasoning(nn.Module):
    """Section 3.2."""

    def __init__(self, config: RSRNetConfig) -> None:
        super().__init__()
        w = config.width
        self.iterations, self.scales = config.iterations, config.scales
        self.style_head = nn.Sequential(
            conv3(8 * w, 4 * w), nn.ReLU(inplace=True), nn.Conv2d(4 * w, 4 * w, 1)
        )
        self.context_head = nn.Sequential(
            conv3(8 * w, 4 * w), nn.ReLU(inplace=True), nn.Conv2d(4 * w, 4 * w, 1)
        )
        self.mask_conv = nn.Sequential(conv3(1, w), nn.ReLU(inplace=True))
        self.similarity_conv = nn.Sequential(conv3(len(self.scales), w), nn.ReLU(inplace=True))
        self.update = GRU(2 * w, 6 * w + 1)
        self.initial = nn.Conv2d(4 * w, 2 * w, 1)
        self.residual = nn.Sequential(conv3(2 * w, 4 * w), nn.ReLU(inplace=True), nn.Conv2d(4 * w, 1, 1))
        self.upsample = Upsampling(2 * w, 4 * w)

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        f_s, f_c = self.style_head(features), self.context_head(features)
        h = torch.tanh(self.initial(f_c))
        logits = torch.zeros_like(f_s[:, :1])
        mask = torch.zeros_like(logits)
        upsampled = []
        for _ in range(self.iterations):
            s = self.similarity_map(f_s, self.prototype(f_s, mask))
            x = torch.cat([self.mask_conv(mask), self.similarity_conv(s), f_c, mask], dim=1)
            h = self.update(h, x)
            logits = logits + self.residual(h)
            mask = torch.sigmoid(logits)
            upsampled.append(self.upsample(mask, h))
        return mask, upsampled

    @staticmethod
    def prototype(f_s: Tensor, mask: Tensor) -> Tensor:
        """Eq. 1; the mean over the image where no pixel is background."""
        background = (mask < 0.5).float()
        count = background.sum(dim=(2, 3), keepdim=True)
        mean = (background * f_s).sum(dim=(2, 3), keepdim=True) / count.clamp(min=1)
        return torch.where(count > 0, mean, f_s.mean(dim=(2, 3), keepdim=True))

    def similarity_map(self, f_s: Tensor, f_bg: Tensor) -> Tensor:
        """Eq. 2."""
        maps = []
        for scale in self.scales:
            local = F.avg_pool2d(f_s, 2 * scale + 1, stride=1, padding=scale)
            maps.append(F.cosine_similarity(local, f_bg, dim=1))
        return torch.stack(maps, dim=1)


class UpBlock(nn.Module):
    """One step of the decoder."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(conv3(in_channels, out_channels), nn.ReLU(inplace=True))
        self.fuse = nn.Sequential(
            conv3(out_channels + skip_channels, out_channels, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            conv3(out_channels, out_channels, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        x = self.reduce(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.fuse(torch.cat([x, *skips], dim=1))


class Decoder(nn.Module):
    """Section 3.3."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.up4 = UpBlock(8 * w, 8 * w + 1, 8 * w)
        self.up3 = UpBlock(8 * w, 4 * w, 4 * w)
        self.up2 = UpBlock(4 * w, 2 * w, 2 * w)
        self.up1 = UpBlock(2 * w, w, w)
        self.mask = nn.Conv2d(w, 1, 1)

    def forward(self, features: list[Tensor], m_rsr: Tensor) -> tuple[Tensor, Tensor]:
        f1, f2, f3, f4, f5 = features
        x = self.up4(f5, f4, m_rsr)
        x = self.up3(x, f3)
        x = self.up2(x, f2)
        x = self.up1(x, f1)
        return torch.sigmoid(self.mask(x)), x


class Combination(nn.Module):
    """M_fnl, section 3.3."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(conv3(w + 2, w), nn.ReLU(inplace=True), nn.Conv2d(w, 1, 1))

    def forward(self, features: Tensor, m_dec: Tensor, m_rsr: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(torch.cat([features, m_dec, m_rsr], dim=1)))
        return g * m_dec + (1 - g) * m_rsr


@dataclass
class PlainOutput:
    masks: Tensor
    m_rsr: Tensor
    m_dec: Tensor
    m_fnl: Tensor


class PlainRSRNet(nn.Module):
    """The full model; images (B, 3, H, W) with sides that are multiples of 16."""

    def __init__(self, config: RSRNetConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.depth, config.width)
        self.reasoning = Reasoning(config)
        self.decoder = Decoder(config.width)
        self.combination = Combination(config.width)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> PlainOutput:
        features = self.encoder((images - self.mean) / self.std)
        m_rsr, upsampled = self.reasoning(features[3])
        m_dec, x = self.decoder(features, m_rsr)
        m_fnl = self.combination(x, m_dec, upsampled[-1])
        return PlainOutput(torch.cat(upsampled, dim=1), upsampled[-1], m_dec, m_fnl)


def plain_ssim(mask: Tensor, target: Tensor, window: Tensor) -> Tensor:
    """Of one mask of each image, (B, 1, H, W)."""

    def local_mean(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=5)

    mu1, mu2 = local_mean(mask), local_mean(target)
    var1 = local_mean(mask * mask) - mu1 * mu1
    var2 = local_mean(target * target) - mu2 * mu2
    cov = local_mean(mask * target) - mu1 * mu2
    top = (2 * mu1 * mu2 + 0.01**2) * (2 * cov + 0.03**2)
    return (top / ((mu1 * mu1 + mu2 * mu2 + 0.01**2) * (var1 + var2 + 0.03**2))).mean()


def plain_iou(mask: Tensor, target: Tensor) -> Tensor:
    """The loss of one mask of each image, (B, 1, H, W)."""
    losses = []
    for m, t in zip(mask, target, strict=True):
        intersection = (m * t).sum()
        losses.append(1 - intersection / (m.sum() + t.sum() - intersection))
    return torch.stack(losses).mean()


def plain_loss(masks: Tensor, target: Tensor, lambda_: float = 0.8) -> Tensor:
    """Eq. 3 of the K masks and the final one, (B, K + 1, H, W)."""
    line = torch.exp(-(torch.arange(11.0, device=masks.device) - 5).square() / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None].to(masks.dtype) / line.sum() ** 2
    last = masks.shape[1] - 1
    total = torch.zeros((), device=masks.device, dtype=masks.dtype)
    for k in range(last + 1):
        mask = masks[:, k : k + 1]
        weight = 1.0 if k == last else lambda_ ** (last - 1 - k)
        bce = F.binary_cross_entropy(mask, target)
        ssim = 1 - plain_ssim(mask, target, window)
        total = total + weight * (bce + ssim + plain_iou(mask, target))
    return total


@torch.no_grad()
def both(config: RSRNetConfig, device: str = "cpu", times: float = 2.0) -> tuple[RSRNet, PlainRSRNet]:
    """Our network and the plain one with the same weights, of which those of the residual head are enlarged.

    Untrained, that head would hardly move the mask. The more it does, the more each iteration enlarges what the one
    before it rounded.
    """
    ours, plain = RSRNet(config).to(device), PlainRSRNet(config).to(device)
    assert ours.reasoning is not None
    for parameter in ours.reasoning.residual.parameters():
        parameter *= times
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def plain_step(
    model: PlainRSRNet, optimizer: torch.optim.Optimizer, images: Tensor, target: Tensor
) -> Tensor:
    """One step of the training; its loss."""
    optimizer.zero_grad()
    output = model(images)
    loss = plain_loss(torch.cat([output.masks, output.m_fnl], dim=1), target)
    loss.backward()
    optimizer.step()
    return loss.detach()
