"""What the verbs of `edit eval` share that are about a public benchmark; what they offer is what benchmarks declare."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from edittools.cli import options
from edittools.errors import UsageError
from edittools.suites import benchmark_names, benchmarks
from edittools.suites.shared.types import spoken_language

if TYPE_CHECKING:
    from edittools.suites.shared.types import Benchmark

_METAVARS = {"language": "L", "suite": "NAME"}

bench_argument = click.argument("bench", type=click.Choice(benchmark_names()))


def layouts() -> list[str]:
    """The benchmarks whose layout is written."""
    return [name for name, one in benchmarks().items() if one.publish is not None]


def choice_options(verb: str) -> options.Decorator:
    """--language and --suite, as far as some benchmark declares them for a verb."""

    def decorate(function: options.Function) -> options.Function:
        for name, metavar in _METAVARS.items():
            told = [f"of {one.name}: {said}" for one in benchmarks().values() if (said := _declared(one, name, verb))]
            if told:
                text = "; ".join(told)
                function = options.option(f"--{name}", metavar=metavar, help=f"{text[0].upper()}{text[1:]}.")(function)
        return function

    return decorate


def _declared(benchmark: Benchmark, name: str, verb: str) -> str | None:
    return next((one.help for one in benchmark.choices if one.name == name and verb in one.verbs), None)


def chosen(ctx: click.Context, benchmark: Benchmark, verb: str, name: str) -> str | None:
    """What --language or --suite says. Raises UsageError where the benchmark has no such choice; a configuration file,
    which is for every benchmark, may hold it."""
    if _declared(benchmark, name, verb) is not None:
        said: str | None = ctx.params[name]
        return spoken_language(said) if name == "language" else said
    if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
        choices = ", ".join(f"--{one.name}" for one in benchmark.choices if verb in one.verbs)
        raise UsageError(
            f"--{name} has no meaning with {benchmark.name}",
            hint=f"it has {choices}" if choices else "it declares no `choices` for this command",
        )
    return None


def examples_of(about: str, *own: tuple[str, str]) -> Callable[[], tuple[tuple[str, str], ...]]:
    """Lines of the help and the manual: a command's own, and what benchmarks declare for it."""
    return lambda: (*own, *(line for one in benchmarks().values() for line in one.examples.get(about, ())))
