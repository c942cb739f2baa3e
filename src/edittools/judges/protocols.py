"""What a judge is sent: the calls of the published protocols, message by message.

A protocol is a function `(case, prompts) -> [Call]`. It says which texts and pictures go into one user message, in
which order, and how each picture is encoded, because scores move with all three. The texts themselves are the
benchmark's own and are read from the user's checkout (`prompts`); only the one-line labels between pictures, which
are part of the message format, stand here. Facts: shared notes on the released evaluation code of Step1X-Edit
(GEdit-Bench), VIEScore, ImgEdit, FireRed-Image-Edit (REDEdit-Bench), RISEBench and KRIS-Bench.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edittools.errors import EditError, RowError, describe
from edittools.models.writers import Picture
from edittools.stream import images

if TYPE_CHECKING:
    from PIL import Image

Prompts = Mapping[str, str]


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue: what was asked, and the picture that came of it, out of that of turn `parent` (from 0;
    -1 is the source)."""

    instruction: str
    kind: str | None
    parent: int
    edited: bytes = field(repr=False)


@dataclass(frozen=True)
class Case:
    """One edit to be judged: encoded pictures as they lie on the disk, and what was asked for.

    `task` is the name that the prompts know. `other` is a second result (pairwise), `turns` are those of a dialogue
    (multiturn). `facts` are what a benchmark
    says beyond that, under its own names: RISEBench's `category`, `reference`, `reference_txt`, `reference_img`
    (bytes), `reasoning_img`, `reasoning_wo_ins`, `consistency_free`; KRIS-Bench's `category`, `explain`, `gt_img`
    (bytes), `frames` (the numbers of the sources).
    """

    task: str
    instruction: str
    sources: tuple[bytes, ...] = field(repr=False)
    edited: bytes = field(repr=False)
    other: bytes | None = field(default=None, repr=False)
    turns: tuple[Turn, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> bytes:
        if not self.sources:
            raise RowError("no source picture")
        return self.sources[0]


@dataclass(frozen=True)
class Call:
    """One user message. `encoding` says in words how its pictures were encoded."""

    name: str
    parts: tuple[str | Picture, ...]
    encoding: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The texts of the message, joined by newlines: what a prompt hash is taken of."""
        return "\n".join(part for part in self.parts if isinstance(part, str))


Protocol = Callable[[Case, Prompts], list[Call]]


# ---------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Encoding:
    """How our own rubrics send a picture: upright, RGB, its longest side at most `max_side` (None: as it is).

    `original` sends the stored bytes of a JPEG, PNG or WebP that is all this already, and a JPEG of any other: no
    second loss, and no work (about 1 ms against 20 to decode and encode a megapixel), but only headers are checked.
    """

    kind: str = "jpeg"  # or png, original
    quality: int = 90
    max_side: int | None = 1024
    max_pixels: int = images.MAX_PIXELS

    def __str__(self) -> str:
        size = "full size" if self.max_side is None else f"longest side at most {self.max_side}"
        jpeg = f"jpeg, quality {self.quality}, {size}"
        return {"jpeg": jpeg, "original": f"original bytes where they fit, else {jpeg}"}.get(self.kind, f"png, {size}")

    def picture(self, data: bytes) -> Picture:
        from PIL import Image

        header = images.probe(data, self.max_pixels)
        raster, longest = images.FULL, max(header.width, header.height)
        fits = self.max_side is None or longest <= self.max_side
        if self.kind == "original" and fits and header.plain and header.format in ("jpeg", "png", "webp"):
            return Picture(bytes(data), f"image/{header.format}")
        if self.max_side is not None and not fits:
            short = min(header.width, header.height) * self.max_side // longest
            raster = images.Raster(short_side=max(1, short))
        shown = Image.fromarray(images.decode(data, raster, self.max_pixels))
        if self.max_side is not None:
            shown.thumbnail((self.max_side, self.max_side))  # only a strip one pixel high is still too long
        return _saved(shown, "PNG") if self.kind == "png" else _saved(shown, "JPEG", quality=self.quality)


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture as Pillow opens it, to be decoded inside. Raises RowError for what cannot be read."""
    from PIL import Image

    images.probe(data)
    try:
        yield Image.open(io.BytesIO(data))
    except Exception as error:  # whatever a decoder meets in damaged bytes
        raise RowError("damaged image", describe(error)) from None


def _open(data: bytes) -> Image.Image:
    with _opened(data) as picture:
        picture.load()
    return picture


def _rgb(picture: Image.Image) -> Image.Image:
    """Without a copy of what is RGB already: many threads would wait for each other after it."""
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _saved(picture: Image.Image, kind: str, mime: str | None = None, **options: Any) -> Picture:
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **options)
    except (OSError, ValueError) as error:  # a mode that the format does not have, facts that do not fit it
        raise RowError("picture cannot be encoded", describe(error)) from None
    return Picture(buffer.getvalue(), mime or f"image/{kind.lower()}")


def _raw(data: bytes, mime: str) -> Picture:
    images.probe(data)
    return Picture(bytes(data), mime)


def _of_task(prompts: Prompts, task: str) -> str:
    """The text of a task. Raises RowError without one: the released scripts lose that case only, too."""
    if task not in prompts:
        raise RowError("the prompts have no text for this task", task)
    return prompts[task]


def _text(prompts: Prompts, name: str) -> str:
    if name not in prompts:
        raise EditError(f"the prompts have no text `{name}`", hint="they have: " + ", ".join(sorted(prompts)))
    return prompts[name]


# ---------------------------------------------------------------- GEdit-Bench (VIEScore)

_VIE_SC = ("_context_no_delimit", "_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC")
_VIE_PQ = ("_context_no_delimit", "_prompts_0shot_rule_PQ")


def gedit_texts(prompts: Prompts, instruction: str) -> dict[str, str]:
    """The two final prompts of VIEScore for an edit with one source: {SC, PQ}."""
    semantics = "\n".join(_text(prompts, name) for name in _VIE_SC)
    quality = "\n".join(_text(prompts, name) for name in _VIE_PQ)
    return {"SC": semantics.replace("<instruction>", instruction), "PQ": quality}


def gedit(case: Case, prompts: Prompts) -> list[Call]:
    """VIEScore as GEdit-Bench asks GPT: text first, then the source and the edited picture; PQ sees the edited only.

    The edited picture is brought to the source's size (Pillow's default filter, the aspect is not kept); both are
    turned upright by EXIF, made RGB and sent as JPEG in Pillow's default quality, 75.
    """
    from PIL import ImageOps

    shown = []
    for picture in _gedit_pictures(case):
        try:
            ImageOps.exif_transpose(picture, in_place=True)
        except Exception as error:  # whatever Pillow meets in damaged EXIF; the script ends here
            raise RowError("damaged EXIF", describe(error)) from None
        shown.append(_saved(_rgb(picture), "JPEG"))
    texts = gedit_texts(prompts, case.instruction)
    encoding = "jpeg, quality 75, upright, edited at the source's size"
    parameters = {"max_tokens": 1400}
    return [
        Call("SC", (texts["SC"], *shown), encoding, parameters),
        Call("PQ", (texts["PQ"], shown[1]), encoding, parameters),
    ]


def gedit_qwen(case: Case, prompts: Prompts) -> list[Call]:
    """The same for its local Qwen2.5-VL: pictures first, as PNG in whatever mode they have; greedy, 512 tokens."""
    shown = [_saved(picture, "PNG") for picture in _gedit_pictures(case)]
    texts = gedit_texts(prompts, case.instruction)
    encoding = "png, edited at the source's size"
    parameters = {"max_tokens": 512, "temperature": 0.0}
    return [
        Call("SC", (*shown, texts["SC"]), encoding, parameters),
        Call("PQ", (shown[1], texts["PQ"]), encoding, parameters),
    ]


def _gedit_pictures(case: Case) -> tuple[Image.Image, Image.Image]:
    source, edited = _open(case.source), _rgb(_open(case.edited))
    return source, edited if edited.size == source.size else edited.resize(source.size)


# ---------------------------------------------------------------- ImgEdit


def imgedit(case: Case, prompts: Prompts) -> list[Call]:
    """Text, original, edited; the bytes of the files, labelled PNG whatever they are."""
    return [_imgedit_call(case, _of_task(prompts, imgedit_task(case.task, prompts)))]


def uge(case: Case, prompts: Prompts) -> list[Call]:
    """The UGE suite: the same message with one rubric for every edit."""
    return [_imgedit_call(case, _text(prompts, "prompt"))]


def imgedit_task(task: str, prompts: Prompts) -> str:
    """The name under which the prompts have a task."""
    # A fork renames `adjust` in its list of edits and not in its prompts.
    return "adjust" if task == "alter" and "alter" not in prompts else task


def _imgedit_call(case: Case, rubric: str) -> Call:
    text = rubric.replace("<edit_prompt>", case.instruction)
    shown = (_raw(case.source, "image/png"), _raw(case.edited, "image/png"))
    return Call("judge", (text, *shown), "bytes of the files, labelled image/png")


# ---------------------------------------------------------------- REDEdit-Bench

_RED_SOURCE, _RED_EDITED = "这是原图A", "这是编辑后的图B。请进行评估。"


def rededit(case: Case, prompts: Prompts) -> list[Call]:
    """Original, its label, edited, its label, and the rubric last; RGB as PNG, each in its own size."""
    source, edited = (_saved(_rgb(_open(data)), "PNG") for data in (case.source, case.edited))
    text = _of_task(prompts, case.task).replace("<edit_prompt>", case.instruction)
    parameters = {"temperature": 0.1, "top_p": 0.95, "max_tokens": 8192}
    return [Call("judge", (source, _RED_SOURCE, edited, _RED_EDITED, text), "png, rgb", parameters)]


# ---------------------------------------------------------------- RISEBench


def risebench(case: Case, prompts: Prompts) -> list[Call]:
    """Up to three calls: consistency (input and output), reasoning (output, or both), quality (output).

    Which text is used depends on the category and on what references an item has. Where the reference is a
    picture, it takes the input's place in the calls that show two. RGBA and palettes become RGB; thumbnails of at
    most 768 pixels; JPEG; each with `detail: high`.
    """
    facts = {name: value for name, value in case.facts.items() if not _absent(value)}
    category, instruct = str(facts.get("category", case.task)), case.instruction
    first, both = case.source, False
    consistency: str
    quality: str | None
    if category in ("temporal_reasoning", "causal_reasoning"):
        both = "reasoning_img" in facts
        name = "prompt_reasoning_w_input" if both else "prompt_reasoning"
        reasoning = _filled(prompts, name, instruct=instruct, reference=facts.get("reference", ""))
        consistency = _filled(prompts, "prompt_consist", instruct=instruct)
        quality = _text(prompts, "prompt_generation")
    elif category == "spatial_reasoning":
        if "reference_img" in facts:
            both, first = True, _reference(facts["reference_img"])
            reasoning = _filled(prompts, "prompt_spatial_ref_img", instruct=instruct)
        else:
            both = "reasoning_img" in facts
            name = "prompt_spatial_ref_w_input" if both else "prompt_spatial_ref"
            reasoning = _filled(prompts, name, instruct=instruct, reference=facts.get("reference", ""))
        consistency = _filled(prompts, "prompt_spatial_cons", instruct=instruct)
        quality = _text(prompts, "prompt_spatial_qual")
    elif category == "logical_reasoning":
        quality = None
        if "reference_txt" in facts:
            words = {"instruct": instruct, "reference": facts["reference_txt"]}
            consistency = _filled(prompts, "prompt_logical_cons_ans", **words)
            reasoning = _filled(prompts, "prompt_logical_txt", **words)
        elif "reference_img" in facts:
            both, first = True, _reference(facts["reference_img"])
            consistency = _filled(prompts, "prompt_logical_cons", instruct=instruct)
            if "reasoning_wo_ins" in facts:
                reasoning = _text(prompts, "prompt_logical_img_wo_q")
            else:
                reasoning = _filled(prompts, "prompt_logical_img", instruct=instruct)
        else:
            raise RowError("no reference", "a logical item needs `reference_txt` or `reference_img`")
    else:
        raise RowError("unknown category", category)
    given, edited = _thumbnail(first), _thumbnail(case.edited)
    call = functools.partial(
        Call,
        encoding="jpeg, quality 75, at most 768 pixels, detail high",
        parameters={"temperature": 0, "max_tokens": 4096},
    )
    calls = []
    if "consistency_free" not in facts:
        calls.append(call("consistency", (consistency, given, edited)))
    calls.append(call("reasoning", (reasoning, given, edited) if both else (reasoning, edited)))
    if quality is not None:
        calls.append(call("quality", (quality, edited)))
    return calls


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _reference(value: Any) -> bytes:
    """A picture among the facts. Raises RowError for a name: what it names has to be read first."""
    if not isinstance(value, bytes):
        raise RowError("reference picture was not read", value)
    return value


def _thumbnail(data: bytes) -> Picture:
    with _opened(data) as picture:
        if picture.mode in ("RGBA", "P"):
            picture = picture.convert("RGB")
        # Not decoded before: Pillow then decodes a large JPEG at a part of its size.
        picture.thumbnail((768, 768))
        picture.load()
    return dataclasses.replace(_saved(picture, "JPEG"), detail="high")


def _filled(prompts: Prompts, name: str, **values: object) -> str:
    try:
        return _text(prompts, name).format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise EditError(f"prompt `{name}` cannot be filled in: {describe(error)}") from None


# ---------------------------------------------------------------- KRIS-Bench

KRIS_KNOWLEDGE = (
    "abstract_reasoning mathematics medicine biology geography chemistry humanities physics "
    "practical_knowledge rule-based_reasoning daily_life rule_reasoning"  # the last two under their earlier names
).split()
_KRIS_VIEW = ("view_pair", "viewpoint_change")


def kris(case: Case, prompts: Prompts) -> list[Call]:
    """Three calls: consistency, instruction (with knowledge in ten categories), quality.

    Every picture follows a line that says which it is. Bytes of the files, labelled JPEG; `temporal_prediction`
    alone re-encodes (RGB, JPEG, quality 85) and sends all frames in order, the predicted one at its place.
    """
    category = str(case.facts.get("category", case.task))
    instruct, explain = case.instruction, case.facts.get("explain") or ""
    if category == "temporal_prediction":
        return _kris_frames(case, prompts)
    edited = _raw(case.edited, "image/jpeg")
    if category == "multi-element_composition":
        pairs = [(f"Reference Image {k}:", _raw(data, "image/jpeg")) for k, data in enumerate(case.sources, 1)]
        shown = _flat([*pairs, ("Predicted Image:", edited)])
        consistency = _filled(prompts, "prompt_consist_multi", instruct=instruct)
        instruction = _filled(prompts, "prompt_instruction_multi", instruct=instruct)
        alone: tuple[str | Picture, ...] = ("This is the image to evaluate:", edited)
        return _kris_calls(prompts, (consistency, *shown), (instruction, *shown), alone)
    original = _raw(case.source, "image/jpeg")
    shown = ("This is the original image:", original, "This is the edited image:", edited)
    alone = ("This is the edited image:", edited)
    unchanged = (_filled(prompts, "prompt_consist", instruct=instruct), *shown)
    if category in KRIS_KNOWLEDGE:
        text = _filled(prompts, "prompt_dual_evaluation", instruct=instruct, explanation=explain)
        return _kris_calls(prompts, unchanged, (text, *shown), alone)
    if category in _KRIS_VIEW:
        if _absent(case.facts.get("gt_img")):
            raise RowError("no ground truth picture")  # the script leaves such a case out
        text = _filled(prompts, "prompt_view_instruction_following", instruct=instruct)
        truth = ("This is the ground truth image:", _raw(_reference(case.facts["gt_img"]), "image/jpeg"))
        return _kris_calls(prompts, unchanged, (text, *shown, *truth), alone)
    if "abnormality_correction" in category:  # the released folder is called anomaly_correction: never true there
        text = _filled(prompts, "prompt_abnormal_instruction_following", instruct=instruct, explanation=explain)
    else:
        text = _filled(prompts, "prompt_instruction_following", instruct=instruct)
    return _kris_calls(prompts, unchanged, (text, *shown), alone)


def _kris_frames(case: Case, prompts: Prompts) -> list[Call]:
    numbers = list(case.facts.get("frames", ()))
    if len(numbers) != len(case.sources):
        raise RowError("frame numbers missing", f"{len(numbers)} of {len(case.sources)}")
    missing = sorted({1, 2, 3, 4} - set(numbers))
    predicted = missing[0] if len(missing) == 1 else max(numbers, default=0) + 1
    edited = _kris_jpeg(case.edited)
    frames = [(number, "Reference", _kris_jpeg(data)) for number, data in zip(numbers, case.sources)]
    frames.append((predicted, "Generated", edited))
    frames.sort(key=lambda frame: frame[0])
    shown = _flat([(f"Frame {number} ({kind}):", picture) for number, kind, picture in frames])
    words = {"N": predicted, "instruct": case.instruction}
    return _kris_calls(
        prompts,
        (_filled(prompts, "prompt_consist_temporal", **words), *shown),
        (_filled(prompts, "prompt_instruction_temporal", **words), *shown),
        ("This is the image to evaluate:", edited),
        "jpeg, quality 85",
    )


def _kris_jpeg(data: bytes) -> Picture:
    return _saved(_rgb(_open(data)), "JPEG", quality=85)


def _kris_calls(
    prompts: Prompts,
    consistency: tuple[str | Picture, ...],
    instruction: tuple[str | Picture, ...],
    alone: tuple[str | Picture, ...],
    encoding: str = "bytes of the files, labelled image/jpeg",
) -> list[Call]:
    quality = (_text(prompts, "prompt_quality"), *alone)
    parts = {"consistency": consistency, "instruction": instruction, "quality": quality}
    return [Call(name, tuple(message), encoding, {"max_tokens": 1000}) for name, message in parts.items()]


def _flat(pairs: Sequence[tuple[str, Picture]]) -> tuple[str | Picture, ...]:
    return tuple(part for pair in pairs for part in pair)


def frame_numbers(names: Sequence[str]) -> list[int]:
    """The frame numbers that KRIS-Bench's file names carry (`ITEM-FRAME.png`)."""
    found = (re.search(r"(\d+)-(\d+)", name) for name in names)
    return [int(match.group(2)) for match in found if match]
