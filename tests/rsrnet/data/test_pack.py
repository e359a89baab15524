"""Packs: what is written, and that reading one is reading the folder."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow.dataset
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rsrnet.data.errors import BadDataError, DataError
from rsrnet.data.folds import folds, holdout
from rsrnet.data.iharmony4 import IHarmony4, open_pair
from rsrnet.data.inspection import inspect, usable
from rsrnet.data.lists import fingerprint, read_list
from rsrnet.data.loader import loader
from rsrnet.data.naming import Composite
from rsrnet.data.pack import plan
from rsrnet.data.pack.area import shrink
from rsrnet.data.pack.layout import PackConfig
from rsrnet.data.pack.report import PackReport
from rsrnet.data.pack.write import pack
from rsrnet.data.sampler import ShardedBatches
from rsrnet.data.storage import Storage
from rsrnet.data.transforms import EvalTransform, TrainTransform

LOSSLESS = PackConfig(side=32, format="png")
TRAIN = 40


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 16 composites in row groups of 4."""
    monkeypatch.setattr(plan, "ROWS_A_GROUP", 4)
    monkeypatch.setattr(plan, "ROWS_A_SHARD", 16)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty composites to train on and five to test, of three sub-datasets and several sizes."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    names: list[str] = []
    for number in range(TRAIN + 5):
        letter, subset = (("c", "HCOCO"), ("a", "HAdobe5k"), ("d", "Hday2night"))[number % 3]
        composite = Composite.parse(f"{subset}/composite_images/{letter}{number // 6}-{number}_1_1.jpg")
        names.append(composite.path)
        height, width = rng.integers(20, 90, 2)
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2, : rng.integers(1, width)] = 255
        for folder in ("composite_images", "masks"):
            (root / subset / folder).mkdir(parents=True, exist_ok=True)
        corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        corners.resize((int(width), int(height))).save(root / composite.path, quality=95)
        Image.fromarray(mask).save(root / composite.mask_path)
    (root / "le50_train.txt").write_text("\n".join(names[:TRAIN]))
    (root / "le50_test.txt").write_text("\n".join(names[TRAIN:]))
    return root


@pytest.fixture
def packed(photographs: Path, tmp_path: Path) -> Path:
    """The same, packed without loss."""
    pack(photographs, str(tmp_path / "pack"), LOSSLESS, processes=1)
    return tmp_path / "pack"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def read_all(root: str | Path, name: str = "le50_train.txt") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pairs = {}
    for composite in read_list(root, name):
        image, mask = open_pair(root, composite)
        pairs[composite.name] = np.asarray(image), np.asarray(mask)
    return pairs


class TestTheAreaFilter:
    @given(
        height=st.integers(1, 60), width=st.integers(1, 60), side=st.integers(1, 60), seed=st.integers(0, 9)
    )
    def test_is_the_mean_of_the_rectangle(self, height: int, width: int, side: int, seed: int) -> None:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
        small = shrink(pixels, side)
        if min(height, width) <= side:
            assert small is pixels
            return
        assert min(small.shape) == side
        # Each pixel repeated, so that every rectangle consists of whole ones.
        fine = np.repeat(np.repeat(pixels, small.shape[0], 0), small.shape[1], 1).astype(float)
        means = fine.reshape(small.shape[0], height, small.shape[1], width).mean((1, 3))
        np.testing.assert_allclose(small, means, atol=0.501)

    @settings(max_examples=10)
    @given(height=st.integers(33, 400), width=st.integers(33, 400))
    def test_is_that_of_opencv(self, height: int, width: int) -> None:
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        small = shrink(pixels, 32)
        expected = cv2.resize(pixels, small.shape[1::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(small.astype(int), expected.astype(int), atol=1)


class TestReadingAPack:
    def test_gives_the_shrunk_pairs_of_the_folder(self, photographs: Path, packed: Path) -> None:
        for name in ("le50_train.txt", "le50_test.txt"):
            expected, found = read_all(photographs, name), read_all(packed, name)
            assert expected.keys() == found.keys()
            for composite, (image, mask) in expected.items():
                np.testing.assert_array_equal(found[composite][0], shrink(image, 32))
                np.testing.assert_array_equal(found[composite][1], shrink(mask, 32))

    def test_as_jpeg_is_nearly_the_same(self, photographs: Path, tmp_path: Path) -> None:
        pack(photographs, str(tmp_path / "pack"), PackConfig(side=32), processes=1)
        found = read_all(tmp_path / "pack")
        for composite, (image, mask) in read_all(photographs).items():
            assert abs(found[composite][0].astype(float) - shrink(image, 32)).mean() < 2
            np.testing.assert_array_equal(found[composite][1], shrink(mask, 32))

    def test_takes_sub_datasets_and_names_what_is_there(self, photographs: Path, packed: Path) -> None:
        chosen = read_list(packed, "le50_train.txt", ["hday2night"])
        assert {*chosen} == {*read_list(photographs, "le50_train.txt", ["Hday2night"])}
        with pytest.raises(
            DataError, match=r"le50_train\.txt lists only composites of HAdobe5k, HCOCO, Hday2"
        ):
            read_list(packed, "le50_train.txt", ["HFlickr"])
        with pytest.raises(DataError, match=r"no list mine\.txt: it holds le50_train\.txt, le50_test\.txt"):
            read_list(packed, "mine.txt")

    def test_of_a_composite_that_is_not_there_names_it(self, packed: Path) -> None:
        with pytest.raises(BadDataError, match=r"c77_1_1\.jpg: not in the pack"):
            open_pair(packed, Composite.parse("c77_1_1.jpg"))

    def test_splits_like_the_folder(self, photographs: Path, packed: Path) -> None:
        of_folder, of_pack = (read_list(root, "le50_train.txt") for root in (photographs, packed))
        splits = zip(
            [holdout(of_folder, 0.2, 3), *folds(of_folder, 3, 1)],
            [holdout(of_pack, 0.2, 3), *folds(of_pack, 3, 1)],
            strict=True,
        )
        for expected, found in splits:
            assert {*expected.train} == {*found.train}
            assert {*expected.val} == {*found.val}
            assert not isinstance(found.train, list)  # still made when asked for

    def test_lists_behave_like_sequences(self, packed: Path) -> None:
        listed = read_list(packed, "le50_train.txt")
        assert [listed[place] for place in range(len(listed))] == list(listed) == [*listed[:7], *listed[7:]]
        assert listed[-1] == list(listed)[-1]
        with pytest.raises(IndexError):
            listed[len(listed)]

    def test_leaves_out_what_is_bad(self, packed: Path) -> None:
        listed = read_list(packed, "le50_train.txt")
        damage(packed / "le50_train/00001.parquet")
        report = inspect(packed, listed, threads=2)
        assert len(report.bad) == 1
        assert len(usable(listed, report, "skip")) == len(listed) - 1

    def test_fingerprint_tells_the_content(self, photographs: Path, packed: Path, tmp_path: Path) -> None:
        pack(photographs, str(tmp_path / "jpeg"), PackConfig(side=32), processes=1)
        pack(photographs, str(tmp_path / "again"), LOSSLESS, processes=1)
        first, jpeg, again = (
            fingerprint(root, read_list(root, "le50_test.txt"))
            for root in (packed, tmp_path / "jpeg", tmp_path / "again")
        )
        assert first == again != jpeg


class TestTheOrder:
    def batches(self, dataset: IHarmony4, world: int = 1, processes: int = 0, epoch: int = 2) -> list:
        """The global batches of an epoch: the bytes of all their images, by index."""
        steps: list[dict] = []
        for rank in range(world):
            shard = ShardedBatches(len(dataset), 6, rank, world, 5, dataset.blocks)
            shard.set_epoch(epoch)
            for step, batch in enumerate(loader(dataset, shard, processes)):
                steps += [{}] * (step + 1 - len(steps))
                steps[step] = steps[step] | {
                    int(index): image.numpy().tobytes()
                    for index, image in zip(batch["index"], batch["image"], strict=True)
                }
        return steps

    def dataset(self, root: str | Path) -> IHarmony4:
        return IHarmony4(root, read_list(root, "le50_train.txt"), TrainTransform(32), seed=5)

    def test_is_the_same_for_any_ranks_and_processes(self, packed: Path) -> None:
        dataset = self.dataset(packed)
        expected = self.batches(dataset)
        assert self.batches(dataset, world=3) == expected
        assert self.batches(dataset, processes=2) == expected
        assert self.batches(dataset, world=2, processes=1) == expected
        assert self.batches(dataset, epoch=3) != expected

    def test_is_the_same_from_an_object_store(self, packed: Path) -> None:
        expected = self.batches(self.dataset(packed))
        # pyarrow does not know this scheme, so it goes through fsspec, as a store would.
        assert self.batches(self.dataset(f"local://{packed}"), processes=1) == expected

    def test_keeps_row_groups_together(self, packed: Path) -> None:
        dataset = self.dataset(packed)
        assert dataset.blocks is not None
        assert dataset.blocks.tolist() == list(range(0, TRAIN, 4))
        subset = IHarmony4(packed, read_list(packed, "le50_train.txt", ["HCOCO"]), EvalTransform(32))
        assert subset.blocks is not None
        assert subset.blocks[0] == 0
        assert (np.diff(subset.blocks) >= 1).all()
        assert subset.blocks[-1] < len(subset)

    def test_datasets_go_to_other_processes_without_their_index(self, packed: Path) -> None:
        dataset = self.dataset(packed)
        sent = pickle.dumps(dataset)
        assert len(sent) < 2000
        assert torch.equal(pickle.loads(sent)[3, 7]["image"], dataset[3, 7]["image"])


class TestAnObjectStore:
    @pytest.fixture
    def uri(self, request: pytest.FixtureRequest) -> Iterator[str]:
        folder = f"memory://{request.node.name}/pack"
        yield folder
        fsspec.filesystem("memory").rm(folder, recursive=True)

    def test_holds_the_same_pack(self, photographs: Path, packed: Path, uri: str) -> None:
        pack(photographs, uri, LOSSLESS, processes=1)
        store = fsspec.filesystem("memory")
        root = uri.removeprefix("memory:/")
        held = {path.removeprefix(root + "/"): store.cat(path) for path in store.find(uri)}
        assert held == files_of(packed)
        assert pack(photographs, uri, LOSSLESS, processes=1).reused == 4

    def test_is_read_like_a_folder(self, photographs: Path, packed: Path, uri: str) -> None:
        pack(photographs, uri, LOSSLESS, processes=1)
        expected, found = read_all(packed), read_all(uri)
        assert expected.keys() == found.keys()
        for name, pair in expected.items():
            assert all(map(np.array_equal, pair, found[name]))

    def test_is_asked_once_an_epoch_for_a_row_group(
        self, photographs: Path, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pack(photographs, uri, LOSSLESS, processes=1)
        dataset = IHarmony4(uri, read_list(uri, "le50_train.txt"), TrainTransform(32))
        asked: list[tuple[str, int]] = []
        read = Storage.read

        def counted(self: Storage, name: str, start: int = 0, size: int | None = None) -> bytes:
            asked.append((name, start))
            return read(self, name, start, size)

        monkeypatch.setattr(Storage, "read", counted)
        list(loader(dataset, ShardedBatches(len(dataset), 6, 0, 1, 0, dataset.blocks), 0))
        assert len(asked) == len({*asked}) == TRAIN // 4

    def test_as_a_file_uri_is_a_folder(self, photographs: Path, tmp_path: Path) -> None:
        uri = (tmp_path / "a pack").as_uri()
        pack(photographs, uri, LOSSLESS, processes=1)
        assert (tmp_path / "a pack/pack.json").is_file()
        assert len(read_all(uri)) == TRAIN

    @pytest.mark.parametrize(
        ("uri", "message"),
        [("memory://nothing/here", r"memory://nothing/here is no pack"), ("gopher://x/y", "gopher://x/y: ")],
    )
    def test_without_a_pack_is_refused(self, uri: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_list(uri, "le50_train.txt")


class InterruptionError(Exception):
    pass


def interrupted_after(composites: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= composites:
            raise InterruptionError

    return progress


class TestPacking:
    def test_writes_a_table_that_says_what_was_packed(self, photographs: Path, packed: Path) -> None:
        table = pyarrow.dataset.dataset(packed / "le50_train").to_table().to_pylist()
        assert len(table) == TRAIN
        for row in table:
            composite = Composite.parse(row["name"])
            image, mask = open_pair(photographs, composite)
            named = (row["subset"], row["real_id"], row["mask_id"], row["k"])
            assert named == (composite.subset, composite.image_id, composite.mask_id, composite.k)
            assert (row["width"], row["height"]) == image.size
            assert row["area_fraction"] == pytest.approx((np.asarray(mask) >= 128).mean())
            assert min(Image.open(io.BytesIO(row["image"])).size) == min(32, *image.size)

    @pytest.mark.parametrize(("done", "kept"), [(0, 0), (1, 0), (17, 1), (39, 2), (TRAIN + 5, 3)])
    def test_goes_on_where_it_was_interrupted(
        self, photographs: Path, packed: Path, tmp_path: Path, done: int, kept: int
    ) -> None:
        out = tmp_path / "out"
        with pytest.raises(InterruptionError):
            pack(photographs, str(out), LOSSLESS, processes=1, progress=interrupted_after(done))
        with pytest.raises(DataError, match="packing was not finished"):
            read_list(out, "le50_train.txt")
        whole = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
        report = pack(photographs, str(out), LOSSLESS, processes=1)
        assert report.reused == len(whole) == kept
        assert {file: file.stat().st_mtime_ns for file in whole} == whole
        assert files_of(out) == files_of(packed)

    def test_writes_a_shard_again_that_was_damaged_meanwhile(
        self, photographs: Path, packed: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with pytest.raises(InterruptionError):
            pack(photographs, str(out), LOSSLESS, processes=1, progress=interrupted_after(39))
        damage(out / "le50_train/00000.parquet")
        assert pack(photographs, str(out), LOSSLESS, processes=1).reused == 1
        assert files_of(out) == files_of(packed)

    def test_gives_the_same_bytes_with_several_processes(
        self, photographs: Path, packed: Path, tmp_path: Path
    ) -> None:
        pack(photographs, str(tmp_path / "out"), LOSSLESS, processes=2)
        assert files_of(tmp_path / "out") == files_of(packed)

    def test_does_nothing_to_a_whole_pack(self, photographs: Path, packed: Path) -> None:
        before = {file: file.stat().st_mtime_ns for file in packed.rglob("*")}
        report = pack(photographs, str(packed), LOSSLESS, processes=1)
        assert report == PackReport(
            {"le50_train.txt": TRAIN, "le50_test.txt": 5},
            (),
            4,
            4,
            sum(len(b) for b in shards(packed).values()),
        )
        assert {file: file.stat().st_mtime_ns for file in packed.rglob("*")} == before

    def test_refuses_a_pack_of_other_settings_or_lists(self, photographs: Path, packed: Path) -> None:
        before = files_of(packed)
        with pytest.raises(DataError, match="a pack of other images, of other lists or with other settings"):
            pack(photographs, str(packed), PackConfig(side=64), processes=1)
        with pytest.raises(DataError, match="a pack of other images, of other lists or with other settings"):
            pack(photographs, str(packed), LOSSLESS, ["le50_test.txt"], processes=1)
        assert files_of(packed) == before

    def test_refuses_part_of_a_pack_of_other_settings(self, photographs: Path, tmp_path: Path) -> None:
        with pytest.raises(InterruptionError):
            pack(photographs, str(tmp_path / "out"), processes=1, progress=interrupted_after(1))
        with pytest.raises(DataError, match=r"other settings \(side 256, format jpeg, quality 95\)"):
            pack(photographs, str(tmp_path / "out"), LOSSLESS, processes=1)

    def test_refuses_a_folder_that_holds_something_else(self, photographs: Path, tmp_path: Path) -> None:
        (tmp_path / "letters").mkdir()
        (tmp_path / "letters/a.txt").write_text("Dear ...")
        with pytest.raises(DataError, match=r"letters holds other things, such as a\.txt"):
            pack(photographs, str(tmp_path / "letters"), processes=1)
        assert files_of(tmp_path / "letters") == {"a.txt": b"Dear ..."}

    def test_without_lists_says_which_there_are(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("")
        with pytest.raises(DataError, match=r"holds mine\.txt, none of le50_train\.txt, .*--list"):
            pack(tmp_path, str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def shards(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_of(folder).items() if name.endswith(".parquet")}


def damage(shard: Path) -> None:
    """Change a byte of the first image."""
    content = bytearray(shard.read_bytes())
    content[content.index(b"IDAT") + 9] ^= 1
    shard.write_bytes(content)


class TestBadImages:
    @pytest.fixture
    def spoilt(self, photographs: Path, tmp_path: Path) -> tuple[Path, Path]:
        """The photographs with one that is cut short; and that one."""
        root = tmp_path / "spoilt"
        for name, content in files_of(photographs).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        image = root / read_list(root, "le50_test.txt")[0].path
        image.write_bytes(image.read_bytes()[:300])
        return root, image

    def test_are_named_and_the_rest_is_kept(
        self, photographs: Path, packed: Path, spoilt: tuple[Path, Path], tmp_path: Path
    ) -> None:
        (root, image), out = spoilt, tmp_path / "out"
        with pytest.raises(BadDataError, match=rf"1 of 45 .*\n.*{image.name}: .*(?s:.*)--skip-bad"):
            pack(root, str(out), LOSSLESS, processes=1)
        assert not (out / "pack.json").exists()
        image.write_bytes((photographs / image.relative_to(root)).read_bytes())
        assert pack(root, str(out), LOSSLESS, processes=1).reused == 3
        assert files_of(out) == files_of(packed)

    def test_are_left_out_if_asked_for(self, spoilt: tuple[Path, Path], tmp_path: Path) -> None:
        (root, image), out = spoilt, tmp_path / "out"
        report = pack(root, str(out), LOSSLESS, skip_bad=True, processes=1)
        assert [image.name in reason for reason in report.skipped] == [True]
        assert len(read_list(out, "le50_test.txt")) == 4
        assert pack(root, str(out), LOSSLESS, skip_bad=True, processes=1).skipped == report.skipped

    def test_that_are_a_whole_list_cannot_be_left_out(
        self, spoilt: tuple[Path, Path], tmp_path: Path
    ) -> None:
        root, image = spoilt
        (root / "mine.txt").write_text(str(image.relative_to(root)))
        with pytest.raises(DataError, match=r"mine\.txt: none of its composites can be read"):
            pack(root, str(tmp_path / "out"), LOSSLESS, ["le50_train.txt", "mine.txt"], skip_bad=True)

    def test_that_are_missing_are_named_before_anything_is_written(
        self, spoilt: tuple[Path, Path], tmp_path: Path
    ) -> None:
        root, image = spoilt
        image.unlink()
        with pytest.raises(BadDataError, match=rf"{image.name}: there is no such file"):
            pack(root, str(tmp_path / "out"), LOSSLESS, processes=1)
        assert not (tmp_path / "out").exists()


class TestADamagedPack:
    def test_that_was_cut_short_is_named_and_repaired(self, photographs: Path, packed: Path) -> None:
        before = files_of(packed)
        shard = packed / "le50_train/00001.parquet"
        shard.write_bytes(shard.read_bytes()[:-10])
        with pytest.raises(DataError, match=r"le50_train/00001\.parquet has [\d,]+ bytes, not [\d,]+; copy"):
            read_list(packed, "le50_train.txt")
        assert pack(photographs, str(packed), LOSSLESS, processes=1).reused == 3
        assert files_of(packed) == before

    def test_that_lacks_a_shard_is_named(self, packed: Path) -> None:
        (packed / "le50_test/00000.parquet").unlink()
        with pytest.raises(DataError, match=r"le50_test/00000\.parquet is missing"):
            read_list(packed, "le50_train.txt")

    def test_with_other_bytes_is_noticed_when_they_are_read(self, packed: Path) -> None:
        damage(packed / "le50_train/00000.parquet")
        with pytest.raises(BadDataError, match=r"le50_train/00000\.parquet is damaged \(another checksum\)"):
            read_all(packed)

    def test_with_a_damaged_index_is_refused(self, packed: Path) -> None:
        size = (packed / "index.npy").stat().st_size
        (packed / "index.npy").write_bytes(b"x" * size)
        with pytest.raises(DataError, match=r"index\.npy is damaged"):
            read_list(packed, "le50_train.txt")

    def test_of_a_newer_version_is_refused(self, packed: Path) -> None:
        manifest = json.loads((packed / "pack.json").read_text())
        (packed / "pack.json").write_text(json.dumps(manifest | {"rsrnet-pack": 2}))
        with pytest.raises(DataError, match="a pack of version 2, but this rsrnet reads version 1"):
            read_list(packed, "le50_train.txt")

    @given(
        content=st.binary(max_size=40) | st.sampled_from([b"{}", b"[]", b'{"rsrnet-pack": 1, "lists": 3}'])
    )
    @settings(max_examples=20)
    def test_with_a_damaged_manifest_is_refused(self, content: bytes) -> None:
        from rsrnet.data.pack.layout import Manifest

        with pytest.raises(DataError, match=r"there/pack\.json: .*pack the dataset again"):
            Manifest.from_json("there", content)
