"""The command line as a whole: help by another name, shell completion, and texts that say what they mean."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import EDIT, Runner

from edittools.errors import EditError
from edittools.stream.history import History


def test_help_is_a_word_too(edit: Runner) -> None:
    assert edit("help").stdout == edit("--help").stdout
    assert edit("help", "dedup").stdout == edit("dedup", "--help").stdout
    assert "No such command" in edit("help", "nosuch", check=2).stderr


def complete(shell: str, words: str, number: int) -> list[list[str]]:
    """What `edit` answers to the function that it gave the shell."""
    environment = {**os.environ, "_EDIT_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    if shell == "fish":
        environment["COMP_CWORD"] = words.split(" ")[number]
    found = subprocess.run([EDIT], env=environment, capture_output=True, text=True, check=True).stdout
    if shell == "zsh":  # kind, value and help, a line each
        lines = found.splitlines()
        return [lines[k : k + 2] for k in range(0, len(lines) - 2, 3)]
    return [line.split("\t")[0].split(",") for line in found.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_commands_options_choices_and_files(shell: str) -> None:
    assert complete(shell, "edit fil", 1) == [["plain", "filter"]]
    assert complete(shell, "edit filter --sharp", 2) == [["plain", "--sharpness"]]
    assert complete(shell, "edit judge --rubric visc", 3) == []
    assert complete(shell, "edit judge --rubric vies", 3) == [["plain", "viescore"]]
    assert complete(shell, "edit dedup ra", 2) == [["file", "ra"]]
    assert complete(shell, "edit dedup raw/ --config x", 4) == [["file", "x"]]
    environment = {**os.environ, "_EDIT_COMPLETE": f"{shell}_source"}
    script = subprocess.run([EDIT], env=environment, capture_output=True, text=True, check=True).stdout
    assert f"{shell}_complete" in script and "Usage:" not in script


def test_completion_in_a_real_bash(tmp_path: Path) -> None:
    """The script is sourced and its function called as bash calls it when Tab is pressed."""
    bash = shutil.which("bash")
    assert bash is not None
    (tmp_path / "rows.jsonl").write_text("")
    script = (
        'eval "$(_EDIT_COMPLETE=bash_source edit)"; COMP_WORDS=(edit filter --sharp); COMP_CWORD=2; '
        '_edit_completion edit; echo "${COMPREPLY[@]}"; complete -p edit'
    )
    path = f"{os.path.dirname(EDIT)}:{os.environ['PATH']}"
    found = subprocess.run(
        [bash, "--norc", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, cwd=tmp_path
    )
    assert found.stdout.splitlines()[0] == "--sharpness" and "-F _edit_completion edit" in found.stdout


def test_a_refused_output_says_which_setting_differs(edit: Runner, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edit("filter", shards, "--min-side", 10, "-o", out)
    said = edit("filter", shards, "--min-side", 12, "-o", out, check=1).stderr
    assert 'with other settings (filter: short_side "10" → "12")' in said
    edit("synth", shards, "--templates", "flip", "--rejects", tmp_path / "r", "-o", tmp_path / "pairs")
    said = edit("synth", out, "--templates", "flip", "-o", tmp_path / "pairs", check=1).stderr
    assert "(shard | synth → shard | filter | synth)" in said


def test_differences_of_histories() -> None:
    def chain(*steps: tuple[str, dict], version: int = 1) -> History:
        history = History()
        for command, settings in steps:
            history = history.add(command, version, settings)
        return history

    now = chain(("shard", {}), ("filter", {"sharpness": 120.0, "max": 3}))
    assert now.difference(now) is None
    assert now.difference(chain(("shard", {}), ("filter", {"sharpness": 100.0, "max": 3}))) == (
        "filter: sharpness 100.0 → 120.0"
    )
    assert now.difference(chain(("shard", {}), ("filter", {"sharpness": 120.0}))) == "filter: max unset → 3"
    assert now.difference(chain(("shard", {}))) == "shard → shard | filter"
    assert now.difference(chain(("shard", {}), ("filter", {}), version=0)) == (
        "shard: results changed with this release of edittools"
    )
    long = chain(("caption", {"styles": ["x" * 100]}))
    assert len(str(long.difference(chain(("caption", {}))))) < 100


def test_seeds_say_what_they_seed(edit: Runner) -> None:
    for words in (["eval", "report"], ["eval", "rescore"], ["eval", "study", "score"]):
        text = " ".join(edit(*words, "--help").stdout.decode().split())
        assert "resampling that the intervals come from" in text and "row's id" not in text
    assert "row's id" in " ".join(edit("synth", "--help").stdout.decode().split())


def test_the_help_of_rubrics_is_what_they_declare(edit: Runner) -> None:
    from edittools.judge.rubrics import load_rubric, rubric_names

    text = " ".join(edit("judge", "--help").stdout.decode().split())
    own = text.split("Ours: ")[1].split(";")[0].split(", ")
    assert own == [name for name in rubric_names() if load_rubric(name).benchmark is None]


def test_pages_name_only_exits_that_a_command_has(edit: Runner) -> None:
    page = edit("man", "man").stdout.decode()
    assert "tolerates" not in page and "incomplete" not in page
    page = edit("man", "filter").stdout.decode()
    assert "tolerates" in page and "incomplete" in page


def test_the_table_on_a_terminal_leaves_digests_out(shards: Path) -> None:
    from edittools.stream.writers.table import _cell

    row = json.loads('{"origin": "crawl", "path": "a.jpg", "sha256": "0123"}')
    assert _cell(row) == "origin: crawl\npath: a.jpg"


def test_two_options_of_one_name_are_refused() -> None:
    from edittools.cli import options

    def command(jobs: tuple[str, ...]) -> None: ...

    with pytest.raises(EditError, match="`edit odd` would have two options --jobs"):
        options.command("odd", cost="", examples=())(options.option("--jobs")(options.option("-j", "--jobs")(command)))
