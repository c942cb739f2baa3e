"""Options that mean the same everywhere, the form of every help text, and what becomes of them."""

from __future__ import annotations

import dataclasses
import functools
import os
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edittools.errors import EditError, UsageError
from edittools.settings import Config, Placed, Setting, checked_seed, flag_of
from edittools.stream.writers import WRITERS, endings

if TYPE_CHECKING:
    from edittools.stream.batch import Stage

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]
C = TypeVar("C", bound=Config)

GROUPS = ("Input", "Selection", "Model", "Output", "Run")

Examples = tuple[tuple[str, str], ...]
"""Lines of the help and the manual, each with what it is for; a function where to know them costs imports."""


class Option(click.Option):
    """An option that knows its group in the help text, and whether it changes what is computed."""

    def __init__(self, *args: Any, group: str = "Selection", setting: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        self.setting = setting

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Without click's `[x>=1]`: a value out of its range is told when it is given."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """What changes a result is recorded with it, and so is valid Unicode, whatever bytes the shell passed on."""
        made = super().type_cast_value(ctx, value)
        if not self.setting:
            return made
        return tuple(map(_valid, made)) if isinstance(made, tuple) else _valid(made)


def refuse_twice(command: click.Command, name: str, hint: str) -> None:
    """Where an option is given twice the last one stands; this one is refused then, if the first would be missed."""
    [option] = [each for each in command.params if each.name == name]
    plain = option.add_to_parser

    def add(parser: Any, ctx: click.Context) -> None:
        plain(parser, ctx)
        for made in {id(each): each for each in parser._long_opt.values() if each.obj is option}.values():
            made.process = functools.partial(once, made.process)

    def once(process: Callable[[Any, Any], None], value: Any, state: Any) -> None:
        if name in state.opts:
            raise UsageError(f"--{name} is given twice", hint=hint)
        process(value, state)

    option.add_to_parser = add  # type: ignore[method-assign]


def _valid(value: Any) -> Any:
    if not isinstance(value, str) or value.isascii():
        return value
    from edittools.stream.text import valid

    return valid(value)


class Command(click.Command):
    """A subcommand: grouped options, what it costs, and examples."""

    def __init__(
        self, *args: Any, cost: str = "", examples: Examples | Callable[[], Examples] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.cost = cost
        self._examples = examples
        for parameter in self.params:
            if isinstance(parameter, click.Option) and not isinstance(parameter, Option):
                raise TypeError(f"{self.name}: option {parameter.opts} was not made by edittools.cli.options.option")

    @property
    def examples(self) -> Examples:
        return self._examples() if callable(self._examples) else self._examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["edittools.arguments"] = list(args)  # what `--ray` hands to its tasks
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        for name in groups_of(self):
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


def groups_of(command: click.Command) -> list[str]:
    """The headings of a command's options, in their order: groups of its own stand before Selection."""
    own = [parameter.group for parameter in command.params if isinstance(parameter, Option)]
    further = [name for name in dict.fromkeys(own) if name not in GROUPS]
    return [GROUPS[0], *further, *GROUPS[1:]]


def command(
    name: str, *, cost: str, examples: Examples | Callable[[], Examples], cls: type[Command] = Command
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
        _check_names(made)
        return made

    return wrap


def _check_names(command: click.Command) -> None:
    """Raises EditError where two options have one name: that of an extension, and one that the command has itself."""
    flags = [flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
    for flag in sorted({flag for flag in flags if flags.count(flag) > 1}):
        raise EditError(
            f"`edit {command.name}` would have two options {flag}", hint="another `name` or `option` for one"
        )


def option(*names: str, group: str = "Selection", setting: bool = True, **kwargs: Any) -> Decorator:
    """An option of one command. `setting=False` for what leaves the result unchanged."""
    if kwargs.get("metavar") in ("PATH", "FILE", "DIR/"):
        kwargs.setdefault("shell_complete", complete_path)
    return click.option(*names, cls=kwargs.pop("cls", Option), group=group, setting=setting, **kwargs)


def complete_path(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Shell completion: the shell itself knows best what files there are."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def config_options(kind: type[Config], without: tuple[str, ...] = (), only: tuple[str, ...] | None = None) -> Decorator:
    """The options that a stage's Config declares, in its order; `without` those that the command declares itself, or
    `only` some that it takes."""
    types = typing.get_type_hints(kind)
    fields = (f for f in dataclasses.fields(kind) if f.name not in without and (only is None or f.name in only))
    return _chain(*(_from_setting(field, types[field.name]) for field in fields))


def _from_setting(field: dataclasses.Field[Any], kind: Any) -> Decorator:
    said: Setting = field.metadata["setting"]
    given: dict[str, Any] = {"help": said.help, "metavar": said.metavar}
    if kind is bool and field.default is False:
        given["is_flag"] = True
    elif said.choices is not None:
        given["type"] = click.Choice(list(said.choices))  # which click lists, unless there is a metavar
    elif kind in (int, int | None) and said.parse is None:
        given["type"] = click.INT if said.low is said.high is None else click.IntRange(_int(said.low), _int(said.high))
    elif kind is int:
        given["type"] = click.INT
    elif kind in (float, float | None):
        given["type"] = click.FLOAT if said.low is said.high is None else click.FloatRange(said.low, said.high)
    elif field.default == () or (said.parse is None and kind not in (str, str | None, bool)):
        given["multiple"] = True
    if field.default is dataclasses.MISSING:
        given["required"] = True
    elif field.default is not None and field.default is not False and field.default != ():
        given |= {"default": field.default, "show_default": True}
    return option(flag_of(field), field.name, group=said.group, setting=said.recorded, **given)


def _int(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


def config(ctx: click.Context, kind: type[C]) -> C:
    """The Config that the options of this command come to. Raises UsageError, and EditError where a run lacks its
    device."""
    made = kind(
        **{field.name: ctx.params[field.name] for field in dataclasses.fields(kind) if field.name in ctx.params}
    )
    if isinstance(made, Placed) and made.device not in (None, "cpu") and not ctx.params.get("dry_run"):
        from edittools.nets.acceleration import open_device

        open_device(made.device)
    return made


def run_stages(ctx: click.Context, stages: list[Stage]) -> None:
    """What most commands are: open the inputs, show the plan (-n) or send every row through the stages."""
    from edittools.stream.run import open_input, run, settings_of

    run_options = run_settings(ctx)
    source = open_input(list(ctx.params["input"]), run_options)
    recorded = settings_of(stages, source, run_options.limit)
    if run_options.dry_run:
        schema = source.schema
        for stage in stages:  # what the run would refuse is refused
            schema = stage.schema(schema)
        show_plan(ctx, source, recorded)
        return
    run(str(ctx.command.name), source, stages, recorded, run_options)


def _chain(*decorators: Decorator) -> Decorator:
    def apply(function: Function) -> Function:
        for decorate in reversed(decorators):
            function = decorate(function)
        return function

    return apply


def input_options(function: Function) -> Function:
    """INPUT..., --partial, --limit."""
    return click.argument("input", nargs=-1, metavar="[INPUT]...", shell_complete=complete_path)(read_options(function))


def read_options(function: Function) -> Function:
    """--partial, --limit."""
    return _chain(
        option(
            "--partial",
            is_flag=True,
            group="Input",
            setting=False,
            help="Read a shard set that is not complete; otherwise that is an error (exit 4).",
        ),
        option("--limit", type=click.IntRange(min=0), metavar="N", group="Input", help="Read the first N rows only."),
    )(function)


def write_options(function: Function) -> Function:
    """-o, -f, --overwrite."""
    return _chain(
        option(
            "-o",
            "--output",
            metavar="PATH",
            group="Output",
            setting=False,
            help=f"DIR/ for a shard set, {', '.join(f'X{ending}' for ending in endings())}, or - for standard output.",
        ),
        option(
            "-f",
            "--format",
            type=click.Choice(WRITERS.names),
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
    )(function)


def output_options(function: Function) -> Function:
    """-o, -f, --overwrite, --inline, --rejects."""
    return _chain(
        write_options,
        option(
            "--inline",
            is_flag=True,
            group="Output",
            setting=False,
            help="Send the bytes of images through the pipe, not references (for ssh and containers).",
        ),
        option(
            "--rejects",
            metavar="FILE",
            group="Output",
            setting=False,
            help="Write one JSON line per rejected row. A shard set keeps them in _rejects/ by itself.",
        ),
    )(function)


def run_options(function: Function) -> Function:
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
        quiet_option,
    )(function)


quiet_option = option("-q", "--quiet", is_flag=True, group="Run", setting=False, help="No progress and no summary.")


def config_option(function: Function) -> Function:
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


def preset_option(folder: Path, what: str) -> Decorator:
    """--preset NAME: a --config file of the package, in `folder`; a --config of the user's wins over it."""

    def read(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            table = read_defaults(ctx, str(folder / f"{value}.toml"), "--preset")
            ctx.default_map = {**table, **(ctx.default_map or {})}

    return option(
        "--preset",
        type=click.Choice(sorted(path.stem for path in folder.glob("*.toml"))),
        setting=False,
        is_eager=True,
        expose_value=False,
        callback=read,
        help=f"{what}; options that are given win.",
    )


def refuse(ctx: click.Context, names: Iterable[str], why: str, hint: str | None = None) -> None:
    """Raises UsageError for an option that was given and would do nothing here; a configuration file may hold it."""
    for name in names:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.replace('_', '-')} {why}", hint=hint)


def _seed_option(meaning: str) -> Decorator:
    return option(
        "--seed",
        type=int,
        callback=lambda ctx, parameter, value: checked_seed(value),
        default=0,
        show_default=True,
        metavar="N",
        group="Selection",
        help=meaning,
    )


seed_option = _seed_option("Combined with each row's id: a row's result depends on nothing else.")
bootstrap_seed_option = _seed_option("Of the resampling that the intervals come from.")
study_seed_option = _seed_option("Of the order of cases and models on the page, and of --per-task's draw.")


def _read_config(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Put the table of this subcommand into click's defaults."""
    if value is not None:
        ctx.meta["edittools.config"] = value
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
    if option == "--config":
        _check_tables(ctx, tables, f"{option} {path}")
    name = (ctx.command.name or "").replace(" ", ".")
    table = tables
    for word in name.split("."):  # of `edit eval cases` the table [eval.cases]
        table = table.get(word, {})
        if not isinstance(table, dict):
            raise UsageError(f"{option} {path}: `{name}` is no table of options")
    known = {p.name: p for p in ctx.command.params}  # their names in Python have always been read too
    known |= {flag[2:].replace("-", "_"): p for p in ctx.command.params for flag in p.opts if flag.startswith("--")}
    values: dict[str, Any] = {}
    for key, value in table.items():
        parameter = known.get(key.replace("-", "_"))
        if parameter is None or parameter.name is None:
            raise UsageError(f"{option} {path}: [{name}] has no option `{key}`")
        several = getattr(parameter, "multiple", False) or parameter.nargs != 1
        items = value if several and isinstance(value, list) else [value]
        if any(isinstance(item, (dict, list)) for item in items):
            raise UsageError(f"{option} {path}: [{name}] `{key}` takes no such value")
        values[parameter.name] = items if several else value
    return values


def _check_tables(ctx: click.Context, tables: dict[str, Any], place: str) -> None:
    """Raises UsageError for a table of no command, which nobody would read."""
    import difflib

    group = ctx.find_root().command
    if not isinstance(group, click.Group):  # a command that is called by itself
        return
    commands = group.list_commands(ctx)
    for name, value in tables.items():
        if not isinstance(value, dict):
            raise UsageError(f"{place}: `{name}` stands in no table", hint="options stand in that of their command")
        if name not in commands:
            near = difflib.get_close_matches(name, commands, 1)
            hint = f"did you mean [{near[0]}]?" if near else f"tables: {', '.join(commands)}"
            raise UsageError(f"{place}: [{name}]: no such command", hint=hint)
    if "eval" not in tables:
        return
    verbs = group.get_command(ctx, "eval")
    known = [*verbs.list_commands(ctx), "heldout", "pairwise"] if isinstance(verbs, click.Group) else []
    for name, value in tables["eval"].items():
        if not isinstance(value, dict):
            raise UsageError(f"{place}: [eval] `{name}` stands in no table of a verb", hint="[eval.report], say")
        if name not in known:
            raise UsageError(f"{place}: [eval.{name}]: no such verb", hint=f"tables: {', '.join(known)}")


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
    from edittools.stream.run import RunOptions
    from edittools.stream.tasks import parse_task

    given = ctx.params
    output, format = given.get("output"), given.get("format")
    if given.get("overwrite"):
        _refuse_what_is_read(ctx)
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


_WRITTEN = ("output", "rejects", "report")  # options that name a file to write
_MODEL = ("config.json", "model_index.json", "edit.json")  # what tells a model's folder, and what it keeps for itself
_KEPT = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja")


def _refuse_what_is_read(ctx: click.Context) -> None:
    """Raises UsageError where --overwrite would replace a file that is named to be read, or one that the folder of a
    model, which is named, has for itself."""
    named = {p.opts[0]: ctx.params.get(p.name or "") for p in ctx.command.params if p.name not in _WRITTEN}
    named["--config"] = ctx.meta.get("edittools.config")
    for name in _WRITTEN:
        path = ctx.params.get(name)
        if not isinstance(path, str) or not os.path.isfile(path):
            continue
        for flag, value in named.items():
            for word in value if isinstance(value, tuple) else (value,):
                if isinstance(word, str) and _holds(word, os.path.realpath(path)):
                    what = f"{flag} {word}" if flag.startswith("-") else "the input"
                    raise UsageError(
                        f"--overwrite would replace {path}, which is read: {what}", hint="name another file"
                    )


def _holds(word: str, place: str) -> bool:
    """Whether an argument (or its FILE of FILE:SCALE) is this file, or a model's folder that keeps it."""
    path = next((each for each in (word, word.rpartition(":")[0]) if each and os.path.exists(each)), None)
    if path is None:
        return False
    real = os.path.realpath(path)
    if real == place:
        return True
    of_model = any(os.path.exists(os.path.join(real, name)) for name in _MODEL)
    return of_model and place.startswith(os.path.join(real, "")) and place.endswith(_KEPT)


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

    chosen: int | None = ctx.params.get("jobs")
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

    if ctx.params.get("phase") != "decide":  # a file of its own kind
        refuse_own_input(open_sink(run_settings(ctx)), source)
