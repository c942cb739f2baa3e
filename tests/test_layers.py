"""The rooms of the house: who may import whom. A package imports from packages below its own only, and no module is
part of a cycle; imports inside functions count like all others."""

from __future__ import annotations

import ast
from pathlib import Path

import edittools

ROOT = Path(edittools.__file__).parent

# From the top to the ground. Packages of one line do not know each other, but for the pairs below.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("__init__",),
    ("api", "convert"),
    ("bench", "train"),
    ("judge", "pair", "sample"),
    ("caption", "dedup", "filter", "ground", "ingest", "score", "synth"),
    ("suites",),
    ("rubric",),
    ("encoders", "nets", "painters", "vlm"),
    ("weights", "workers"),
    ("report",),
    ("metrics",),
    ("stream",),
    ("errors", "json_file", "opencv", "record", "registry", "rounding", "seeded", "settings", "tables"),
)
# Stages that use the public face of another one.
FACES = {
    ("caption", "synth"): {"synth.core", "synth.registry"},  # the words of a template
    ("caption", "ground"): {"ground.people"},  # what a face does between two frames
    ("filter", "ground"): {"ground.people"},  # whether the faces of a pair are the same
    ("synth", "ground"): {
        "ground",
        "ground.config",
        "ground.people",
        "ground.maps.pose",
    },  # to check what was painted; people
    ("ground", "caption"): {
        "caption.schemas",
        "caption.grammar",
        "caption.targets",
    },  # the form of a VLM's boxes; names to tag by
    ("nets", "vlm"): {"vlm", "vlm.processing"},  # a model is trained on what whoever asks it shows it
    ("painters", "nets"): {"nets.editor", "nets.load"},  # an editing model paints, too
    ("synth", "caption"): {
        "caption.grammar",
        "caption.lexicon",
        "caption.targets",
        "caption.wording",
    },  # the instruction of a pair
}


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"
        found[name] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The modules of edittools that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "edittools":
            base = node.module.removeprefix("edittools").lstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".lstrip(".")
                found.add(whole if whole in MODULES else base or "__init__")
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("edittools.")}
    return found


EDGES = {name: imports(path) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def level(module: str) -> int:
    return next(k for k, layer in enumerate(LAYERS) if room(module) in layer)


def test_every_room_has_its_place() -> None:
    placed = [name for layer in LAYERS for name in layer]
    assert sorted(placed) == sorted({room(name) for name in MODULES})


def test_imports_go_down() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in EDGES.items()
        for other in others
        if room(name) != room(other)
        and (level(other) <= level(name) and level(name) < len(LAYERS) - 1)
        and other not in FACES.get((room(name), room(other)), ())
        and other != "__init__"  # __version__
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_no_module_is_part_of_a_cycle() -> None:
    """Depth first; a module that is met while it is still open closes a circle."""
    done: set[str] = set()

    def visit(name: str, open_: tuple[str, ...]) -> None:
        if name in open_:
            raise AssertionError(" -> ".join((*open_[open_.index(name) :], name)))
        if name in done:
            return
        for other in sorted(EDGES[name]):
            visit(other, (*open_, name))
        done.add(name)

    for name in sorted(MODULES):
        visit(name, ())
