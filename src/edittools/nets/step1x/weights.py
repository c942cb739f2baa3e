"""Step1X-Edit's checkpoints in three layouts, and the way from each to each, tensor by tensor.

    ours       FOLDER/transformer/  a stock FluxTransformer2DModel(guidance_embeds=False)
               FOLDER/connector/    a Connector
    official   one file with both (step1x-edit-i1258.safetensors, step1x-edit-v1p1-official.safetensors)
    fork       FOLDER/transformer/  Step1XEditTransformer2DModel of the diffusers fork that Step1X-Edit-v1p1-diffusers
               and Step1X-Edit-v1p2 are made for; both in one module

What a layout calls a tensor is a list of `Move`s, one for each tensor of it, to the names of ours. A tensor of another
layout is one of ours, several one below the other (official: query, key and value), or one with its halves swapped
(official: the last modulation has the shift first). All of these cut along the first axis, so that no more than one
tensor is in memory. Numbers are never changed, nor is their type.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from edittools.errors import EditError, describe
from edittools.nets.flux_names import DOUBLE_NORMS, SINGLE_NORMS, flux_modules
from edittools.nets.step1x.connector import Connector, ConnectorConfig, read_connector_config, settings
from edittools.nets.step1x.versions import VERSIONS
from edittools.stream import files
from edittools.weights.lookup import link, read_config

TITLE = "Step1X-Edit"
LAYOUTS = ("ours", "official", "fork")
GIVEN = {
    "vae": ("--vae", "FLUX.1's vae/, which becomes the folder's"),
    "text_encoder": ("--language-model", "Qwen2.5-VL-7B-Instruct with its processor, likewise"),
}
FORK_CLASS = "Step1XEditTransformer2DModel"
HEAD_WIDTH = 128  # of every release; an official file does not say it for the connector
AXES = (16, 56, 56)  # likewise: how a head's width is divided between the three axes of positions
SHARD_SIZE = "10GB"  # diffusers' own
_DIFFUSERS_FILE = "diffusion_pytorch_model"
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True)
class Move:
    """`theirs` holds `ours` (names with transformer. or connector. before them) one below the other.

    swap  the upper and the lower half of the tensor change places
    """

    theirs: str
    ours: tuple[str, ...]
    swap: bool = False


@dataclass(frozen=True)
class Shape:
    """What an architecture's tensors depend on: the configuration of both parts."""

    transformer: dict[str, Any]
    connector: ConnectorConfig

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of ours with its shape, from the modules themselves, which are not filled."""
        from diffusers import FluxTransformer2DModel

        with torch.device("meta"):
            parts: dict[str, Any] = {
                "transformer": FluxTransformer2DModel(**self.transformer),
                "connector": Connector(self.connector),
            }
        return {f"{part}.{name}": tuple(t.shape) for part in parts for name, t in parts[part].state_dict().items()}


# ---------------------------------------------------------------- names

_LINEAR = ("weight", "bias")
_CONNECTOR = {
    "S.input_embedder": "embed",
    "S.t_embedder.mlp.0": "time.0",
    "S.t_embedder.mlp.2": "time.2",
    "S.c_embedder.linear_1": "context.0",
    "S.c_embedder.linear_2": "context.2",
    "global_proj_out": "pooled",
}
_REFINER = {
    "norm1": "norm_attention",
    "self_attn_qkv": "qkv",
    "self_attn_proj": "out",
    "norm2": "norm_mlp",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "adaLN_modulation.1": "gates",
}
_FORK_CONNECTOR = {  # the fork's config.json has both parts' settings in it
    "states_width": "connector_in_channels",
    "width": "connector_hidden_size",
    "heads": "connector_heads_num",
    "depth": "connector_depth",
    "pooled_width": "vector_in_dim",
}
_RELEASED: dict[str, Any] = {
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": HEAD_WIDTH,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "axes_dims_rope": AXES,
}
_FORK_ENDS = {
    "time_embed.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_embed.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vec_embed.in_layer": "time_text_embed.text_embedder.linear_1",
    "vec_embed.out_layer": "time_text_embed.text_embedder.linear_2",
}


def _connector_moves(config: ConnectorConfig) -> Iterator[Move]:
    """The connector's names, which the official file and the fork share."""
    names = {f"connector.{theirs}": f"connector.{ours}" for theirs, ours in _CONNECTOR.items()}
    for k in range(config.depth):
        theirs, ours = f"connector.S.individual_token_refiner.blocks.{k}", f"connector.blocks.{k}"
        names |= {f"{theirs}.{a}": f"{ours}.{b}" for a, b in _REFINER.items()}
    if config.quoted_text:
        names["text_token_mapping"] = "connector.quoted_text"
    for theirs, ours in names.items():
        yield from (Move(f"{theirs}.{kind}", (f"{ours}.{kind}",)) for kind in _LINEAR)
    if config.pooled_scale:
        yield Move("connector.scale_factor", ("connector.pooled_scale",))


def official_moves(shape: Shape) -> list[Move]:
    """What the official file calls each of its tensors."""
    doubles, singles = shape.transformer["num_layers"], shape.transformer["num_single_layers"]
    fused = {a: tuple(f"transformer.{b}" for b in bs) for a, bs in flux_modules(doubles, singles).items()}
    norms: dict[str, str] = {}
    for k in range(doubles):
        theirs, block = f"double_blocks.{k}", f"transformer.transformer_blocks.{k}"
        norms |= {f"{theirs}.{a}": f"{block}.{name}" for a, name in DOUBLE_NORMS.items()}
    for k in range(singles):
        theirs, block = f"single_blocks.{k}", f"transformer.single_transformer_blocks.{k}"
        norms |= {f"{theirs}.{a}": f"{block}.{name}" for a, name in SINGLE_NORMS.items()}
    moves = [Move(f"{a}.{kind}", tuple(f"{b}.{kind}" for b in bs)) for a, bs in fused.items() for kind in _LINEAR]
    moves += [Move(f"{a}.scale", (f"{b}.weight",)) for a, b in norms.items()]
    moves += [
        Move(f"final_layer.adaLN_modulation.1.{kind}", (f"transformer.norm_out.linear.{kind}",), swap=True)
        for kind in _LINEAR
    ]
    return moves + list(_connector_moves(shape.connector))


def fork_moves(shape: Shape) -> list[Move]:
    """What the diffusers fork calls each of its tensors: as diffusers does, but for the two embedders.

    Raises EditError for a v1.0 connector: the fork has no parameter for the scale of its mean.
    """
    if shape.connector.pooled_scale:
        raise EditError("the diffusers fork cannot hold a v1.0 connector (pooled_scale)", hint="--to official can")
    ends = {ours: theirs for theirs, ours in _FORK_ENDS.items()}
    moves = []
    for name in shape.tensors():
        part, _, inner = name.partition(".")
        if part == "transformer":
            layer, _, kind = inner.rpartition(".")
            moves.append(Move(f"{ends.get(layer, layer)}.{kind}", (name,)))
    return moves + list(_connector_moves(shape.connector))


def our_moves(shape: Shape) -> list[Move]:
    """Ours under their own names, so that all three layouts are read and written alike."""
    return [Move(name, (name,)) for name in shape.tensors()]


MOVES = {"ours": our_moves, "official": official_moves, "fork": fork_moves}


def recognises(names: Iterable[str]) -> str | None:
    """The layout that tensors of one file, or of one folder of shards, are named by; None if they are not Step1X's."""
    names = set(names)
    if any(name.startswith("connector.S.") for name in names):
        if any(name.startswith("double_blocks.") for name in names):
            return "official"
        if any(name.startswith("transformer_blocks.") for name in names):
            return "fork"
    return None


# ---------------------------------------------------------------- reading


class WeightSource:
    """The tensors of safetensors files under their own names; only headers are read until one is asked for."""

    def __init__(self, files: dict[str, list[Path]], stack: contextlib.ExitStack) -> None:
        """files  by what is put before the names that they hold. Raises EditError."""
        from safetensors import SafetensorError, safe_open

        self.metadata: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._slices: dict[str, Any] = {}
        for prefix, paths in files.items():
            for path in paths:
                try:
                    file = stack.enter_context(safe_open(path, framework="pt"))
                    self.metadata |= file.metadata() or {}
                    slices = {name: file.get_slice(name) for name in file.keys()}
                except (OSError, SafetensorError) as error:
                    raise EditError(f"{path}: not a safetensors file: {describe(error)}") from error
                for name, tensor in slices.items():
                    if prefix + name in self._slices:
                        raise EditError(f"{path}: {name} is in another file of the folder, too")
                    self._slices[prefix + name] = tensor
                    self.shapes[prefix + name] = tuple(tensor.get_shape())
                    self.dtypes[prefix + name] = tensor.get_dtype()

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self._slices[name][start:stop]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in any layout, seen as tensors of ours."""

    path: Path
    layout: str
    shape: Shape
    tensors: dict[str, tuple[int, ...]]
    source: WeightSource
    places: dict[str, tuple[Move, int, int]]  # of each of ours: in which tensor, from which row, to which

    def dtype(self, name: str) -> str:
        """In safetensors' words."""
        return self.source.dtypes[self.places[name][0].theirs]

    def read(self, name: str) -> Tensor:
        """A tensor of ours by its name."""
        move, start, stop = self.places[name]
        if not move.swap:
            return self.source.rows(move.theirs, start, stop)
        middle = (start + stop) // 2
        return torch.cat([self.source.rows(move.theirs, middle, stop), self.source.rows(move.theirs, start, middle)])


@contextlib.contextmanager
def open_checkpoint(path: str | Path) -> Iterator[Checkpoint]:
    """Open a checkpoint in any of the layouts; every tensor's name, shape and type is checked, none is read.

    path  a file (official, or the fork's in one piece beside its config.json), a folder with transformer/ in it,
          or the fork's transformer/ itself

    Raises EditError that names the first tensor that is missing, not of the model, or of another shape.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        layout, source, config = _open(path, stack)
        try:
            found = _official_shape(path, source) if layout == "official" else _folder_shape(layout, source, config)
            moves, tensors = MOVES[layout](found), found.tensors()
        except (TypeError, ValueError, ZeroDivisionError) as error:  # of whatever the settings are given to
            raise EditError(f"{path}: no possible configuration: {describe(error)}") from error
        yield Checkpoint(path, layout, found, tensors, source, _check(path, source, moves, tensors))


def reads(path: str | Path) -> bool:
    """Whether a file or folder is a checkpoint in one of the layouts. Raises EditError where it cannot be read."""
    with contextlib.ExitStack() as stack:
        return _found(Path(path), stack)[0] is not None


def _open(path: Path, stack: contextlib.ExitStack) -> tuple[str, WeightSource, Path]:
    """The layout, the tensors, and the folder with the transformer's config.json, if the layout has one."""
    layout, source, folder = _found(path, stack)
    if layout is None:
        raise EditError(f"{path}: no checkpoint of {TITLE}", hint="its file, or a folder with transformer/ in it")
    return layout, source, folder


def _found(path: Path, stack: contextlib.ExitStack) -> tuple[str | None, WeightSource, Path]:
    """The same of any checkpoint; of another model's the layout is None."""
    if not path.exists():
        raise EditError(f"{path}: no such file or folder")
    if (path / "connector").is_dir():
        parts = {f"{part}.": _shards(path / part) for part in ("transformer", "connector")}
        return "ours", WeightSource(parts, stack), path / "transformer"
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    source = WeightSource({"": _shards(folder) if folder.is_dir() else [folder]}, stack)
    return recognises(source.shapes), source, folder if folder.is_dir() else folder.parent


def _shards(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise EditError(f"{folder}: no safetensors")
    return found


def _folder_shape(layout: str, source: WeightSource, folder: Path) -> Shape:
    """The configuration of a layout that has config.json."""
    found = read_config(folder)
    name = "FluxTransformer2DModel" if layout == "ours" else FORK_CLASS
    if found.get("_class_name") != name:
        raise EditError(f"{folder}: config.json is not that of a {name}")
    if found.get("guidance_embeds"):
        raise EditError(f"{folder}: a transformer with guidance_embeds is not Step1X-Edit's")
    if layout == "ours":
        connector = read_connector_config(folder.parent / "connector")
    else:
        connector = ConnectorConfig(
            **{ours: found[theirs] for ours, theirs in _FORK_CONNECTOR.items() if theirs in found},
            quoted_text="text_token_mapping.weight" in source.shapes,
        )
    return _shape({key: found[key] for key in _RELEASED if key in found}, connector)


def _official_shape(path: Path, source: WeightSource) -> Shape:
    """The configuration that the shapes of an official file tell."""

    def size(name: str, axis: int) -> int:
        if len(source.shapes.get(name, ())) <= axis:
            raise EditError(f"{path}: the tensor {name} is missing or has too few axes")
        return source.shapes[name][axis]

    def count(pattern: str) -> int:
        found = (re.match(pattern, name) for name in source.shapes)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    head = size("double_blocks.0.img_attn.norm.query_norm.scale", 0)
    width = size("connector.S.input_embedder.weight", 0)
    axes = json.loads(source.metadata.get("axes_dims_rope", "null")) or (AXES if head == HEAD_WIDTH else None)
    heads = json.loads(source.metadata.get("connector_heads", "null")) or width // HEAD_WIDTH
    if axes is None or not heads:
        raise EditError(f"{path}: heads of {head} and {width} numbers: the file does not say how they are divided")
    transformer = {
        "in_channels": size("img_in.weight", 1),
        "out_channels": size("final_layer.linear.weight", 0),
        "num_layers": count(r"double_blocks\.(\d+)\."),
        "num_single_layers": count(r"single_blocks\.(\d+)\."),
        "attention_head_dim": head,
        "num_attention_heads": size("img_in.weight", 0) // head,
        "joint_attention_dim": size("txt_in.weight", 1),
        "axes_dims_rope": axes,
    }
    connector = ConnectorConfig(
        states_width=size("connector.S.input_embedder.weight", 1),
        width=width,
        heads=heads,
        depth=count(r"connector\.S\.individual_token_refiner\.blocks\.(\d+)\."),
        pooled_width=size("connector.global_proj_out.weight", 0),
        pooled_scale="connector.scale_factor" in source.shapes,
        quoted_text="text_token_mapping.weight" in source.shapes,
    )
    return _shape(transformer, connector)


def _shape(transformer: dict[str, Any], connector: ConnectorConfig) -> Shape:
    """The shape that a transformer's configuration describes; missing values are the release's."""
    made = {**_RELEASED, **transformer, "pooled_projection_dim": connector.pooled_width, "guidance_embeds": False}
    made["axes_dims_rope"] = tuple(made["axes_dims_rope"])
    if sum(made["axes_dims_rope"]) != made["attention_head_dim"]:
        raise ValueError(f"axes_dims_rope {made['axes_dims_rope']} do not add up to {made['attention_head_dim']}")
    if made["out_channels"] == made["in_channels"]:
        made["out_channels"] = None  # as diffusers writes it
    return Shape(made, connector)


def _check(
    path: Path, source: WeightSource, moves: list[Move], tensors: dict[str, tuple[int, ...]]
) -> dict[str, tuple[Move, int, int]]:
    """Where each of ours is. Raises EditError if the tensors are not just those of the moves."""
    expected: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[Move, int, int]] = {}
    for move in moves:
        expected[move.theirs], cuts = stacked(move, tensors)
        places |= {name: (move, start, stop) for name, (start, stop) in zip(move.ours, itertools.pairwise(cuts))}
    wrong = [name for name, size in expected.items() if source.shapes.get(name, size) != size]
    for kind, names in (
        ("is missing", [name for name in expected if name not in source.shapes]),
        ("is not of this model", [name for name in source.shapes if name not in expected]),
        ("has the wrong shape", wrong),
        ("is not of floating-point numbers", [name for name, dtype in source.dtypes.items() if dtype not in _BYTES]),
    ):
        if names:
            sizes = f", {source.shapes[wrong[0]]} for {expected[wrong[0]]}" if names is wrong else ""
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise EditError(f"{path}: the tensor {names[0]} {kind}{sizes}{more}")
    return places


def stacked(move: Move, tensors: dict[str, tuple[int, ...]]) -> tuple[tuple[int, ...], list[int]]:
    """The shape of a tensor of another layout, and the rows at which ours begin and the last one ends."""
    cuts = [0, *itertools.accumulate(tensors[name][0] for name in move.ours)]
    return (cuts[-1], *tensors[move.ours[0]][1:]), cuts


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class Entry:
    """A tensor to write: `rows` yields it from the top, in pieces."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[Tensor]]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * _BYTES[self.dtype]


def write_safetensors(file: BinaryIO, tensors: Iterable[Entry], metadata: dict[str, str] | None = None) -> None:
    """Write what safetensors' own save_file would, byte for byte, with no more than one piece in memory."""
    order = sorted(tensors, key=lambda entry: (-_BYTES[entry.dtype], entry.name))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for entry in order:
        start, end = end, end + entry.size
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for entry in order:
        for rows in entry.rows():
            file.write(rows.contiguous().view(torch.uint8).numpy().data)


def entries(checkpoint: Checkpoint, layout: str) -> list[Entry]:
    """Every tensor of a layout. Raises EditError where one would need tensors of several types."""
    made = []
    for move in MOVES[layout](checkpoint.shape):
        dtypes = {checkpoint.dtype(name) for name in move.ours}
        if len(dtypes) > 1:
            names = ", ".join(move.ours)
            raise EditError(f"{checkpoint.path}: {names} become one tensor, but are {' and '.join(sorted(dtypes))}")
        rows = functools.partial(_rows, checkpoint, move)
        made.append(Entry(move.theirs, dtypes.pop(), stacked(move, checkpoint.tensors)[0], rows))
    return made


def _rows(checkpoint: Checkpoint, move: Move) -> Iterator[Tensor]:
    for name in move.ours:
        tensor = checkpoint.read(name)
        yield from reversed(tensor.chunk(2)) if move.swap else (tensor,)


def save_official(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write the official single file; it appears when it is whole. Raises EditError."""
    transformer, connector = checkpoint.shape.transformer, checkpoint.shape.connector
    metadata = {}
    if transformer["axes_dims_rope"] != AXES or connector.width != connector.heads * HEAD_WIDTH:
        metadata["axes_dims_rope"] = json.dumps(transformer["axes_dims_rope"])
        metadata["connector_heads"] = json.dumps(connector.heads)
    made = entries(checkpoint, "official")
    with files.atomic(str(path)) as file:
        write_safetensors(file, made, metadata)


def save_fork(checkpoint: Checkpoint, folder: str | Path, max_shard_size: int | str = SHARD_SIZE) -> None:
    """Write transformer/ as the diffusers fork does. Raises EditError."""
    import diffusers

    shape, made = checkpoint.shape, entries(checkpoint, "fork")
    connector = dataclasses.asdict(shape.connector)
    config = {
        "_class_name": FORK_CLASS,
        "_diffusers_version": diffusers.__version__,
        **{key: value for key, value in shape.transformer.items() if key != "pooled_projection_dim"},
        **{theirs: connector[ours] for ours, theirs in _FORK_CONNECTOR.items()},
        "enable_text_token_mapping": shape.connector.quoted_text,
    }
    with _folders(Path(folder), ("transformer",)) as (transformer,):
        _write_json(transformer / "config.json", config)
        _write_shards(transformer, made, max_shard_size)


def save_ours(checkpoint: Checkpoint, folder: str | Path, max_shard_size: int | str = SHARD_SIZE) -> None:
    """Write transformer/ and connector/. Raises EditError."""
    from diffusers import FluxTransformer2DModel

    parts: dict[str, list[Entry]] = {"transformer": [], "connector": []}
    for entry in entries(checkpoint, "ours"):
        part, _, name = entry.name.partition(".")
        parts[part].append(replace(entry, name=name))
    with torch.device("meta"):
        network: Any = FluxTransformer2DModel(**checkpoint.shape.transformer)
    with _folders(Path(folder), ("connector", "transformer")) as (connector, transformer):
        network.save_config(transformer)
        _write_shards(transformer, parts["transformer"], max_shard_size)
        _write_json(connector / "config.json", settings(checkpoint.shape.connector))
        with files.atomic(str(connector / "model.safetensors")) as file:
            write_safetensors(file, parts["connector"])


@contextlib.contextmanager
def _folders(folder: Path, names: tuple[str, ...]) -> Iterator[list[Path]]:
    """Folders to fill, which get their names below `folder`, in this order, when the block ends well."""
    for name in names:
        if (folder / name).exists():
            raise EditError(f"{folder / name} is there already", hint="give another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
    try:
        made = [temporary / name for name in names]
        for path in made:
            path.mkdir()
        yield made
        for path in made:
            path.rename(folder / path.name)
    finally:
        shutil.rmtree(temporary)


def _write_shards(folder: Path, made: list[Entry], max_shard_size: int | str) -> None:
    """One file or several with an index, cut where diffusers' save_pretrained cuts."""
    from huggingface_hub import split_state_dict_into_shards_factory

    named = {entry.name: entry for entry in made}
    split = split_state_dict_into_shards_factory(
        named,
        get_storage_size=lambda entry: entry.size,
        filename_pattern=f"{_DIFFUSERS_FILE}{{suffix}}.safetensors",
        max_shard_size=max_shard_size,
    )
    for name, tensors in split.filename_to_tensors.items():
        with files.atomic(str(folder / name)) as file:
            write_safetensors(file, [named[tensor] for tensor in tensors], {"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / f"{_DIFFUSERS_FILE}.safetensors.index.json", index)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    files.write_bytes(str(path), (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


ENCODERS = ("vae", "text_encoder", "processor")  # the folders beside the weights that make a whole model


def release(connector: ConnectorConfig) -> str | None:
    """The version that has such a connector, if one has."""
    wanted = (connector.pooled_scale, connector.quoted_text)
    return next((number for number, v in VERSIONS.items() if (v.pooled_scale, v.quoted_text) == wanted), None)


def missing_encoders(folder: Path) -> list[str]:
    """The folders that a model of ours lacks, to be trained or sampled."""
    return [name for name in ENCODERS if not (folder / name).is_dir()] if (folder / "connector").is_dir() else []


def add_encoders(folder: Path, given: Mapping[str, str | Path]) -> None:
    """Link the frozen encoders into a model's folder.

    given   where they lie, by names of ENCODERS; a text_encoder with its processor in one folder is both

    Raises EditError for one that is not there.
    """
    for name, source in given.items():
        path = Path(source)
        if not (path / "config.json").is_file() and name != "processor":
            raise EditError(f"{path}: no config.json: not the folder of a {name}")
        if not (folder / name).exists():
            link(path, folder / name)
        if name == "text_encoder" and "processor" not in given and (path / "preprocessor_config.json").is_file():
            (folder / "processor").mkdir(exist_ok=True)
            for file in path.iterdir():
                if file.suffix in (".json", ".txt", ".jinja") and not (folder / "processor" / file.name).exists():
                    link(file, folder / "processor" / file.name)


def convert(
    path: str | Path, target: str | Path, layout: str = "ours", encoders: Mapping[str, str | Path] | None = None
) -> str:
    """Write a checkpoint in another layout: a file if that is "official", else a folder.

    A folder of ours says which version it is, and has the encoders, as far as the source's folder has them or they are
    given. Returns what it was, in words. Raises EditError.
    """
    with open_checkpoint(path) as checkpoint:
        if checkpoint.layout == layout:
            raise EditError(f"{path}: is in the layout `{layout}` already")
        save: dict[str, Callable[[Checkpoint, str | Path], None]]
        save = {"ours": save_ours, "official": save_official, "fork": save_fork}
        try:
            save[layout](checkpoint, target)
            if layout == "ours":
                version = release(checkpoint.shape.connector)
                described = {"system": "step1x", **({"version": version} if version else {})}
                _write_json(Path(target) / "edit.json", described)
                beside = {name: Path(path) / name for name in ENCODERS if (Path(path) / name).is_dir()}
                add_encoders(Path(target), {**beside, **(encoders or {})})
        except OSError as error:
            raise EditError(f"{target}: cannot be written: {error.strerror or error}") from error
        transformer, count = checkpoint.shape.transformer, sum(map(math.prod, checkpoint.tensors.values()))
        blocks = f"{transformer['num_layers']} + {transformer['num_single_layers']} blocks"
        return f"step1x ({checkpoint.layout}, {blocks}, {count:,} parameters)"
