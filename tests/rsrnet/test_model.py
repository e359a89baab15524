"""The network against the paper's equations, written plainly, and against torchvision's ResNet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from rsrnet.config import ConfigError
from rsrnet.loss_config import LossConfig
from rsrnet.losses import RSRNetLoss
from rsrnet.model.config import ABLATIONS, RSRNetConfig, ablation
from rsrnet.model.encoder import Encoder, WeightsError, load_resnet_weights, read_resnet_weights
from rsrnet.model.network import RSRNet
from rsrnet.model.reasoning import (
    ConvexUpsampling,
    ConvGRU,
    background_prototype,
    local_directions,
    similarity_map,
)

SMALL = RSRNetConfig(depth=18, width=8, iterations=3)


def batch(count: int = 2, height: int = 48, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey noise with a red square, and the square's mask."""
    images = torch.rand(count, 3, height, width) * 0.2 + 0.4
    masks = torch.zeros(count, 1, height, width)
    masks[:, :, 8:28, 10:34] = 1
    images[:, :1] += 0.4 * masks
    return images, masks


@pytest.mark.parametrize("row", ABLATIONS)
def test_every_row_of_table_2_trains_and_predicts(row: str) -> None:
    torch.manual_seed(0)
    config = ablation(row, SMALL)
    model, criterion = RSRNet(config), RSRNetLoss(LossConfig())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    images, masks = batch()
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        terms = criterion(model(images), masks)
        terms.total.backward()
        assert all(p.grad is not None for p in model.parameters()), "DDP needs a gradient for every parameter"
        optimizer.step()
        losses.append(terms.total.item())
    assert losses[-1] < 0.9 * losses[0]
    with torch.no_grad():
        output = model.eval()(images)
    iterations = 0 if row == "unet" else config.iterations
    assert output.masks.shape == (2, iterations, 48, 64)
    for mask in (output.m_rsr, output.m_dec, output.m_fnl):
        assert mask.shape == (2, 1, 48, 64)
        assert mask.min() >= 0
        assert mask.max() <= 1


def test_rows_of_table_2_differ_in_what_they_should() -> None:
    images, _ = batch(1)
    with torch.no_grad():
        outputs = {row: RSRNet(ablation(row, SMALL)).eval()(images) for row in ABLATIONS}
    average = outputs["simple_average"]
    torch.testing.assert_close(average.m_fnl, (average.m_rsr + average.m_dec) / 2)
    for row in ("unet", "rsr", "similarity_only"):
        torch.testing.assert_close(outputs[row].m_fnl, outputs[row].m_dec)
    full = outputs["full"]
    between = torch.minimum(full.m_rsr, full.m_dec) - 1e-6 <= full.m_fnl
    assert between.all()
    assert (full.m_fnl <= torch.maximum(full.m_rsr, full.m_dec) + 1e-6).all()


def test_parameter_count_is_the_papers_order() -> None:
    millions = sum(p.numel() for p in RSRNet().parameters()) / 1e6
    assert 52 < millions < 57  # five-stage UNet 48.75 M, heads 2.5 M, RSR module 1.2 M and more


def test_encoder_shapes_are_the_papers() -> None:
    features = Encoder(34, 16)(torch.rand(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [
        (16, 64, 96),
        (32, 32, 48),
        (64, 16, 24),
        (128, 8, 12),
        (128, 4, 6),
    ]


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (50, 70), (96, 15)])
def test_any_image_size_gives_masks_of_that_size(size: tuple[int, int]) -> None:
    model = RSRNet(SMALL).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, *size))
    assert output.m_fnl.shape == (1, 1, *size)
    assert output.masks.shape == (1, 3, *size)


def test_padding_leaves_an_image_of_fitting_size_alone() -> None:
    model = RSRNet(SMALL).eval()
    image = torch.rand(1, 3, 40, 48)
    padded = F.pad(image, (0, 0, 0, 8), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(model(image).m_fnl, model(padded).m_fnl[..., :40, :])


def test_wrong_image_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), not \(3, 8, 8\)"):
        RSRNet(SMALL)(torch.rand(3, 8, 8))


def test_bfloat16_autocast_stays_close_to_float32() -> None:
    torch.manual_seed(1)
    model = RSRNet(SMALL).eval()
    images, _ = batch()
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            fast = model(images)
    assert fast.m_fnl.dtype == fast.masks.dtype == torch.float32
    assert (fast.m_fnl - exact.m_fnl).abs().mean() < 0.02


def test_iterations_can_differ_at_inference() -> None:
    model = RSRNet(SMALL).eval()
    images, _ = batch(1)
    with torch.no_grad():
        short, long = model(images, iterations=2), model(images, iterations=6)
    assert short.masks.shape[1] == 2
    torch.testing.assert_close(long.masks[:, :2], short.masks)


@given(data=st.data())
def test_prototype_is_equation_1(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    style = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    mask = rng.choice([0.0, 0.3, 0.5, 0.9], size=(2, 1, 3, 4)).astype(np.float32)
    expected = np.stack(
        [
            np.mean(
                [s[:, y, x] for y in range(3) for x in range(4) if m[0, y, x] < 0.5]
                or [s[:, y, x] for y in range(3) for x in range(4)],
                axis=0,
            )
            for s, m in zip(style, mask, strict=True)
        ]
    )
    result = background_prototype(torch.from_numpy(style), torch.from_numpy(mask))
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_prototype_without_background_is_the_global_mean() -> None:
    style = torch.rand(1, 4, 5, 5)
    prototype = background_prototype(style, torch.ones(1, 1, 5, 5))
    torch.testing.assert_close(prototype, style.mean((2, 3)))


def test_first_prototype_is_the_global_mean() -> None:
    style = torch.rand(2, 4, 5, 5)
    prototype = background_prototype(style, torch.zeros(2, 1, 5, 5))
    torch.testing.assert_close(prototype, style.mean((2, 3)))


@pytest.mark.parametrize("scales", [(0,), (0, 1, 2, 3), (4, 2)])
def test_similarity_map_is_equation_2(scales: tuple[int, ...]) -> None:
    generator = np.random.default_rng(3)
    style, prototype = generator.normal(size=(6, 7, 5)), generator.normal(size=6)
    expected = np.empty((len(scales), 7, 5))
    for index, scale in enumerate(scales):
        for y in range(7):
            for x in range(5):
                window = style[:, max(0, y - scale) : y + scale + 1, max(0, x - scale) : x + scale + 1]
                total = window.sum((1, 2))
                expected[index, y, x] = prototype @ total / np.linalg.norm(prototype) / np.linalg.norm(total)
    directions = local_directions(torch.from_numpy(style)[None], scales)
    result = similarity_map(directions, torch.from_numpy(prototype)[None].float())
    np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-5)


def test_gru_is_the_four_equations() -> None:
    """On X whole, in the order [features, F_c, mask]; values and gradients."""
    gru = ConvGRU(4, 3, 5).double()
    hidden, x, context = (torch.randn(2, channels, 5, 5).double().requires_grad_() for channels in (4, 3, 5))

    def conv(inputs: list[torch.Tensor], layer: torch.nn.Conv2d) -> torch.Tensor:
        return F.conv2d(torch.cat(inputs, 1), layer.weight, layer.bias, padding=1)

    whole = torch.cat([x[:, :2], context, x[:, 2:]], 1)
    z = 1 / (1 + torch.exp(-conv([hidden, whole], gru.conv_z)))
    r = 1 / (1 + torch.exp(-conv([hidden, whole], gru.conv_r)))
    candidate = torch.tanh(conv([r * hidden, whole], gru.conv_h))
    expected = (1 - z) * hidden + z * candidate
    result = gru(hidden, x, gru.unchanging(context), gru.weights())
    torch.testing.assert_close(result, expected)
    inputs = [hidden, x, context, *gru.parameters()]
    for found, true in zip(
        *(torch.autograd.grad(each.sum(), inputs) for each in (result, expected)), strict=True
    ):
        torch.testing.assert_close(found, true)


@pytest.mark.parametrize("row", [row for row in ABLATIONS if row != "unet"])
@pytest.mark.parametrize("tolerance", [None, 0.02])
def test_the_last_mask_alone_is_the_last_of_all(row: str, tolerance: float | None) -> None:
    torch.manual_seed(1)
    model = RSRNet(ablation(row, SMALL)).eval()
    images = torch.rand(5, 3, 48, 64) * torch.linspace(0.1, 1, 5).view(-1, 1, 1, 1)
    with torch.no_grad():
        every = model(images, 6, tolerance)
        last = model(images, 6, tolerance, every_mask=False)
    torch.testing.assert_close(last.masks, every.masks[:, -1:])
    torch.testing.assert_close(last.m_fnl, every.m_fnl)
    torch.testing.assert_close(last.m_dec, every.m_dec)
    assert last.iterations.tolist() == every.iterations.tolist()


def test_convex_upsampling_is_the_weighted_sum_of_nine_neighbours() -> None:
    torch.manual_seed(2)
    upsampling = ConvexUpsampling(4, 6)
    mask, hidden = torch.rand(1, 1, 3, 4), 5 * torch.randn(1, 4, 3, 4)
    with torch.no_grad():
        logits = 0.25 * upsampling.weights(hidden)
        result = upsampling(mask, hidden)
    assert result.shape == (1, 1, 24, 32)
    weights = logits.view(9, 8, 8, 3, 4).softmax(0)
    for y, x, i, j in [(0, 0, 0, 0), (2, 3, 7, 5), (1, 2, 3, 4), (2, 0, 1, 6)]:
        expected = sum(
            weights[3 * (dy + 1) + dx + 1, i, j, y, x]
            * mask[0, 0, min(max(y + dy, 0), 2), min(max(x + dx, 0), 3)]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        )
        torch.testing.assert_close(result[0, 0, 8 * y + i, 8 * x + j], expected)


def test_convex_upsampling_keeps_a_full_mask_full_up_to_the_border() -> None:
    upsampling = ConvexUpsampling(4, 6)
    result = upsampling(torch.ones(1, 1, 3, 3), torch.randn(1, 4, 3, 3))
    torch.testing.assert_close(result, torch.ones(1, 1, 24, 24))


@pytest.mark.parametrize("depth", [18, 34])
def test_resnet_weights_make_the_stages_of_torchvision(depth: int) -> None:
    from torchvision.models import resnet18, resnet34

    original = {18: resnet18, 34: resnet34}[depth]().eval()
    for name, buffer in original.named_buffers():  # running statistics that matter
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    encoder = Encoder(depth, 64).eval()
    load_resnet_weights(encoder, original.state_dict())
    x = torch.rand(1, 64, 16, 16)
    with torch.no_grad():
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            ours, theirs = getattr(encoder, stage)(x), getattr(original, stage)(x)
            torch.testing.assert_close(ours, theirs)
            x = theirs


def test_weights_of_another_depth_or_width_are_refused() -> None:
    weights = Encoder(18, 64).state_dict()
    with pytest.raises(WeightsError, match="same depth"):
        load_resnet_weights(Encoder(34, 64), weights)
    with pytest.raises(WeightsError, match="width: 64"):
        load_resnet_weights(Encoder(18, 32), weights)


def test_weights_are_read_from_both_kinds_of_file(tmp_path) -> None:
    weights = Encoder(18, 8).state_dict()
    torch.save(weights, tmp_path / "a.pth")
    save_file(weights, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        read = read_resnet_weights(str(tmp_path / name), 18)
        assert read.keys() == weights.keys()
        torch.testing.assert_close(read["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])


def test_unreadable_weights_are_named(tmp_path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        read_resnet_weights(str(tmp_path / "missing.pth"), 34)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(
        WeightsError, match=r"text\.pth: the file holds other things than tensors, or is damaged"
    ):
        read_resnet_weights(str(tmp_path / "text.pth"), 34)


def test_a_pickle_with_code_is_not_executed(tmp_path) -> None:
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"layer1": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError):
        read_resnet_weights(str(tmp_path / "evil.pth"), 34)
    assert not (tmp_path / "executed").exists()


def test_offline_without_weights_names_the_three_ways_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens on the discard port
    with pytest.raises(WeightsError) as error:
        read_resnet_weights("imagenet", 34)
    message = str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / "resnet34-b627a593.pth") in message
    assert "path of such a file" in message
    assert "`none`" in message


def test_imagenet_weights_are_taken_from_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    weights = {"layer1.0.conv1.weight": torch.rand(64, 64, 3, 3)}
    torch.save(weights, cached)
    assert torch.equal(
        read_resnet_weights("imagenet", 18)["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"]
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depth", 50),
        ("width", 6),
        ("iterations", 0),
        ("scales", (0, -1)),
        ("scales", (1, 1)),
        ("reasoning", "lstm"),
        ("context", "both"),
        ("upsampling", "nearest"),
        ("combination", "max"),
        ("hidden_init", "ones"),
    ],
)
def test_impossible_architectures_are_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as error:
        replace(SMALL, **{field: value})
    assert [problem.field for problem in error.value.problems] == [field]
