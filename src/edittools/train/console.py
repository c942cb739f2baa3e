"""Training as a person sees it: a bar with the loss, and a summary line."""

from __future__ import annotations

import sys
import time

from edittools.train.config import Recipe
from edittools.train.loop import StepReport, train
from edittools.train.shards import ShardExamples

_LINE_EVERY = 60.0  # seconds between lines where standard error is not a terminal


def train_with_progress(
    recipe: Recipe,
    data: ShardExamples,
    output: str,
    *,
    device: str,
    threads: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train, and tell how it goes on standard error."""
    lined = time.monotonic()
    bar = None
    if not quiet:
        skipped = f", {data.skipped} rows without sources, target or instruction left out" if data.skipped else ""
        print(f"train: {len(data)} rows, {recipe.steps} steps of {recipe.batch}{skipped}", file=sys.stderr)
        if sys.stderr.isatty():
            from tqdm import tqdm

            bar = tqdm(total=recipe.steps, unit="step", desc="train", file=sys.stderr, leave=False)

    def on_step(report: StepReport) -> None:
        nonlocal lined
        if bar is not None:
            bar.n = report.step
            wait = f"{report.wait_share:.0%}"
            bar.set_postfix(loss=f"{report.loss:.4f}", samples_s=f"{report.samples_per_s:.0f}", wait=wait)
        elif not quiet and time.monotonic() - lined >= _LINE_EVERY:
            lined = time.monotonic()
            print(
                f"train: step {report.step} of {report.steps}, loss {report.loss:.4f}, "
                f"{report.samples_per_s:.0f} samples/s, data-wait {report.wait_share:.1%}",
                file=sys.stderr,
                flush=True,
            )

    try:
        outcome = train(
            recipe,
            data,
            output,
            data_id=data.data_id,
            device=device,
            threads=threads,
            overwrite=overwrite,
            on_step=on_step,
        )
    finally:
        if bar is not None:
            bar.close()
    if quiet:
        return
    if not outcome.seconds:
        print(f"train: finished before; {outcome.steps} steps, loss {outcome.loss:.4f}", file=sys.stderr)
        return
    done = (outcome.steps - outcome.resumed_from) * recipe.batch
    resumed = f", resumed from step {outcome.resumed_from}" if outcome.resumed_from else ""
    print(
        f"train: {outcome.steps} steps, loss {outcome.loss:.4f}; {outcome.seconds:.0f} s, "
        f"{done / outcome.seconds:.0f} samples/s, data-wait {outcome.wait_share:.1%}{resumed}",
        file=sys.stderr,
    )
