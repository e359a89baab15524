"""Training through its public surface: recipe, resuming, ranks, and the numbers it reports."""

from __future__ import annotations

import re
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsrnet import checkpoint, engine
from rsrnet.clock import Clock
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_list
from rsrnet.data.loader import loader
from rsrnet.data.sampler import evaluation_batches
from rsrnet.data.transforms import EvalTransform
from rsrnet.metrics import PUBLISHED, image_metrics
from rsrnet.model.config import ABLATIONS, RSRNetConfig, ablation
from rsrnet.model.encoder import Encoder, WeightsError
from rsrnet.model.network import RSRNet
from rsrnet.nonfinite import BadBatch, DivergedError
from rsrnet.recipe import FitConfig
from rsrnet.validation import evaluate
from tests.rsrnet.trainings import SIZE, loaders, losses, run, spawn, start, train_on_rank


def test_training_learns_and_reports(squares, tiny, recipe) -> None:
    seen = []
    training = start(tiny, replace(recipe, epochs=10, lr=1e-2, milestones=(9,)))
    training.run(*loaders(squares, training.config), on_epoch=lambda _: None, on_step=seen.append)
    assert losses(training)[-1] < 0.9 * losses(training)[0]
    metrics = training.metrics
    assert metrics["train/loss"] == pytest.approx(
        metrics["train/loss_bce"] + metrics["train/loss_ssim"] + metrics["train/loss_iou"], rel=1e-5
    )
    assert [(p.epoch, p.step) for p in seen] == [(e, s) for e in range(1, 11) for s in range(1, 4)]
    assert seen[-1].seconds_left == 0
    assert seen[0].seconds_left > 0
    assert all(p.images_per_second > 0 and p.steps == 3 for p in seen)
    assert 0 <= metrics["time/waiting_for_data"] < 1


def test_a_slow_first_step_is_forgotten_by_the_pace(monkeypatch) -> None:
    """It compiles, and the time left would be wrong for an hour."""
    times = iter([0.0, 0.0, 60.0, 60.0, 62.0, 62.0, 64.0])
    monkeypatch.setattr("rsrnet.clock.time.perf_counter", lambda: next(times))
    clock = Clock(steps=13)
    clock.start_epoch()
    found = []
    for _ in range(3):
        clock.got_batch()
        clock.did_step(8)
        found.append((clock.images_per_second, clock.seconds_left))
    assert found == [(8 / 60, 720.0), (4.0, 22.0), (4.0, 20.0)]


def test_a_batch_that_comes_while_the_device_works_was_not_waited_for(monkeypatch) -> None:
    times = iter([0.0, 1.0, 2.0, 3.0, 6.0, 7.0])  # of the third step, 3 s for the batch and 1 s for the rest
    monkeypatch.setattr("rsrnet.clock.time.perf_counter", lambda: next(times))
    clock = Clock(steps=3)
    clock.start_epoch()
    clock.got_batch()
    clock.did_step(8)
    clock.got_batch(idle=False)
    clock.did_step(8)
    assert (clock.steady.seconds, clock.steady.waiting) == (1.0, 0.0)
    clock.got_batch()
    clock.did_step(8)
    assert clock.steady.waiting == 3 / 5


def test_learning_rate_halves_after_the_milestones(squares, tiny, recipe) -> None:
    training = run(start(tiny, replace(recipe, epochs=4, lr=1e-3, milestones=(1, 3))), squares)
    assert [m["train/lr"] for m in training.history] == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4])


def test_recipe_defaults_are_the_papers() -> None:
    recipe = FitConfig()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (60, 32, 1e-4, 1e-4)
    assert (recipe.milestones, recipe.lr_decay, recipe.seed) == ((30, 40, 50, 55), 0.5, 42)
    (group,) = engine.Training(
        RSRNet(RSRNetConfig(depth=18, width=4)), recipe, size=SIZE
    ).optimizer.param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 1e-4)


def test_same_seed_gives_the_same_losses(squares, tiny, recipe) -> None:
    first, second = (run(start(tiny, recipe), squares) for _ in range(2))
    assert losses(first) == losses(second)
    other = run(start(tiny, replace(recipe, seed=8)), squares)
    assert losses(other) != losses(first)


def test_resumed_training_equals_an_uninterrupted_one(squares, tiny, recipe, tmp_path) -> None:
    whole = run(start(tiny, recipe), squares, on_epoch=lambda t: t.save(tmp_path / str(t.epoch)))
    resumed = start(tiny, replace(recipe, seed=recipe.seed))
    resumed.resume(tmp_path / "1")
    assert resumed.epoch == 1
    run(resumed, squares)
    assert losses(resumed) == losses(whole)
    assert resumed.metrics["train/lr"] == whole.metrics["train/lr"]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_moments_of_another_memory_layout_are_resumed_right(squares, tiny, recipe, tmp_path) -> None:
    """Checkpoints of earlier versions keep Adam's moments in another order than the parameters lie in now."""
    whole = run(start(tiny, recipe), squares, on_epoch=lambda t: t.save(tmp_path / str(t.epoch)))
    path = tmp_path / "1" / checkpoint.TRAINING
    state = torch.load(path, weights_only=False)
    for moments in state["optimizer"]["state"].values():
        moments["exp_avg"], moments["exp_avg_sq"] = (
            moments[name].contiguous() for name in ("exp_avg", "exp_avg_sq")
        )
    resumed = start(tiny, recipe)
    checkpoint.save(tmp_path / "older", checkpoint.load_model(tmp_path / "1"), resumed._card(), state)
    resumed.resume(tmp_path / "older")
    run(resumed, squares)
    assert losses(resumed) == losses(whole)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_fused_step_is_adams(tiny, recipe) -> None:
    torch.manual_seed(0)
    training = start(tiny, recipe)
    start_values = {name: value.detach().clone() for name, value in training.model.named_parameters()}
    plain = {name: value.clone().contiguous().requires_grad_() for name, value in start_values.items()}
    optimizer = torch.optim.Adam(plain.values(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    for _ in range(5):
        for name, value in training.model.named_parameters():
            plain[name].grad = torch.randn(value.shape)
            value.grad = torch.empty_like(value).copy_(plain[name].grad)
        training.optimizer.step()
        optimizer.step()
    for name, value in training.model.named_parameters():
        torch.testing.assert_close(value, plain[name], rtol=0, atol=1e-6, msg=name)


def test_best_epoch_is_the_first_with_the_highest_iou(tiny, recipe) -> None:
    training = start(tiny, recipe)
    training.history = [{engine.BEST: value} for value in (0.2, 0.5, 0.3, 0.5)]
    assert training.best_epoch == 2


def test_evaluation_is_the_mean_over_images_for_any_batch_size(squares, tiny) -> None:
    model = RSRNet(tiny).eval()
    val = read_list(squares, "le50_val.txt")
    dataset = IHarmony4(squares, val, EvalTransform(SIZE))
    results = [
        evaluate(model, loader(dataset, evaluation_batches(len(val), size, 0, 1), 0), "cpu")
        for size in (1, 3, 5)
    ]
    # Convolutions round differently in other batches, which can move a pixel in the ranking.
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    assert results[0] == pytest.approx(results[2], abs=1e-4)
    with torch.no_grad():
        scores = [
            image_metrics(model(item["image"][None]).m_rsr, item["mask"][None], PUBLISHED).iou.item()
            for item in (dataset[i] for i in range(len(dataset)))
        ]
    assert results[0]["val/m_rsr/iou"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)


class Spoiling:
    """Loads batches, and puts a NaN into the images of some of them, counted over all epochs from 0."""

    def __init__(self, batches: torch.utils.data.DataLoader, spoiled: set[int]) -> None:
        self.batches, self.spoiled, self.count = batches, spoiled, 0
        self.batch_sampler, self.dataset = batches.batch_sampler, batches.dataset

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            if self.count in self.spoiled:
                batch["image"][0, 0, 0, 0] = float("nan")
            self.count += 1
            yield batch


def run_spoiled(training: engine.Training, root: Path, spoiled: set[int], **how) -> engine.Training:
    train, val = loaders(root, training.config)
    training.run(Spoiling(train, spoiled), val, on_epoch=lambda _: None, **how)
    return training


def test_a_loss_that_is_no_number_stops_the_training_before_its_step(squares, tiny, recipe) -> None:
    kept = []
    training = start(tiny, recipe)
    with pytest.raises(DivergedError, match=r"epoch 2, step 1 is nan.*saved as here") as error:
        run_spoiled(training, squares, {3}, keep=lambda batch: kept.append(batch) or "here")
    (batch,) = kept
    assert (batch.epoch, batch.step) == (2, 1)
    assert torch.isnan(batch.image[0, 0, 0, 0])
    assert batch.image.shape == (len(batch.paths), 3, SIZE, SIZE)
    named = {composite.path for composite in read_list(squares, "le50_train.txt")}
    assert set(batch.paths) <= named
    assert all(path in str(error.value) for path in batch.paths)
    after_one = run(start(tiny, replace(recipe, epochs=1)), squares)
    for (name, value), expected in zip(
        training.model.named_parameters(), after_one.model.parameters(), strict=True
    ):
        assert torch.equal(value, expected), name


def _spoiled_on_rank(rank: int, world_size: int, root: Path, config, recipe, out: Path) -> None:
    def keep_slowly(batch: BadBatch) -> str:
        assert rank == 0
        time.sleep(1)
        out.write_text("\n".join(batch.paths))
        return str(out)

    train, val = loaders(root, recipe, rank, world_size)
    with pytest.raises(DivergedError, match=re.escape(f"saved as {out}")) as error:
        start(config, recipe).run(Spoiling(train, {0}), val, on_epoch=lambda _: None, keep=keep_slowly)
    assert all(path in str(error.value) for path in out.read_text().split("\n"))


def test_no_rank_ends_before_the_bad_batch_is_saved(squares, tiny, recipe, tmp_path) -> None:
    """What runs the ranks ends them all when the first of them ends; each knows where the batch is."""
    spawn(_spoiled_on_rank, 2, squares, tiny, recipe, tmp_path / "paths.txt")


def test_a_step_without_a_finite_loss_is_left_out_and_counted(squares, tiny, recipe) -> None:
    recipe = replace(recipe, on_nonfinite="skip")
    training = run_spoiled(start(tiny, recipe), squares, {1, 3})
    assert [metrics["train/skipped_steps"] for metrics in training.history][:3] == [1, 1, 0][: recipe.epochs]
    assert all(torch.isfinite(value).all() for value in training.model.state_dict().values())
    assert all(loss > 0 for loss in losses(training))


def test_ten_bad_steps_in_a_row_are_no_bad_batch(squares, tiny, recipe) -> None:
    training = start(tiny, replace(recipe, on_nonfinite="skip", epochs=20, batch_size=2))
    with pytest.raises(DivergedError, match=r"(?s)epoch 2, step 5 .*10th such step in a row"):
        run_spoiled(training, squares, set(range(1, 100)))


def test_an_epoch_without_a_finite_loss_ends_the_training(squares, tiny, recipe) -> None:
    training = start(tiny, replace(recipe, on_nonfinite="skip"))
    with pytest.raises(DivergedError, match="no step of epoch 1 had a finite loss"):
        run_spoiled(training, squares, set(range(100)))


@pytest.mark.parametrize("stop_at", [1, 2, pytest.param(4, id="behind the last step of the first epoch")])
def test_a_training_stopped_in_an_epoch_goes_on_to_the_same_numbers(
    squares, tiny, recipe, tmp_path, stop_at
) -> None:
    class After:
        """Asks to stop once some steps are done."""

        steps = 0

        def asked(self) -> bool:
            self.steps += 1
            return self.steps >= stop_at

        def due(self) -> bool:
            return False

        look = due

    whole = run(start(tiny, recipe), squares)
    stopped = start(tiny, recipe)
    assert not stopped.run(*loaders(squares, recipe), on_epoch=lambda _: None, notice=After())
    assert 0 < stopped.epoch * 3 + stopped.partial.step < recipe.epochs * 3
    stopped.save_partial(tmp_path, stopped.sums_of_all_ranks())
    resumed = start(tiny, replace(recipe, seed=recipe.seed))
    resumed.resume(tmp_path)
    assert resumed.partial.step == stopped.partial.step
    with warnings.catch_warnings():
        # Behind an epoch's last step the schedule is stepped first, as the optimizer was in another process.
        warnings.simplefilter("error")
        run(resumed, squares)
    assert losses(resumed) == losses(whole)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_bfloat16_trains(squares, tiny, recipe) -> None:
    training = run(start(tiny, replace(recipe, precision="bfloat16")), squares)
    assert losses(training)[-1] < losses(training)[0]
    assert next(training.model.parameters()).dtype == torch.float32


def test_start_weights_reach_the_encoder(tmp_path, recipe) -> None:
    weights = Encoder(18, 64).state_dict()
    torch.save(weights, tmp_path / "resnet.pth")
    model = RSRNet(RSRNetConfig(depth=18))
    engine.load_start(model, replace(recipe, encoder_weights=str(tmp_path / "resnet.pth")))
    assert torch.equal(model.encoder.layer3[0].conv1.weight, weights["layer3.0.conv1.weight"])
    with pytest.raises(WeightsError, match="width: 64"):
        engine.load_start(
            RSRNet(RSRNetConfig(depth=18, width=8)),
            replace(recipe, encoder_weights=str(tmp_path / "resnet.pth")),
        )


@pytest.mark.parametrize("batch_size", [4, 5])
def test_ranks_share_the_global_batch(squares, tiny, recipe, tmp_path, batch_size) -> None:
    """Two ranks take the steps of one, also where their shares of a batch are uneven.

    Batch statistics, which each rank takes from its own images, are left out.
    """
    recipe = replace(recipe, epochs=2, batch_size=batch_size)
    for world_size in (1, 2):
        spawn(train_on_rank, world_size, squares, tiny, recipe, tmp_path / str(world_size), True)
    one, two = (checkpoint.load_training(tmp_path / name)["history"] for name in ("1", "2"))
    for key in ("train/loss", "val/iou", "val/ap"):
        assert [m[key] for m in one] == pytest.approx([m[key] for m in two], abs=1e-4)
    expected = checkpoint.load_model(tmp_path / "1").state_dict()
    for name, value in checkpoint.load_model(tmp_path / "2").state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_saved_model_is_the_one_that_all_ranks_validated(squares, tiny, recipe, tmp_path) -> None:
    spawn(train_on_rank, 2, squares, tiny, replace(recipe, epochs=1), tmp_path, False)
    _, val = loaders(squares, recipe)
    alone = evaluate(checkpoint.load_model(tmp_path), val, "cpu")
    logged = checkpoint.read_card(tmp_path).metrics
    assert {key: logged[key] for key in alone} == pytest.approx(alone, abs=1e-4)


def _every_row(rank: int, world_size: int, root: Path, config, recipe) -> None:
    for row in ABLATIONS:
        training = start(ablation(row, config), recipe)
        training.run(*loaders(root, recipe, rank, world_size), on_epoch=lambda training: None)
        assert len(training.history) == 1


def test_every_row_of_table_2_trains_on_two_ranks(squares, tiny, recipe) -> None:
    spawn(_every_row, 2, squares, tiny, replace(recipe, epochs=1))


def test_checkpoint_predicts_without_the_training_state(squares, tiny, recipe, tmp_path) -> None:
    training = run(start(tiny, replace(recipe, epochs=1)), squares, on_epoch=lambda t: t.save(tmp_path))
    (tmp_path / checkpoint.TRAINING).unlink()
    card = checkpoint.read_card(tmp_path)
    assert (card.model, card.size, card.epoch) == (tiny, SIZE, 1)
    assert card.metrics == training.metrics
    images = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        expected = training.model.eval()(images).m_fnl
        torch.testing.assert_close(checkpoint.load_model(tmp_path)(images).m_fnl, expected)
