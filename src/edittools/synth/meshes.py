"""Users' own meshes: OBJ files with their materials and textures, and PLY files, read and checked before a renderer
sees them, for what is damaged can end its process.

OBJ: Wavefront's Advanced Visualizer, appendix B1; PLY: Turk 1994, "The PLY Polygon File Format". y is up.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edittools.errors import RowError, UsageError
from edittools.stream import codec
from edittools.synth.core import Inapplicable

ENDINGS = (".obj", ".ply")
_MOST_BYTES = 64 << 20
_MOST_FACES = 500_000  # triangles
_MOST_POINTS = 3 * _MOST_FACES
_MOST_TILES = 1000  # times that a texture may be repeated either way: float32 says the place in a tile to a 16,000th
_GRAY = (180, 180, 180)
_TALL, _WIDE = 1.7, 0.8  # metres: the height and the radius round its axis that a mesh is scaled into
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip


@dataclass(frozen=True)
class MeshPart:
    """The triangles of one material."""

    vertices: np.ndarray  # float64 (n, 3): metres, z up, standing on 0, about the z axis
    faces: np.ndarray  # int32 (m, 3)
    uv: np.ndarray | None  # float64 (n, 2), v upward
    colour: tuple[int, int, int]  # sRGB
    texture: np.ndarray | None  # uint8 HxWx3
    missing: tuple[str, ...] = ()  # materials and textures that the mesh names and that are not there: it is grey


def find_meshes(folder: str | None) -> tuple[Path, ...]:
    """The meshes of a folder, in the order of their names. Raises UsageError where there is none."""
    if folder is None:
        return ()
    found = tuple(path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise UsageError(f"--meshes {folder}: no mesh there", hint="a folder of .obj or .ply files")
    return found


def meshes_digest(folder: str) -> str:
    """Stands for all files of a folder of meshes: their materials and textures decide what is drawn, too."""
    whole = hashlib.sha256()
    for path in sorted(one for one in Path(folder).rglob("*") if one.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()[:16]


def read_mesh(path: Path) -> tuple[MeshPart, ...]:
    """A mesh, scaled to the size of a person and put on the floor. Raises Inapplicable for one that cannot be drawn."""
    read = _read(path)
    if isinstance(read, str):
        raise Inapplicable(f"mesh {path.name}: {read}")
    return read


@functools.lru_cache(maxsize=4)
def _read(path: Path) -> tuple[MeshPart, ...] | str:
    """The parts, or why there are none: a cache keeps no errors, and large damaged files take long to read."""
    try:
        data = _content(path)
        parts = _obj(data, path) if path.suffix.lower() == ".obj" else [_ply(data)]
        return tuple(_standing([part for part in parts if len(part.faces)]))
    except (IndexError, KeyError):
        return "has a line that lacks something"
    except ArithmeticError:
        return "has a number that is too large"
    except (ValueError, OSError, RowError) as error:
        return getattr(error, "strerror", None) or str(error)


def _content(path: Path, said: str = "") -> bytes:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{said}has more than {_MOST_BYTES >> 20} MB")
    return path.read_bytes()


def _standing(parts: list[MeshPart]) -> Iterator[MeshPart]:
    if not parts:
        raise ValueError("has no faces")
    used = np.concatenate([part.vertices for part in parts])
    if not np.isfinite(used).all():
        raise ValueError("has vertices that are no numbers")
    low, high = used.min(axis=0), used.max(axis=0)
    with np.errstate(over="ignore"):
        size = high - low
    if not size.max() > 0 or not np.isfinite(size).all():
        raise ValueError("has no size")
    radius = float(np.hypot(size[0], size[2])) / 2
    scale = min(_TALL / max(size[1], 1e-12), _WIDE / max(radius, 1e-12))
    for part in parts:
        x, y, z = ((part.vertices - [low[0] + size[0] / 2, low[1], low[2] + size[2] / 2]) * scale).T
        placed = np.stack([x, -z, y], axis=1)
        if not np.isfinite(placed.astype(np.float32)).all():
            raise ValueError("has no size")
        if part.uv is not None and not (np.abs(part.uv) <= _MOST_TILES).all():
            raise ValueError(f"has texture coordinates that are no numbers, or beyond {_MOST_TILES:,}")
        yield replace(part, vertices=placed)


def _check_triangles(made: int) -> None:
    """While they are read, for what is too much does not fit into memory."""
    if made > _MOST_FACES:
        raise ValueError(f"has more than {_MOST_FACES:,} triangles")


def _check_points(made: int) -> None:
    if made > _MOST_POINTS:
        raise ValueError(f"has more than {_MOST_POINTS:,} vertices")


def _triangles(corners: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    """A polygon as a fan."""
    for k in range(1, len(corners) - 1):
        yield corners[0], corners[k], corners[k + 1]


# ---------------------------------------------------------------- OBJ


Look = tuple[tuple[int, int, int], np.ndarray | None]
"""The colour of a material, and its texture."""


def _obj(data: bytes, path: Path) -> list[MeshPart]:
    points: list[list[float]] = []
    texels: list[list[float]] = []
    faces: dict[str, list[tuple[Any, Any, Any]]] = defaultdict(list)
    libraries: list[str] = []
    material, made = "", 0
    for line in data.decode("utf-8", "replace").replace("\\\n", " ").splitlines():
        word, _, said = line.strip().replace("\t", " ").partition(" ")
        if word in ("v", "vt", "f"):
            rest = said.partition("#")[0].split()
            if word == "v":
                points.append([float(one) for one in rest[:3]])
            elif word == "vt":
                texels.append([float(one) for one in (*rest, "0")[:2]])
            else:
                made += max(0, len(rest) - 2)
                _check_triangles(made)
                faces[material] += _triangles([_corner(one, len(points), len(texels)) for one in rest])
            _check_points(max(len(points), len(texels)))
        elif word == "usemtl":
            material = said.strip()
        elif word == "mtllib":
            libraries.append(said.strip())
    if any(len(point) != 3 for point in points):
        raise ValueError("has a vertex without three numbers")
    looks, missing = _looks(path, libraries)
    where, shown = np.array(points, np.float64).reshape(-1, 3), np.array(texels, np.float64).reshape(-1, 2)
    return [
        _obj_part(where, shown, triangles, looks.get(name, (_GRAY, None)), missing) for name, triangles in faces.items()
    ]


def _obj_part(
    where: np.ndarray, shown: np.ndarray, triangles: list[tuple[Any, Any, Any]], look: Look, missing: tuple[str, ...]
) -> MeshPart:
    named = np.array(triangles, np.int64).reshape(-1, 2)
    distinct, index = np.unique(named, axis=0, return_inverse=True)
    colour, texture = look
    textured = texture is not None and bool((distinct[:, 1] >= 0).all())
    return MeshPart(
        where[distinct[:, 0]],
        index.reshape(-1, 3).astype(np.int32),
        shown[distinct[:, 1]] if textured else None,
        colour,
        texture if textured else None,
        missing,
    )


def _looks(path: Path, libraries: list[str]) -> tuple[dict[str, Look], tuple[str, ...]]:
    """The materials of libraries, and the names of files that are not there. A line names one library, whose name may
    have spaces, or several."""
    looks: dict[str, Look] = {}
    missing: list[str] = []
    for said in libraries:
        names = said.split()
        if len(names) < 2 or _beside(path, said).is_file():
            names = [said]
        for name in names:
            library = _beside(path, name)
            if library.exists():
                looks |= _materials(library, missing)
            else:
                missing.append(name)
    return looks, tuple(dict.fromkeys(missing))


def _corner(written: str, points: int, texels: int) -> tuple[int, int]:
    """The numbers from 0 of a corner's vertex and texture vertex; -1 of none. Raises ValueError."""
    found = []
    for text, there in zip((*written.split("/"), "")[:2], (points, texels)):
        number = int(text) if text else 0
        at = number - 1 if number > 0 else there + number if number < 0 else -1
        if not -1 <= at < there or (number < 0 and at < 0):
            raise ValueError(f"has a face of vertex {number}, and {there} vertices")
        found.append(at)
    if found[0] < 0:
        raise ValueError("has a face without a vertex")
    return found[0], found[1]


def _materials(path: Path, missing: list[str]) -> dict[str, Look]:
    """Colour and texture of every material of a library; textures that are not there are put on the list."""
    found: dict[str, Look] = {}
    name = ""
    for line in _content(path, f"{path.name} ").decode("utf-8", "replace").splitlines():
        word, _, said = line.strip().replace("\t", " ").partition(" ")
        if word == "newmtl":
            name = said.strip()
            found[name] = _GRAY, None
        elif word == "Kd" and name:
            shares = said.partition("#")[0].split()
            if not shares:
                raise ValueError(f"{path.name} has a colour (Kd) without numbers")
            if shares[0] not in ("spectral", "xyz"):
                r, g, b = (round(255 * min(1.0, max(0.0, float(one)))) for one in (shares * 3)[:3])
                found[name] = (r, g, b), found[name][1]
        elif word == "map_Kd" and name:
            texture = _beside(path, _texture_name(said))
            if texture.exists():
                found[name] = found[name][0], codec.decode(_content(texture, f"{texture.name} "))
            else:
                missing.append(_texture_name(said))
    return found


_NUMBERS = {"-o": 3, "-s": 3, "-t": 3, "-mm": 2}  # that an option of a texture has, at most


def _texture_name(said: str) -> str:
    """The rest of a map's line after its options: a name may have spaces."""
    rest = said.strip()
    while rest.startswith("-"):
        option, _, rest = rest.partition(" ")
        for k in range(_NUMBERS.get(option, 1)):
            value, _, after = rest.lstrip().partition(" ")
            if not after or (k and not _is_number(value)):
                break
            rest = after
        rest = rest.strip()
    return rest


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _beside(path: Path, name: str) -> Path:
    """A file that another one names, in its folder or below."""
    folder = path.parent.resolve()
    found = (folder / name.replace("\\", "/")).resolve()
    if not found.is_relative_to(folder):
        raise ValueError(f"names a file outside its folder: {name}")
    return found


# ---------------------------------------------------------------- PLY


@dataclass(frozen=True)
class _Header:
    """What a PLY file says of itself: its form, and how many vertices and faces of which properties."""

    form: str
    points: int
    fields: list[list[str]]  # TYPE NAME
    polygons: int
    listed: list[list[str]]  # likewise, or list TYPE TYPE NAME
    corners: int  # which of these has the vertices


def _ply(data: bytes) -> MeshPart:
    head, found, body = data.partition(b"end_header\n")
    if not found:
        head, found, body = data.partition(b"end_header\r\n")
    if not found:
        raise ValueError("is no PLY file")
    header = _header(head)
    table, faces = (_ascii if header.form == "ascii" else _binary)(body, header)
    named = np.array([one for face in faces for one in _triangles(face)], np.int64).reshape(-1, 3)
    if len(named) and not 0 <= named.min() <= named.max() < header.points:
        wrong = int(named.min() if named.min() < 0 else named.max())
        raise ValueError(f"has a face of vertex {wrong}, and {header.points} vertices")
    # What no face uses is not drawn, and may be anything.
    used, index = np.unique(named, return_inverse=True)
    where = np.stack([table[axis][used] for axis in "xyz"], axis=1).astype(np.float64)
    colour = _GRAY
    if {"red", "green", "blue"} <= table.keys() and len(used):
        means = np.array([np.mean(table[one][used], dtype=np.float64) for one in ("red", "green", "blue")])
        if not np.isfinite(means).all():
            raise ValueError("has colours that are no numbers")
        r, g, b = (int(one) for one in np.clip(means, 0, 255))
        colour = r, g, b
    return MeshPart(where, index.reshape(-1, 3).astype(np.int32), None, colour, None)


def _header(head: bytes) -> _Header:
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    lines = [line for line in lines if line and line[0] not in ("comment", "obj_info")]
    if len(lines) < 2 or lines[0] != ["ply"] or lines[1][:1] != ["format"]:
        raise ValueError("is no PLY file")
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in lines[2:]:
        if line[0] == "element":
            elements.append((line[1], int(line[2]), []))
        elif line[0] == "property":
            elements[-1][2].append(line[1:])
    if [name for name, _, _ in elements[:2]] != ["vertex", "face"]:
        raise ValueError("has no vertices and then faces")
    (_, points, fields), (_, polygons, listed) = elements[:2]
    if points < 0 or polygons < 0:
        raise ValueError("has fewer than no vertices or faces")
    _check_points(points)
    _check_triangles(polygons)
    for field in (*fields, *listed):
        is_list = field[0] == "list"
        for name in field[1:3] if is_list else field[:1]:
            if name not in _TYPES:
                raise ValueError(f"has properties of `{name}`, which is no type")
        if is_list and field in fields:
            raise ValueError("has vertices with lists")
    for axis in "xyz":
        if axis not in [field[-1] for field in fields]:
            raise ValueError(f"has vertices without `{axis}`")
    lists = [k for k, field in enumerate(listed) if field[0] == "list"]
    named = [k for k in lists if listed[k][-1] in ("vertex_indices", "vertex_index")] or lists
    if len(named) != 1:
        raise ValueError("has faces without a list `vertex_indices`")
    return _Header(lines[1][1], points, fields, polygons, listed, named[0])


def _ascii(body: bytes, header: _Header) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    lines = body.decode("ascii", "replace").splitlines()
    points, fields = header.points, header.fields
    if len(lines) < points + header.polygons:
        raise ValueError("is cut off")
    given = [[float(one) for one in line.split()[: len(fields)]] for line in lines[:points]]
    if any(len(one) != len(fields) for one in given):
        raise ValueError(f"has a vertex of fewer than {len(fields)} numbers")
    rows = np.array(given, np.float64).reshape(points, len(fields))
    faces, made = [], 0
    for line in lines[points : points + header.polygons]:
        words, at = line.split(), 0
        for k, field in enumerate(header.listed):
            count = int(words[at]) if field[0] == "list" else 0
            if not 0 <= count < len(words) - at:
                raise ValueError("has a face that is cut off")
            if k == header.corners:
                made += max(0, count - 2)
                _check_triangles(made)
                faces.append([int(one) for one in words[at + 1 : at + 1 + count]])
            at += 1 + count
    return {field[-1]: rows[:, k] for k, field in enumerate(fields)}, faces


def _binary(body: bytes, header: _Header) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    order = ">" if "big" in header.form else "<"
    vertex = np.dtype([(field[-1], order + _TYPES[field[0]]) for field in header.fields])
    at = header.points * vertex.itemsize
    if len(body) < at:
        raise ValueError("is cut off")
    table = np.frombuffer(body, vertex, header.points)
    kinds = [[np.dtype(order + _TYPES[name]) for name in (one[1:3] if one[0] == "list" else one[:1])]
             for one in header.listed]  # fmt: skip
    faces, made = [], 0
    for _ in range(header.polygons):
        for k, types in enumerate(kinds):
            if len(body) < at + types[0].itemsize:
                raise ValueError("is cut off")
            # One number is how many follow, of a list, or the property itself.
            count = int(np.frombuffer(body, types[0], 1, at)[0]) if len(types) > 1 else 0
            at += types[0].itemsize
            if not 0 <= count <= 64 or len(body) < at + count * types[-1].itemsize:
                raise ValueError("is cut off, or has a face of too many corners")
            if k == header.corners:
                made += max(0, count - 2)
                _check_triangles(made)
                faces.append(np.frombuffer(body, types[1], count, at).tolist())
            at += count * types[-1].itemsize
    return {name: table[name] for name in vertex.names or ()}, faces
