"""Users' own meshes: OBJ files with their materials and textures, and PLY files, read and checked before a renderer
sees them, for what is damaged can end its process.

OBJ: Wavefront's Advanced Visualizer, appendix B1; PLY: Turk 1994, "The PLY Polygon File Format". y is up.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edittools.errors import RowError, UsageError
from edittools.stream import codec
from edittools.synth.core import Inapplicable

ENDINGS = (".obj", ".ply")
_MOST_BYTES = 64 << 20
_MOST_FACES = 500_000  # triangles
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


def find_meshes(folder: str | None) -> tuple[Path, ...]:
    """The meshes of a folder, in the order of their names. Raises UsageError where there is none."""
    if folder is None:
        return ()
    found = tuple(path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in ENDINGS)
    if not found:
        raise UsageError(f"--meshes {folder}: no mesh there", hint="a folder of .obj or .ply files")
    return found


@functools.lru_cache(maxsize=4)
def read_mesh(path: Path) -> tuple[MeshPart, ...]:
    """A mesh, scaled to the size of a person and put on the floor. Raises Inapplicable for one that cannot be drawn."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"has more than {_MOST_BYTES >> 20} MB")
        data = path.read_bytes()
        parts = _obj(data, path) if path.suffix.lower() == ".obj" else [_ply(data)]
        return tuple(_standing([part for part in parts if len(part.faces)]))
    except (ValueError, IndexError, KeyError, OSError, RowError) as error:
        raise Inapplicable(f"mesh {path.name}: {getattr(error, 'strerror', None) or error}") from error


def _standing(parts: list[MeshPart]) -> Iterator[MeshPart]:
    if not parts:
        raise ValueError("has no faces")
    if sum(len(part.faces) for part in parts) > _MOST_FACES:
        raise ValueError(f"has more than {_MOST_FACES:,} triangles")
    used = np.concatenate([part.vertices[part.faces.ravel()] for part in parts])
    if not np.isfinite(used).all():
        raise ValueError("has vertices that are no numbers")
    low, high = used.min(axis=0), used.max(axis=0)
    size = high - low
    if not size.max() > 0 or not np.isfinite(size).all():
        raise ValueError("has no size")
    radius = float(np.hypot(size[0], size[2])) / 2
    scale = min(_TALL / max(size[1], 1e-12), _WIDE / max(radius, 1e-12))
    for part in parts:
        x, y, z = ((part.vertices - [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]) * scale).T
        yield MeshPart(np.stack([x, -z, y], axis=1), part.faces, part.uv, part.colour, part.texture)


def _triangles(corners: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    """A polygon as a fan."""
    for k in range(1, len(corners) - 1):
        yield corners[0], corners[k], corners[k + 1]


# ---------------------------------------------------------------- OBJ


def _obj(data: bytes, path: Path) -> list[MeshPart]:
    points: list[list[float]] = []
    texels: list[list[float]] = []
    faces: dict[str, list[tuple[Any, Any, Any]]] = defaultdict(list)
    libraries: list[str] = []
    material = ""
    for line in data.decode("utf-8", "replace").replace("\\\n", " ").splitlines():
        word, *rest = line.split() or [""]
        if word == "v":
            points.append([float(one) for one in rest[:3]])
        elif word == "vt":
            texels.append([float(one) for one in (*rest, "0")[:2]])
        elif word == "f":
            corners = [_corner(one, len(points), len(texels)) for one in rest]
            faces[material] += _triangles(corners)
        elif word == "usemtl":
            material = " ".join(rest)
        elif word == "mtllib":
            libraries.append(" ".join(rest))
    if any(len(point) != 3 for point in points):
        raise ValueError("has a vertex without three numbers")
    looks = {name: look for library in libraries for name, look in _materials(_beside(path, library)).items()}
    where, shown = np.array(points, np.float64).reshape(-1, 3), np.array(texels, np.float64).reshape(-1, 2)
    made = []
    for name, triangles in faces.items():
        named = np.array(triangles, np.int64).reshape(-1, 2)
        distinct, index = np.unique(named, axis=0, return_inverse=True)
        colour, texture = looks.get(name, (_GRAY, None))
        textured = texture is not None and bool((distinct[:, 1] >= 0).all())
        made.append(
            MeshPart(
                where[distinct[:, 0]],
                index.reshape(-1, 3).astype(np.int32),
                shown[distinct[:, 1]] if textured else None,
                colour,
                texture if textured else None,
            )
        )
    return made


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


def _materials(path: Path) -> dict[str, tuple[tuple[int, int, int], np.ndarray | None]]:
    """Colour and texture of every material of a library."""
    found: dict[str, tuple[tuple[int, int, int], np.ndarray | None]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        word, *rest = line.split() or [""]
        if word == "newmtl":
            name = " ".join(rest)
            found[name] = _GRAY, None
        elif word == "Kd" and name and rest[0] not in ("spectral", "xyz"):
            r, g, b = (round(255 * min(1.0, max(0.0, float(one)))) for one in (rest * 3)[:3])
            found[name] = (r, g, b), found[name][1]
        elif word == "map_Kd" and name:
            texture = codec.decode(_beside(path, rest[-1]).read_bytes())
            found[name] = found[name][0], texture
    return found


def _beside(path: Path, name: str) -> Path:
    """A file that another one names, in its folder or below."""
    folder = path.parent.resolve()
    found = (folder / name.replace("\\", "/")).resolve()
    if not found.is_relative_to(folder):
        raise ValueError(f"names a file outside its folder: {name}")
    return found


# ---------------------------------------------------------------- PLY


def _ply(data: bytes) -> MeshPart:
    head, found, body = data.partition(b"end_header\n")
    if not found:
        head, found, body = data.partition(b"end_header\r\n")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    if not found or lines[0] != ["ply"] or lines[1][:1] != ["format"]:
        raise ValueError("is no PLY file")
    kind = lines[1][1]
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in lines[2:]:
        if line[:1] == ["element"]:
            elements.append((line[1], int(line[2]), []))
        elif line[:1] == ["property"]:
            elements[-1][2].append(line[1:])
    if [name for name, _, _ in elements[:2]] != ["vertex", "face"]:
        raise ValueError("has no vertices and then faces")
    (_, points, fields), (_, polygons, listed) = elements[:2]
    if points > _MOST_BYTES or polygons > _MOST_FACES or not 0 <= points or not 0 <= polygons:
        raise ValueError(f"has more than {_MOST_FACES:,} triangles")
    if len(listed) != 1 or listed[0][0] != "list":
        raise ValueError("has faces of another kind than lists of vertices")
    if kind == "ascii":
        table, faces = _ascii(body, points, fields, polygons)
    else:
        table, faces = _binary(body, points, fields, polygons, listed[0], ">" if "big" in kind else "<")
    where = np.stack([table[axis] for axis in "xyz"], axis=1).astype(np.float64)
    index = np.array([one for face in faces for one in _triangles(face)], np.int64).reshape(-1, 3)
    if len(index) and not 0 <= index.min() <= index.max() < points:
        raise ValueError(f"has a face of vertex {int(index.max())}, and {points} vertices")
    colour = _GRAY
    if {"red", "green", "blue"} <= table.keys() and points:
        r, g, b = (int(np.clip(np.mean(table[one]), 0, 255)) for one in ("red", "green", "blue"))
        colour = r, g, b
    return MeshPart(where, index.astype(np.int32), None, colour, None)


def _ascii(
    body: bytes, points: int, fields: list[list[str]], polygons: int
) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    lines = body.decode("ascii", "replace").splitlines()
    if len(lines) < points + polygons:
        raise ValueError("is cut off")
    rows = np.array([[float(one) for one in line.split()[: len(fields)]] for line in lines[:points]])
    rows = rows.reshape(points, len(fields))
    faces = [[int(one) for one in line.split()] for line in lines[points : points + polygons]]
    return {field[-1]: rows[:, k] for k, field in enumerate(fields)}, [face[1 : 1 + face[0]] for face in faces]


def _binary(
    body: bytes, points: int, fields: list[list[str]], polygons: int, listed: list[str], order: str
) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    if any(field[0] == "list" for field in fields):
        raise ValueError("has vertices with lists")
    vertex = np.dtype([(field[-1], order + _TYPES[field[0]]) for field in fields])
    size, number = (np.dtype(order + _TYPES[name]) for name in listed[1:3])
    at = points * vertex.itemsize
    if len(body) < at:
        raise ValueError("is cut off")
    table = np.frombuffer(body, vertex, points)
    faces = []
    for _ in range(polygons):
        if len(body) < at + size.itemsize:
            raise ValueError("is cut off")
        count = int(np.frombuffer(body, size, 1, at)[0])
        at += size.itemsize
        if not 0 <= count <= 64 or len(body) < at + count * number.itemsize:
            raise ValueError("is cut off, or has a face of too many corners")
        faces.append(np.frombuffer(body, number, count, at).tolist())
        at += count * number.itemsize
    return {name: table[name] for name in vertex.names or ()}, faces
