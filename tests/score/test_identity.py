"""Identity of faces in results, by a small network of random weights that is asked by hand as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import encode, pixels
from test_consistency import TINY, tiny_network

import edittools
from edittools.encoders.embedders import arcface
from edittools.errors import UsageError
from edittools.weights.lookup import save_converted

FACE = np.array([[0.35, 0.4], [0.6, 0.42], [0.5, 0.55], [0.38, 0.7], [0.6, 0.7]])
OTHER = FACE * 0.5


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "face"
    config = dict(zip(("widths", "depths", "dim"), TINY))
    save_converted(folder, tiny_network().state_dict(), {"model_type": "arcface", **config})
    return folder


def rows(folder: Path, faces: list) -> Path:
    images = [pixels(k, 64, 80) for k in range(3)]
    table = pa.table({
        "id": ["other", "same", "none"],
        "source": [[{"bytes": encode(images[2], "PNG"), "path": None}]] * 3,
        "target": [{"bytes": encode(images[0], "PNG"), "path": None}] * 3,
        "result": [{"bytes": encode(images[k], "PNG"), "path": None} for k in (1, 0, 1)],
        "faces": pa.array(faces, pa.list_(pa.list_(pa.list_(pa.float64())))),
    })  # fmt: skip
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def by_hand(result: np.ndarray, truth: np.ndarray, face: np.ndarray) -> float:
    vectors = []
    for image in (result, truth):
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            vectors.append(tiny_network()(arcface.align(tensor, face * [80, 64]))[0])
    return float(F.cosine_similarity(vectors[0], vectors[1], dim=0))


def test_identity_is_the_mean_over_faces(network: Path, tmp_path: Path) -> None:
    two = [FACE.tolist(), OTHER.tolist()]
    path = rows(tmp_path, [two, two, []])
    found = {row["id"]: row["scores"] for row in edittools.read(str(path)).score(identity=str(network)).rows()}
    truth, other, source = (pixels(k, 64, 80) for k in range(3))
    wanted = np.mean([by_hand(other, truth, face) for face in (FACE, OTHER)])
    copied = np.mean([by_hand(source, truth, face) for face in (FACE, OTHER)])
    assert found["other"]["identity"] == pytest.approx(wanted, abs=1e-4)
    assert found["other"]["copy_identity"] == pytest.approx(copied, abs=1e-4)
    assert found["same"]["identity"] == pytest.approx(1, abs=1e-5) and wanted < 0.999
    assert found["none"]["identity"] is None and found["none"]["psnr"] is not None


def test_a_pair_without_a_result_has_the_sources(network: Path, tmp_path: Path) -> None:
    path = rows(tmp_path, [[FACE.tolist()], [], []])
    pq.write_table(pq.read_table(path).drop_columns(["result"]), tmp_path / "pairs.parquet")
    read = edittools.read(str(tmp_path / "pairs.parquet")).score(identity=str(network))
    found = {row["id"]: row["scores"] for row in read.rows()}
    assert found["other"]["copy_identity"] == pytest.approx(
        by_hand(pixels(2, 64, 80), pixels(0, 64, 80), FACE), abs=1e-4
    )
    assert found["same"]["copy_identity"] is None and "identity" not in found["same"]


def test_only_of_faces_and_by_a_network_of_faces(network: Path, tmp_path: Path) -> None:
    from tiny_models import save_dino

    path = rows(tmp_path, [[], [], []])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["faces"]), tmp_path / "plain.parquet")
    with pytest.raises(UsageError, match="`faces`"):
        list(edittools.read(str(tmp_path / "plain.parquet")).score(identity=str(network)).rows())
    with pytest.raises(UsageError, match="--identity"):
        edittools.read(str(path)).score(identity=str(save_dino(tmp_path / "dino")))
