"""Options that mean the same everywhere, the form of every help text, and what becomes of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from edittools.errors import UsageError

GROUPS = ("Input", "Selection", "Model", "Output", "Run")


class Option(click.Option):
    """An option that knows its group in the help text, and whether it changes what is computed."""

    def __init__(self, *args: Any, group: str = "Selection", setting: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        self.setting = setting

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """What changes a result is recorded with it, and so is valid Unicode, whatever bytes the shell passed on."""
        made = super().type_cast_value(ctx, value)
        if not self.setting:
            return made
        return tuple(map(_valid, made)) if isinstance(made, tuple) else _valid(made)


def _valid(value: Any) -> Any:
    if not isinstance(value, str) or value.isascii():
        return value
    from edittools.stream.text import valid

    return valid(value)


class Command(click.Command):
    """A subcommand: grouped options, what it costs, and examples."""

    def __init__(self, *args: Any, cost: str = "", examples: tuple[tuple[str, str], ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cost = cost
        self.examples = examples
        for parameter in self.params:
            if isinstance(parameter, click.Option) and not isinstance(parameter, Option):
                raise TypeError(f"{self.name}: option {parameter.opts} was not made by edittools.cli.options.option")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["edittools.arguments"] = list(args)  # what `--ray` hands to its tasks
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        for name in GROUPS:
            records = [
                record
                for option in options
                if getattr(option, "group", "Run") == name and (record := option.get_help_record(ctx))
            ]
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.cost:
            with formatter.section("Cost"):
                formatter.write_text(self.cost)
        if self.examples:
            with formatter.section("Examples"):
                for line, meaning in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}# {meaning}\n")
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")


def command(
    name: str, *, cost: str, examples: tuple[tuple[str, str], ...], cls: type[Command] = Command
) -> Callable[..., Command]:
    """Declare a subcommand; its docstring is its description."""

    def wrap(function: Callable[..., Any]) -> Command:
        made = click.command(
            name,
            cls=cls,
            cost=cost,
            examples=examples,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )(function)
        return made

    return wrap


def option(*names: str, group: str = "Selection", setting: bool = True, **kwargs: Any) -> Callable:
    """An option of one command. `setting=False` for what leaves the result unchanged."""
    if kwargs.get("metavar") in ("PATH", "FILE", "DIR/"):
        kwargs.setdefault("shell_complete", complete_path)
    return click.option(*names, cls=kwargs.pop("cls", Option), group=group, setting=setting, **kwargs)


def complete_path(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Shell completion: the shell itself knows best what files there are."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def module_names(*folder: str) -> list[str]:
    """The modules in a folder of edittools, which are what an option chooses from; none of them is imported."""
    import os
    import pkgutil

    import edittools

    return sorted(module.name for module in pkgutil.iter_modules([os.path.join(edittools.__path__[0], *folder)]))


def _chain(*decorators: Callable) -> Callable:
    def apply(function: Callable) -> Callable:
        return functools.reduce(lambda f, decorate: decorate(f), reversed(decorators), function)

    return apply


def input_options(function: Callable) -> Callable:
    """INPUT..., --partial, --limit, --max-pixels."""
    return _chain(
        click.argument("input", nargs=-1, metavar="[INPUT]...", shell_complete=complete_path),
        option(
            "--partial",
            is_flag=True,
            group="Input",
            setting=False,
            help="Read a shard set that is not complete; otherwise that is an error (exit 4).",
        ),
        option("--limit", type=click.IntRange(min=0), metavar="N", group="Input", help="Read the first N rows only."),
    )(function)


def model_options(function: Callable) -> Callable:
    """--device, --dtype, --batch-size, for commands that may have a model: without one they are not settings."""
    return _chain(
        option("--device", metavar="NAME", group="Model", help="cpu, cuda, cuda:1, mps. Default: cpu."),
        option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            group="Model",
            help="Precision of the weights. Default: float32.",
        ),
        option(
            "--batch-size",
            type=click.IntRange(min=1),
            metavar="N",
            group="Model",
            help="Rows that a model is asked about together. Default: 32; 8 of a model that writes.",
        ),
    )(function)


def pixel_option(function: Callable) -> Callable:
    return option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=200_000_000,
        show_default=True,
        metavar="N",
        group="Input",
        help="Reject pictures with more pixels than this before decoding them.",
    )(function)


def output_options(function: Callable) -> Callable:
    """-o, -f, --overwrite, --inline, --rejects."""
    return _chain(
        option(
            "-o",
            "--output",
            metavar="PATH",
            group="Output",
            setting=False,
            help="DIR/ for a shard set, X.tar, X.parquet, X.arrows, X.jsonl, or - for standard output.",
        ),
        option(
            "-f",
            "--format",
            type=click.Choice(["shards", "tar", "parquet", "arrows", "jsonl", "table"]),
            group="Output",
            setting=False,
            help="Format of the output, where its name does not tell.",
        ),
        option(
            "--overwrite",
            is_flag=True,
            group="Output",
            setting=False,
            help="Replace output that exists. Without it the same command continues where it stopped.",
        ),
        option(
            "--inline",
            is_flag=True,
            group="Output",
            setting=False,
            help="Send the bytes of pictures through the pipe, not references (for ssh and containers).",
        ),
        option(
            "--rejects",
            metavar="FILE",
            group="Output",
            setting=False,
            help="Write one JSON line per rejected row. A shard set keeps them in _rejects/ by itself.",
        ),
    )(function)


def run_options(function: Callable) -> Callable:
    """-j, --task, --ray, --max-errors, --config, -n, --quiet."""
    return _chain(
        option(
            "-j",
            "--jobs",
            type=click.IntRange(min=1),
            metavar="N",
            group="Run",
            setting=False,
            help="Threads to use, where a command has work for several. Default: one per core.",
        ),
        option(
            "--task",
            metavar="I/N",
            group="Run",
            setting=False,
            help="Do every N-th shard, beginning with I (from 0); `auto` reads Slurm's variables.",
        ),
        option(
            "--ray",
            metavar="[ADDRESS]",
            is_flag=False,
            flag_value="auto",
            group="Run",
            setting=False,
            help="Spread the shards over this Ray cluster: --ray=ADDRESS, --ray=local, or --ray alone, after the "
            "inputs, for the one that RAY_ADDRESS or this machine belongs to.",
        ),
        option(
            "--max-errors",
            default="1%",
            show_default=True,
            metavar="N|P%",
            group="Run",
            setting=False,
            help="Failed rows to tolerate before exit 3. In a pipe the last command judges the sum.",
        ),
        config_option,
        option("-n", "--dry-run", is_flag=True, group="Run", setting=False, help="Show what would be done."),
        option("-q", "--quiet", is_flag=True, group="Run", setting=False, help="No progress and no summary."),
    )(function)


def config_option(function: Callable) -> Callable:
    return option(
        "--config",
        metavar="FILE",
        group="Run",
        setting=False,
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML with a table per subcommand; options on the command line win.",
    )(function)


def refuse(ctx: click.Context, names: Iterable[str], why: str, hint: str | None = None) -> None:
    """Raises UsageError for an option that was given and would do nothing here; a configuration file may hold it."""
    for name in names:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.replace('_', '-')} {why}", hint=hint)


def _seed(ctx: click.Context, parameter: click.Parameter, value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise click.BadParameter(f"{value} has more than 64 bits.")  # which provenance has room for
    return value


def _seed_option(meaning: str) -> Callable:
    return option(
        "--seed",
        type=int,
        callback=_seed,
        default=0,
        show_default=True,
        metavar="N",
        group="Selection",
        help=meaning,
    )


seed_option = _seed_option("Combined with each row's id: a row's result depends on nothing else.")
bootstrap_seed_option = _seed_option("Of the resampling that the intervals come from.")
study_seed_option = _seed_option("Of the order of cases and models on the page, and of --per-task's draw.")


def device_and_dtype(given: Mapping[str, Any]) -> dict[str, str]:
    """What the options of models come to, for loading one and for the settings."""
    return {"device": given["device"] or "cpu", "dtype": given["dtype"] or "float32"}


def _check_column(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value == "":
        raise click.BadParameter("a column needs a name", ctx, parameter)
    return value


def mark_option(function: Callable) -> Callable:
    return option(
        "--mark",
        metavar="COLUMN",
        callback=_check_column,
        group="Output",
        help="Keep every row but those that fail, which are rejected; the column says null (kept) or the verdict.",
    )(function)


def _read_config(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Put the table of this subcommand into click's defaults."""
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), **read_defaults(ctx, value, "--config")}


def read_defaults(ctx: click.Context, path: str, option: str) -> dict[str, Any]:
    """The table of this subcommand in a TOML file: options by their names on the command line, - or _."""
    import tomllib

    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise UsageError(f"{option} {path}: {error}") from error
    table = tables.get(ctx.command.name or "", {})
    if not isinstance(table, dict):
        raise UsageError(f"{option} {path}: `{ctx.command.name}` is no table of options")
    known = {p.name: p for p in ctx.command.params}  # their names in Python have always been read too
    known |= {flag[2:].replace("-", "_"): p for p in ctx.command.params for flag in p.opts if flag.startswith("--")}
    values: dict[str, Any] = {}
    for name, value in table.items():
        parameter = known.get(name.replace("-", "_"))
        if parameter is None or parameter.name is None:
            raise UsageError(f"{option} {path}: [{ctx.command.name}] has no option `{name}`")
        several = getattr(parameter, "multiple", False) or parameter.nargs != 1
        items = value if several and isinstance(value, list) else [value]
        if any(isinstance(item, (dict, list)) for item in items):
            raise UsageError(f"{option} {path}: [{ctx.command.name}] `{name}` takes no such value")
        values[parameter.name] = items if several else value
    return values


def settings(ctx: click.Context, **resolved: Any) -> dict[str, Any]:
    """What the history records: every option that changes the result, and what it was resolved to.

    Options that were not given and have no value are left out, so that a new option of a later release does not
    change the hash of what this one made. A 0 is a value, unless it is what stands there anyway.
    """
    recorded = {p.name: p for p in ctx.command.params if isinstance(p, Option) and p.setting and p.name in ctx.params}
    chosen = {name: ctx.params[name] for name, p in recorded.items() if ctx.params[name] != 0 or p.default != 0}
    chosen.update(resolved)
    said = {name: value for name, value in chosen.items() if value is not None and value is not False and value != ()}
    for name, parameter in recorded.items():
        value = said.get(name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{parameter.opts[0]} {value}: not a finite number")
    return {name: _plain(value) for name, value in sorted(said.items())}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _pyarrow_without_pandas() -> None:
    """Spare every command half a second of start-up.

    pyarrow imports pandas, where it is installed, as soon as it converts its first list. It leaves alone a pandas
    that is too old for it, so it is shown one; pandas itself can still be imported afterwards.
    """
    import sys
    import types
    import warnings

    if "pandas" in sys.modules:
        return
    too_old = types.ModuleType("pandas")
    too_old.__version__ = "0"  # type: ignore[attr-defined]
    sys.modules["pandas"] = too_old
    try:
        import pyarrow as pa

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pa.array([None])
    finally:
        del sys.modules["pandas"]


def run_settings(ctx: click.Context) -> Any:
    """The common options as RunOptions."""
    _pyarrow_without_pandas()
    from edittools.stream.ray_cluster import RayCluster
    from edittools.stream.run import RunOptions, parse_task

    given = ctx.params
    output, format = given.get("output"), given.get("format")
    if output and output.endswith("/") and format not in (None, "shards"):
        raise UsageError(f"-o {output}: a folder, and -f {format} is one file", hint="leave out the last / or the -f")
    cluster = None
    # A task of a cluster reads the same --config as its caller; --ray from there is not meant for it.
    from_file = ctx.get_parameter_source("ray") is click.core.ParameterSource.DEFAULT_MAP
    if given.get("ray") is not None and not (from_file and given.get("task") is not None):
        arguments = [str(ctx.info_name), *_without_ray(ctx.meta["edittools.arguments"], given["ray"])]
        cluster = RayCluster(given["ray"], arguments, given.get("jobs"), given.get("device") is not None)
    return RunOptions(
        output=output,
        format=format,
        overwrite=given.get("overwrite", False),
        inline=given.get("inline", False),
        partial=given.get("partial", False),
        task=parse_task(given.get("task")),
        limit=given.get("limit"),
        rejects=given.get("rejects"),
        max_errors=given.get("max_errors", "1%"),
        quiet=given.get("quiet", False),
        dry_run=given.get("dry_run", False),
        ray=cluster,
    )


def _without_ray(arguments: list[str], address: str) -> list[str]:
    """The command line as a task of the cluster gets it."""
    kept: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--ray":
            following = next(rest, None)
            if following is not None and following != address:
                kept.append(following)
        elif not word.startswith("--ray="):
            kept.append(word)
    return kept


def refuse_existing(path: str, overwrite: bool) -> None:
    """For what is written outside of the run loop. Raises EditError."""
    from edittools.stream import files

    files.refuse_existing(path, overwrite)


def jobs(ctx: click.Context) -> int:
    """Threads to use."""
    import os

    chosen = ctx.params.get("jobs")
    if chosen:
        return chosen
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def show_plan(ctx: click.Context, source: Any, settings: dict[str, Any], notes: tuple[str, ...] = ()) -> None:
    """`-n`: what would be read, done and written. Refuses the output that the run would refuse."""
    import json

    _check_output(ctx, source)
    shards = "?" if source.shards is None else str(len(source.shards))
    rows = "?" if source.rows is None else str(source.rows)
    click.echo(f"input: {rows} rows in {shards} shards; columns: {', '.join(source.schema.names)}")
    click.echo(f"settings: {json.dumps(settings, ensure_ascii=False)}")
    for note in notes:
        click.echo(note)
    click.echo(f"output: {ctx.params.get('output') or 'standard output'}")


def _check_output(ctx: click.Context, source: Any) -> None:
    from edittools.stream.run import open_sink, refuse_own_input

    if ctx.params.get("step") != "verdict":  # a file of its own kind
        refuse_own_input(open_sink(run_settings(ctx)), source)
