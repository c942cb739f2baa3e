"""`edit eval checkpoints`: the models of a run side by side, the figures by hand, and the whole command."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Runner, image, rows_of
from scipy import stats
from test_clients import KEY, chat, response, serve  # noqa: F401  (a fixture)
from test_judge_command import good
from tiny_models import save_clip

from edittools.bench import checkpoints
from edittools.errors import EditError
from edittools.report import plots
from edittools.stream.run import RunOptions, open_input


def judged_set(edit: Runner, path: Path, scores: list[dict[str, float]]) -> Path:
    """Rows with these scores, as a Parquet file that every command reads."""
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [f"r{k}" for k in range(len(scores))], "scores": scores}), path)
    return path


def fake_run(folder: Path, steps=(2, 4)) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for step in steps:
        (folder / f"@{step}").mkdir()
    (folder / "@best").symlink_to(f"@{steps[-1]}")
    lines = [
        {"step": step, "rows": 16, "loss": {"raw": 1 / (1 + step), "average": 2 / (1 + step)},
         "deviation": {"raw": 0.2, "average": 0.1}, "by_time": {"raw": {"0.5": 0.3}, "average": {"0.5": 0.2}},
         "by_task": {"raw": {"add": 0.3}, "average": {"add": 0.2, "<b>": 0.1}}}
        for step in (0, 2, 4)
    ]  # fmt: skip
    (folder / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = [{"step": k, "loss": 1 / (1 + k), "rate": 1.0, "grad_norm": 0.5} for k in range(1, 5)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


def test_means_and_intervals_by_hand(edit: Runner, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    random = np.random.default_rng(0)
    rows = [{"psnr": 20 + v, "copy_psnr": 15.0, "judge_gedit_overall": 6 + v} for v in random.normal(0, 2, 12)]
    source = open_input([str(judged_set(edit, tmp_path / "j.parquet", rows))], RunOptions())
    found = checkpoints.summarize(run, {4: [source]})
    assert [entry["step"] for entry in found["checkpoints"]] == [2, 4] and found["checkpoints"][0]["scores"] == {}
    scores = found["checkpoints"][1]["scores"]
    values = np.array([row["psnr"] for row in rows])
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert scores["psnr"]["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert scores["psnr"]["interval"] == pytest.approx([low, high], rel=1e-3)
    assert scores["gain"]["mean"] == pytest.approx(values.mean() - 15, rel=1e-5)
    loss = found["checkpoints"][0]["loss"]["raw"]
    half = stats.t.ppf(0.975, 15) * 0.2 / math.sqrt(16)
    assert loss["mean"] == pytest.approx(1 / 3, rel=1e-5)
    assert loss["interval"] == pytest.approx([1 / 3 - half, 1 / 3 + half], rel=1e-3)
    table = checkpoints.listing(found)
    assert list(table.columns) == ["step", "model", "held-out loss", "… of the average", "psnr", "gain",
                                   "judge_gedit_overall"]  # fmt: skip
    assert table.rows[0][4:] == ["–"] * 3 and table.rows[1][0] == "4" and "[" in table.rows[1][4]


def test_what_the_run_leaves_is_a_checkpoint_too(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    (run / "_end.json").write_text(json.dumps({"steps": 4}))
    assert checkpoints.kept_models(run) == {2: run / "@2", 4: run / "@4"}  # the same model
    (run / "_end.json").write_text(json.dumps({"steps": 5}))
    assert checkpoints.kept_models(run) == {2: run / "@2", 4: run / "@4", 5: run}
    (tmp_path / "empty").mkdir()
    with pytest.raises(EditError, match="no model"):
        checkpoints.kept_models(tmp_path / "empty")


def test_the_page_has_every_curve_and_hostile_names_stay_text(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    page = checkpoints.render(checkpoints.summarize(run, {}), run, "A <run>")
    held = "Held-out loss"
    for heading in ("Training loss", held, f"{held} by task", f"{held} by time t", "Gradient norm"):
        assert f"<h3>{heading}</h3>" in page
    assert "&lt;b&gt;" in page and "<b></text>" not in page and "A &lt;run&gt;" in page
    drawn = plots.curves([("raw", [(0, 1.0), (10, 0.5)]), ("average", [(0, 1.0), (10, 0.5)])], "x")
    assert drawn.count("<polyline") == 2 and "nan" not in drawn
    assert plots.curves([("one", [(3, 0.0)])], "x").count("<polyline") == 1


def test_the_whole_command(model_edit: Runner, tmp_path: Path) -> None:
    """Train with held-out rows, keep two models, compare them; once more takes what is there."""
    edit: Any = lambda *words, **more: model_edit(*words, cwd=tmp_path, timeout=300, **more)  # noqa: E731
    (tmp_path / "crawl").mkdir()
    for k in range(8):
        (tmp_path / "crawl" / f"{k}.jpg").write_bytes(image(k, "JPEG", 60, 60))
    edit("shard", "crawl", "-o", "raw/", "-q")
    edit("synth", "raw/", "--crop", "60", "--templates", "gray,invert", "--per-row", "2", "-o", "pairs/", "-q")
    settings = ["model.layers=1", "batch_tokens=72", "log_every=1", "steps=4", "keep_every=2"]
    tiny = [word for setting in settings for word in ("--set", setting)]
    edit("train", "pairs/", "--heldout", "pairs/", *tiny, "-o", "run/", "-q")
    made = edit("eval", "checkpoints", "run/", "-q", "-o", "c.html", "-f", "json")
    found = json.loads(made.stdout)["checkpoints"]
    assert [entry["step"] for entry in found] == [2, 4] and json.loads((tmp_path / "c.json").read_text()) == json.loads(
        made.stdout
    )
    assert all(entry["scores"]["psnr"]["n"] == 16 and entry["loss"]["average"]["n"] == 16 for entry in found)
    # the same numbers as by hand: sample, judge
    edit("sample", "pairs/", "--model", "run/@2", "-o", "by-hand/", "-q")
    edit("score", "by-hand/", "-o", "judged/", "-q")
    scores = checkpoints.row_scores(open_input([str(tmp_path / "judged")], RunOptions()))
    mean = np.mean([row["psnr"] for row in scores.values()])
    assert found[0]["scores"]["psnr"]["mean"] == pytest.approx(mean, abs=1e-3)
    # judged on the way; what has been made before is not made again, and counted once
    save_clip(tmp_path / "clip")
    judge = ("--judge-args", "--clip clip")
    also = json.loads(edit("eval", "checkpoints", "run/", "-q", *judge, "-f", "json").stdout)["checkpoints"]
    assert also[0]["scores"]["psnr"] == found[0]["scores"]["psnr"] and also[1]["scores"]["clip"]["n"] == 16
    # the report of one of them has the run's curves
    edit("eval", "report", "heldout", "run/eval/@2", "--run", "run/", "-o", "r.html", "-f", "json")
    assert "<h3>Held-out loss by task</h3>" in (tmp_path / "r.html").read_text()
    # judged elsewhere, and nothing made again
    judged_set(edit, tmp_path / "j.parquet", [{"judge_gedit_overall": 5.0}] * 6)
    again = edit("eval", "checkpoints", "run/", "--no-sample", "--judged", "4=j.parquet", "-f", "json")
    found = json.loads(again.stdout)["checkpoints"]
    assert found[1]["scores"]["judge_gedit_overall"]["mean"] == 5 and "psnr" in found[0]["scores"]
    for words, said in (
        (("nothing/",), "no run folder"),
        (("run/", "--judged", "3=j.parquet"), "steps with a model: 2, 4"),
        (("run/", "pairs/", "--no-sample"), "no meaning"),
        (("run/", "--no-sample", "--judge-args", "x"), "no meaning"),
        (("run/", "-q", "--judge-args", "--nosuch"), "--nosuch"),
        (("run/", "-o", "c.txt"), "ends in .html"),
        (("run/", "--seed", "3", "-q"), "--overwrite"),
    ):
        error = edit("eval", "checkpoints", *words, check=None).stderr
        assert said in error and "Traceback" not in error, words


def test_a_judge_at_an_endpoint_is_asked_once_for_each_model(model_edit: Runner, tmp_path: Path, serve) -> None:  # noqa: F811
    """What it said of each stands beside its losses; once more asks nothing; a refusal is in the server's words."""
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    edit: Any = lambda *words, **more: model_edit(*words, cwd=tmp_path, timeout=300, env=environment, **more)  # noqa: E731
    (tmp_path / "crawl").mkdir()
    for k in range(6):
        (tmp_path / "crawl" / f"{k}.jpg").write_bytes(image(k, "JPEG", 60, 60))
    edit("shard", "crawl", "-o", "raw/", "-q")
    edit("synth", "raw/", "--crop", "60", "--templates", "invert", "--per-row", "1", "-o", "pairs/", "-q")
    settings = ["model.layers=1", "batch_tokens=72", "steps=4", "keep_every=2"]
    edit("train", "pairs/", "--heldout", "pairs/", *(w for s in settings for w in ("--set", s)), "-o", "run/", "-q")
    server = serve(lambda prompt, number: [response(200, chat(good(prompt)))])
    asked = f"--rubric viescore --model gpt-4o --api-base {server.url} -q"
    found = json.loads(edit("eval", "checkpoints", "run/", "-q", "--judge-args", asked, "-f", "json").stdout)[
        "checkpoints"
    ]
    direct = rows_of(tmp_path / "run" / "eval" / "@2.judged")
    names = [name for name in direct[0]["scores"] if name.startswith("judge_viescore")]
    assert [entry["step"] for entry in found] == [2, 4] and len(direct) == 6 and names
    calls = server.total
    assert calls == 2 * 6 * 2  # two models, six rows, two questions of a row
    for entry in found:
        for name in names:
            values = [row["scores"][name] for row in rows_of(tmp_path / "run" / "eval" / f"@{entry['step']}.judged")]
            assert entry["scores"][name]["mean"] == pytest.approx(np.mean(values), abs=1e-3)
            assert entry["scores"][name]["n"] == 6
        assert "psnr" in entry["scores"]
    again = json.loads(edit("eval", "checkpoints", "run/", "-q", "--judge-args", asked, "-f", "json").stdout)[
        "checkpoints"
    ]
    assert again == found and server.total == calls
    # an endpoint that refuses everything ends it in the server's words, and what was measured stays
    server.script = lambda prompt, number: [response(404, {"error": {"message": "no such model here"}})]
    other = f"--rubric viescore --model other --api-base {server.url}"
    failed = edit("eval", "checkpoints", "run/", "-q", "--judge-args", other, "--overwrite", check=None)
    assert failed.code == 1 and "no such model here" in failed.stderr and "Traceback" not in failed.stderr
    shown = edit("eval", "checkpoints", "run/", "--no-sample", "-f", "json")
    assert "@2.judged is not finished: left out" in shown.stderr
    left = json.loads(shown.stdout)["checkpoints"]
    assert not any(name in left[0]["scores"] for name in names)
    assert left[0]["scores"]["psnr"] == found[0]["scores"]["psnr"]
