"""Embedders: tiny random weights through the real classes, against transformers' own processors and direct calls."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
import torch
from PIL import Image

from edittools import convert
from edittools.encoders import aesthetic
from edittools.encoders.classifier import load_classifier
from edittools.encoders.embedders import isc21, load_embedder, normalised, sscd
from edittools.encoders.postprocess import Whitening, score_offsets
from edittools.errors import EditError, UsageError
from edittools.weights import lookup

SHAPES = [(48, 60), (60, 48), (33, 32), (200, 31), (7, 9), (1, 40), (3, 40), (40, 3), (1, 1)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    makers = {
        "clip": tiny.save_clip, "siglip": tiny.save_siglip, "dino": tiny.save_dino, "sscd": tiny.save_sscd,
        "classifier": tiny.save_classifier, "aesthetic": tiny.save_aesthetic,
    }  # fmt: skip
    return {name: maker(root / name) for name, maker in makers.items()}


def shapes() -> list[np.ndarray]:
    return [tiny.photo(k, *shape) for k, shape in enumerate(SHAPES)]


EMBEDDERS = ["clip", "siglip", "dino", "sscd"]

# ---------------------------------------------------------------- what every embedder promises


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_vectors_are_unit_float32_and_tell_images_apart(folders: dict[str, Path], kind: str) -> None:
    embedder = load_embedder(str(folders[kind]))
    vectors = embedder.images(shapes())
    assert vectors.shape == (len(SHAPES), embedder.dim) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    others = vectors @ vectors.T - np.eye(len(vectors))
    assert others.max() < 0.99999
    assert embedder.images([]).shape == (0, embedder.dim)
    assert embedder.name == kind and len(embedder.revision) == 16


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_a_vector_does_not_depend_on_its_batch(folders: dict[str, Path], kind: str) -> None:
    embedder = load_embedder(str(folders[kind]))
    images = shapes() + [tiny.photo(100 + k) for k in range(40)]  # more than one batch
    together = embedder.images(images)
    alone = np.concatenate([embedder.images([image]) for image in images])
    assert np.abs(together - alone).max() < 2e-6
    prepared = [embedder.prepare(image) for image in images[:12]]
    assert np.abs(embedder.infer(prepared) - together[:12]).max() < 2e-6
    assert np.abs(embedder.infer(prepared[::-1])[::-1] - together[:12]).max() < 2e-6


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_pil_and_arrays_are_the_same(folders: dict[str, Path], kind: str) -> None:
    embedder = load_embedder(str(folders[kind]))
    images = shapes()
    assert np.array_equal(embedder.images(images), embedder.images([Image.fromarray(p) for p in images]))


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_half_precision_is_near(folders: dict[str, Path], kind: str) -> None:
    images = [tiny.photo(k) for k in range(6)]
    exact = load_embedder(str(folders[kind])).images(images)
    rough = load_embedder(str(folders[kind]), dtype="bfloat16").images(images)
    assert rough.dtype == np.float32 and not np.array_equal(rough, exact)
    assert (exact * rough).sum(axis=1).min() > 0.98


@pytest.mark.parametrize("kind", ["clip", "dino", "siglip"])
def test_preprocessing_is_the_checkpoints_own(folders: dict[str, Path], kind: str) -> None:
    """Equal to the last bit, for every image up to 16:1; slivers are cut to their middle first."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folders[kind])
    embedder = load_embedder(str(folders[kind]))
    for image in shapes():
        if max(image.shape[:2]) > 16 * min(image.shape[:2]):
            continue
        given = processor(images=Image.fromarray(image), input_data_format="channels_last", return_tensors="pt")
        assert torch.equal(embedder.prepare(image), given["pixel_values"][0])


def test_clip_preprocessing_by_hand(folders: dict[str, Path]) -> None:
    """OpenAI's: bicubic to a short side, centre crop, mean and deviation."""
    image = tiny.photo(5, 64, 100)
    resized = Image.fromarray(image).resize((50, 32), Image.Resampling.BICUBIC)
    crop = np.asarray(resized)[:, 9:41] / 255
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = ((crop - mean) / std).transpose(2, 0, 1)
    assert np.abs(load_embedder(str(folders["clip"])).prepare(image).numpy() - expected).max() < 1e-5


def test_slivers_cost_little(folders: dict[str, Path]) -> None:
    """A sliver's short side is not blown up along its whole length."""
    sliver = np.zeros((2, 20000, 3), np.uint8)
    sliver[:, 9990:10010] = 255
    embedder = load_embedder(str(folders["clip"]))
    assert embedder.prepare(sliver).shape == (3, 32, 32)
    assert embedder.prepare(sliver).max() > 1 > 0 > embedder.prepare(np.zeros_like(sliver)).max()
    assert load_embedder(str(folders["sscd"])).prepare(sliver).shape == (3, 288, 288 * 16)


# ---------------------------------------------------------------- against direct calls


def test_clip_is_transformers_clip(folders: dict[str, Path]) -> None:
    from transformers import AutoProcessor, CLIPModel

    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    processor = AutoProcessor.from_pretrained(folders["clip"])
    images = [tiny.photo(k) for k in range(4)]
    texts = ["a cat", "make the sky purple and add three birds", "把它变红", "a cat"]
    inputs = processor(text=texts, images=[Image.fromarray(p) for p in images], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs)
    embedder = load_embedder(str(folders["clip"]))
    assert np.abs(embedder.images(images) - found.image_embeds.numpy()).max() < 2e-6
    assert np.abs(embedder.texts(texts) - found.text_embeds.numpy()).max() < 2e-6


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_texts(folders: dict[str, Path], kind: str) -> None:
    embedder = load_embedder(str(folders[kind]))
    many = [f"word {chr(97 + k % 26)} {k}" for k in range(60)]
    texts = ["a", "some words that are longer", "x" * 500, "", "a", *many]
    together = embedder.texts(texts)
    assert together.shape == (len(texts), embedder.dim)
    assert np.abs(together - np.concatenate([embedder.texts([text]) for text in texts])).max() < 2e-6
    assert np.array_equal(together[0], together[4]) and together[0] @ together[1] < 0.9999
    assert embedder.texts([]).shape == (0, embedder.dim)
    # What is behind the longest text that the model reads does not matter.
    assert np.allclose(embedder.texts(["x" * 500]), embedder.texts(["x" * 600]), atol=2e-6)


def test_siglip_texts_are_padded_as_in_training(folders: dict[str, Path]) -> None:
    from transformers import AutoProcessor, SiglipModel

    model = SiglipModel.from_pretrained(folders["siglip"]).eval()
    processor = AutoProcessor.from_pretrained(folders["siglip"])
    tokens = processor.tokenizer(["cat"], padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        found = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output.numpy()
    assert np.abs(load_embedder(str(folders["siglip"])).texts(["cat"]) - normalised(found)).max() < 2e-6


def test_dino_is_the_class_token(folders: dict[str, Path]) -> None:
    from transformers import AutoImageProcessor, Dinov2Model

    model = Dinov2Model.from_pretrained(folders["dino"]).eval()
    processor = AutoImageProcessor.from_pretrained(folders["dino"])
    images = [tiny.photo(k) for k in range(3)]
    with torch.no_grad():
        hidden = model(**processor(images=[Image.fromarray(p) for p in images], return_tensors="pt"))
    expected = normalised(hidden.last_hidden_state[:, 0].numpy())
    assert np.abs(load_embedder(str(folders["dino"])).images(images) - expected).max() < 2e-6


# ---------------------------------------------------------------- SSCD


def reference_sscd(image: np.ndarray, square: bool) -> torch.Tensor:
    """The authors' preprocessing and network, written from their README: independent of edittools and transformers."""
    shown = Image.fromarray(image)
    if square:
        shown = shown.resize((320, 320), Image.Resampling.BILINEAR)
    elif shown.width <= shown.height:
        shown = shown.resize((288, int(288 * shown.height / shown.width)), Image.Resampling.BILINEAR)
    else:
        shown = shown.resize((int(288 * shown.width / shown.height), 288), Image.Resampling.BILINEAR)
    pixels = torch.tensor(np.array(shown)).permute(2, 0, 1).float().div(255)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        return torch.nn.functional.normalize(tiny.torchvision_sscd()(pixels[None]))[0]


@pytest.mark.parametrize("square", [False, True])
def test_sscd_against_an_independent_network(folders: dict[str, Path], square: bool) -> None:
    embedder = load_embedder(str(folders["sscd"]), square=square)
    for image in (tiny.photo(1), tiny.photo(2, 90, 55), tiny.photo(3, 300, 333)):
        shape = embedder.prepare(image).shape
        assert shape == (3, 320, 320) if square else min(shape[1:]) == 288
        assert np.abs(embedder.images([image])[0] - reference_sscd(image, square).numpy()).max() < 1e-5


def test_sscd_names_are_one_to_one_for_resnet50() -> None:
    """Every weight of a torchvision ResNet-50 with SSCD's head has one place in ours, and ours are all filled."""
    with torch.device("meta"):
        theirs = tiny.released_sscd(tiny.TorchvisionResNet(sscd.RESNET50, 512))
        ours = sscd.SscdNetwork(sscd.RESNET50, 512, 3.0).state_dict()
    assert len(theirs) == 320  # torchvision's resnet50().state_dict()
    renamed = sscd.renamed(theirs)
    assert renamed.keys() == ours.keys() and len(renamed) == len(theirs)
    assert all(renamed[name].shape == ours[name].shape for name in ours)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_sscd_refuses_other_weights(tmp_path: Path, change: str) -> None:
    released = tiny.released_sscd(tiny.torchvision_sscd())
    if change == "missing":
        del released["backbone.layer2.0.bn2.running_var"]
    elif change == "unknown":
        released["backbone.layer5.0.what.weight"] = torch.zeros(1)
    else:
        released["backbone.conv1.weight"] = torch.zeros(8, 3, 5, 5)
    with pytest.raises(EditError):
        sscd.save_released(released, tmp_path / "out", "file", tiny.TINY_RESNET)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- whitening, score normalisation


def test_whitening_makes_the_background_white() -> None:
    rng = np.random.default_rng(0)
    background = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 8)) + 2  # flat in two directions
    whitening = Whitening.fit(background)
    assert whitening.matrix.shape == (8, 6)
    white = (background - whitening.mean) @ whitening.matrix
    assert np.allclose(np.cov(white.T), np.eye(6), atol=1e-3) and np.allclose(white.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(np.linalg.norm(whitening(background), axis=1), 1, atol=1e-5)
    assert Whitening.fit(background, 3).matrix.shape == (8, 3)
    centred = Whitening.centring(background)
    assert np.allclose(centred(background), normalised(background - background.mean(axis=0)), atol=1e-6)


def test_whitening_is_kept(tmp_path: Path) -> None:
    background = np.random.default_rng(1).normal(size=(50, 5)).astype(np.float32)
    whitening = Whitening.fit(background)
    whitening.save(tmp_path / "whitening.safetensors")
    assert np.array_equal(Whitening.load(tmp_path / "whitening.safetensors")(background), whitening(background))


def test_score_offsets_by_hand() -> None:
    background = 2 * np.eye(5, dtype=np.float32)  # of whatever length
    query = np.array([[0.1, 0.8, 0.3, 0.5, 0.1]], np.float32)
    assert score_offsets(query, background)[0] == pytest.approx((0.8 + 0.5 + 0.3) / 3)
    assert score_offsets(query, background, weight=0.5, first=1, last=2)[0] == pytest.approx(0.5 * (0.5 + 0.3) / 2)
    assert score_offsets(query, background, last=0)[0] == pytest.approx(0.8)
    with pytest.raises(ValueError, match="too few"):
        score_offsets(query, background, last=5)


# ---------------------------------------------------------------- the aesthetic head, the classifier


def test_aesthetic_head_against_torch(folders: dict[str, Path]) -> None:
    """An independent transcription: the release's Sequential with its dropout, in evaluation mode."""
    nn = torch.nn
    layers = nn.Sequential(
        nn.Linear(24, 12), nn.Dropout(0.2), nn.Linear(12, 10), nn.Dropout(0.2), nn.Linear(10, 8), nn.Dropout(0.1),
        nn.Linear(8, 6), nn.Linear(6, 1),
    ).eval()  # fmt: skip
    layers.load_state_dict({k.removeprefix("layers."): v for k, v in tiny.released_aesthetic().items()})
    vectors = normalised(np.random.default_rng(0).normal(size=(20, 24)))
    with torch.no_grad():
        expected = layers(torch.tensor(vectors))[:, 0].numpy()
    head = aesthetic.load_aesthetic(str(folders["aesthetic"]))
    assert np.abs(head(vectors) - expected).max() < 1e-5
    assert np.abs(head(vectors[3:4]) - expected[3]).max() < 1e-5
    with pytest.raises(EditError, match="vectors of 24 numbers, not 5"):
        head(np.zeros((1, 5), np.float32))


def test_a_head_of_one_layer(tmp_path: Path) -> None:
    layer = torch.nn.Linear(24, 1)
    torch.save(layer.state_dict(), tmp_path / "linear.pth")
    assert convert.convert(tmp_path / "linear.pth", tmp_path / "linear") == "aesthetic"
    vectors = normalised(np.random.default_rng(0).normal(size=(5, 24)))
    with torch.no_grad():
        expected = layer(torch.tensor(vectors))[:, 0].numpy()
    assert np.abs(aesthetic.load_aesthetic(str(tmp_path / "linear"))(vectors) - expected).max() < 1e-6
    assert not aesthetic.recognises(torch.nn.Linear(24, 2).state_dict())


def test_classifier_is_transformers_pipeline(tmp_path: Path) -> None:
    from transformers import pipeline

    images = [tiny.photo(k) for k in range(4)]
    for name, labels, more in (
        ("two", ("real", "fake"), {}),
        ("many", ("a", "b", "c"), {"problem_type": "multi_label_classification"}),
        ("one", ("fake",), {}),
    ):
        folder = tiny.save_classifier(tmp_path / name, labels, **more)
        classifier = load_classifier(str(folder))
        found = classifier.infer([classifier.prepare(image) for image in images])
        theirs = pipeline("image-classification", model=str(folder))([Image.fromarray(p) for p in images])
        for row, answers in zip(found, theirs):
            scores = {answer["label"]: answer["score"] for answer in answers}
            assert row == pytest.approx([scores[label] for label in labels], abs=2e-6)
    assert classifier.column("FAKE") == 0
    with pytest.raises(UsageError, match="no such label"):
        classifier.column("real")


# ---------------------------------------------------------------- conversion


def test_conversion_of_released_files(
    tmp_path: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(tiny.released_aesthetic(), tmp_path / "a.pth")
    assert convert.convert(tmp_path / "a.pth", tmp_path / "a") == "aesthetic"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "a/model.safetensors").read_bytes() == (folders["aesthetic"] / "model.safetensors").read_bytes()
    network = tiny.torchvision_sscd(sscd.RESNET50, 512)
    torch.save(tiny.released_sscd(network), tmp_path / "s.pt")
    assert convert.main([str(tmp_path / "s.pt"), str(tmp_path / "s")]) == 0
    assert capsys.readouterr().err == f"sscd: {tmp_path / 's'}\n"
    embedder = load_embedder(str(tmp_path / "s"), square=True)
    image = tiny.photo(1)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(network(embedder.prepare(image)[None]))[0]
    assert embedder.dim == 512 and np.abs(embedder.images([image])[0] - expected.numpy()).max() < 1e-5


def test_a_pickle_that_executes_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"layers.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(EditError, match="not a file of weights alone"):
        lookup.read_released(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "sscd.torchscript.pt")
    with pytest.raises(EditError) as caught:
        convert.convert(tmp_path / "sscd.torchscript.pt", tmp_path / "out")
    assert "torchvision.pt" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 cut"])
def test_damaged_releases(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    assert convert.main([str(tmp_path / "file.pt"), str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()
    assert convert.main([str(tmp_path / "absent.pt"), str(tmp_path / "out")]) == 1
    assert convert.main([]) == 2
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pt")
    assert convert.main([str(tmp_path / "other.pt"), str(tmp_path / "out")]) == 1


# ---------------------------------------------------------------- ISC21


def test_isc21_says_what_is_missing(tmp_path: Path) -> None:
    """timm needs torchvision. Where either is absent, nothing else of this backend can be tested."""
    try:
        import timm  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("timm is installed")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "isc21", "trunk": "x", "dim": 256}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(EditError, match="`timm`, which is not installed") as caught:
        load_embedder(str(tmp_path))
    assert caught.value.hint == "pip install 'edittools[isc21]'"
    released = {"arch": "tf_efficientnetv2_m_in21ft1k", "args": argparse.Namespace(input_size=512), "state_dict": {}}
    torch.save({**released, "state_dict": {"module.fc.weight": torch.zeros(256, 512)}}, tmp_path / "isc.pth.tar")
    assert isc21.recognises(lookup.read_released(tmp_path / "isc.pth.tar"))  # the training arguments are let through
    with pytest.raises(EditError, match="timm"):
        convert.convert(tmp_path / "isc.pth.tar", tmp_path / "out")


# ---------------------------------------------------------------- where weights are


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, an empty hub cache, and an empty folder of weights."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(lookup.VARIABLE, str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_missing_weights_say_what_to_fetch_and_where_to_put_it(offline: Path) -> None:
    with pytest.raises(EditError) as caught:
        load_embedder("openai/clip-vit-large-patch14")
    assert "https://huggingface.co/openai/clip-vit-large-patch14" in str(caught.value)
    assert f"{offline}/openai/clip-vit-large-patch14" in str(caught.value)
    assert caught.value.hint and "hf download openai/clip-vit-large-patch14 --local-dir" in caught.value.hint
    for load, name, place in (
        (load_embedder, "sscd_disc_mixup", "sscd_disc_mixup.torchvision.pt"),
        (load_embedder, "isc_ft_v107", "isc_ft_v107.pth.tar"),
        (aesthetic.load_aesthetic, aesthetic.NAME, "linearMSE.pth"),
    ):
        with pytest.raises(EditError) as caught:
            load(name)
        message = str(caught.value)
        assert "\n" not in message and "fetch https://" in message and place in message
        assert f"{offline}/{name}" in message and "edittools.convert" in str(caught.value.hint)
    with pytest.raises(EditError, match="no folder nonsense"):
        load_embedder("nonsense")


def test_weights_below_the_variable(offline: Path, folders: dict[str, Path]) -> None:
    (offline / "someone").mkdir(parents=True)
    (offline / "someone/model").symlink_to(folders["clip"])
    found = load_embedder("someone/model")
    assert found.name == "model" and found.revision == load_embedder(str(folders["clip"])).revision
    assert found.revision != load_embedder(str(folders["siglip"])).revision


def test_weights_in_the_hub_cache(offline: Path, folders: dict[str, Path]) -> None:
    repo = offline.parent / "cache/models--someone--dino"
    commit = "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "snapshots").mkdir()
    (repo / "refs/main").write_text(commit)
    (repo / "snapshots" / commit).symlink_to(folders["dino"])
    assert load_embedder("someone/dino").dim == 16
    assert load_embedder("someone/dino", revision=commit).name == "dino"


def test_folders_that_hold_no_such_model(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(EditError, match=r"no config\.json beside safetensors"):
        load_embedder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(EditError, match=r"pytorch_model\.bin, which is not read"):
        load_embedder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(EditError, match="no embedder for a model of type `None`"):
        load_embedder(str(tmp_path))
    (tmp_path / "config.json").write_text("nonsense")
    with pytest.raises(EditError, match="config"):
        load_embedder(str(tmp_path))
    (tmp_path / "config.json").write_text((folders["clip"] / "config.json").read_text())
    with pytest.raises(EditError, match="cannot be loaded"):
        load_embedder(str(tmp_path))
    with pytest.raises(UsageError, match="dtype"):
        load_embedder(str(folders["clip"]), dtype="int8")
    if not torch.cuda.is_available():
        with pytest.raises(EditError, match="--device cuda"):
            load_embedder(str(folders["clip"]), device="cuda")


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path, folders: dict[str, Path]) -> None:
    """transformers would fill them with random numbers and a warning."""
    from safetensors.torch import load_file, save_file

    for path in folders["dino"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EditError, match=r"1 weights are missing, such as layernorm\.weight"):
        load_embedder(str(tmp_path))
