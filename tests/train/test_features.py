"""Stored features: keys, bits, completion, damage, several writers."""

import collections
import contextlib
import dataclasses
import gc
import itertools
import json
import multiprocessing
import resource
import struct
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny_architectures import save_e1, save_firered, save_flux2, save_kontext, save_qwen21, save_step1x
from training import TARGET, TWO_STEPS, MemoryRows, edit_row, pairs, tiny

from edittools.errors import EditError, RowError
from edittools.nets import flux2, load_edit_model
from edittools.nets.images import crop_box, to_tensor
from edittools.train import load_recipe
from edittools.train.bucket_sampler import BucketSampler, TrainSample
from edittools.train.data import Loader
from edittools.train.encode import of_part
from edittools.train.features import (
    Encoder,
    FeatureStore,
    FeatureWriter,
    Keys,
    SeenKeys,
    ShownImage,
    Stored,
    precompute,
    shows,
)
from edittools.train.rejects import Rejects, Unusable
from edittools.train.rows import TrainRow

ENCODING = {"latents": "vae 1", "conditions": "vlm 1"}


def image(seed, h=16, w=16):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


class Counting:
    """Encoders whose features say what they were made of; every call is kept."""

    def __init__(self, rows):
        self.rows, self.calls = rows, []

    def latents(self, images, cuts=None):
        found = {}
        for row, shown in images:
            mean = float(self.rows.image(row, shown.which).mean())
            self.calls.append(("latents", row, shown.which, shown.shape))
            found[row, shown] = {"latents": torch.full((2, shown.shape[0] // 8, shown.shape[1] // 8), mean)}
        return found

    def conditioning(self, samples, cuts=None):
        self.calls += [("conditions", sample) for sample in samples]
        return {
            sample: {
                "states": torch.randn(3, 4, generator=torch.Generator().manual_seed(len(sample.text))),
                "ids": torch.tensor([[0.5, 1e-3]]),
            }
            for sample in samples
        }


def one_target_two_sources():
    shared = image(0)
    return MemoryRows([edit_row("a", [image(1)], shared, "go"), edit_row("b", [image(2)], shared, "go")])


S = (16, 16)


def middle(which, shape):
    """What is shown of a square image of 16 x 16 pixels."""
    return ShownImage(which, shape, crop_box(*S, *shape))


def sample(row, text="go", references=(0,), shapes=None):
    return TrainSample(row, text, references, shapes or (S,) * (1 + len(references)))


# --------------------------------------------------------------------------------------------------------- keys


def test_one_target_with_several_references_shares_latents_and_nothing_else():
    keys = Keys(ENCODING, one_target_two_sources(), {})
    first, second = keys.all(sample(0)), keys.all(sample(1))
    assert first[1] == second[1]  # the target's latents
    assert len({*first, *second}) == 5


def test_keys_are_apart_where_anything_differs():
    one, two = image(1), image(2)
    rows = MemoryRows([edit_row("a", [one, two, one], image(0), "go"), edit_row("b", [], image(0), "go")])
    keys = Keys(ENCODING, rows, {})
    apart = [
        sample(0),
        sample(0, references=(1,)),
        sample(0, references=(0, 1)),
        sample(0, references=(1, 0)),
        sample(0, references=()),
        sample(0, text="go "),
        sample(0, text=""),
        sample(0, shapes=(S, (8, 32))),
        sample(0, shapes=(S, (32, 8))),
        sample(0, references=(0, 1), shapes=(S, (8, 32), S)),
        sample(0, references=(0, 1), shapes=(S, S, (8, 32))),
    ]
    found = [keys.conditioning(each) for each in apart]
    assert len(set(found)) == len(apart)
    # the same image in another place, the same target in another shape, and a row without references
    assert keys.conditioning(sample(0, references=(2,))) == found[0]
    assert keys.conditioning(sample(0, shapes=((8, 32), S))) == found[0]
    assert keys.conditioning(sample(1, references=())) == found[4]
    shapes = (S, (8, 32), (32, 8))
    middles = {which: [middle(which, shape) for shape in shapes] for which in (0, 1, 2, TARGET)}
    latents = {keys.latents(0, shown) for which in (0, 1, TARGET) for shown in middles[which]}
    latents.add(keys.latents(0, ShownImage(0, S, (0.25, 0.0, 0.75, 0.5))))
    latents.add(keys.latents(0, ShownImage(0, S, (0.0, 0.0, 0.5, 0.5))))
    assert len(latents) == 11 and not latents & set(found)
    assert keys.latents(0, middles[2][0]) == keys.latents(0, middles[0][0])


def test_a_text_that_spells_a_image_is_no_image():
    rows = one_target_two_sources()
    keys = Keys(ENCODING, rows, {})
    content = keys.content(0, 0)
    spelt = [f"{content} 16 16", f"{content} 16 162:go", f"{len(content) + 6}:{content} 16 16", "2:go", "0:"]
    texts = [keys.conditioning(sample(0, text, ())) for text in spelt]
    assert len({*texts, keys.conditioning(sample(0)), keys.conditioning(sample(0, "", ()))}) == len(spelt) + 2


def test_keys_say_which_encoders_made_the_features():
    rows = one_target_two_sources()
    one = Keys(ENCODING, rows, {}).all(sample(0))
    other_vae = Keys({**ENCODING, "latents": "vae 2"}, rows, {}).all(sample(0))
    other_vlm = Keys({**ENCODING, "conditions": "vlm 2"}, rows, {}).all(sample(0))
    assert [a == b for a, b in zip(one, other_vae)] == [True, False, False]
    assert [a == b for a, b in zip(one, other_vlm)] == [False, True, True]


# --------------------------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_stored_is_read_back_bit_for_bit(tmp_path, dtype):
    random = torch.Generator().manual_seed(0)
    wanted = {
        "a": {
            "states": torch.randn(7, 5, generator=random),
            "mask": torch.tensor([True, False, True]),
            "numbers": torch.tensor([2**62 + 1, -3]),
            "none": torch.empty(0, 5),
            "no_numbers": torch.empty((3, 0), dtype=torch.int64),
            "scalar": torch.tensor(1.5),
            "ids": torch.tensor([[0.1, 4096.3]]),  # positions keep their precision
        },
        "b": {"latents": torch.randn(3, 4, 2, generator=random).transpose(0, 1)},
        "c": {"states": torch.tensor([float("inf"), -0.0, float("nan"), 1e-40])},
    }
    writer = FeatureWriter(tmp_path / "store", dtype)
    for key, values in wanted.items():
        writer.add(key, values)
    writer.flush()
    store = FeatureStore(tmp_path / "store")
    assert all(key in store for key in wanted) and "d" not in store
    for key, values in wanted.items():
        found = store.get(key)
        assert set(found) == set(values)
        for name, value in values.items():
            expected = value.to(dtype) if value.is_floating_point() and name != "ids" else value
            assert found[name].dtype == expected.dtype and found[name].shape == expected.shape, name
            raw = expected.contiguous().reshape(-1).view(torch.uint8)
            assert torch.equal(found[name].reshape(-1).view(torch.uint8), raw), name


def test_training_reads_the_features_that_the_encoder_makes(tmp_path):
    rows = MemoryRows(
        [edit_row(f"r{k}", [image(k)] * (1 + k % 2), image(90 + k), f"word {'again ' * (k % 3)}") for k in range(12)]
    )
    recipe = tiny(steps=4)
    system = load_edit_model("small", recipe.model, seed=0, texts=lambda: ["word again"])
    sampler = BucketSampler(recipe, rows, system.patch, system.multiple)
    encoder = Encoder(system, rows)
    writer = FeatureWriter(tmp_path, torch.float32)
    list(precompute(encoder, Keys(system.encoding(), rows, {}), sampler.samples, FeatureStore(tmp_path), writer))
    store = FeatureStore(tmp_path)
    stored = Stored(store, Keys(system.encoding(), rows, store.contents))
    stored.check(sampler.samples)

    def steps(features):
        with Loader(recipe, sampler, system, features, first=0, threads=2) as loader:
            return [batch for step in loader for batch in step.batches]

    for a, b in zip(steps(encoder), steps(stored), strict=True):
        assert [row.id for row in a.rows] == [row.id for row in b.rows]
        for x, y in zip([a.target, *a.references, a.noise, a.t], [b.target, *b.references, b.noise, b.t], strict=True):
            assert torch.equal(x, y)
        assert a.conditioning.keys() == b.conditioning.keys()
        assert all(torch.equal(a.conditioning[name], b.conditioning[name]) for name in a.conditioning)


@pytest.mark.parametrize("name", ["flux2", "qwen21"])
def test_rows_of_other_references_train_from_stored_features_as_they_are_encoded(name, tmp_path, monkeypatch):
    """0 to 3 references of odd sizes, some of them dropped: the store alone gives the batches of the encoders, bit for
    bit; in bfloat16 to its rounding, in half the bytes."""
    monkeypatch.setattr(flux2, "TEXT_TOKENS", 64)
    folder = {"flux2": save_flux2, "qwen21": save_qwen21}[name](tmp_path / "model")
    rows = MemoryRows(
        [edit_row(f"r{k}", [image(k, 70, 65 + n) for n in range(k % 4)], image(90 + k, 64, 66), "word " * (1 + k))
         for k in range(12)]
    )  # fmt: skip
    recipe = load_recipe(name, {**TWO_STEPS, "model.weights": str(folder), "microbatches": 3, "drop_references": 0.2,
                                "variants": 2, "batch_tokens": 256, "steps": 4})  # fmt: skip
    system = load_edit_model(name, recipe.model)
    sampler = BucketSampler(recipe, rows, system.patch, system.multiple)
    encoder, bytes_of = Encoder(system, rows), {}

    def batches(features):
        with Loader(recipe, sampler, system, features, first=0) as loader:
            return [batch for step in loader for batch in step.batches]

    expected = batches(encoder)
    assert any("sizes" in batch.conditioning for batch in expected)
    for dtype in ("float32", "bfloat16"):
        place, keys = tmp_path / dtype, Keys(system.encoding(), rows, {}, dtype)
        place.mkdir()
        list(
            precompute(encoder, keys, sampler.samples, FeatureStore(place), FeatureWriter(place, getattr(torch, dtype)))
        )
        bytes_of[dtype] = sum(path.stat().st_size for path in place.glob("*.safetensors"))
        # neither encoders nor images are there
        alone = load_edit_model(name, recipe.model, encoders=False, network=False)
        store = FeatureStore(place)
        stored = Stored(store, Keys(alone.encoding(), rows, store.contents, dtype))
        stored.check(sampler.samples)
        exact = dtype == "float32"
        for a, b in zip(expected, batches(stored), strict=True):
            assert [row.id for row in a.rows] == [row.id for row in b.rows]
            for x, y in zip([a.target, *a.references, a.noise], [b.target, *b.references, b.noise], strict=True):
                assert torch.equal(x, y) if exact else torch.allclose(x, y, rtol=2**-8, atol=1e-6)
            assert a.conditioning.keys() == b.conditioning.keys()
            for part, x in a.conditioning.items():
                y = b.conditioning[part]
                assert torch.equal(x, y.to(x.dtype)) if exact else torch.allclose(x, y.to(x.dtype), rtol=2**-8), part
    assert 0.4 < bytes_of["bfloat16"] / bytes_of["float32"] < 0.6


def test_lengths_are_those_of_the_stored_texts(tmp_path):
    rows = many_rows(3)
    samples = [sample(k, f"text {k}") for k in range(3)]
    keys, writer = Keys(ENCODING, rows, {}), FeatureWriter(tmp_path, torch.bfloat16)
    for each, length in zip(samples, (7, 3, 12)):
        writer.add(keys.conditioning(each), {"pooled": torch.zeros(5), "states": torch.zeros(length, 4)})
    writer.flush()
    assert Stored(FeatureStore(tmp_path), keys).lengths([samples[2], *samples]).tolist() == [12, 7, 3, 12]


# --------------------------------------------------------------------------------------------------- completion


def many_rows(count=6, shared=True):
    """shared: all have one target."""
    return MemoryRows(
        [edit_row(f"r{k}", [image(k)], image(100 if shared else 100 + k), f"text {k}") for k in range(count)]
    )


def fill(folder, rows, samples):
    store, encoder = FeatureStore(folder), Counting(rows)
    keys = Keys(ENCODING, rows, store.contents)
    added = list(precompute(encoder, keys, samples, store, FeatureWriter(folder, torch.float32)))
    assert sum(added) == len(encoder.calls)
    return encoder.calls, added


def test_a_store_that_covers_a_part_is_completed(tmp_path):
    rows = many_rows()
    samples = [sample(k, f"text {k}") for k in range(6)]
    calls, added = fill(tmp_path, rows, samples[:2])
    assert added == [3, 2]  # target, source and text; the target again is no work
    calls, added = fill(tmp_path, rows, samples)
    assert added == [0, 0, 2, 2, 2, 2]
    assert {call[1] if call[0] == "latents" else call[1].row for call in calls} == {2, 3, 4, 5}
    assert fill(tmp_path, rows, samples) == ([], [0] * 6)
    # another text, another shape: only what is new
    calls, _ = fill(tmp_path, rows, [sample(0, "other"), sample(1, "text 1", shapes=((8, 32), S))])
    assert sorted(call[0] for call in calls) == ["conditions", "latents"]


def test_what_was_done_before_an_error_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("edittools.train.features.SAMPLES_AT_ONCE", 3)
    rows = many_rows()
    rows.bad = 3
    samples = [sample(k, f"text {k}") for k in range(6)]
    with pytest.raises(RuntimeError, match="unreadable"):
        fill(tmp_path, rows, samples)
    rows.bad = None
    _, added = fill(tmp_path, rows, samples)
    assert added[:3] == [0, 0, 0] and sum(added) == 6


@contextlib.contextmanager
def files_of_at_most(count):
    """Bytes: as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_done_is_stored_before_others_are_waited_for(tmp_path, monkeypatch):
    """Ctrl-C while a thread reads: the time that is left may be short."""
    monkeypatch.setattr("edittools.train.features.SAMPLES_AT_ONCE", 1)
    rows, released, there = many_rows(), threading.Event(), []

    class Slow(Counting):
        def conditioning(self, samples, cuts=None):
            samples = list(samples)
            if any(each.row == 1 for each in samples):
                assert released.wait(20)
            return super().conditioning(samples, cuts)

    class Told(FeatureWriter):
        def flush(self):
            super().flush()
            there.append(len(list(tmp_path.glob("*.safetensors"))))
            released.set()

    store = FeatureStore(tmp_path)
    writer = Told(tmp_path, torch.float32)
    steps = precompute(Slow(rows), Keys(ENCODING, rows, store.contents), [sample(k, f"text {k}") for k in range(6)],
                       store, writer)  # fmt: skip
    assert next(steps) == 3
    steps.close()
    assert there == [1] and len(FeatureStore(tmp_path).entries) == 3 + 1  # states and ids are two tensors


def test_a_full_disk_is_one_line_and_what_is_there_stays(tmp_path):
    rows = many_rows()
    samples = [sample(k, f"text {k}") for k in range(6)]
    fill(tmp_path, rows, samples[:3])
    before = sorted(path.name for path in tmp_path.iterdir())
    with (
        files_of_at_most(1000),
        pytest.raises(EditError, match=r"\.(safetensors|parquet): cannot be .*ile too large") as caught,
    ):
        fill(tmp_path, rows, samples)
    assert "\n" not in str(caught.value) and sorted(path.name for path in tmp_path.iterdir()) == before
    assert fill(tmp_path, rows, samples)[1][:3] == [0, 0, 0]


def test_a_folder_of_something_else_is_not_called_damaged(tmp_path):
    """Whose hint would be to remove what are somebody's rows."""
    (tmp_path / "00000.parquet").write_bytes(b"rows")
    with pytest.raises(EditError, match=r"is not empty and no folder of features: 00000\.parquet") as caught:
        FeatureStore(tmp_path)
    assert "remove" not in caught.value.hint


def test_little_is_kept_of_a_row_that_is_encoded(tmp_path, monkeypatch):
    """Bytes per row of eight variants whose texts all differ: ten features and the contents of two images."""
    for name, most in (("_PLACES", 16), ("_NEW_KEYS", 500)):
        monkeypatch.setattr(f"edittools.train.features.{name}", most)

    class Many:
        """Rows that take no memory."""

        def __len__(self):
            return rows

        def __getitem__(self, k):
            return TrainRow(f"row-{k}", "tone", "t", {}, [S], S)

        def place(self, row, which):
            return f"{row:032x}/folder/of/images/{which}"

        def content(self, row, which):
            return f"{row:060x}{which + 1:04x}"

    class Nothing:
        def latents(self, images, cuts):
            return {each: {"latents": torch.zeros(1)} for each in images}

        def conditioning(self, samples, cuts):
            return {each: {"states": torch.zeros(1)} for each in samples}

    class Variants:
        def __len__(self):
            return 8 * rows

        def __getitem__(self, k):
            return sample(k % rows, f"text {k}")

    class Forgets:
        """A writer that keeps nothing; of its own it would hold a file's worth."""

        def add(self, key, values):
            pass

        def flush(self):
            pass

        def remember(self, contents):
            places.extend(int(place[:32], 16) for place in contents)

        def reject(self, reasons):
            assert not reasons

    held, store = [], FeatureStore(tmp_path)
    for rows in (50, 100, 500):  # the first brings what is made once
        places = []
        keys = Keys(ENCODING, Many(), {})
        gc.collect()
        if rows > 50:
            tracemalloc.start()
        try:
            steps = precompute(Nothing(), keys, of_part(Variants(), rows, 0, 1), store, Forgets(), Rejects())
            added = sum(next(steps) for _ in range(8 * rows))
            places.clear()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert added == 10 * rows and not list(steps) and len(places) == len(set(places)) * 2
    assert 60 < (held[2] - held[1]) / 400 < 150, held  # 80, and what is new in turns


def test_contents_are_stored_in_turns(tmp_path, monkeypatch):
    for name, value in (("_PLACES", 3), ("SAMPLES_AT_ONCE", 2)):
        monkeypatch.setattr(f"edittools.train.features.{name}", value)
    rows = many_rows(20, shared=False)  # two threads may be at what rows share
    samples = [sample(k, f"text {k}") for k in range(20)]
    fill(tmp_path, rows, samples)
    # no turn has more than 3 places, and those of the samples that are at work or wait: 2, two of them, of two images
    assert len(list(tmp_path.glob("*.parquet"))) >= 40 // (3 + 3 * 2 * 2)
    store = FeatureStore(tmp_path)
    keys = Keys(ENCODING, rows, store.contents)
    assert [store.contents[rows.place(k, 0)] for k in range(20)] == [rows.content(k, 0) for k in range(20)]
    Stored(store, keys).check(samples)


def test_what_the_samples_of_a_row_share_is_encoded_once(tmp_path):
    """Three variants of 30 rows, by several threads at once: fill() counts what is encoded."""

    class Busy(Counting):
        def latents(self, images, cuts=None):
            time.sleep(0.002)
            return super().latents(images, cuts)

    rows = many_rows(30, shared=False)
    samples = [sample(k, f"variant {v} of {k}") for k in range(30) for v in range(3)]
    store, encoder = FeatureStore(tmp_path), Busy(rows)
    keys, writer = Keys(ENCODING, rows, store.contents), FeatureWriter(tmp_path, torch.float32)
    added = list(precompute(encoder, keys, samples, store, writer, threads=4))
    assert sum(added) == len(encoder.calls) == 30 * 5 and added[:3] == [3, 1, 1]


def test_the_samples_of_a_part_are_all_of_its_rows():
    samples = [sample(k % 7, f"text {k}") for k in range(21)]
    parts = [list(of_part(samples, 7, number, 3)) for number in range(3)]
    assert [[each.row for each in part] for part in parts] == [[0] * 3 + [3] * 3 + [6] * 3, [1] * 3 + [4] * 3,
                                                               [2] * 3 + [5] * 3]  # fmt: skip
    assert sorted(each.text for part in parts for each in part) == sorted(each.text for each in samples)


def test_a_key_is_seen_whether_it_is_new_or_not(monkeypatch):
    monkeypatch.setattr("edittools.train.features._NEW_KEYS", 3)
    seen = SeenKeys()
    keys = [f"{k * 0x9E3779B97F4A7C15 % 2**64:016x}{k:016x}" for k in range(10)] + ["f" * 32, "7" * 32]
    for k, key in enumerate(keys):
        assert [each in seen for each in keys] == [j < k for j in range(len(keys))]
        seen.add(key)


def test_a_missing_feature_is_counted_before_training(tmp_path):
    rows = many_rows(3)
    samples = [sample(k, f"text {k}") for k in range(3)]
    fill(tmp_path, rows, samples[:2])
    store = FeatureStore(tmp_path)
    stored = Stored(store, Keys(ENCODING, rows, store.contents))
    stored.check(samples[:2])
    with pytest.raises(EditError, match="lacks 2 of 9 features") as caught:
        stored.check(samples)
    assert "--precompute" in caught.value.hint


def test_images_are_hashed_once(tmp_path):
    rows = many_rows(3)
    samples = [sample(k, f"text {k}") for k in range(3)]
    fill(tmp_path, rows, samples)
    read, rows.content = [], lambda index, which: read.append((index, which)) or "x"
    store = FeatureStore(tmp_path)
    Stored(store, Keys(ENCODING, rows, store.contents)).check(samples)
    assert not read


# ------------------------------------------------------------------------------------------------------- damage


def damaged(tmp_path, how):
    rows = many_rows(2)
    fill(tmp_path, rows, [sample(0, "text 0")])
    (path,) = tmp_path.glob("*.safetensors")
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])

    def with_header(new):
        text = json.dumps(new).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    name = next(iter(header.keys() - {"__metadata__"}))
    if how == "parquet":
        (path,) = tmp_path.glob("*.parquet")
        path.write_bytes(path.read_bytes()[:-20])
        return path
    path.write_bytes(
        {
            "empty": b"",
            "header cut": data[: 8 + length // 2],
            "data cut": data[:-1],
            "no json": data[:8] + b"\xff" * length + data[8 + length :],
            "a list": with_header([1, 2]),
            "no fields": with_header({name: {"dtype": "F32"}}),
            "a type of its own": with_header({name: {**header[name], "dtype": "U4"}}),
            "another shape": with_header({name: {**header[name], "shape": [77]}}),
        }[how]
    )
    return path


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "header cut",
        "data cut",
        "no json",
        "a list",
        "no fields",
        "a type of its own",
        "another shape",
        "parquet",
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, how):
    path = damaged(tmp_path, how)
    with pytest.raises(EditError) as caught:
        FeatureStore(tmp_path)
    assert str(caught.value).startswith(f"{path}: damaged features: ") and "\n" not in str(caught.value)
    assert caught.value.hint == "remove the file and precompute again"
    path.unlink()
    rows = many_rows(2)
    fill(tmp_path, rows, [sample(0, "text 0")])
    Stored(store := FeatureStore(tmp_path), Keys(ENCODING, rows, store.contents)).check([sample(0, "text 0")])


def test_what_another_process_is_writing_is_not_read(tmp_path):
    (tmp_path / ".tmp-1-aa.safetensors").write_bytes(b"half of a")
    (tmp_path / ".tmp-1-aa.parquet").write_bytes(b"half of a")
    rows = many_rows(1)
    fill(tmp_path, rows, [sample(0, "text 0")])
    assert len({*FeatureStore(tmp_path).entries.digests}) == 3


# ---------------------------------------------------------------------------------------------- several writers


def _write(folder, part, barrier):
    rows = many_rows(8)
    samples = [sample(k, f"text {k}") for k in (range(0, 6) if part else range(2, 8))]
    store, encoder = FeatureStore(folder), Counting(rows)
    barrier.wait()  # neither sees what the other writes
    for _ in precompute(encoder, Keys(ENCODING, rows, {}), samples, store, FeatureWriter(folder, torch.float32)):
        pass


def test_two_writers_at_once(tmp_path):
    context = multiprocessing.get_context("fork")  # they import nothing anew
    barrier = context.Barrier(2)
    workers = [context.Process(target=_write, args=(tmp_path, part, barrier)) for part in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    rows = many_rows(8)
    store = FeatureStore(tmp_path)
    assert not list(tmp_path.glob(".*"))
    stored = Stored(store, Keys(ENCODING, rows, store.contents))
    samples = [sample(k, f"text {k}") for k in range(8)]
    stored.check(samples)
    counting = Counting(rows)
    for each in samples:
        found = stored(each)
        made = counting.latents([(each.row, middle(which, S)) for which in (TARGET, 0)])
        target, reference = (made[each.row, middle(which, S)]["latents"] for which in (TARGET, 0))
        assert torch.equal(found.target, target) and torch.equal(found.references[0], reference)
        wanted = counting.conditioning([each])[each]
        assert all(torch.equal(found.conditioning[name], wanted[name]) for name in wanted)
    assert fill(tmp_path, rows, samples)[0] == []


def test_a_store_takes_in_what_was_added_later(tmp_path):
    store = FeatureStore(tmp_path / "new")
    writer = FeatureWriter(tmp_path / "new", torch.float32)
    for key in itertools.islice(map(str, itertools.count()), 3):
        writer.add(key, {"x": torch.ones(2)})
        writer.flush()
        assert key not in store
        store.refresh()
        assert key in store


# ---------------------------------------------------------------------------------------- what decides a feature


def made_of(name, folder, **settings):
    """The architecture's word for its encoders."""
    wanted = {"weights": str(folder), **settings}
    return load_edit_model(name, wanted, encoders=False, network=False).encoding()["conditions"]


def test_keys_name_everything_that_decides_a_feature(tmp_path):
    """Architectures, their pipelines, their settings, every file that cuts images or texts, and the precision."""
    save_firered(tmp_path / "plus")
    save_flux2(tmp_path / "flux2")
    save_qwen21(tmp_path / "qwen21")
    save_kontext(tmp_path / "kontext")
    save_e1(tmp_path / "e1")
    save_step1x(tmp_path / "step1x")
    plus, other = made_of("firered", tmp_path / "plus"), tmp_path / "plus" / "model_index.json"
    other.write_text(other.read_text().replace("QwenImageEditPlusPipeline", "QwenImageEditPipeline"))
    found = [
        plus,
        made_of("firered", tmp_path / "plus"),
        made_of("firered", tmp_path / "plus", legacy_positions=True),
        made_of("kontext", tmp_path / "kontext"),
        made_of("imgedit_e1", tmp_path / "e1"),
        made_of("imgedit_e1", tmp_path / "e1", insert="append"),
        made_of("imgedit_e1", tmp_path / "e1", max_pixels=50176),
        made_of("step1x", tmp_path / "step1x"),
        made_of("step1x", tmp_path / "step1x", version="1.1"),
        made_of("step1x", tmp_path / "step1x", dropped=3),
        made_of("flux2", tmp_path / "flux2"),
        made_of("qwen21", tmp_path / "qwen21"),
    ]
    assert len(set(found)) == len(found)
    for name, folder, parts in (
        ("firered", "plus", ("text_encoder", "processor", "tokenizer")),
        ("kontext", "kontext", ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")),
        ("imgedit_e1", "e1", ("text_encoder", "processor", "image_encoder")),
        ("step1x", "step1x", ("text_encoder", "processor")),
        ("flux2", "flux2", ("text_encoder", "tokenizer")),
        ("qwen21", "qwen21", ("text_encoder", "processor")),
    ):
        for part in parts:
            before = made_of(name, tmp_path / folder)
            (tmp_path / folder / part / "more.json").write_text("{}")
            assert made_of(name, tmp_path / folder) != before, part
    # what does not decide it changes nothing
    for name in ("kontext", "flux2"):
        assert made_of(name, tmp_path / name, guidance=2.5) == made_of(name, tmp_path / name)
    rows = one_target_two_sources()
    halves = [Keys(ENCODING, rows, {}, dtype).all(sample(0)) for dtype in ("float32", "bfloat16")]
    assert not {*halves[0]} & {*halves[1]}


def test_threads_read_images_at_once_and_encode_one_after_the_other():
    """Encoders keep state while they work; what a thread finds is what one thread alone would."""
    rows = MemoryRows(pairs(16))
    busy, most = [], [0]
    together = threading.Barrier(4, timeout=20)  # of threads that have read an image and not encoded it

    class Slow:
        """An encoder that notices whether it is called while it works."""

        conditions_see_references = True

        def latents(self, images):
            busy.append(1)
            most[0] = max(most[0], len(busy))
            time.sleep(0.002)
            busy.pop()
            return images * 2

        def conditioning_of(self, rows):
            return [{"mean": self.latents(torch.tensor(float(sources[0].mean())))} for sources, _ in rows]

    sampler = BucketSampler(tiny(), rows, 8, 8)
    encoder = Encoder(Slow(), rows)
    cut, first = encoder._cut, set()

    def watched(row, shown, cuts):
        made = cut(row, shown, cuts)
        if threading.get_ident() not in first:
            first.add(threading.get_ident())
            together.wait()
        return made

    encoder._cut = watched
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoder, sampler.samples))
    assert most[0] == 1 and len(first) == 4
    for sample, each in zip(sampler.samples, found):
        image = cut(sample.row, shows(rows[sample.row], sample)[0])
        assert torch.equal(each.target, 2 * to_tensor(image))


def seen_alone(system, rows):
    return [system.conditioning(*row) for row in rows]


@pytest.mark.parametrize("name", ["firered", "kontext", "step1x", "step1x 1.2", "imgedit_e1", "flux2", "qwen21"])
def test_a_batch_is_encoded_as_its_rows_are_alone(tmp_path, name):
    """In float32 to 1e-6 of the largest number, with texts of different lengths, none, one and several images of
    different shapes; and the network's part of a padded batch is found where the row's is."""
    makers = {"firered": save_firered, "kontext": save_kontext, "imgedit_e1": save_e1, "flux2": save_flux2,
              "qwen21": save_qwen21}  # fmt: skip
    kind, _, version = name.partition(" ")
    settings = {}
    if kind == "step1x":
        _, dropped = save_step1x(tmp_path, version or "1.0")
        settings["dropped"] = dropped
    else:
        makers[kind](tmp_path)
    system = load_edit_model(kind, {"weights": str(tmp_path), **settings}, network=False, dtype="float32")
    wide, tall = image(1, 64, 96), image(2, 80, 48)
    images = [[wide], [tall]] if version == "1.2" else [[], [wide], [tall]]
    if kind in ("firered", "imgedit_e1", "qwen21"):
        images += [[tall, wide], [wide, tall, wide]]
    texts = ["make it red", 'write "hi there" in the corner, please', "grey", "remove the cat and add a dog", "x"]
    rows = [(few, texts[k % len(texts)]) for k, few in enumerate(images * 2)]
    together, alone = system.conditioning_of(rows), seen_alone(system, rows)
    assert len(together) == len(rows)
    for a, b in zip(together, alone):
        assert a.keys() == b.keys()
        for part in a:
            assert a[part].shape == b[part].shape and a[part].dtype == b[part].dtype, part
            if a[part].numel():
                apart = (a[part].float() - b[part].float()).abs().max() / b[part].float().abs().max().clamp(min=1)
                assert apart <= 1e-6, (part, float(apart))
    # the rows do differ
    assert len({tuple(each["states"].flatten()[-4:].tolist()) for each in alone}) > 2
    several = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    latents = torch.cat([system.latents(each[None]) for each in several])
    # the convolutions of FLUX.2's autoencoder are rounded by 8e-7 themselves
    assert (system.latents(several) - latents).abs().max() <= 2e-6 * latents.abs().max().clamp(min=1)


class Watched:
    """Encoders that note how many images they see together, and of texts the negative number; one text they refuse."""

    conditions_see_references = True

    def __init__(self, bad):
        self.bad, self.sizes = bad, []

    def latents(self, images):
        self.sizes.append(len(images))
        return images * 2

    def conditioning_of(self, asked):
        self.sizes.append(-len(asked))
        if any(text == self.bad for _, text in asked):
            raise RowError("too long")
        return [{"states": torch.full((1, 2), float(len(text) + few[0].mean()))} for few, text in asked]


def test_a_training_batch_is_encoded_at_once_and_one_that_cannot_be_leaves_the_others(tmp_path):
    """Batches' images of a shape go to the autoencoder together, texts 8 at a time; a row whose text cannot be
    encoded is found out, and the others are what they are without it."""
    rows = MemoryRows(pairs(16))
    watched = Watched("bad")
    sampler = BucketSampler(tiny(batch_tokens=64), rows, 8, 8)
    found = Encoder(watched, rows).several(sampler.samples)
    assert sorted(watched.sizes) == [-8, -8, 32]  # targets and sources, all of one shape
    spoilt = [dataclasses.replace(each, text="bad") if each.row == 3 else each for each in sampler.samples]
    again = Encoder(watched, rows).several(spoilt)
    for before, now in zip(sampler.samples, spoilt):
        if now.row == 3:
            assert isinstance(again[now], Unusable) and again[now].identity == "row-3"
            continue
        assert torch.equal(again[now].target, found[before].target)
        assert torch.equal(again[now].conditioning["states"], found[before].conditioning["states"])


@pytest.mark.parametrize(("latents", "seen"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_reference_is_decoded_once_for_a_sample_and_only_if_somebody_looks_at_it(latents: bool, seen: bool):
    """By the network (its latents), by the encoders of its conditioning, both or neither."""
    rows = MemoryRows([edit_row(f"r{k}", [image(k), image(20 + k)], image(90 + k), f"word {k}") for k in range(4)])
    decoded, shown = collections.Counter(), []

    class Watched:
        conditions_see_references = seen

        def latents(self, images):
            return images * 2

        def conditioning_of(self, asked):
            shown.extend(len(sources) for sources, _ in asked)
            return [{"mean": torch.tensor(float(len(text)))} for _, text in asked]

    taking = rows.image
    rows.image = lambda row, which, shape: (decoded.update([(row, which)]), taking(row, which, shape))[1]
    sampler = BucketSampler(tiny(), rows, 8, 8)
    samples = list(dict.fromkeys(sampler.samples))
    found = Encoder(Watched(), rows, references=latents).several(samples)
    assert all(len(found[sample].references) == 2 * latents for sample in samples)
    assert set(shown) == {2 * seen}
    wanted = [TARGET, *([0, 1] if latents or seen else [])]
    assert decoded == {(row, which): 1 for row in range(4) for which in wanted}


def test_features_to_store_are_encoded_together_and_read_ahead(tmp_path):
    """Images of a shape and texts of eight samples at a time; a row that cannot be encoded, and any that shares its
    damaged image, is left out with its reason, and what is stored of the others is what is made of each alone."""

    class Damaged(MemoryRows):
        def image(self, index, which, shape=None):
            found = super().image(index, which, shape)
            if shape and np.array_equal(found, torn):  # shape: it is decoded
                raise Unusable(self[index].id, RowError("torn"))
            return found

    torn = image(7)
    rows = [*pairs(40), edit_row("one", [torn], image(8), "a"), edit_row("two", [torn], image(9), "b")]
    rows = Damaged([rows[k] for k in (*range(8), 40, *range(8, 20), 41, *range(20, 40))])
    watched, reading = Watched("text 3"), []
    both = threading.Barrier(2, timeout=20)

    class Ahead(Encoder):
        def latents(self, images, cuts=None):
            if len(reading) < 2:
                reading.append(threading.get_ident())
                both.wait()  # until another thread is at it
            return super().latents(images, cuts)

    samples = [sample(k, f"text {k}") for k in range(len(rows))]
    store = FeatureStore(tmp_path)
    keys, rejects = Keys(ENCODING, rows, store.contents), Rejects("3")
    writer = FeatureWriter(tmp_path, torch.float32)
    added = list(precompute(Ahead(watched, rows), keys, samples, store, writer, rejects, threads=2))
    assert rejects.reasons == {"row-3": "too long", "one": "torn", "two": "torn"}
    assert [k for k, count in enumerate(added) if count == 0] == [3, 8, 21]
    assert sum(added) == 20 * 3 + 19 * 2  # a copy has one image
    assert len(set(reading)) == 2 and max(watched.sizes) > 8 and watched.sizes.count(-8) >= 3
    stored = Stored(FeatureStore(tmp_path), keys)
    for each in samples:
        if each.row in (3, 8, 21):
            with pytest.raises(Unusable):
                stored(each)
            continue
        found, alone = stored(each), Encoder(watched, rows)(each)
        assert torch.equal(found.target, alone.target) and torch.equal(found.references[0], alone.references[0])
        assert torch.equal(found.conditioning["states"], alone.conditioning["states"])
