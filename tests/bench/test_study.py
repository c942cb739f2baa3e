"""Human studies: the scores by hand, a page that gives nothing away, and the page in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Chromium, missing, wait
from click.testing import CliRunner
from conftest import encode, pixels
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from edittools.bench.studies import build as study
from edittools.bench.studies.answers import ANSWERS_FORMAT, KEY_FORMAT, read_json
from edittools.bench.studies.build import build_study, read_cases
from edittools.bench.studies.score import as_text
from edittools.bench.studies.score import score as score_study
from edittools.cli import eval_study
from edittools.errors import EditError, UsageError

MODELS = ("Quixote-7B", "Sancho", "Dulcinea-Edit")
HOSTILE = "</script><script src=http://evil/x.js></script><img src=x onerror=alert(1)> \"'&$title\x00\ud800"
SOURCE = 120, 160  # height and width

browser = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def png(seed: int, height: int, width: int, maker: str) -> bytes:
    """A result as a careless tool would write it: its name in the metadata."""
    info = PngInfo()
    info.add_text("Software", maker)
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four cases of two tasks, three models with images of different size, format and metadata."""
    lines = []
    for number in range(4):
        words = HOSTILE if number == 3 else f"Do edit {number}"
        instruction = {"en": words, "zh": "把天空变成红色"}
        task = ("style", "tone")[number % 2]
        lines.append({"id": f"photo-{number}", "task": task, "instruction": instruction, "source": f"src/{number}.jpg"})
        write(tmp_path / "src" / f"{number}.jpg", encode(pixels(number, *SOURCE)))
        for index, name in enumerate(MODELS):
            height, width = (side * (index + 1) for side in SOURCE)
            if name == "Sancho":
                write(tmp_path / name / f"photo-{number}.jpg", encode(pixels(10 + number, height, width)))
            else:
                write(tmp_path / name / f"photo-{number}.png", png(number, height, width, name))
    write(tmp_path / "cases.jsonl", "\n".join(json.dumps(line) for line in lines).encode())
    return tmp_path


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def models(folder: Path) -> dict[str, str]:
    return {name: str(folder / name) for name in MODELS}


def build(folder: Path, design: str = "rank", **more: Any) -> dict[str, Any]:
    return build_study(read_cases(str(folder / "cases.jsonl")), models(folder), design, str(folder / "out"), 5, **more)


# ---------------------------------------------------------------- scores by hand


def key_of(design: str, results: list[tuple[str, str]]) -> dict[str, Any]:
    """A key whose case n has the task and, in the order of the letters, the models of results[n]."""
    cases = [
        {"id": f"c{number}", "task": task, "results": dict(zip("abc", names))}
        for number, (task, names) in enumerate(results)
    ]
    return {"study": "s", "design": design, "models": ["A", "B", "C"], "cases": cases, "dropped": []}


def answers_of(rater: str, *given: dict[str, Any]) -> dict[str, Any]:
    answers = {str(number): {"given": one, "shown": list("abc")} for number, one in enumerate(given) if one}
    return {"study": "s", "rater": rater, "answers": answers}


def levels(dimension: str, **letters: int) -> dict[str, Any]:
    return {letter: {dimension: level} for letter, level in letters.items()}


@pytest.fixture
def ranked() -> dict[str, Any]:
    """Letters change their model from case to case; C has no result in the third; Bo left the third half done."""
    key = key_of("rank", [("t1", "ABC"), ("t1", "BAC"), ("t2", "AB")])
    ann = answers_of(
        "Ann", levels("quality", a=5, b=3, c=3), levels("quality", a=1, b=2, c=5), levels("quality", a=1, b=5)
    )
    bo = answers_of("Bo", levels("quality", a=4, b=3, c=3), levels("quality", a=2, b=4, c=5), levels("quality", a=1))
    return score_study(key, [ann, bo])


def test_five_levels_count_two_to_ten_per_task_and_over_tasks(ranked: dict[str, Any]) -> None:
    full = ranked["dimensions"]["quality"]["full"]
    # A: case 0 (10 + 8) / 2 = 9, case 1 (4 + 8) / 2 = 6, so t1 7.5; t2 2.
    # B: t1 (6 + 3) / 2, t2 10. C: t1 (6 + 10) / 2, no t2.
    assert full["A"]["tasks"] == {"t1": {"mean": 7.5, "cases": 2}, "t2": {"mean": 2, "cases": 1}}
    assert [full[model]["mean"] for model in "ABC"] == [4.75, 7.25, 8]
    assert [full[model]["cases"] for model in "ABC"] == [3, 3, 2]
    assert full["A"]["interval"] is None  # t2 has one case


def test_the_intersection_has_only_cases_with_every_model(ranked: dict[str, Any]) -> None:
    both = ranked["dimensions"]["quality"]["intersection"]
    assert [both[model]["mean"] for model in "ABC"] == [7.5, 4.5, 8]
    assert both["A"]["interval"] is None  # two cases
    assert ranked["cases"] == {"asked": 3, "judged": 3, "intersection": 2, "dropped": 0}
    assert ranked["raters"] == {"Ann": {"complete": 3, "incomplete": 0}, "Bo": {"complete": 2, "incomplete": 1}}


def test_every_two_models_over_what_the_same_raters_gave_them(ranked: dict[str, Any]) -> None:
    pairs = {(pair["first"], pair["second"]): pair for pair in ranked["dimensions"]["quality"]["pairs"]}
    # A less B: case 0 Ann 4, Bo 2; case 1 Ann 2, Bo 4; so t1 3. Case 2 Ann -8, alone in t2.
    assert pairs.keys() == {("A", "B"), ("A", "C"), ("B", "C")}
    assert pairs["A", "B"]["difference"] == -2.5 and pairs["A", "B"]["win_rate"] == 0.5
    assert [pairs["A", "B"][name] for name in ("won", "tied", "lost", "cases")] == [4, 0, 1, 3]
    assert pairs["B", "C"]["tied"] == 2  # case 0: both gave 6 and 6


def test_a_case_is_compared_for_each_rater_whatever_else_they_saw() -> None:
    """Raters who rate everything higher or lower change no difference, and no interval of one."""
    draw = np.random.default_rng(0)
    key = key_of("rank", [("t", "AB")] * 8)
    given = draw.integers(2, 5, (3, 8, 2))
    found = []
    for shift in (0, 1):
        said = [
            answers_of(f"r{k}", *(levels("quality", a=int(a), b=int(b)) for a, b in one - (k == 0) * shift))
            for k, one in enumerate(given)
        ]
        found.append(score_study(key, said)["dimensions"]["quality"]["pairs"][0])
    assert found[0] == found[1]
    low, high = found[0]["interval"]
    assert low < found[0]["difference"] < high
    assert found[0]["difference"] == pytest.approx(2 * float((given[..., 0] - given[..., 1]).mean()), abs=1e-6)


def test_agreement_of_the_raters(ranked: dict[str, Any]) -> None:
    agreement = ranked["dimensions"]["quality"]["agreement"]
    assert agreement["within_one"] == pytest.approx(5 / 6, abs=1e-6)  # only case 1's A: 4 against 8
    stats = pytest.importorskip("scipy.stats")
    expected = stats.spearmanr([10, 6, 6, 4, 2, 10], [8, 6, 6, 8, 4, 10]).statistic
    assert agreement["spearman"] == pytest.approx(expected, abs=1e-6)
    package = pytest.importorskip("krippendorff")
    table = [[10, 6, 6, 4, 2, 10, 2, 10], [8, 6, 6, 8, 4, 10, np.nan, np.nan]]
    assert agreement["alpha"] == pytest.approx(package.alpha(table, level_of_measurement="ordinal"), abs=1e-6)


def test_scores_by_position_show_a_bias_of_place(ranked: dict[str, Any]) -> None:
    # First places: 10, 2, 2 of Ann and 8, 4 of Bo.
    assert ranked["dimensions"]["quality"]["by_position"][0] == pytest.approx(26 / 5)


def test_top2_is_the_share_of_cases_in_which_a_model_is_picked() -> None:
    key = key_of("top2", [("t", "ABC"), ("t", "CAB")])
    ann = answers_of("Ann", levels("picked", a=1, b=1), levels("picked", a=1, b=1))  # A B, C A
    bo = answers_of("Bo", levels("picked", b=1, a=1), levels("picked", a=1, c=1))  # A B, C B
    found = score_study(key, [ann, bo, answers_of("Cy", levels("picked", a=1))])
    ratios = [found["dimensions"]["picked"]["full"][model]["mean"] for model in "ABC"]
    assert ratios == [0.75, 0.75, 0.5]
    assert sum(ratios) == 2
    assert found["raters"]["Cy"] == {"complete": 0, "incomplete": 1}


def test_two_dimensions_are_kept_apart() -> None:
    key = key_of("two", [("t", "AB")])
    given = {
        "a": {"prompt following": 5, "consistency": 1},
        "b": {"prompt following": 2, "consistency": 4},
    }
    found = score_study(key, [answers_of("Ann", given)])["dimensions"]
    assert [found["prompt following"]["full"][model]["mean"] for model in "AB"] == [5, 2]
    assert [found["consistency"]["full"][model]["mean"] for model in "AB"] == [1, 4]
    assert found["consistency"]["full"]["C"] == {"mean": None, "interval": None, "cases": 0, "tasks": {}}


def test_a_dialogue_counts_yes_per_kind() -> None:
    key = key_of("turns", [("content memory", "AB"), ("content memory", "AB"), ("version backtracking", "AB")])
    given = [levels("success", a=2, b=1), levels("success", a=1, b=1), levels("success", a=2, b=2)]
    full = score_study(key, [answers_of("Ann", *given)])["dimensions"]["success"]["full"]
    assert {kind: entry["mean"] for kind, entry in full["A"]["tasks"].items()} == {
        "content memory": 0.5,
        "version backtracking": 1,
    }
    assert (full["A"]["mean"], full["B"]["mean"]) == (0.75, 0.5)


@pytest.mark.parametrize(
    "answers, message",
    [
        ([], "no answers"),
        ([{**answers_of("Ann"), "study": "other"}], "another study"),
        ([answers_of("Ann"), answers_of("Ann")], "comes twice"),
        ([answers_of("Ann", levels("quality", a=6))], "no answer to this design"),
        ([answers_of("Ann", levels("quality", d=1))], "no answer to this design"),
        ([answers_of("Ann", levels("beauty", a=1))], "no answer to this design"),
        ([answers_of("Ann", levels("quality", a=1), levels("quality", a=1))], "no case 1"),
        ([{**answers_of("Ann"), "answers": []}], "not as the page writes them"),
        ([{**answers_of("Ann"), "answers": {"0": {"given": {"a": 3}}}}], "not as the page writes them"),
        ([{**answers_of("Ann"), "answers": {"0": 3}}], "not as the page writes them"),
        ([{**answers_of("Ann"), "answers": {"00": {"given": {}}}}], "no case 00"),
        ([{**answers_of("Ann"), "answers": {"9" * 5000: {"given": {}}}}], "no case 9"),
        (
            [{**answers_of("Ann"), "answers": {"0": {"given": levels("quality", a=1, b=1), "shown": 3}}}],
            "not as the page writes them",
        ),
    ],
)
def test_answers_that_cannot_be_are_refused(answers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(EditError, match=message):
        score_study(key_of("rank", [("t", "AB")]), answers)


def test_a_key_that_is_none_and_more_picks_than_asked_for_are_refused() -> None:
    with pytest.raises(EditError, match="no key of a study"):
        score_study({"study": "s", "design": "pairs", "cases": [], "models": [], "dropped": []}, [answers_of("Ann")])
    with pytest.raises(EditError, match="3 picks of 2"):
        score_study(key_of("top2", [("t", "ABC")]), [answers_of("Ann", levels("picked", a=1, b=1, c=1))])


def test_text_and_markdown_say_the_same(ranked: dict[str, Any]) -> None:
    plain, markdown = as_text(ranked), as_text(ranked, markdown=True)
    for said in (plain, markdown):
        assert "quality, full set" in said and "quality, intersection set (2 cases)" in said
        assert "half-rated and left out: 1" in said and "within one level 0.833" in said
    assert "| C | 8.0 | too few cases | 2 | 8.000 | – |" in markdown


# ---------------------------------------------------------------- the page and its key


def case_data(page: str) -> list[dict[str, Any]]:
    return [json.loads(found) for found in re.findall(r'id="case-\d+">(.*?)</script>', page, re.S)]


def test_the_page_does_not_say_who_made_what(folder: Path) -> None:
    key = build(folder)
    out = folder / "out"
    assert sorted(path.name for path in out.iterdir()) == ["key.json", "study.html"]
    page = (out / "study.html").read_text()
    for secret in (*MODELS, str(folder), "photo-0"):
        assert secret.casefold() not in page.casefold()
    for case, known in zip(case_data(page), key["cases"]):
        assert sorted(case["results"]) == list(case["results"]) == sorted(known["results"])
        shapes, sizes = set(), []
        for (uri,) in [[case["source"]], *case["results"].values()]:
            data = base64.b64decode(uri.partition(",")[2])
            assert not any(name.encode() in data for name in MODELS)
            image = Image.open(io.BytesIO(data))
            shapes.add((image.format, image.size, *image.info))
            sizes.append(len(data))
        assert len(shapes) == 1, shapes  # one format, size and set of header fields
    # A letter is not the same model everywhere.
    assert len({case["results"]["a"] for case in key["cases"]}) > 1


def test_images_of_the_page_are_those_of_the_key(folder: Path) -> None:
    key = build(folder)
    for case, known in zip(case_data((folder / "out" / "study.html").read_text()), key["cases"]):
        for letter, name in known["results"].items():
            (path,) = (folder / name).glob(f"{known['id']}.*")
            original = Image.open(path).convert("RGB")
            shown = Image.open(io.BytesIO(base64.b64decode(case["results"][letter][0].partition(",")[2])))
            small = [np.asarray(image.resize((20, 15)), np.float64) for image in (original, shown)]
            assert np.abs(small[0] - small[1]).mean() < 3


def test_a_study_is_the_same_for_the_same_seed_and_another_for_another(folder: Path) -> None:
    first = build(folder)
    page = (folder / "out" / "study.html").read_bytes()
    assert build(folder, overwrite=True) == first
    assert (folder / "out" / "study.html").read_bytes() == page
    cases = read_cases(str(folder / "cases.jsonl"))
    other = build_study(cases, models(folder), "rank", str(folder / "out"), 6, overwrite=True)
    assert other["study"] != first["study"]
    assert json.loads((folder / "out" / "key.json").read_text()) == other


def test_text_from_data_cannot_become_markup(folder: Path) -> None:
    build(folder, title=f"A {HOSTILE} study")
    page = (folder / "out" / "study.html").read_text()
    assert page.count("<script") == page.count("</script>") == 4 + 1 + 1  # cases, study, program
    assert "<img src=x" not in page and "<script src" not in page
    assert "default-src 'none'" in page


def test_a_case_without_a_image_leaves_and_is_counted(folder: Path) -> None:
    (folder / "Sancho" / "photo-1.jpg").unlink()
    (folder / "Sancho" / "photo-2.jpg").write_bytes(b"\xff\xd8\xff not a JPEG")
    (folder / "src" / "0.jpg").unlink()
    key = build(folder)
    assert [case["id"] for case in key["cases"]] == ["photo-3"]
    reasons = {dropped["id"]: dropped["reason"] for dropped in key["dropped"]}
    assert reasons["photo-1"] == "no picture of Sancho"
    assert reasons["photo-2"].startswith("Sancho: ")
    assert reasons["photo-0"].startswith("source: ")

    key = build(folder, incomplete=True, overwrite=True)
    kept = {case["id"]: set(case["results"].values()) for case in key["cases"]}
    assert kept == {
        "photo-1": {"Quixote-7B", "Dulcinea-Edit"},
        "photo-2": {"Quixote-7B", "Dulcinea-Edit"},
        "photo-3": set(MODELS),
    }


def test_nothing_is_left_behind_where_no_case_can_be_rated(folder: Path) -> None:
    for path in (folder / "Sancho").iterdir():
        path.unlink()
    with pytest.raises(EditError, match=r"no case is left to rate.*no picture of Sancho"):
        build(folder)
    assert not list((folder / "out").iterdir())


def test_so_many_cases_of_each_task_are_drawn(folder: Path) -> None:
    key = build(folder, per_task=1)
    assert sorted(case["task"] for case in key["cases"]) == ["style", "tone"]
    assert not key["dropped"]


def test_tiny_images_are_stored_exactly(tmp_path: Path) -> None:
    write(tmp_path / "s.png", encode(pixels(1), "PNG"))
    for name in "AB":
        write(tmp_path / name / "x.png", encode(pixels(ord(name)), "PNG"))
    write(tmp_path / "cases.jsonl", b'{"id": "x", "task": "t", "instruction": "do", "source": "s.png"}')
    named = {name * 5: str(tmp_path / name) for name in "AB"}
    key = build_study(read_cases(str(tmp_path / "cases.jsonl")), named, "rank", str(tmp_path / "out"))
    (case,) = case_data((tmp_path / "out" / "study.html").read_text())
    for letter, name in key["cases"][0]["results"].items():
        image = Image.open(io.BytesIO(base64.b64decode(case["results"][letter][0].partition(",")[2])))
        assert (np.asarray(image) == pixels(ord(name[0]))).all()


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: not a JSON object"),
        ('{"id": "b", "task": "t", "instruction": "do"}', "line 2: `source`"),
        ('{"id": "b", "task": "t", "instruction": {"en": " "}, "source": "s"}', "line 2: `instruction` is empty"),
        ('{"id": "b", "task": "t", "instruction": 3, "source": "s"}', "line 2: `instruction` is neither"),
        ('{"id": "../b", "task": "t", "instruction": "do", "source": "s"}', "leads out"),
        ('{"id": "a", "task": "t", "instruction": "do", "source": "s"}', "there twice"),
        ('{"id": "b", "task": "t", "turns": [], "source": "s"}', "`turns`"),
    ],
)
def test_a_bad_line_of_the_case_list_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"id": "a", "task": "t", "instruction": "do", "source": "s.jpg"}\n' + line)
    with pytest.raises(EditError, match=message) as error:
        read_cases(str(path))
    assert "\n" not in str(error.value)


def test_a_model_is_named_by_a_word_of_the_title_not_by_its_letters(folder: Path) -> None:
    cases = read_cases(str(folder / "cases.jsonl"))
    a, b = list(models(folder).values())[:2]
    build_study(cases, {"a": a, "b": b}, "rank", str(folder / "out"))  # the manual's example, and its default title
    for title in ("Is Step1X-Edit better?", "比较step1x的结果"):
        with pytest.raises(UsageError, match="names the model Step1X"):
            build_study(cases, {"Step1X": a, "b": b}, "rank", str(folder / "named"), title=title)


def test_studies_that_make_no_sense_are_refused(folder: Path) -> None:
    cases = read_cases(str(folder / "cases.jsonl"))
    two = dict(list(models(folder).items())[:2])
    out = str(folder / "out")
    with pytest.raises(UsageError, match="top2 compares 3 to 8 models, not 2"):
        build_study(cases, two, "top2", out)
    with pytest.raises(UsageError, match="names the model Sancho"):
        build_study(cases, two, "rank", out, title="Is Sancho better?")
    with pytest.raises(UsageError, match="no such design"):
        build_study(cases, two, "pairs", out)
    with pytest.raises(EditError, match="no such folder"):
        build_study(cases, {**two, "Nobody": str(folder / "nobody")}, "rank", out)
    with pytest.raises(EditError, match="needs `turns`"):
        build_study(cases, two, "turns", out)
    write(folder / "Sancho" / "photo-0.png", png(0, 8, 8, ""))
    with pytest.raises(EditError, match=r"photo-0\.png and photo-0\.jpg: which one"):
        build_study(cases, two, "rank", out)
    (folder / "Sancho" / "photo-0.png").unlink()
    build_study(cases, two, "rank", out)
    with pytest.raises(EditError, match="exists"):
        build_study(cases, two, "rank", out)
    for pair in ("Sancho", "=x", "Sancho="):
        with pytest.raises(UsageError, match="NAME=DIR"):
            study.models_of([pair])
    with pytest.raises(UsageError, match="twice"):
        study.models_of(["a=x", "a=y"])


# ---------------------------------------------------------------- the commands


def test_the_commands_build_and_score(folder: Path) -> None:
    asked = CliRunner().invoke(eval_study.command, ["build", "--help"]).output
    assert all(f"{name}: " in asked for name in ("rank", "top2", "two", "turns"))
    named = [part for name, path in models(folder).items() for part in ("--model", f"{name}={path}")]
    out = folder / "out"
    (folder / "Sancho" / "photo-1.jpg").unlink()
    ran = CliRunner().invoke(eval_study.command, ["build", str(folder / "cases.jsonl"), *named, "-o", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "3 cases, 1 dropped" in ran.stderr and "dropped photo-1: no picture of Sancho" in ran.stderr

    key = json.loads((out / "key.json").read_text())
    assert key["format"] == KEY_FORMAT
    answers = {}
    for number, case in enumerate(key["cases"]):
        given = {letter: {"quality": 1 + MODELS.index(name)} for letter, name in case["results"].items()}
        answers[str(number)] = {"given": given}
    file = {"format": ANSWERS_FORMAT, "version": 1, "study": key["study"], "rater": "Ann", "answers": answers}
    write(folder / "answers-Ann.json", json.dumps(file).encode())
    command = ["score", str(out / "key.json"), str(folder / "answers-Ann.json")]
    ran = CliRunner().invoke(eval_study.command, command)
    assert ran.exit_code == 0, ran.output
    means = {name: entry["mean"] for name, entry in json.loads(ran.stdout)["dimensions"]["quality"]["full"].items()}
    assert means == {"Quixote-7B": 2, "Sancho": 4, "Dulcinea-Edit": 6}
    ran = CliRunner().invoke(eval_study.command, [*command, "-f", "markdown"])
    assert "| Dulcinea-Edit | 6.0 | too few cases | 3 |" in ran.stdout

    for bad, message in ((out / "study.html", "not JSON"), (folder / "answers-Ann.json", "not a file of the kind")):
        ran = CliRunner().invoke(eval_study.command, ["score", str(bad), str(bad)])
        assert isinstance(ran.exception, EditError) and message in str(ran.exception)


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from edittools.cli.eval_study import command\n"
        "for name in ('build', 'score'): assert CliRunner().invoke(command, [name, '--help']).exit_code == 0\n"
        "assert not {'torch', 'pyarrow', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- in a browser


class Rater:
    """Someone at the keyboard, who knows what to think of each model."""

    def __init__(self, chromium: Chromium, key: dict[str, Any]) -> None:
        self.chromium = chromium
        self.key = key

    def begin(self, page: Path, name: str) -> None:
        self.chromium.open(page)
        wait(lambda: self.chromium.run("typeof database === 'object'"))
        self.chromium.type(name)
        self.chromium.press("Enter")
        self.shown()

    def shown(self) -> None:
        wait(lambda: self.chromium.run("typeof page === 'object' && page !== null && !element('rating').hidden"))

    def models(self) -> list[str]:
        """The models of the case on screen, from left to right."""
        letters = self.chromium.run("page.shown")
        return [self.key["cases"][self.chromium.run("page.number")]["results"][letter] for letter in letters]

    def saved(self) -> None:
        wait(lambda: self.chromium.run("element('saved').textContent") == "saved")

    def answers(self) -> dict[str, Any]:
        return json.loads(self.chromium.run("JSON.stringify(answers)"))

    def export(self, downloads: Path) -> dict[str, Any]:
        self.chromium.run("document.querySelector('.export').click()")
        path = wait(lambda: next(iter(downloads.glob("answers-*.json")), None))
        return wait(lambda: read_json(str(path), ANSWERS_FORMAT) if path.stat().st_size else None)


LEVEL = dict(zip(MODELS, "254"))  # what the rater thinks: poor, excellent, good


@browser
def test_rate_reload_crash_resume_export_score(folder: Path) -> None:
    """Every answer called saved is there after a reload and after SIGKILL, and the scores are those given."""
    key = build(folder)
    page, profile, downloads = folder / "out" / "study.html", folder / "profile", folder / "downloads"
    profile.mkdir()
    downloads.mkdir()
    with Chromium(profile, downloads) as chromium:
        rater = Rater(chromium, key)
        rater.begin(page, "Ann Ötzi")
        chromium.press("Enter")  # not yet: nothing is rated
        assert chromium.run("position") == 0 and "every result" in chromium.run("element('hint').textContent")
        for _ in range(2):
            chromium.press(*(LEVEL[name] for name in rater.models()), "Enter")
        assert chromium.run("position") == 2
        rater.saved()
        before, order = rater.answers(), chromium.run("order")

        chromium.reload()
        rater.shown()  # the rater is remembered, and the place
        assert rater.answers() == before and chromium.run("order") == order and chromium.run("position") == 2

        # Two answers into the third case the browser dies, as soon as it has said "saved".
        chromium.press(*(LEVEL[name] for name in rater.models()[:2]))
        rater.saved()
        before = rater.answers()
        chromium.kill()
    with Chromium(profile, downloads) as chromium:
        rater = Rater(chromium, key)
        chromium.open(page)
        rater.shown()
        assert rater.answers() == before and len(before) == 3
        assert (chromium.run("position"), chromium.run("cursor"), chromium.run("rater")) == (2, 2, "Ann Ötzi")

        chromium.press(LEVEL[rater.models()[2]], "Backspace")  # back, change one's mind, and change it back
        chromium.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "1", "ArrowLeft", "ArrowLeft", "ArrowLeft")
        assert chromium.run("position") == 1 and chromium.run("cursor") == 0
        assert chromium.run("levelOf(page.cells[0])") == 1
        chromium.press(LEVEL[rater.models()[0]], "Enter", "Enter")
        chromium.press(*(LEVEL[name] for name in rater.models()), "Enter")
        assert "last case" in chromium.run("element('verdict').textContent")
        rater.saved()
        answers = rater.export(downloads)
        sent = [url for url in chromium.requests if not url.startswith(("data:", "blob:", page.resolve().as_uri()))]
        assert not sent  # nothing left the machine
        assert chromium.run("element('trouble').hidden")
    assert [path.name for path in downloads.iterdir()] == ["answers-Ann_Ötzi.json"]
    found = score_study(key, [answers])
    means = {name: entry["mean"] for name, entry in found["dimensions"]["quality"]["full"].items()}
    assert means == {"Quixote-7B": 4, "Sancho": 10, "Dulcinea-Edit": 8}
    assert found["raters"] == {"Ann Ötzi": {"complete": 4, "incomplete": 0}}


@browser
def test_pick_two_by_keyboard(folder: Path) -> None:
    key = build(folder, "top2")
    (folder / "profile").mkdir()
    with Chromium(folder / "profile", folder) as chromium:
        rater = Rater(chromium, key)
        rater.begin(folder / "out" / "study.html", "Ann")
        for _ in key["cases"]:
            names = rater.models()
            wrong, *right = sorted(MODELS, key=lambda name: name != "Sancho")
            chromium.press(*(str(1 + names.index(name)) for name in (wrong, right[0])))
            chromium.press(str(1 + names.index(right[1])))  # a third: refused
            assert "picked already" in chromium.run("element('hint').textContent")
            chromium.press(str(1 + names.index(wrong)), str(1 + names.index(right[1])), "Enter")
        rater.saved()
        found = score_study(key, [rater.export(folder)])
    ratios = {name: entry["mean"] for name, entry in found["dimensions"]["picked"]["full"].items()}
    assert ratios == {"Quixote-7B": 1, "Sancho": 0, "Dulcinea-Edit": 1}


@browser
def test_two_dimensions_by_keyboard_and_what_the_page_shows(folder: Path) -> None:
    key = build(folder, "two")
    (folder / "profile").mkdir()
    with Chromium(folder / "profile", folder) as chromium:
        rater = Rater(chromium, key)
        rater.begin(folder / "out" / "study.html", "Ann")
        said = []
        for _ in key["cases"]:
            said.append(chromium.run("document.querySelector('#said p').textContent"))
            # The images fill their cards, and holding Space shows the source in their place.
            assert chromium.run("[...document.images].every((image) => image.naturalWidth > 0 && image.height > 50)")
            chromium.call("Input.dispatchKeyEvent", type="keyDown", key=" ", windowsVirtualKeyCode=32, text=" ")
            assert chromium.run("[...document.images].every((image) => image.src === page.data.source)")
            chromium.call("Input.dispatchKeyEvent", type="keyUp", key=" ", windowsVirtualKeyCode=32)
            assert chromium.run("new Set([...document.images].map((image) => image.src)).size") == 4
            chromium.press(*(key for name in rater.models() for key in (LEVEL[name], "3")), "Enter")
        assert HOSTILE.encode("utf-8", "replace") in [words.encode("utf-8", "replace") for words in said]
        found = score_study(key, [rater.export(folder)])["dimensions"]
        # Another rater, another order; the first is still there.
        first = chromium.run("order")
        orders = {tuple(chromium.run(f"begin('rater {number}').then(() => order)")) for number in range(8)}
        assert len(orders | {tuple(first)}) > 3
        assert len(chromium.run("begin('Ann').then(() => Object.keys(answers))")) == 4
    assert {name: entry["mean"] for name, entry in found["prompt following"]["full"].items()} == {
        "Quixote-7B": 2,
        "Sancho": 5,
        "Dulcinea-Edit": 4,
    }
    assert {entry["mean"] for entry in found["consistency"]["full"].values()} == {3}


@browser
def test_a_dialogue_by_keyboard(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()[:3]]
    for number, line in enumerate(lines):
        line["turns"] = ["first", {"en": "second", "zh": "第二"}]
        line["task"] = ("content memory", "version backtracking")[number % 2]
        for name in MODELS:
            for turn in (1, 2):
                write(folder / name / f"{line['id']}.turn.{turn}.png", png(turn, 120, 120, name))
    (folder / "cases.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "Sancho" / "photo-2.turn.2.png").unlink()  # a dialogue that broke off
    key = build(folder, "turns")
    assert [dropped["id"] for dropped in key["dropped"]] == ["photo-2"]
    (folder / "profile").mkdir()
    with Chromium(folder / "profile", folder) as chromium:
        rater = Rater(chromium, key)
        rater.begin(folder / "out" / "study.html", "Ann")
        for _ in key["cases"]:
            assert chromium.run("document.querySelectorAll('#said li').length") == 2
            assert chromium.run("document.images.length") == 3 * 3  # the source and two turns of three models
            chromium.press(*("y" if name == "Sancho" else "n" for name in rater.models()), "Enter")
        found = score_study(key, [rater.export(folder)])["dimensions"]["success"]["full"]
    assert {name: entry["mean"] for name, entry in found.items()} == {"Quixote-7B": 0, "Sancho": 1, "Dulcinea-Edit": 0}
    assert found["Sancho"]["tasks"].keys() == {"content memory", "version backtracking"}


@browser
def test_a_browser_that_cannot_save_says_so_and_still_exports(folder: Path) -> None:
    key = build(folder)
    (folder / "profile").mkdir()
    with Chromium(folder / "profile", folder) as chromium:
        rater = Rater(chromium, key)
        rater.begin(folder / "out" / "study.html", "Ann")
        chromium.run("database.close()")
        chromium.press("3")
        assert wait(lambda: not chromium.run("element('trouble').hidden"))
        assert "cannot be saved" in chromium.run("element('trouble').textContent")
        assert chromium.run("element('saved').textContent") != "saved"
        assert len(rater.export(folder)["answers"]) == 1
