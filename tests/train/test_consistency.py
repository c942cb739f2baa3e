"""The consistency loss on aligned faces: alignment against scikit-image and OpenCV, an ArcFace network against one that
is written out, the gradient against finite differences, and a training run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.transform import SimilarityTransform
from tiny_architectures import save_firered
from tiny_models import stir
from training import TWO_STEPS, MemoryRows, pairs, run

from edittools import convert
from edittools.encoders.embedders import arcface, load_embedder
from edittools.errors import EditError, RowError, UsageError
from edittools.train import consistency, load_recipe
from edittools.train.rows import TrainRow, landmarks

FACE = ((0.35, 0.4), (0.62, 0.38), (0.5, 0.55), (0.4, 0.7), (0.6, 0.69))
TINY = ([4, 6], [2, 1], 8)


def tiny_network(seed: int = 0, amount: float = 0.2) -> arcface.ArcFaceNetwork:
    torch.manual_seed(seed)
    return stir(arcface.ArcFaceNetwork(*TINY), seed, amount).eval()


# ------------------------------------------------------------------------------------------------------ alignment


@pytest.mark.parametrize("seed", range(5))
def test_the_similarity_is_that_of_scikit_image(seed):
    random = np.random.default_rng(seed)
    points, wanted = random.normal(0, 40, (5, 2)), random.normal(0, 40, (5, 2))
    theirs = SimilarityTransform.from_estimate(points, wanted)
    assert np.allclose(arcface.similarity(points, wanted), theirs.params[:2], atol=1e-9)
    # and it finds a turn, a scale and a shift exactly
    known = SimilarityTransform(scale=0.7, rotation=0.4, translation=(3, -9))
    assert np.allclose(arcface.similarity(points, known(points)), known.params[:2], atol=1e-9)


@pytest.mark.parametrize("scale", [0.9, 1.0, 3.3])
def test_faces_are_aligned_as_by_opencv(scale):
    """A face that is as large as its canonical one, a smaller one, and one of thrice its size."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (9, 9, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (round(200 * scale), round(240 * scale)), interpolation=cv2.INTER_CUBIC)
    turned = SimilarityTransform(scale=scale, rotation=0.3, translation=(60 * scale, 40 * scale))
    points = turned(arcface.CANONICAL)
    tensor = torch.from_numpy(image.astype(np.float64) / 127.5 - 1).permute(2, 0, 1)[None]
    made = arcface.align(tensor, points)[0].permute(1, 2, 0).numpy()
    # OpenCV counts from the middle of pixels; of large faces it wants every pixel of theirs first
    finer = int(np.ceil(scale))
    matrix = arcface.similarity(points - 0.5, (arcface.CANONICAL * finer) - 0.5)
    theirs = cv2.warpAffine(image, matrix, (112 * finer, 112 * finer), flags=cv2.INTER_LINEAR).astype(np.float64)
    theirs = theirs.reshape(112, finer, 112, finer, 3).mean((1, 3)) / 127.5 - 1
    assert np.abs(made - theirs).mean() < 0.01 and np.abs(made - theirs).max() < 0.06


def test_only_the_surroundings_are_decoded_and_nothing_is_lost():
    """Of an architecture whose latents are its pixels the face is that of the whole image, and the decoder sees
    less.
    """

    class Pixels:
        seen: tuple[int, ...] = ()

        def images(self, latents):
            self.seen = tuple(latents.shape)
            return latents

    torch.manual_seed(0)
    pixels, system = torch.rand(1, 3, 300, 400, dtype=torch.float64) * 2 - 1, Pixels()
    face = consistency.FaceLandmarks(tuple((0.3 + 0.2 * x, 0.3 + 0.3 * y) for x, y in FACE))
    crop = consistency.face_crop(system, pixels, face, 112)
    whole = arcface.align(pixels, np.array(face.landmarks) * [400, 300])
    assert torch.allclose(crop, whole, atol=1e-9)
    assert system.seen[2] * system.seen[3] < 0.8 * 300 * 400


# ------------------------------------------------------------------------------------------------------- network


def written_out(tensors: dict[str, torch.Tensor], x: torch.Tensor, depths: list[int]) -> torch.Tensor:
    """The network by its definition, from its tensors alone."""

    def norm(name, x):
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean, var = (tensors[f"{name}.running_{k}"].view(shape) for k in ("mean", "var"))
        return (x - mean) / torch.sqrt(var + 1e-5) * tensors[f"{name}.weight"].view(shape) + tensors[
            f"{name}.bias"
        ].view(shape)

    def prelu(name, x):
        return torch.where(x > 0, x, x * tensors[f"{name}.weight"].view(1, -1, 1, 1))

    x = prelu("prelu", norm("bn1", F.conv2d(x, tensors["conv1.weight"], padding=1)))
    for stage, depth in enumerate(depths, 1):
        for k in range(depth):
            name, stride = f"layer{stage}.{k}", 2 if k == 0 else 1
            y = F.conv2d(norm(f"{name}.bn1", x), tensors[f"{name}.conv1.weight"], padding=1)
            y = prelu(f"{name}.prelu", norm(f"{name}.bn2", y))
            y = norm(f"{name}.bn3", F.conv2d(y, tensors[f"{name}.conv2.weight"], stride=stride, padding=1))
            if k == 0:
                x = norm(f"{name}.downsample.1", F.conv2d(x, tensors[f"{name}.downsample.0.weight"], stride=2))
            x = x + y
    x = norm("bn2", x).flatten(1) @ tensors["fc.weight"].T + tensors["fc.bias"]
    return norm("features", x)


def test_a_released_backbone_is_converted_once_and_opens(tmp_path: Path):
    released = tiny_network().state_dict()
    torch.save(released, tmp_path / "backbone.pth")
    assert convert.convert(tmp_path / "backbone.pth", tmp_path / "face") == "arcface"
    assert sorted(p.name for p in (tmp_path / "face").iterdir()) == ["config.json", "model.safetensors"]
    embedder = load_embedder(str(tmp_path / "face"))
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    tensor = torch.from_numpy(image.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    expected = F.normalize(written_out(released, tensor, TINY[1]), dim=-1)[0]
    assert np.allclose(embedder.images([image])[0], expected.numpy(), atol=1e-5)
    frozen = consistency.FrozenEncoder.load(str(tmp_path / "face"), "cpu", "float32")
    assert frozen.faces_only and torch.allclose(frozen(tensor)[0], expected, atol=1e-5)
    torch.save({k: v for k, v in released.items() if k != "bn2.weight"}, tmp_path / "less.pth")
    with pytest.raises(EditError, match="not those of this model"):
        convert.convert(tmp_path / "less.pth", tmp_path / "no")


def test_the_names_are_those_of_the_release():
    """The r50 of arcface_torch: 24 blocks of 20 tensors, 4 shortcuts of 6, and 24 of the ends."""
    with torch.device("meta"):
        names = arcface.ArcFaceNetwork([64, 128, 256, 512], [3, 4, 14, 3], 512).state_dict()
    assert len(names) == 24 * 18 + 4 * 6 + 19
    assert names["fc.weight"].shape == (512, 512 * 49) and names["layer4.0.downsample.0.weight"].shape[0] == 512
    assert arcface.recognises(names)


# ---------------------------------------------------------------------------------------------------------- loss


class Decoder:
    """Latents of 4 channels to pixels, four a side: a fixed linear map in float64."""

    def __init__(self):
        torch.manual_seed(0)
        self.up = torch.nn.ConvTranspose2d(4, 3, 4, stride=4).double().requires_grad_(False)

    def images(self, latents):
        return torch.tanh(self.up(latents))


def test_gradient_through_alignment_and_recognition_against_finite_differences():
    """Two faces in the first row, one in the second, whose σ is beyond 0.9; a third row has none."""
    network = tiny_network(amount=0.1).double()
    encoder = consistency.FrozenEncoder(network, [0.5] * 3, [0.5] * 3, 112, faces_only=True)
    system = Decoder()
    torch.manual_seed(1)
    truth, guess = torch.randn(2, 3, 4, 12, 12, dtype=torch.float64)
    t = torch.tensor([0.4, 0.95, 0.5], dtype=torch.float64)
    second = consistency.FaceLandmarks(tuple((0.5 + (y - 0.5) * 0.6, 0.4 + (x - 0.5) * 0.7) for x, y in FACE))
    faces = [[consistency.FaceLandmarks(FACE), second], [second], []]

    def value(x):
        return consistency.loss(system, encoder, x, truth, t, faces, 1.5).sum()

    x = guess.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    assert gradient[0].any() and not gradient[1:].any()
    for seed in range(3):
        torch.manual_seed(seed)
        direction, step = torch.randn_like(guess), 1e-6
        along = (value(guess + step * direction) - value(guess - step * direction)) / (2 * step)
        assert along.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-5)
    # by hand: η σ² times the mean over both faces of 1 - cos of what the network says of each, aligned
    with torch.no_grad():
        images = [system.images(each[:1]) for each in (guess, truth)]
        cosines = []
        for face in faces[0]:
            a, b = (network(arcface.align(p, np.array(face.landmarks) * 48)) for p in images)
            cosines.append(F.cosine_similarity(a, b).item())
        assert value(guess).item() == pytest.approx(1.5 * 0.16 * (1 - sum(cosines) / 2), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------- rows


def test_regions_are_placed_within_what_is_shown():
    row = TrainRow("a", "portrait", "", {}, [], (100, 200), boxes=[(0.5, 0, 1, 1)], faces=[FACE])
    half = [0.5] * 3
    any_model, faces_only = (consistency.FrozenEncoder(torch.nn.Identity(), half, half, 112, k) for k in (False, True))
    (face,) = consistency.regions(row, (0.25, 0.0, 0.75, 1.0), faces_only)  # the middle half of the width
    assert face.landmarks[0] == pytest.approx((0.2, 0.4)) and face.landmarks[1] == pytest.approx((0.74, 0.38))
    assert consistency.regions(row, (0.4, 0.0, 1.0, 1.0), faces_only) == []  # the left eye is cut off
    assert consistency.regions(row, (0.4, 0.0, 1.0, 1.0), any_model) == [pytest.approx((1 / 6, 0, 1, 1))]
    bare = dataclasses.replace(row, faces=[], boxes=[])
    assert consistency.regions(bare, (0, 0, 1, 1), any_model) == [consistency.WHOLE]


def test_landmarks_of_rows():
    flat = [number for point in FACE for number in point]
    assert landmarks([{"landmarks": [list(p) for p in FACE]}, flat]) == [FACE, FACE]
    assert landmarks(None) == landmarks([]) == []
    for bad in ([[1, 2]], [{"landmarks": [120.0] * 10}], [{"landmarks": None}], [["x"] * 10], [[[0.1, 0.2], [0.3]]]):
        with pytest.raises(RowError, match="a face has five landmarks"):
            landmarks(bad)


def test_training_with_faces(tmp_path: Path):
    """With faces the loss is larger; without any the run does not begin."""
    torch.save(tiny_network().state_dict(), tmp_path / "backbone.pth")
    convert.convert(tmp_path / "backbone.pth", tmp_path / "face")
    model = save_firered(tmp_path / "model")
    recipe = load_recipe(
        "firered-small",
        {
            **TWO_STEPS,
            "system": "firered",
            "shift": 1.0,
            "shift_by_tokens": [],
            "consistency": 0.5,
            "consistency_encoder": str(tmp_path / "face"),
        },
    )
    recipe = dataclasses.replace(recipe, model={"weights": str(model)})
    rows = pairs(4, side=64)
    faces = [(dataclasses.replace(row, faces=[FACE] * (1 + k % 2)), p) for k, (row, p) in enumerate(rows)]
    run(recipe, MemoryRows(faces), tmp_path / "with")
    run(dataclasses.replace(recipe, consistency=0.0), MemoryRows(faces), tmp_path / "without")
    lines = [json.loads((tmp_path / d / "log.jsonl").read_text().splitlines()[0]) for d in ("with", "without")]
    assert lines[0]["loss"] > lines[1]["loss"] and lines[0]["grad_norm"] != lines[1]["grad_norm"]
    with pytest.raises(UsageError, match="no row has `faces`"):
        run(recipe, MemoryRows(rows), tmp_path / "none")
