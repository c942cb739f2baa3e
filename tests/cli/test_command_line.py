"""The command line as a whole: help by another name, shell completion, and texts that say what they mean."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import EDIT, Runner

from edittools.cli.options import _holds
from edittools.errors import EditError
from edittools.stream.history import History


def test_help_is_a_word_too(edit: Runner) -> None:
    assert edit("help").stdout == edit("--help").stdout
    assert edit("help", "dedup").stdout == edit("dedup", "--help").stdout
    assert "No such command" in edit("help", "nosuch", check=2).stderr


def test_a_table_of_no_command_in_a_configuration_is_refused(edit: Runner, tmp_path: Path) -> None:
    """Nobody would read it. Tables of other commands are none of this one's business."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"caption": "a house"}\n{"caption": "a tree"}\n')
    for text, said in (
        ("[trian]\nseed = 1\n", "[trian]: no such command\nhint: did you mean [train]?"),
        ("limit = 1\n", "`limit` stands in no table"),
        ("[eval]\nlimit = 1\n", "[eval] `limit` stands in no table of a verb"),
        ("[eval.reprot]\nseed = 1\n", "[eval.reprot]: no such verb"),
    ):
        (tmp_path / "edit.toml").write_text(text)
        assert said in edit("cat", rows, "--config", tmp_path / "edit.toml", check=2).stderr
    (tmp_path / "edit.toml").write_text(
        "[cat]\nlimit = 1\n[train]\nnosuch = 1\n[eval.report]\nseed = 1\n[eval.heldout]\n"
    )
    assert len(edit("cat", rows, "--config", tmp_path / "edit.toml", "-f", "jsonl").stdout.splitlines()) == 1


def test_overwriting_never_replaces_what_is_read(edit: Runner, tmp_path: Path) -> None:
    """A file that an option names, or one of a model's folder; rows and reports that lie beside it are others."""
    rows, run, config = tmp_path / "rows.jsonl", tmp_path / "run", tmp_path / "edit.toml"
    rows.write_text('{"caption": "a house"}\n')
    run.mkdir()
    for path in (run / "config.json", run / "adapters.safetensors", run / "rows.jsonl"):
        path.write_text("{}")
    config.write_text("[sample]\nlimit = 1\n")
    lora = run / "adapters.safetensors"
    for arguments in (
        ["cat", rows, "-f", "jsonl", "-o", rows],
        ["sample", rows, "--model", run, "-f", "jsonl", "-o", run / "config.json"],
        ["sample", rows, "--model", run, "-o", tmp_path / "out", "--rejects", run / "config.json"],
        ["sample", rows, "--model", "other", "--lora", f"{lora}:0.5", "-f", "jsonl", "-o", lora],
        ["sample", rows, "--model", "other", "--config", config, "-f", "jsonl", "-o", config],
    ):
        before = {path: path.read_text() for path in (rows, config, *run.iterdir())}
        said = edit(*arguments, "--overwrite", check=2).stderr
        assert "--overwrite would replace" in said and "which is read" in said, arguments
        assert before == {path: path.read_text() for path in (rows, config, *run.iterdir())}
    for folder, name in ((tmp_path, "out.arrows"), (tmp_path, "x.json"), (run, "out.arrows"), (run, "rejects")):
        assert not _holds(str(folder), str(folder / name)), "a command may be given twice"
    assert _holds(str(run), str(run / "config.json")) and _holds(f"{lora}:0.5", str(lora))
    said = edit("sample", rows, "--model", run, "-o", run / "rows.jsonl", "--overwrite", check=2).stderr
    assert "would replace" not in said and "no `source` column" in said


def test_columns_that_are_nearly_those_of_the_record_are_said(edit: Runner, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"captoin": "a house", "colour": "red"}\n')
    said = edit("shard", tmp_path / "rows.jsonl", "-o", tmp_path / "out", "--max-errors", "100%").stderr
    assert "did you mean `caption`? --map caption=captoin" in said and "colour" not in said


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
