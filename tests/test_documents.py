"""What the repository says of itself: no file cites what a reader cannot have, and the documents say what is so."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, Runner, rows_of
from test_layers import LAYERS

from edittools import __version__, record
from edittools.bench.case_list import CASE
from edittools.filter.straighten import SCORES as STRAIGHTENED
from edittools.judge.judgements import ENDINGS
from edittools.judge.stage import JUDGEMENT
from edittools.metrics.ocr import NAMES as OCR
from edittools.score.semantic import semantic_names
from edittools.score.stage import PAIR_SCORES, RESULT_SCORES

SUFFIXES = {".py", ".md", ".toml", ".sh", ".cff", ".html", ".css", ".js", ".txt", ".1", ".5", ""}
# The names of notes that are not part of the repository, and their paragraphs: [T3], (C2), [E8, F6].
NOTES = re.compile(
    r"(?<!\w)(?:SPEC|DESIGN|FACTS)\b(?! *[=(\[])|\b(?:REVIEW|STYLE)\.md"
    r"|[\[(](?:R[1-5]|D[1-4]|F[1-8]|C[1-8]|G[12]|Y\d|Y10|J[1-8]|T\d[a-c]?|T1[0-4]|E[1-9])"
    r"(?:[\])]|, [A-Z]\d|[ ,;] ?[a-z])"
)


def tracked() -> list[Path]:
    """The files of the repository; of a copy without git, all of the folders that it consists of."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    folders = ("src", "tests", "man", "docs", "examples", "benchmarks")
    found = [ROOT / name for name in listed.stdout.splitlines()] or [p for f in folders for p in (ROOT / f).rglob("*")]
    return [path for path in found if path.is_file() and path.suffix in SUFFIXES and path != Path(__file__)]


def test_no_file_cites_a_document_that_is_not_here() -> None:
    cited = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if NOTES.search(line)
    ]
    assert not cited, "\n".join(cited)


@pytest.mark.parametrize(
    "text",
    [
        "as SPEC T3 says", "(DESIGN 4).", "training/FACTS A6", "from its description in FACTS.", "the mean [T7]",
        "(C2).", "see REVIEW.md", "[E8, F6]", "t [T2 solved for v]", "(R4, Y6)",
    ],
)  # fmt: skip
def test_citations_are_recognised(text: str) -> None:
    assert NOTES.search(text)


@pytest.mark.parametrize("text", ["DESIGNS[name]", "_FACTS.pack(x)", "(FireRed 3.2)", "SPECIAL = 1", "ASPECT"])
def test_other_words_are_not(text: str) -> None:
    assert not NOTES.search(text)


# ---------------------------------------------------------------- docs/DATA-MODEL.md

MODEL = ROOT / "docs" / "DATA-MODEL.md"


def named() -> set[str]:
    """Everything that the data model has in backticks."""
    return set(re.findall(r"`([^`\n]+)`", MODEL.read_text(encoding="utf-8")))


def test_every_field_of_the_record_is_described() -> None:
    """The printed tables come from comments; a field without one would be missing in them."""
    text = MODEL.read_text(encoding="utf-8")
    names = ("IMAGE", "STORED_IMAGE", "TEXT", "TURN", "OBJECT", "PROVENANCE")
    structs = {name: getattr(record, name) for name in names}
    for heading, kind in {**structs, "JUDGEMENT": JUDGEMENT, "CASE": CASE}.items():
        table = text.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
        fields = [field.name for field in kind]
        assert re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", table, re.M) == fields
    table = text.partition("## Columns of the record")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(record.COLUMNS)


def test_every_score_of_edit_score_and_every_ending_of_a_judges_is_named() -> None:
    names = {*PAIR_SCORES, *RESULT_SCORES, *semantic_names(["clip", "dino"]), *OCR, *STRAIGHTENED, *ENDINGS} - {""}
    assert names - named() == set()


def test_every_column_and_score_that_commands_leave_is_named(edit: Runner, shards: Path, tmp_path: Path) -> None:
    """A run over most commands: nothing is in its rows that the data model does not know."""
    edit("filter", shards, "--sharpness", "..", "--fix-rotation", "-o", tmp_path / "a")
    edit("dedup", tmp_path / "a", "--mark", "why", "-o", tmp_path / "b")
    edit("synth", tmp_path / "b", "--templates", "gray,dialogue", "--per-row", 1, "-o", tmp_path / "c")
    edit("caption", tmp_path / "c", "-o", tmp_path / "d")
    rows = [{**row, "own": 1} for row in edit("cat", tmp_path / "d", "-f", "jsonl").lines]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit("score", tmp_path / "rows.jsonl", "-o", tmp_path / "e")
    found: set[str] = set()
    for row in rows_of(tmp_path / "e"):
        found |= {*row, *(row["scores"] or ()), *(row["source_scores"] or ())}
    assert {"scores", "source_scores", "edit_box", "cluster", "why", "own"} <= found
    assert found - named() == {"why", "own"}  # a name that the user gave, and a user's own column


# ---------------------------------------------------------------- docs/ARCHITECTURE.md


def test_the_packages_are_those_of_the_layers() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("<!-- layers -->")[2]
    lines = re.findall(r"^\| [^`|]+ \| (`.+`) \|$", text, re.M)
    assert [tuple(re.findall(r"`(\w+)`", line)) for line in lines] == list(LAYERS)


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


# ---------------------------------------------------------------- README.md


def test_the_python_of_the_readme_runs(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").symlink_to(shards)
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(code) == 1
    exec(compile(code[0].replace("64..", "16.."), "README.md", "exec"), {})
    assert 0 < len(rows_of(tmp_path / "clean")) < 24


def test_the_citation_has_the_version_and_licence_of_the_package() -> None:
    cited = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M))
    assert cited["version"] == __version__ and cited["license"] == "Apache-2.0"
