"""The folder of a run: whether a run may begin there, go on, or is finished; and what was changed on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from edittools.errors import EditError, UsageError
from edittools.nets import with_new_names
from edittools.train import checkpoint
from edittools.train.config import Recipe
from edittools.train.log import say
from edittools.train.rows import ShardRows, facts
from edittools.weights.lookup import read_config

FORMAT = "edittools run 1"
FIXED = ("system", "model")  # what the checkpoint's tensors are of
FREE = ("checkpoint_every", "keep_every", "keep_last", "keep_gb", "log_every", "heldout_every", "heldout_times",
        "sample_every", "sample_rows", "sample_ids", "sample_prompts", "checkpointing", "compile", "attention",
        "loss_spike_factor")  # fmt: skip
"""Settings that change nothing about what is learned."""
SKETCH = 512


@dataclass(frozen=True)
class Data:
    """Facts about the rows of a run, to recognise them again."""

    id: str = ""
    rows: int = 0
    sketch: tuple[int, ...] = ()  # the smallest hashes of their ids
    content: tuple[int, ...] = ()  # and of ShardRows.content_marks(): ids change with the place of a row in its file

    @classmethod
    def of(cls, rows: Any, more: str = "") -> Data:
        """more: what else than the rows makes other batches."""
        ids = (identity.encode() for (identity,) in facts(rows, "id"))
        marks: Iterable[bytes] = ()
        if isinstance(rows, ShardRows):
            marks = (mark.tobytes() for piece in rows.content_marks() for mark in piece)
        (_, sketch), (distinct, content) = _sketch(ids), _sketch(marks)
        # marks that many rows have in common are those of other data, too
        return cls(f"{rows.data_id}{more}", len(rows), sketch, content if distinct > 0.9 * len(rows) else ())

    def likeness(self, other: Data) -> float:
        """The estimated share of rows in common, by their ids or by their content."""
        known = [(a, b) for a, b in ((self.sketch, other.sketch), (self.content, other.content)) if a and b]
        return max((_common(*each) for each in known), default=1.0 if self.sketch == other.sketch else 0.0)


def _sketch(items: Iterable[bytes]) -> tuple[int, tuple[int, ...]]:
    """How many items differ, and the smallest of their hashes."""
    hashes = np.unique(np.fromiter((xxhash.xxh3_64_intdigest(item) for item in items), np.uint64))
    return len(hashes), tuple(hashes[:SKETCH].tolist())


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """The estimate of |A ∩ B| / |A ∪ B|; exact for few items [Broder 1997]."""
    union = sorted({*a, *b})[:SKETCH]
    return len({*union} & {*a} & {*b}) / len(union)


@dataclass(frozen=True)
class RunEnd:
    """The end of a finished run, as `_end.json` has it."""

    steps: int
    samples: int
    loss: float  # mean over the last tenth of the steps
    seconds: float  # of this process; 0 if the run was finished already
    wait_share: float
    resumed_from: int  # 0: from the start


def outcome(end: dict[str, Any], seconds: float, wait_share: float, resumed_from: int) -> RunEnd:
    """`_end.json` and what only this process knows."""
    return RunEnd(end["steps"], end["samples"], end["loss"], seconds, wait_share, resumed_from)


def check_run(out: str | Path, recipe: Recipe, data: Data = Data(), overwrite: bool = False) -> RunEnd | None:
    """The outcome of this very run, where the folder holds it finished; None where it may begin or go on.

    A run goes on with other settings and somewhat other data, as long as its checkpoint fits; finished, with more
    steps. Raises UsageError where the folder holds something else, unless that is a run to `overwrite`, and EditError
    where it is damaged.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a folder", hint="name another one")
    if not (out / "config.json").exists():
        if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise UsageError(f"{out} is not empty and not a run folder", hint="name another folder")
        return None
    kept = read_config(out)
    if kept.get("format") != FORMAT or not isinstance(kept.get("recipe"), dict):
        raise UsageError(f"{out} holds another run, or something else", hint="name another folder")
    if overwrite:
        return None
    end = read_config(out, "_end.json") if (out / "_end.json").exists() else None
    found = checkpoint.newest(out)
    if found is None and end is None:
        return None  # nothing was learned yet
    changed = changes(kept, recipe)
    anew = "another folder, or --overwrite to replace it"
    if fixed := [name for name in changed if name.partition(".")[0] in FIXED]:
        was, now = changed[fixed[0]]
        raise UsageError(f"{out} holds another run: its `{fixed[0]}` is {was!r}, not {now!r}", hint=anew)
    if end is not None:
        return _finished(out, end, recipe, kept, data, found)
    assert found is not None
    if recipe.steps < checkpoint.step_of(found):
        raise UsageError(
            f"{out} has done {checkpoint.step_of(found)} steps, and `steps` is {recipe.steps}",
            hint="--resume-from an earlier checkpoint into another folder",
        )
    _check_likeness(out, kept, data)
    return None


def _finished(
    out: Path, end: dict[str, Any], recipe: Recipe, kept: dict[str, Any], data: Data, found: Path | None
) -> RunEnd | None:
    if missing := {"steps", "samples", "loss"} - end.keys():
        raise EditError(f"{out / '_end.json'}: no '{min(missing)}'", hint="--overwrite trains anew")
    if recipe.steps > end["steps"]:
        if found is None or checkpoint.step_of(found) > recipe.steps:
            raise UsageError(f"{out} is finished, and its last checkpoint is gone", hint="--overwrite trains anew")
        _check_likeness(out, kept, data)
        return None
    if other := sorted({name.partition(".")[0] for name in changes(kept, recipe)} - {*FREE}):
        what = f"another `{other[0]}`"
    elif _data(kept).id != data.id:
        what = "other data (or --feature-dir or not)"
    else:
        return outcome(end, 0.0, 0.0, end["steps"])
    raise UsageError(
        f"{out} holds another run, finished, with {what}",
        hint="another folder, more `steps` to go on, or --overwrite to replace it",
    )


def _check_likeness(out: Path, kept: dict[str, Any], data: Data) -> None:
    like = _data(kept).likeness(data)
    if like < 0.5:
        raise UsageError(
            f"{out} holds another run: {like:.0%} of its rows and of these are the same",
            hint="another folder, there with --resume-from; or --overwrite to replace it",
        )


def _data(kept: dict[str, Any]) -> Data:
    value = kept.get("data")
    if isinstance(value, dict):
        sketches = (tuple(value.get(name, ())) for name in ("sketch", "content"))
        return Data(str(value.get("id")), value.get("rows", 0), *sketches)
    return Data(str(value))  # 0.1 kept no more


def changes(kept: dict[str, Any], recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """The settings that differ from a run's, by name: (its, the recipe's)."""
    missing = dataclasses.MISSING
    defaults = {f.name: f.default for f in dataclasses.fields(Recipe) if f.default is not missing}
    defaults |= {f.name: f.default_factory() for f in dataclasses.fields(Recipe) if f.default_factory is not missing}
    before, now = (
        flat_settings({**defaults, **with_new_names(kept["recipe"])}),
        flat_settings(plain(dataclasses.asdict(recipe))),
    )
    names = sorted(before.keys() | now.keys())
    return {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}


def flat_settings(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within tables as TABLE.KEY."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{prefix}{name}"
        found |= flat_settings(value, f"{full}.") if isinstance(value, dict) and value else {full: value}
    return found


def open_run(
    out: str | Path, recipe: Recipe, data: Data = Data(), overwrite: bool = False, branch: Path | None = None,
    held: bool = False,
) -> RunEnd | None:  # fmt: skip
    """Make the run folder, or write down what has changed. Returns and raises what `check_run` does.

    held: other trainers are kept out already; else they may come between this and the training.
    """
    out = Path(out)
    with contextlib.nullcontext() if held else alone(out):
        finished = check_run(out, recipe, data, overwrite)
        if finished:
            return finished
        path = out / "config.json"
        if path.exists() and overwrite:
            empty(out)
        config = plain({"format": FORMAT, "id": secrets.token_hex(4), "recipe": dataclasses.asdict(recipe),
                        "data": dataclasses.asdict(data)})  # fmt: skip
        if branch is not None:
            config["branch"] = {"checkpoint": str(branch), "step": checkpoint.read_state(branch)["step"]}
        found = checkpoint.newest(out)
        if path.exists() and found is not None:
            kept = read_config(out)
            config = {**kept, "recipe": config["recipe"], "data": config["data"]}
            changed, before = changes(kept, recipe), _data(kept)
            if changed or before.id != data.id:
                step = checkpoint.step_of(found)
                change: dict[str, Any] = {"step": step, "settings": plain(changed)}
                if before.id != data.id:
                    change["data"] = {"id": [before.id, data.id], "rows": [before.rows, data.rows]}
                config["changes"] = [*kept.get("changes", []), plain(change)]
                say(describe_change(change))
        write_json(path, config)
        (out / "_end.json").unlink(missing_ok=True)  # with more steps it is not finished any more
    return None


def check_branch(branch: Path, recipe: Recipe) -> None:
    """Raises UsageError for a checkpoint that is not of this recipe's network."""
    run = branch.parent.parent
    for name, (was, now) in changes(read_config(run), recipe).items():
        if name.partition(".")[0] in FIXED:
            raise UsageError(f"--resume-from {run}: its `{name}` is {was!r}, not {now!r}")


def kept_words(out: str | Path, branch: Path | None) -> list[str]:
    """The vocabulary that the checkpoint to go on from has been trained with, where it was made of the data."""
    for found in [*checkpoint.whole(Path(out)), *([branch] if branch else [])]:
        with contextlib.suppress(EditError):
            return checkpoint.read_state(found).get("words", [])
    return []


def describe_change(change: dict[str, Any]) -> str:
    parts = [f"`{name}` is {now!r} (was {was!r})" for name, (was, now) in change["settings"].items()]
    if "data" in change:
        was, now = change["data"]["rows"]
        parts.append(f"the data has {now} rows (had {was})" if was != now else "the data is not the same")
    return f"goes on from step {change['step']}: {', '.join(parts)}"


def empty(out: Path) -> None:
    """Remove a run from its folder; config.json, which says that it was one, last."""
    entries = [entry for entry in out.iterdir() if entry.name not in ("config.json", LOCK)]
    for entry in [*entries, out / "config.json"]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


_ROWS = (".parquet", ".tar", ".jsonl")
_OWN = ("checkpoints", "rollouts", "samples")  # folders of a run, which may hold such files


def refuse_to_remove(out: str | Path, inputs: dict[str, str]) -> None:
    """Raises UsageError where --overwrite would remove what is read, or another run or data set that lies within.
    inputs: paths, and what each is."""
    folder = Path(out).resolve()
    for inner in sorted(folder.iterdir()) if folder.is_dir() else []:
        if inner.is_dir() and not inner.is_symlink() and inner.name not in _OWN and inner.name[0] not in "@.":
            if any(each.suffix in _ROWS or each.name == "_end.json" for each in inner.rglob("*")):
                what = f"{inner.name}/, a data set or another run"
                raise UsageError(f"-o {out}: --overwrite would remove {what}", hint="name another folder, or move it")
    for path, what in inputs.items():
        if path and os.path.exists(path) and Path(path).resolve().is_relative_to(folder):
            raise UsageError(f"-o {out}: --overwrite would remove {what}, {path}", hint="name another folder with -o")


LOCK = ".lock"


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Make a run's folder, and keep other trainers out of it while the block runs.

    Raises EditError where one is there, UsageError for what is no folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{out} is not a folder", hint="name another one") from None
    path = out / LOCK
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "a process"
            file.close()
            message = f"{out}: another trainer is at work there ({holder})"
            raise EditError(message, hint="wait for it, or end it") from None
        except OSError as error:  # a network file system without locks
            say(f"{out}: nothing keeps a second trainer away: {error.strerror}")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # whoever had it has just removed it
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file beside its place, flush it, rename it."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
