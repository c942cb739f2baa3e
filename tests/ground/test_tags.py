"""`edit ground --tags`: names of a vocabulary by CLIP and SigLIP, against transformers' own pipeline and formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_grounding as tiny
import tiny_models
import torch
from conftest import encode, rejects_of, rows_of
from PIL import Image
from tiny_models import photo

import edittools
from edittools.caption.targets import read_things
from edittools.encoders.embedders.clip import ClipEmbedder
from edittools.errors import EditError, UsageError
from edittools.ground.config import GroundConfig
from edittools.ground.stage import GroundStage
from edittools.ground.tags import PEOPLE, read_vocabulary
from edittools.stream import codec
from edittools.stream.history import History

NAMES = ["dog", "cat", "red car", "tree", "old sign", "cup"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("weights")
    return {
        "clip": str(tiny_models.save_clip(root / "clip")),
        "siglip": str(tiny_models.save_siglip(root / "siglip", length=64)),  # as the published ones
        "dino": str(tiny_models.save_dino(root / "dino")),
    }


def photographs(folder: Path, count: int = 5, **columns: Any) -> str:
    data = [encode(photo(k, 40, 50), "PNG") for k in range(count)]
    images = [{"bytes": one, "path": f"{k}.png"} for k, one in enumerate(data)]
    path = folder / "in.parquet"
    pq.write_table(pa.table({"id": [f"r{k}" for k in range(count)], "target": images, **columns}), path)
    return str(path)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_are_those_of_transformers_pipeline(folders: dict[str, str], kind: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, pipeline

    processor = AutoImageProcessor.from_pretrained(folders[kind], backend="pil")
    stock = pipeline("zero-shot-image-classification", model=folders[kind], image_processor=processor)
    rows = list(
        edittools.read(photographs(tmp_path)).ground(tags=folders[kind], vocabulary=NAMES, most_tags=len(NAMES)).rows()
    )
    assert len(rows) == 5
    for k, row in enumerate(rows):
        wanted = stock(Image.fromarray(photo(k, 40, 50)), candidate_labels=NAMES)
        assert [one["name"] for one in row["tags"]] == [one["label"] for one in wanted]
        scores = [one["score"] for one in row["tags"]]
        assert np.abs(np.array(scores) - [one["score"] for one in wanted]).max() < 2e-6
        assert kind == "siglip" or sum(scores) == pytest.approx(1, abs=1e-5)
    assert len({tuple(tag["name"] for tag in row["tags"]) for row in rows}) > 1, "the images are told apart"


def test_several_prompts_are_averaged_as_the_formula_says(folders: dict[str, str], tmp_path: Path) -> None:
    """Radford et al. 2021, 3.1.4: the mean of the unit vectors of all prompts, of unit length again."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    model, processor = (
        CLIPModel.from_pretrained(folders["clip"]),
        CLIPImageProcessorPil.from_pretrained(folders["clip"]),
    )
    tokens = AutoTokenizer.from_pretrained(folders["clip"])
    prompts = ["a drawing of {}", "{}, seen from above"]
    texts = []
    with torch.inference_mode():
        for name in NAMES:
            asked = tokens([one.replace("{}", name) for one in prompts], padding=True, return_tensors="pt")
            own = model.get_text_features(**asked).pooler_output
            mean = (own / own.norm(dim=1, keepdim=True)).mean(0)
            texts.append(mean / mean.norm())
        image = model.get_image_features(**processor(images=Image.fromarray(photo(0, 40, 50)), return_tensors="pt"))
        unit = image.pooler_output[0] / image.pooler_output[0].norm()
        wanted = torch.softmax(model.logit_scale.exp() * torch.stack(texts) @ unit, 0).numpy()
    told = {"tags": folders["clip"], "vocabulary": NAMES, "prompt": prompts, "most_tags": 6}
    (row,) = edittools.read(photographs(tmp_path, 1)).ground(**told).rows()
    found = {one["name"]: one["score"] for one in row["tags"]}
    assert np.abs(np.array([found[name] for name in NAMES]) - wanted).max() < 2e-6
    (one,) = edittools.read(photographs(tmp_path, 1)).ground(**told | {"prompt": prompts[0]}).rows()
    assert {tag["name"]: tag["score"] for tag in one["tags"]} != found


def test_the_best_and_those_above_a_threshold(folders: dict[str, str], tmp_path: Path) -> None:
    source = edittools.read(photographs(tmp_path))
    whole = [row["tags"] for row in source.ground(tags=folders["clip"], vocabulary=NAMES, most_tags=6).rows()]
    two = [row["tags"] for row in source.ground(tags=folders["clip"], vocabulary=NAMES, most_tags=2).rows()]
    assert two == [tags[:2] for tags in whole]
    least = float(np.median([tag["score"] for tags in whole for tag in tags]))
    told = {"tags": folders["clip"], "vocabulary": NAMES, "most_tags": 6, "tag_threshold": least}
    over = [row["tags"] for row in source.ground(**told).rows()]
    assert over == [[tag for tag in tags if tag["score"] >= least] for tags in whole]
    assert 0 < sum(map(len, over)) < sum(map(len, whole))


def test_batches_are_single_runs_and_texts_are_asked_once(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, asked, decoded = photographs(tmp_path, 12), [], []
    texts, decode = ClipEmbedder.texts, codec.decode

    def counting(self: ClipEmbedder, some: list[str]) -> np.ndarray:
        asked.extend(some)
        return texts(self, some)

    def decoding(data: Any, *told: Any) -> np.ndarray:
        decoded.append(bytes(data))
        return decode(data, *told)

    monkeypatch.setattr(ClipEmbedder, "texts", counting)
    monkeypatch.setattr(codec, "decode", decoding)
    told = {"tags": folders["clip"], "vocabulary": NAMES, "maps": "canny"}
    together = list(edittools.read(source, jobs=2).ground(batch_size=5, **told).rows())
    assert len(asked) == len(NAMES) == len(set(asked)) and len(decoded) == 12 == len(set(decoded))
    alone = list(edittools.read(source, jobs=1).ground(batch_size=1, **told).rows())
    for one, other in zip(together, alone, strict=True):
        assert [tag["name"] for tag in one["tags"]] == [tag["name"] for tag in other["tags"]]
        assert [tag["score"] for tag in one["tags"]] == pytest.approx([tag["score"] for tag in other["tags"]], rel=2e-5)


def test_the_shipped_vocabulary_and_files_of_ones_own(folders: dict[str, str], tmp_path: Path) -> None:
    shipped = read_vocabulary()
    assert len(shipped) >= 500 and set(shipped) == {*PEOPLE, *(n for names in read_things().values() for n in names)}
    assert shipped["owl"] == "birds" and shipped["kite"] == "toys" and shipped["woman"] == "people"
    (row,) = edittools.read(photographs(tmp_path, 1)).ground(tags=folders["clip"]).rows()
    assert len(row["tags"]) == 5 and all(shipped[tag["name"]] == tag["category"] for tag in row["tags"])
    words = tmp_path / "words.toml"
    words.write_text('birds = ["owl", "an eagle"]\n[add]\nhats = ["a top hat"]\n')
    assert dict(read_vocabulary([str(words)])) == {"owl": "birds", "eagle": "birds", "top hat": "hats"}
    plain = tmp_path / "words.txt"
    plain.write_text("owl\n\n red car \nowl\n")
    assert dict(read_vocabulary([str(plain)])) == {"owl": None, "red car": None}
    assert dict(read_vocabulary(["owl", "car"])) == {"owl": None, "car": None}
    for name, text, said in (
        ("none.toml", "", "no names"),
        ("odd.toml", "birds = [1]", "`birds` is no list of names"),
        ("bad.toml", "birds = [", "--vocabulary"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=said):
            read_vocabulary([str(tmp_path / name)])
    with pytest.raises(UsageError, match="No such file"):
        read_vocabulary([str(tmp_path / "absent.txt")])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UsageError, match="utf-8"):
        read_vocabulary([str(tmp_path / "latin.txt")])


def test_rows_bring_names_of_their_own(folders: dict[str, str], tmp_path: Path) -> None:
    own = [["dog", "cat"], [], ["cup", "tree", "cup"], ["dog"]]
    source = photographs(tmp_path, 4, words=own)
    rows = list(edittools.read(source).ground(tags=folders["clip"], vocabulary_from="words").rows())
    assert [sorted(tag["name"] for tag in row["tags"]) for row in rows] == [
        ["cat", "dog"],
        [],
        ["cup", "tree"],
        ["dog"],
    ]
    for k, row in enumerate(rows):
        if own[k]:
            names = list(dict.fromkeys(own[k]))
            alone = edittools.read(source).ground(tags=folders["clip"], vocabulary=names)
            assert list(alone.rows())[k]["tags"] == row["tags"]


def test_detectors_look_for_what_is_tagged(folders: dict[str, str], tmp_path: Path) -> None:
    owl = str(tiny.save_owlv2(tmp_path / "owl"))
    source = photographs(tmp_path)
    told = {"detector": f"owlv2={owl}", "names_from": "tags", "threshold": 0.0, "overlap": 1.0}
    tagging = {"tags": folders["clip"], "vocabulary": NAMES, "most_tags": 2}
    at_once = list(edittools.read(source).ground(**told, **tagging).rows())
    edittools.read(source).ground(**tagging).write(str(tmp_path / "tagged"))
    after = list(edittools.read(str(tmp_path / "tagged")).ground(**told).rows())
    assert [(row["tags"], row["objects"]) for row in at_once] == [(row["tags"], row["objects"]) for row in after]
    for row in at_once:
        names = {one["name"] for one in row["objects"]}
        assert names and names <= {tag["name"] for tag in row["tags"]}
    with pytest.raises(UsageError, match="no `tags` column of names"):
        list(edittools.read(source).ground(**told).rows())


def test_what_captions_named_is_looked_for(tmp_path: Path) -> None:
    """`names` of `edit caption` is a struct of two lists."""
    owl = str(tiny.save_owlv2(tmp_path / "owl"))
    names = [{"objects": ["dog"], "backgrounds": ["sky"]}, None]
    source = edittools.read(photographs(tmp_path, 2, names=names))
    first, second = source.ground(detector=f"owlv2={owl}", names_from="names", threshold=0.0, overlap=1.0).rows()
    assert {one["name"] for one in first["objects"]} == {"dog", "sky"} and second["objects"] == []


def test_filter_reads_tags(folders: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    edittools.read(photographs(tmp_path)).ground(tags=folders["clip"], vocabulary=NAMES).write(str(tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    best = rows[0]["tags"][0]
    asked = f"len(list_filter(tags, lambda t: t.name = '{best['name']}' and t.score >= {best['score']})) > 0"
    kept = [row["id"] for row in edittools.read(str(tmp_path / "out")).filter(where=asked).rows()]
    wanted = [
        row["id"]
        for row in rows
        for tag in row["tags"]
        if tag["name"] == best["name"] and tag["score"] >= best["score"]
    ]
    assert kept == wanted and "r0" in kept


def test_rows_that_cannot_be_tagged_are_rejects(folders: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    images = [{"bytes": b"none", "path": "a.png"}, {"bytes": encode(photo(0), "PNG"), "path": "b.png"}, None]
    pq.write_table(pa.table({"id": ["a", "b", "c"], "target": images}), path)
    edittools.read(str(path)).ground(tags=folders["clip"], vocabulary=NAMES).write(
        str(tmp_path / "out"), max_errors="3"
    )
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["b"]
    assert {one["id"]: one["reason"] for one in rejects_of(tmp_path / "out")} == {
        "a": "not an image", "c": "no target picture",
    }  # fmt: skip


def test_a_network_that_gives_no_numbers_fails_the_row(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ClipEmbedder.images
    monkeypatch.setattr(ClipEmbedder, "images", lambda self, some: images(self, some) * np.nan)
    edittools.read(photographs(tmp_path, 2)).ground(tags=folders["clip"], vocabulary=NAMES).write(
        str(tmp_path / "out"), max_errors="2"
    )
    assert {one["reason"] for one in rejects_of(tmp_path / "out")} == {"the tagging model gives no numbers"}


def test_the_history_knows_model_words_and_prompts(folders: dict[str, str], tmp_path: Path) -> None:
    def said(**told: Any) -> dict[str, Any]:
        return GroundStage(GroundConfig(tags=folders["clip"], **told)).settings(pa.schema([]), History())

    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\n")
    plain = said(vocabulary="dog,cat")
    assert plain["tags"].startswith("clip@") and plain["prompt"] == ["This is a photo of {}."]
    assert plain == said(vocabulary=str(words)) != said(vocabulary="dog,car") and str(tmp_path) not in str(plain)
    assert plain["most_tags"] == 5 and plain["device"] == "cpu" and said() != plain
    without = GroundStage(GroundConfig(maps="canny")).settings(pa.schema([]), History())
    assert not {"tags", "most_tags", "prompt", "vocabulary", "device"} & set(without), "as before there were tags"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"maps": "canny", "vocabulary": "dog"}, "--vocabulary: --tags names the model"),
        ({"maps": "canny", "prompt": "a {}"}, "--prompt: --tags names the model"),
        ({"maps": "canny", "most_tags": 3}, "--most-tags: --tags names the model"),
        ({"tags": "x", "vocabulary": "dog", "vocabulary_from": "words"}, "leave --vocabulary out"),
        ({"tags": "x", "prompt": "a photo"}, "where the name goes"),
        ({"tags": "x", "tag_threshold": 2.0}, "--tag-threshold 2.0"),
    ],
)  # fmt: skip
def test_wrong_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GroundConfig(**settings)


def test_a_model_that_is_not_there_or_knows_no_texts(folders: dict[str, str], tmp_path: Path) -> None:
    source = edittools.read(photographs(tmp_path, 1, tags=[["mine"]]))
    with pytest.raises(UsageError, match="a column `tags` of another kind"):
        list(source.ground(tags=folders["clip"]).rows())
    source = edittools.read(photographs(tmp_path, 1))
    with pytest.raises(UsageError, match="does not compare images with texts"):
        list(source.ground(tags=folders["dino"]).rows())
    with pytest.raises(EditError, match="no-such-clip"):
        list(source.ground(tags="no-such-clip").rows())


def test_experts_and_instructions_speak_of_what_is_tagged() -> None:
    from edittools.caption.kind import Row
    from edittools.synth.experts import asked_of, experts
    from edittools.synth.painted.replace import _alike
    from edittools.synth.painting import Region, Scene

    image, library = np.zeros((4, 4, 3), np.uint8), experts()
    bare, tagged = Scene(image), Scene(image, tags={"teapot": "household", "woman": "people"})
    rng = np.random.default_rng
    assert not [one for one in asked_of(bare, "remove", library["remove"], rng(0)) if "object" in one.slots]
    found = [one for seed in range(8) for one in asked_of(tagged, "remove", library["remove"], rng(seed))]
    assert {one.slots["object"] for one in found if "object" in one.slots} == {"teapot", "woman"}
    (box,) = {one.region.box for one in found if one.region is not None}
    assert box == (0, 0, 1, 1), "wherever it is"
    people = [one for one in asked_of(tagged, "portrait", library["portrait"], rng(0)) if "person" in one.slots]
    assert people and {one.slots["person"] for one in people} == {"woman"}
    known = Scene(image, (Region("dog", np.ones((4, 4), bool), (0.1, 0.1, 0.6, 0.6)),), tags={"teapot": None})
    named = {one.slots.get("object") for one in asked_of(known, "remove", library["remove"], rng(0))}
    assert "dog" in named and "teapot" not in named, "objects, whose place is known, come first"
    words = {"replace": {"things": ["a lantern", "a teapot", "a globe"]}}
    assert _alike(Scene(image, known.regions, words, tags={"teapot": None}), "dog") == ["a lantern", "a globe"]
    row = Row({"tags": [{"name": "teapot", "score": 0.4}], "objects": []}, {}, None, None)  # type: ignore[arg-type]
    assert [one["name"] for one in row.seen] == ["teapot"] and row.objects == []


def test_names_that_are_only_the_likeliest_are_no_facts() -> None:
    from edittools.caption.kind import Row
    from edittools.record import LEAST_TAG
    from edittools.synth.telling import facts_of

    tags = [
        {"name": "dog", "score": 0.9, "category": "animals"},
        {"name": "cat", "score": LEAST_TAG, "category": "animals"},
        {"name": "owl", "score": 0.199, "category": "birds"},
        {"name": "sky", "score": None, "category": None},
    ]
    row = Row({"tags": tags, "objects": []}, {}, None, None)  # type: ignore[arg-type]
    assert [one["name"] for one in row.seen] == ["dog", "cat", "sky"]
    rows = pa.RecordBatch.from_pylist([{"tags": tags}, {"tags": None}])
    assert [one["tags"] for one in facts_of(rows)] == [{"dog": "animals", "cat": "animals", "sky": None}, {}]


def test_two_slots_are_not_two_names_of_one_category() -> None:
    from edittools.synth.experts import _filled
    from edittools.synth.painting import Scene

    image, rng = np.zeros((4, 4, 3), np.uint8), np.random.default_rng
    alike = Scene(image, tags={"cup": "household", "mug": "household"})
    assert _filled(alike, ["object", "other"], rng(0)) is None and _filled(alike, ["object"], rng(0)) is not None
    apart = Scene(image, tags={"cup": "household", "mug": "household", "dog": "animals"})
    for seed in range(8):
        filled = _filled(apart, ["object", "other"], rng(seed))
        assert filled is not None and "dog" in filled[0].values()
    unknown = Scene(image, tags={"cup": None, "mug": None})
    assert _filled(unknown, ["object", "other"], rng(0)) is not None


def test_a_name_is_a_file_only_with_an_ending_or_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("dog", "list.csv"):
        (tmp_path / name).write_text("a cat\nowl\n")
    assert dict(read_vocabulary(["dog"])) == {"dog": None}
    wanted = {"cat": None, "owl": None}
    assert dict(read_vocabulary(["./dog"])) == dict(read_vocabulary([str(tmp_path / "dog")])) == wanted
    assert dict(read_vocabulary(["list.csv"])) == wanted
    assert dict(read_vocabulary(["a dog", "an owl"])) == {"dog": None, "owl": None}


def test_the_report_shows_tags(folders: dict[str, str], tmp_path: Path, edit: Any) -> None:
    out = tmp_path / "tagged"
    edit("ground", photographs(tmp_path, 2), "--tags", folders["clip"], "--vocabulary", "dog,cat", "-o", out)
    tag = rows_of(out)[0]["tags"][0]
    edit("ground", out, "--report", tmp_path / "page.html")
    assert f"{tag['name']} {tag['score']:.2f}" in (tmp_path / "page.html").read_text()
