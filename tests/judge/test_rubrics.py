"""Rubrics, prompt files of benchmarks, the messages of the official protocols, agreement with people."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encode, image, pixels
from PIL import Image, ImageOps

from edittools.errors import EditError, RowError, UsageError
from edittools.judge import agreement as human
from edittools.judge.rubrics import load_rubric, rubric_names
from edittools.judge.rubrics.dimensions import WORDING
from edittools.record import TASKS
from edittools.rubric import prompts
from edittools.rubric.calls import Call, JudgedEdit
from edittools.rubric.parsing import Scores, Unparsed
from edittools.rubric.prompts import asked_labels
from edittools.suites import gedit, imgedit, kris, rededit, risebench
from edittools.vlm import EncodedImage
from edittools.vlm.images import Encoding

SOURCE, EDITED = image(1, "JPEG", 60, 80), image(2, "PNG", 30, 50)
CASE = JudgedEdit("add", "add a red kite", (SOURCE,), EDITED)


def shown(part: str | EncodedImage) -> Image.Image:
    assert isinstance(part, EncodedImage)
    return Image.open(io.BytesIO(part.data))


def kinds(call: Call) -> list[str]:
    return [part.mime if isinstance(part, EncodedImage) else "text" for part in call.parts]


def cases_folder(*names: str) -> Path:
    folder = Path(os.environ.get("EDIT_BENCHMARK_CASES", "")).joinpath(*names)
    if not folder.is_dir():
        pytest.skip("EDIT_BENCHMARK_CASES does not name the shared cases")
    return folder


# ---------------------------------------------------------------- our own rubrics


def test_every_file_is_a_rubric_under_its_name():
    assert {"dimensions", "viescore", "pairwise", "gedit", "imgedit", "uge", "rededit"} <= set(rubric_names())
    for name in rubric_names():
        rubric = load_rubric(name)
        assert rubric.name == name and rubric.summary
        assert len({dimension.name for dimension in rubric.dimensions}) == len(rubric.dimensions)
    with pytest.raises(UsageError, match="no rubric"):
        load_rubric("nonsense")


def test_every_edit_task_has_words_of_its_own():
    assert set(WORDING) == set(TASKS) - {"t2i"}
    texts = [text for words in WORDING.values() for text in words]
    assert len(set(texts)) == len(texts) == 60
    with pytest.raises(RowError, match="no rubric for task"):
        load_rubric("dimensions").ask(JudgedEdit("t2i", "a cat", (SOURCE,), EDITED), {}, Encoding())


@pytest.mark.parametrize("task", sorted(WORDING))
def test_dimensions_ask_one_call(task):
    instruction = "put <task> {here} \\1"
    (call,) = load_rubric("dimensions").ask(JudgedEdit(task, instruction, (SOURCE,), EDITED), {}, Encoding())
    assert kinds(call) == ["text", "text", "image/jpeg", "text", "image/jpeg"]
    assert instruction in call.text and WORDING[task][0] in call.text
    assert not {"<instruction>", "<dimensions>"} & set(call.text.split())
    assert call.text.index("rationale") < call.text.index('"compliance": n')


def value(name: str, numbers: dict, dimension: str) -> float:
    (found,) = [d for d in load_rubric(name).dimensions if d.name == dimension]
    return found.value(numbers)


def test_dimensions_are_capped_by_compliance():
    rubric = load_rubric("dimensions")
    read = rubric.read('{"rationale": "r", "compliance": 2, "naturalness": 5, "coherence": 1}', "judge", CASE, {})
    assert isinstance(read, Scores)
    numbers = {"judge": read.values}
    assert [value("dimensions", numbers, d.name) for d in rubric.dimensions] == [2, 2, 1, pytest.approx(5 / 3)]
    assert isinstance(rubric.read('{"compliance": 2}', "judge", CASE, {}), Unparsed)


def test_viescore_takes_the_worst_and_their_geometric_mean():
    rubric = load_rubric("viescore")
    semantics, quality = rubric.ask(CASE, {}, Encoding())
    assert kinds(semantics) == ["text", "text", "image/jpeg", "text", "image/jpeg"]
    assert kinds(quality) == ["text", "image/jpeg"]
    assert CASE.instruction in semantics.text and CASE.instruction not in quality.text
    numbers = {"SC": {"success": 9, "preservation": 4}, "PQ": {"naturalness": 9, "cleanness": 10}}
    assert [value("viescore", numbers, d) for d in ("sc", "pq", "overall")] == [4, 9, 6]


@pytest.mark.parametrize(
    ("forward", "backward", "preference"),
    [(1, 2, 1.0), (2, 1, 0.0), (1, 1, 0.5), (2, 2, 0.5), (0, 0, 0.5), (0, 2, 0.5), (1, 0, 0.5)],
)
def test_pairwise_ties_when_the_orders_disagree(forward, backward, preference):
    numbers = {"forward": {"better": forward}, "backward": {"better": backward}}
    assert value("pairwise", numbers, "preference") == preference


def test_pairwise_shows_both_orders():
    other = image(3, "PNG", 30, 50)
    forward, backward = load_rubric("pairwise").ask(
        JudgedEdit("add", "x", (SOURCE,), EDITED, other), {}, Encoding(kind="png", max_side=None)
    )
    assert forward.text == backward.text
    assert forward.parts[4] == backward.parts[6] and forward.parts[6] == backward.parts[4]
    assert forward.parts[2] == backward.parts[2]
    assert np.array_equal(np.asarray(shown(forward.parts[4])), np.asarray(Image.open(io.BytesIO(EDITED))))
    with pytest.raises(RowError, match="no second result"):
        load_rubric("pairwise").ask(CASE, {}, Encoding())


def test_schemas_put_the_rationale_first():
    for name in ("dimensions", "viescore", "pairwise"):
        for schema in load_rubric(name).schemas.values():
            assert next(iter(schema["properties"])) == "rationale"
            assert schema["required"] == list(schema["properties"])


def test_several_sources_are_numbered():
    case = JudgedEdit("tryon", "x", (SOURCE, EDITED), SOURCE)
    (call,) = load_rubric("dimensions").ask(case, {}, Encoding())
    assert [part for part in call.parts[1:] if isinstance(part, str)] == [
        "Before the edit, 1 of 2:", "Before the edit, 2 of 2:", "After the edit:",
    ]  # fmt: skip


def test_original_bytes_are_sent_where_they_fit():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(pixels(1, 60, 80), "JPEG", exif=exif)
    clear = encode(np.zeros((8, 8, 4), np.uint8), "PNG")
    encoding = Encoding(kind="original", max_side=80)
    assert encoding.image(SOURCE) == EncodedImage(SOURCE, "image/jpeg")
    assert encoding.image(EDITED) == EncodedImage(EDITED, "image/png")
    taken = Image.Exif()
    taken.get_ifd(0x8825)[1] = "N"  # where it was taken
    told = encode(pixels(1, 60, 80), "JPEG", exif=taken) + b"a video behind it"
    for sent, data in ((encoding.image(told), told), (encoding.image(EDITED + b"cut away"), EDITED)):
        assert len(sent.data) <= len(data) and b"Exif" not in sent.data and not sent.data.endswith((b"it", b"away"))
        assert np.array_equal(np.asarray(shown(sent)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    webp = encode(pixels(1, 60, 80), "WEBP", quality=80)
    assert encoding.image(webp).mime == "image/png", "not every server reads WebP; and no second loss"
    assert np.array_equal(shown(encoding.image(webp)), np.asarray(Image.open(io.BytesIO(webp))))
    with pytest.raises(RowError):
        encoding.image(SOURCE[: len(SOURCE) // 2])  # what is cut off is not described
    for data in (turned, clear, image(1, "PNG", 60, 81), image(1, "BMP")):
        sent = encoding.image(data)
        assert sent.mime == "image/jpeg" and sent.data != data and max(shown(sent).size) <= 80
    assert str(encoding) == "original bytes where they fit, else jpeg, quality 90, longest side at most 80"


def test_our_encoding_is_upright_rgb_and_bounded():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = encode(pixels(1, 60, 80), "JPEG", exif=exif)
    assert shown(Encoding(max_side=None).image(turned)).size == (60, 80)
    assert shown(Encoding(max_side=40).image(turned)).size == (30, 40)
    strip = encode(np.zeros((2, 900, 3), np.uint8), "PNG")
    assert shown(Encoding(max_side=100).image(strip)).size == (100, 1)
    clear = encode(np.zeros((8, 8, 4), np.uint8), "PNG")
    assert np.asarray(shown(Encoding(kind="png").image(clear))).min() == 255  # transparent is white
    assert str(Encoding()) == "jpeg, quality 90, longest side at most 1024"
    with pytest.raises(RowError):
        Encoding().image(b"no picture")


# ---------------------------------------------------------------- prompt files

VIE = {
    "_context_no_delimit": "made-up context\n",
    "_prompts_0shot_two_image_edit_rule": "RULE two",
    "_prompts_0shot_tie_rule_SC": '\nscore it. "score" = [a, b]\nInstruction: <instruction>\n',
    "_prompts_0shot_rule_PQ": "RULE quality",
}
BY_TASK = {
    "add": "Look.\nExample Response Format:\nBrief reasoning: up to 20 words, a score.\n"
    "First & Foremost: A number from 1 to 5.\nNext One: A number from 1 to 5.\nLast: A number from 1 to 5.\n"
    "instruction is : <edit_prompt>.\n\n"
    "Below are the images:",
    "adjust": "adjust <edit_prompt>",
    "replace": "replace <edit_prompt>",
}
RISE = {
    "prompt_consist": "consist {instruct}", "prompt_reasoning": "reason {instruct} {reference}",
    "prompt_reasoning_w_input": "reason with {instruct} {reference}", "prompt_generation": "generation",
    "prompt_spatial_cons": "spatial {instruct}", "prompt_spatial_qual": "spatial quality",
    "prompt_spatial_ref": "spatial {instruct} {reference}", "prompt_spatial_ref_img": "spatial image {instruct}",
    "prompt_spatial_ref_w_input": "spatial with {instruct} {reference}",
    "prompt_logical_cons_ans": "logic {instruct} {reference}", "prompt_logical_txt": "text {instruct} {reference}",
    "prompt_logical_cons": "logic {instruct}", "prompt_logical_img": "image {instruct}",
    "prompt_logical_img_wo_q": "image",
}  # fmt: skip
KRIS = {
    "prompt_consist": "consist {instruct} {{}}", "prompt_quality": "quality {{}}",
    "prompt_instruction_following": "follow {instruct}", "prompt_dual_evaluation": "dual {instruct} {explanation}",
    "prompt_abnormal_instruction_following": "abnormal {instruct} {explanation}",
    "prompt_view_instruction_following": "view {instruct}", "prompt_consist_multi": "multi {instruct}",
    "prompt_instruction_multi": "follow multi {instruct}", "prompt_consist_temporal": "frame {N} {instruct}",
    "prompt_instruction_temporal": "follow frame {N} {instruct}",
}  # fmt: skip


def read_prompts(path, rubric):
    return prompts.read_prompts(path, load_rubric(rubric).layout)


def python_file(texts: dict[str, str]) -> str:
    lines = ["import os", "raise SystemExit('executed')", "def prompt_of():\n    return 'inner'"]
    return "\n\n".join([*lines, *(f'{name} = """{text}"""' for name, text in texts.items())])


def test_vie_prompts_are_read_and_never_executed(tmp_path):
    file = tmp_path / "GEdit-Bench" / "viescore" / "vie_prompts.py"
    file.parent.mkdir(parents=True)
    file.write_text(python_file(VIE) + "\nadded = 'a' 'b' + 'c'\nmade = os.getcwd()\nf = f'{os}'\n", "utf-8")
    for place in (file, file.parent, tmp_path):
        found = read_prompts(str(place), "gedit")
        assert found.texts == {**VIE, "added": "abc"}
        assert found.path == str(file)


def test_raw_texts_are_the_same_prompts(tmp_path):
    raw = tmp_path / "viescore" / "prompts_raw"
    (raw / "prompts_0shot").mkdir(parents=True)
    for name, text in VIE.items():
        inside = name.replace("_prompts_0shot_", "prompts_0shot/").removeprefix("_")
        (raw / f"{inside}.txt").write_text(text, "utf-8")
    found = read_prompts(str(raw), "gedit")
    assert found.texts == VIE
    (tmp_path / "viescore" / "vie_prompts.py").write_text(python_file(VIE), "utf-8")
    assert read_prompts(str(tmp_path), "gedit").digest == found.digest  # both, and they agree
    (tmp_path / "viescore" / "vie_prompts.py").write_text(python_file({**VIE, "_context": "more"}), "utf-8")
    with pytest.raises(EditError, match="several files"):
        read_prompts(str(tmp_path), "gedit")


@pytest.mark.parametrize("name", ["prompts.json", "judge_prompt.json"])
def test_prompts_by_task(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(BY_TASK), "utf-8")
    assert read_prompts(str(tmp_path), "imgedit").texts == BY_TASK
    assert read_prompts(str(tmp_path / name), "imgedit").texts == BY_TASK
    with pytest.raises(EditError, match="holds no prompts of rededit"):
        read_prompts(str(tmp_path / name), "rededit")


def test_other_layouts_and_what_is_wrong(tmp_path):
    (tmp_path / "UGE_bench.py").write_text(python_file({"prompt": "do <edit_prompt>"}), "utf-8")
    (tmp_path / "utils.py").write_text(python_file(RISE), "utf-8")
    (tmp_path / "prompts.py").write_text(python_file(KRIS), "utf-8")
    assert read_prompts(str(tmp_path), "uge").texts == {"prompt": "do <edit_prompt>"}
    assert read_prompts(str(tmp_path), "risebench").texts == RISE
    assert read_prompts(str(tmp_path), "kris").texts == KRIS
    for path, benchmark, says in (
        (tmp_path / "gone", "uge", "no such file"),
        (tmp_path, "gedit", "holds no prompts"),
        (tmp_path, "nonsense", "no rubric"),
    ):
        with pytest.raises(EditError, match=says):
            read_prompts(str(path), benchmark)
    (tmp_path / "prompts.json").write_text("{", "utf-8")
    with pytest.raises(EditError, match="cannot be read as prompts"):
        read_prompts(str(tmp_path), "imgedit")
    (tmp_path / "basic").mkdir()
    (tmp_path / "basic" / "prompts.json").write_text(json.dumps(BY_TASK), "utf-8")
    assert read_prompts(str(tmp_path), "imgedit").texts == BY_TASK  # the unreadable one is another's
    (tmp_path / "UGE_bench.py").write_text("prompt = (", "utf-8")
    with pytest.raises(EditError, match="cannot be read as prompts"):
        read_prompts(str(tmp_path), "uge")


def test_labels_are_those_that_the_rubric_asks_for():
    assert asked_labels(BY_TASK["add"]) == ("First & Foremost", "Next One", "Last")
    assert asked_labels(BY_TASK["adjust"]) is None
    rubric = load_rubric("imgedit")
    reply = "Brief reasoning: r\nFirst & Foremost: 4\nNext One: 5\nLast: 3"
    read = rubric.read(reply, "judge", CASE, BY_TASK)
    assert isinstance(read, Scores)
    assert read.values == {"first": 4, "second": 4, "third": 3} and read.capped == ("second",)
    assert isinstance(rubric.read(reply.replace("Last", "Least"), "judge", CASE, BY_TASK), Unparsed)


# ---------------------------------------------------------------- official messages


def test_gedit_message():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    case = JudgedEdit("add", "fly <instruction>", (encode(pixels(1, 60, 80), "JPEG", exif=exif),), EDITED)
    semantics, quality = gedit.ask(case, VIE)
    assert semantics.parts[0] == "\n".join(
        [VIE["_context_no_delimit"], VIE["_prompts_0shot_two_image_edit_rule"], VIE["_prompts_0shot_tie_rule_SC"]]
    ).replace("<instruction>", "fly <instruction>")
    assert quality.parts[0] == "made-up context\n\nRULE quality"
    assert kinds(semantics) == ["text", "image/jpeg", "image/jpeg"] and kinds(quality) == ["text", "image/jpeg"]
    assert semantics.parts[2] == quality.parts[1]
    assert [shown(part).size for part in semantics.parts[1:]] == [(80, 60), (80, 60)]
    upright = np.asarray(Image.open(io.BytesIO(case.source)).convert("RGB"), np.int16)[::-1, ::-1]
    assert np.abs(np.asarray(shown(semantics.parts[1]), np.int16) - upright).mean() < 12
    tables = shown(semantics.parts[1]).quantization  # type: ignore[attr-defined]
    reference = io.BytesIO()
    Image.fromarray(pixels(1)).save(reference, "JPEG", quality=75)
    assert tables == Image.open(reference).quantization  # type: ignore[attr-defined]
    assert semantics.parameters == {"max_tokens": 1400}


@pytest.mark.parametrize("size", [(60, 80), (30, 50)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_gedit_images_are_those_of_the_released_calls(orientation, size):
    """The released order: RGB, the source's size, EXIF, RGB, JPEG, each of them on a copy."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    given = [encode(pixels(1, 60, 80), "JPEG", exif=exif, comment=b"x"), encode(pixels(2, *size), "PNG", exif=exif)]
    source = Image.open(io.BytesIO(given[0]))
    edited = Image.open(io.BytesIO(given[1])).convert("RGB").resize(source.size)
    wanted = []
    for part in (source, edited):
        buffer = io.BytesIO()
        ImageOps.exif_transpose(part).convert("RGB").save(buffer, "JPEG")
        wanted.append(buffer.getvalue())
    semantics, quality = gedit.ask(JudgedEdit("add", "fly", (given[0],), given[1]), VIE)
    assert [sent.data for sent in (*semantics.parts[1:], *quality.parts[1:])] == [*wanted, wanted[1]]


def test_gedit_loses_a_case_with_damaged_exif_and_not_the_run():
    damaged = encode(pixels(2, 30, 50), "JPEG", exif=b"Exif\0\0broken")
    with pytest.raises(RowError, match="damaged EXIF"):
        gedit.ask(JudgedEdit("add", "fly", (SOURCE,), damaged), VIE)


def test_what_cannot_be_sent_as_png_loses_a_case_and_not_the_run():
    """Two colours of which one is clear, which Pillow cannot write once it is RGB; CMYK, which PNG does not have."""
    clear = io.BytesIO()
    Image.fromarray(pixels(1)).convert("1").save(clear, "PNG", transparency=1)
    with pytest.raises(RowError, match=r"cannot be encoded.*transparency"):
        rededit.ask(JudgedEdit("add", "fly", (clear.getvalue(),), EDITED), BY_TASK)
    ink = io.BytesIO()
    Image.fromarray(pixels(1)).convert("CMYK").save(ink, "JPEG")
    with pytest.raises(RowError, match=r"cannot be encoded.*CMYK"):
        gedit.ask_qwen(JudgedEdit("add", "fly", (ink.getvalue(),), EDITED), VIE)


def test_gedit_message_for_qwen():
    semantics, quality = gedit.ask_qwen(CASE, VIE)
    assert kinds(semantics) == ["image/png", "image/png", "text"] and kinds(quality) == ["image/png", "text"]
    assert np.array_equal(np.asarray(shown(semantics.parts[0])), np.asarray(Image.open(io.BytesIO(SOURCE))))
    assert shown(semantics.parts[1]).size == (80, 60)
    assert semantics.parameters["temperature"] == 0


def test_imgedit_message_is_raw_bytes_called_png():
    (call,) = imgedit.ask(JudgedEdit("adjust", "warmer", (SOURCE,), EDITED), BY_TASK)
    assert call.parts == ("adjust warmer", EncodedImage(SOURCE, "image/png"), EncodedImage(EDITED, "image/png"))
    (alias,) = imgedit.ask(JudgedEdit("alter", "warmer", (SOURCE,), EDITED), BY_TASK)
    assert alias.parts == call.parts
    (single,) = imgedit.ask_uge(CASE, {"prompt": "do <edit_prompt>"})
    assert single.parts[0] == "do add a red kite"
    with pytest.raises(RowError, match="no text for this task: remove"):
        imgedit.ask(JudgedEdit("remove", "x", (SOURCE,), EDITED), BY_TASK)
    with pytest.raises(RowError):
        imgedit.ask(JudgedEdit("add", "x", (SOURCE,), b""), BY_TASK)
    with pytest.raises(RowError, match="no source"):
        imgedit.ask(JudgedEdit("add", "x", (), EDITED), BY_TASK)


def test_imgedit_bytes_are_those_of_the_shared_case():
    folder = cases_folder("imgedit", "e01_judge_ok")
    expected = json.loads((folder / "expected.json").read_text("utf-8"))
    edits = json.loads((folder / "input" / "basic_edit.json").read_text("utf-8"))
    prompts = read_prompts(str(folder / "input"), "imgedit").texts
    for judged in expected["judge_calls"]:
        edit = edits[judged["key"]]
        source = (folder / "input" / "origin" / edit["id"]).read_bytes()
        result = (folder / "input" / "edited" / f"{judged['key']}.png").read_bytes()
        (call,) = imgedit.ask(JudgedEdit(edit["edit_type"], edit["prompt"], (source,), result), prompts)
        assert ["text" if kind == "text" else "image_url" for kind in kinds(call)] == [
            part["type"] for part in judged["content"]
        ]
        assert [hashlib.sha256(part.data).hexdigest() for part in call.parts if isinstance(part, EncodedImage)] == [
            part["bytes_sha256"] for part in judged["content"] if "bytes_sha256" in part
        ]


def test_rededit_message():
    palette = io.BytesIO()
    Image.fromarray(pixels(4)).convert("P").save(palette, "PNG")
    (call,) = rededit.ask(JudgedEdit("add", "加一只风筝", (palette.getvalue(),), EDITED), BY_TASK)
    assert kinds(call) == ["image/png", "text", "image/png", "text", "text"]
    assert call.parts[1] == "这是原图A" and call.parts[3] == "这是编辑后的图B。请进行评估。"
    assert "加一只风筝" in str(call.parts[4])
    assert [shown(call.parts[k]).mode for k in (0, 2)] == ["RGB", "RGB"]
    assert shown(call.parts[2]).size == (50, 30)  # its own size
    assert call.parameters == {"temperature": 0.1, "top_p": 0.95, "max_tokens": 8192}


def test_rededit_messages_are_those_of_the_shared_case():
    folder = cases_folder("rededit", "e02_cn")
    expected = json.loads((folder / "expected.json").read_text("utf-8"))
    prompts = read_prompts(str(folder / "input"), "rededit").texts
    lines = (folder / "input" / "redbench.jsonl").read_text("utf-8").splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    for judged in expected["judge_calls"]:
        row = rows[judged["key"]]
        source = (folder / "input" / row["source"]).read_bytes()
        result = (folder / "input" / "edited" / row["task"] / f"{row['task']}-{row['id']}.png").read_bytes()
        case = JudgedEdit(row["task"], row["a_to_b_instructions"], (source,), result)
        (call,) = rededit.ask(case, prompts)
        for part, official in zip(call.parts, judged["contents"], strict=True):
            if isinstance(part, EncodedImage):
                image = official["image"]
                found = (part.mime, shown(part).format, list(shown(part).size), shown(part).mode)
                assert found == (image["mime"], image["format"], image["size"], image["mode"])
            else:
                assert part == official["text"] or official["text"].startswith("<rubric")


def rise(facts: dict, **more) -> dict[str, Call]:
    calls = risebench.ask(JudgedEdit("", "do it", (SOURCE,), EDITED, facts=facts, **more), RISE)
    return {call.name: call for call in calls}


def test_risebench_messages():
    calls = rise({"category": "temporal_reasoning", "reference": "old"})
    assert {name: kinds(call) for name, call in calls.items()} == {
        "consistency": ["text", "image/jpeg", "image/jpeg"],
        "reasoning": ["text", "image/jpeg"],
        "quality": ["text", "image/jpeg"],
    }
    assert calls["reasoning"].text == "reason do it old"
    both = rise({"category": "causal_reasoning", "reference": "old", "reasoning_img": 1.0})
    assert len(both["reasoning"].parts) == 3 and both["reasoning"].text == "reason with do it old"
    free = rise({"category": "temporal_reasoning", "reference": "old", "consistency_free": 1})
    assert list(free) == ["reasoning", "quality"]
    # what is not there is NaN in the script's table, and absent
    kept = rise({"category": "temporal_reasoning", "reference": "old", "consistency_free": float("nan")})
    assert list(kept) == ["consistency", "reasoning", "quality"]


def test_risebench_references():
    reference = image(9, "PNG", 20, 20)
    spatial = rise({"category": "spatial_reasoning", "reference_img": reference})
    assert spatial["reasoning"].text == "spatial image do it" and len(spatial["reasoning"].parts) == 3
    assert shown(spatial["consistency"].parts[1]).size == (20, 20)  # it takes the input's place
    assert rise({"category": "spatial_reasoning", "reference": "r"})["reasoning"].text == "spatial do it r"
    logic = rise({"category": "logical_reasoning", "reference_txt": "7"})
    assert list(logic) == ["consistency", "reasoning"] and logic["reasoning"].text == "text do it 7"
    shape = rise({"category": "logical_reasoning", "reference_img": reference, "reasoning_wo_ins": True})
    assert shape["reasoning"].text == "image"
    named = {"category": "spatial_reasoning", "reference_img": "spatial/7.png"}
    for facts in ({"category": "logical_reasoning"}, {"category": "nonsense"}, named):
        with pytest.raises(RowError):
            rise(facts)


def test_risebench_thumbnails():
    large = encode(np.zeros((1000, 1600, 4), np.uint8), "PNG")
    call = risebench.ask(JudgedEdit("temporal_reasoning", "x", (large,), EDITED, facts={"reference": "r"}), RISE)[0]
    assert shown(call.parts[1]).size == (768, 480) and shown(call.parts[2]).size == (50, 30)
    assert call.parts[1].detail == call.parts[2].detail == "high"
    assert shown(call.parts[1]).format == "JPEG"
    with pytest.raises(RowError, match="damaged image"):  # too small to be shrunk, and decoded all the same
        risebench.ask(JudgedEdit("temporal_reasoning", "x", (image(1, "PNG")[:-60],), EDITED), RISE)


def test_risebench_thumbnails_of_large_jpegs_are_decoded_small():
    """As encode_image_to_base64 of utils.py makes them: it shrinks an image that was not decoded before."""
    large = encode(np.tile(pixels(3), (100, 80, 1)), "JPEG")  # 3200 x 3200: half is still twice 768
    call = risebench.ask(JudgedEdit("temporal_reasoning", "x", (large,), EDITED, facts={"reference": "r"}), RISE)[0]
    made = []
    for decoded in (False, True):
        image = Image.open(io.BytesIO(large))
        if decoded:
            image.load()
        image.thumbnail((768, 768))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG")
        made.append(buffer.getvalue())
    assert call.parts[1].data == made[0] != made[1]


def test_risebench_overall():
    def overall(**scores: float) -> float:
        return value("risebench", {name: {"score": score} for name, score in scores.items()}, "overall")

    assert overall(consistency=5, reasoning=3, quality=4) == pytest.approx(3.8)
    assert overall(reasoning=3, quality=4) == pytest.approx(3.2)
    assert overall(consistency=5, reasoning=5) == 5
    assert overall(consistency=5, reasoning=1, quality=5) == pytest.approx(1.5)
    assert overall(consistency=1, reasoning=1, quality=1) == 1
    read = load_rubric("risebench").read
    case = JudgedEdit("logical_reasoning", "x", (SOURCE,), EDITED)
    for reply, number in (("Final Score: 1", 5), ("Final Score: 0", 1)):
        scores = read(reply, "reasoning", case, RISE)
        assert isinstance(scores, Scores) and scores.values == {"score": number}
    assert isinstance(read("Final Score: 4", "reasoning", case, RISE), Unparsed)


def kris_calls(category: str, sources: tuple[bytes, ...] = (SOURCE,), **facts: object) -> dict[str, Call]:
    case = JudgedEdit("", "do it", sources, EDITED, facts={"category": category, **facts})
    return {call.name: call for call in kris.ask(case, KRIS)}


def test_kris_messages():
    calls = kris_calls("color_change")
    assert calls["consistency"].parts == (
        "consist do it {}", "This is the original image:", EncodedImage(SOURCE, "image/jpeg"),
        "This is the edited image:", EncodedImage(EDITED, "image/jpeg"),
    )  # fmt: skip
    assert calls["quality"].parts == (
        "quality {{}}", "This is the edited image:", EncodedImage(EDITED, "image/jpeg"),
    )  # fmt: skip
    assert calls["instruction"].parts[0] == "follow do it"
    assert kris_calls("physics", explain="why")["instruction"].parts[0] == "dual do it why"
    # the category is called otherwise in the data, so its own rubric is never used
    assert kris_calls("anomaly_correction", explain="why")["instruction"].parts[0] == "follow do it"
    assert kris_calls("abnormality_correction", explain="why")["instruction"].parts[0] == "abnormal do it why"
    view = kris_calls("view_pair", gt_img=image(5, "PNG"))["instruction"].parts
    assert view[0] == "view do it" and view[5] == "This is the ground truth image:"


def test_kris_messages_without_an_explanation_or_a_truth():
    """evaluate_images of metrics_knowledge.py takes no explanation for an empty one; that of metrics_view_change.py
    leaves a case without a ground truth image out."""
    assert kris_calls("physics", explain=None)["instruction"].parts[0] == "dual do it "
    with pytest.raises(RowError, match="ground truth"):
        kris_calls("viewpoint_change")


def test_kris_messages_with_several_images():
    several = (image(5, "PNG"), image(6), image(7))
    multi = kris_calls("multi-element_composition", several)["consistency"].parts
    assert [part for part in multi if isinstance(part, str)] == [
        "multi do it", "Reference Image 1:", "Reference Image 2:", "Reference Image 3:", "Predicted Image:",
    ]  # fmt: skip
    frames = kris.frame_numbers(["12-1.png", "12-2.png", "12-4.png"])
    calls = kris_calls("temporal_prediction", several, frames=frames)
    texts = [part for part in calls["consistency"].parts if isinstance(part, str)]
    assert texts == [
        "frame 3 do it", "Frame 1 (Reference):", "Frame 2 (Reference):", "Frame 3 (Generated):", "Frame 4 (Reference):",
    ]  # fmt: skip
    assert {shown(part).format for part in calls["consistency"].parts if isinstance(part, EncodedImage)} == {"JPEG"}
    assert calls["quality"].parts[1] == "This is the image to evaluate:"
    with pytest.raises(RowError, match="frame numbers"):
        kris_calls("temporal_prediction", several)


def test_prompts_that_cannot_be_filled_in_are_an_error():
    with pytest.raises(EditError, match="cannot be filled in"):
        risebench.ask(
            JudgedEdit("temporal_reasoning", "x", (SOURCE,), EDITED), {**RISE, "prompt_consist": "{instruct} {more}"}
        )


# ---------------------------------------------------------------- agreement with people

JUDGED = [
    {"id": "a", "scores": {"judge_dimensions_overall": 4.0, "judge_dimensions_overall_low": 3.0, "visible": 1.0}},
    {"id": "b", "scores": {"judge_dimensions_overall": 2.0}},
    {"id": "c", "scores": {"judge_dimensions_overall": None}},
    {"id": "d", "scores": {"judge_dimensions_overall": 5.0}},
]
RATINGS = [
    {"id": "a", "rater": "x", "score": 4}, {"id": "a", "rater": "y", "score": 5}, {"id": "b", "rater": "x", "score": 4},
    {"id": "c", "rater": "x", "score": 1}, {"id": "b", "rater": "y", "score": ""},
]  # fmt: skip


def write_csv(path: Path, rows: list[dict]) -> str:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_ratings_from_csv_and_parquet(tmp_path):
    found = human.read_ratings(write_csv(tmp_path / "r.csv", RATINGS))
    assert [(r.id, r.rater, r.dimension, r.score) for r in found] == [
        ("a", "x", "overall", 4), ("a", "y", "overall", 5), ("b", "x", "overall", 4), ("c", "x", "overall", 1),
    ]  # fmt: skip
    rows = [{**row, "score": float(row["score"]) if row["score"] != "" else None} for row in RATINGS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    assert human.read_ratings(str(tmp_path / "r.parquet")) == found
    renamed = [{"key": "a", "stars": 3, "aspect": "first"}]
    (one,) = human.read_ratings(write_csv(tmp_path / "s.csv", renamed), id="key", score="stars", dimension="aspect")
    assert (one.rater, one.dimension, one.score) == ("-", "first", 3)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"id": "a", "stars": 3}], "no column `score`"),
        ([{"id": "a", "score": "good"}], "is not a number"),
        ([{"id": "a", "score": 3}, {"id": "a", "score": 4}], "rated twice"),
    ],
)
def test_ratings_that_cannot_be_used(tmp_path, rows, says):
    with pytest.raises(EditError, match=says):
        human.read_ratings(write_csv(tmp_path / "r.csv", rows))


def test_agreement_joins_by_id_and_counts_the_rest(tmp_path):
    pytest.importorskip("edittools.metrics.agreement")
    ratings = human.read_ratings(write_csv(tmp_path / "r.csv", RATINGS))
    judged = human.judged_scores(JUDGED, "dimensions")
    assert judged == {("a", "overall"): 4, ("b", "overall"): 2, ("c", "overall"): None, ("d", "overall"): 5}
    found = human.agreement(judged, ratings)["overall"]
    # rows a (4 against 4.5) and b (2 against 4); c has a rating and no score, d a score and no rating
    assert found["rows"] == 2 and found["unjudged"] == 1 and found["unrated"] == 1 and found["raters"] == 2
    assert found["within_one"] == 0.5 and found["spearman"] == pytest.approx(1)
    assert found["alpha"] is not None
    with pytest.raises(EditError, match="no dimension in common"):
        human.agreement({("a", "other"): 3.0}, ratings)


def test_agreement_passes_aligned_columns(monkeypatch, tmp_path):
    """What the statistics are given, without them."""
    import sys
    import types

    module = types.ModuleType("edittools.metrics.agreement")
    calls: dict[str, list] = {"share_within": [], "spearman": [], "krippendorff_alpha": []}
    for name, seen in calls.items():
        setattr(module, name, lambda *given, seen=seen: seen.append(given) or 0.25)
    monkeypatch.setitem(sys.modules, "edittools.metrics.agreement", module)
    ratings = human.read_ratings(write_csv(tmp_path / "r.csv", RATINGS))
    found = human.agreement(human.judged_scores(JUDGED, "dimensions"), ratings, level="interval")
    assert calls["share_within"] == [([4, 2], [4.5, 4], 1)] and calls["spearman"] == [([4, 2], [4.5, 4])]
    people = [[4, 4], [5, None]]
    assert calls["krippendorff_alpha"] == [([*people, [4, 2]], "interval"), (people, "interval")]
    assert found["overall"]["alpha"] == 0.25
