"""A figure, or a mesh, in front of the row's photograph, drawn by a renderer: posed, seen and lit as a template says.

Mitsuba 3 (Jakob et al. 2022) traces rays on the CPU and needs no display. One distant light casts shadows, and what
comes from all sides is the colour of a surface by how much it looks up (Phong's ambient term): nothing is left to
chance but where in a pixel a ray goes, which is drawn for every pixel alone. So pixels that an edit does not touch are
the same bytes before and after it, and the mask has what moved, and its shadows.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edittools.seeded import draw
from edittools.synth.core import Inapplicable, Pair, Tools
from edittools.synth.meshes import read_mesh
from edittools.synth.palette import COLORS, apart

SIDE = 256  # pixels of the shorter side, at most: a pair takes seconds
_SAMPLES = 8  # rays of a pixel
_SUN, _AMBIENT = 2.3, 0.4
_VARIANT = "scalar_rgb"  # the others want a compiler, or a GPU
_FLAT = 2000  # triangles: meshes of fewer have edges
_SKIN, _FLOOR = (214, 164, 128), (190, 190, 186)
_SHOULDER, _HIP, _HEAD = 1.38, 0.86, 1.66  # heights, in metres
FROM = {"left": -60, "right": 60}  # degrees round what is drawn, that light comes from
_drawing = threading.Lock()  # it uses all cores by itself


@dataclass(frozen=True)
class View:
    """What is drawn. Angles in degrees; left and right are the viewer's."""

    shirt: str
    trousers: str
    left_arm: float = 10  # of the arm from hanging straight down, outward
    right_arm: float = 10
    camera: float = 0  # round the figure, to the right
    light: float = -60  # likewise: from the left
    mesh: Path | None = None  # in place of the figure
    turn: float = 0  # of the mesh about its upright axis, its front to the right


def _check_renderer() -> None:
    if importlib.util.find_spec("mitsuba") is None:
        raise Inapplicable("no renderer: pip install 'edittools[render]'")


def figure_slots(rng: np.random.Generator) -> dict:
    """Draw what the figure wears. Raises Inapplicable where there is no renderer."""
    _check_renderer()
    shirt = draw(rng, list(COLORS))
    return {"shirt_color": shirt, "trousers_color": draw(rng, apart((shirt,)))}


def view_of(slots: dict) -> View:
    return View(slots["shirt_color"], slots["trousers_color"])


def mesh_slots(rng: np.random.Generator, tools: Tools) -> dict:
    """Draw a mesh and how it stands. Raises Inapplicable where there is no renderer, or no mesh that can be drawn."""
    if not tools.meshes:
        raise Inapplicable("no meshes: --meshes names a folder")
    _check_renderer()
    chosen = tools.meshes[int(rng.integers(len(tools.meshes)))]
    missing = read_mesh(chosen)[0].missing
    slots = {"mesh": chosen.name, "number": tools.meshes.index(chosen), "facing": int(rng.integers(-30, 31))}
    return slots | ({"missing": list(missing)} if missing else {})


def mesh_view(slots: dict, tools: Tools) -> View:
    return View("", "", mesh=tools.meshes[slots["number"]], turn=slots["facing"])


def other_side(slots: dict) -> dict:
    return slots | {"side": "right" if slots["side"] == "left" else "left"}


def light_moved(view: View, photo: np.ndarray, slots: dict) -> Pair:
    """Light comes from the side that the slots say, and came from the other one."""
    before, after = (replace(view, light=FROM[one["side"]]) for one in (other_side(slots), slots))
    return Pair(render(before, photo), render(after, photo))


def camera_moved(view: View, photo: np.ndarray, slots: dict) -> Pair:
    """The camera has gone round so many degrees to the side that the slots say."""
    # Half of the way before the middle and half behind it, so that the way back is drawn alike.
    half = int(slots["degrees"]) / 2 * (1 if slots["side"] == "right" else -1)
    return Pair(render(replace(view, camera=-half), photo), render(replace(view, camera=half), photo))


def render(view: View, photo: np.ndarray) -> np.ndarray:
    """uint8 of the photograph's shape, scaled down to SIDE pixels at the shorter side. Raises Inapplicable for a mesh
    that the renderer cannot draw."""
    mitsuba: Any = importlib.import_module("mitsuba")
    short = min(photo.shape[:2])
    height, width = (max(16, round(length * min(1, SIDE / short))) for length in photo.shape[:2])
    name = f"mesh {view.mesh.name}: " if view.mesh is not None else ""
    with _drawing, contextlib.ExitStack() as stack:
        mitsuba.set_variant(_VARIANT)
        if view.mesh is None:
            subject = _figure(view)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            subject = _mesh(mitsuba, view.mesh, view.turn, Path(folder))
        try:
            scene = mitsuba.load_dict(_scene(mitsuba, view, photo, height, width) | subject)
            drawn = np.array(mitsuba.render(scene, seed=0), np.float64)
        except RuntimeError as error:
            if view.mesh is None:
                raise
            raise Inapplicable(f"{name}the renderer does not take it") from error
    if not np.isfinite(drawn).all():
        raise Inapplicable(f"{name}the renderer gives no numbers")
    lit, colour, up = drawn[..., :3], drawn[..., -6:-3], drawn[..., -1:]
    linear = np.clip(lit + _AMBIENT * colour * (3 + up) / 4, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    return np.floor(255 * srgb + 0.5).astype(np.uint8)


def _scene(mitsuba: Any, view: View, photo: np.ndarray, height: int, width: int) -> dict[str, Any]:
    move = mitsuba.ScalarTransform4f
    eye, sun = (_round_about(angle, 4.6, rise) for angle, rise in ((view.camera, 1.7), (view.light, 4.0)))
    aim, bright = [0.0, 0.0, 0.95], {"type": "rgb", "value": _SUN}
    # The photograph stands behind the figure three times as wide and high, its mirror images beside and above it.
    high, wide = 2.4, 2.4 * photo.shape[1] / photo.shape[0]
    wall = move().translate([0, 1.6, high]).rotate([1, 0, 0], 90).scale([3 * wide, 3 * high, 1])
    shown = mitsuba.Bitmap(np.array(photo[::-1]))
    texture = {
        "type": "bitmap", "bitmap": shown, "wrap_mode": "mirror",
        "to_uv": move().translate([-1, -1, 0]).scale([3, 3, 1]),
    }  # fmt: skip
    return {
        "type": "scene",
        "integrator": {
            "type": "aov", "aovs": "colour:albedo,normal:sh_normal", "block_size": 1,  # it has one random sequence
            "lit": {"type": "direct"},
        },
        "sensor": {
            "type": "perspective", "fov": 34, "fov_axis": "smaller", "to_world": move().look_at(eye, aim, [0, 0, 1]),
            "film": {"type": "hdrfilm", "width": width, "height": height, "rfilter": {"type": "box"}},
            "sampler": {"type": "independent", "sample_count": _SAMPLES},
        },
        "sun": {"type": "directional", "direction": [a - s for a, s in zip(aim, sun)], "irradiance": bright},
        "wall": {"type": "rectangle", "to_world": wall, "bsdf": {"type": "diffuse", "reflectance": texture}},
        "floor": {"type": "rectangle", "to_world": move().scale(12), "bsdf": _matt(_FLOOR)},
    }  # fmt: skip


def _mesh(mitsuba: Any, path: Path, turn: float, folder: Path) -> dict[str, Any]:
    """The parts of a mesh, turned, as files that were written for the renderer alone."""
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    made = {}
    for k, part in enumerate(read_mesh(path)):
        uv = np.zeros((len(part.vertices), 2)) if part.uv is None else part.uv
        table = np.concatenate([part.vertices @ rotation.T, uv], axis=1).astype("<f4")
        faces = np.zeros(len(part.faces), [("count", "u1"), ("corners", "<i4", 3)])
        faces["count"], faces["corners"] = 3, part.faces
        names = "".join(f"property float {name}\n" for name in "xyzuv")
        head = (
            f"ply\nformat binary_little_endian 1.0\nelement vertex {len(table)}\n{names}"
            f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
        )
        file = folder / f"{k}.ply"
        file.write_bytes(head.encode() + table.tobytes() + faces.tobytes())
        colour = _matt(part.colour)
        if part.texture is not None:
            colour = {"type": "diffuse", "reflectance": {
                "type": "bitmap", "bitmap": mitsuba.Bitmap(np.array(part.texture[::-1])),
            }}  # fmt: skip
        made[f"mesh_{k}"] = {
            "type": "ply", "filename": str(file), "face_normals": len(faces) < _FLAT,
            "bsdf": {"type": "twosided", "bsdf": colour},
        }  # fmt: skip
    return made


def _figure(view: View) -> dict[str, Any]:
    shirt, trousers = _matt(COLORS[view.shirt]), _matt(COLORS[view.trousers])
    parts = {"head": {"type": "sphere", "center": [0, 0, _HEAD], "radius": 0.14, "bsdf": _matt(_SKIN)}}
    for side in (-1, 1):
        eye = {"type": "sphere", "center": [side * 0.05, -0.125, _HEAD + 0.03], "radius": 0.022}
        parts[f"eye_{side + 1}"] = {**eye, "bsdf": _matt((20, 20, 20))}
    parts |= _limb("torso", (0, 0, _HIP + 0.1), (0, 0, _SHOULDER - 0.14), 0.2, shirt)
    parts |= _limb("neck", (0, 0, _SHOULDER), (0, 0, _HEAD), 0.06, _matt(_SKIN))
    for name, side, angle in (("left", -1, view.left_arm), ("right", 1, view.right_arm)):
        parts |= _limb(f"{name}_leg", (side * 0.1, 0, _HIP), (side * 0.13, 0, 0.08), 0.09, trousers)
        shoulder = np.array([side * 0.24, 0, _SHOULDER - 0.06])
        along = np.array([side * np.sin(np.radians(angle)), 0, -np.cos(np.radians(angle))])
        parts |= _limb(f"{name}_sleeve", shoulder, shoulder + 0.28 * along, 0.07, shirt)
        parts |= _limb(f"{name}_arm", shoulder + 0.28 * along, shoulder + 0.56 * along, 0.05, _matt(_SKIN))
    return parts


def _limb(name: str, start: Any, end: Any, radius: float, colour: dict[str, Any]) -> dict[str, Any]:
    """A cylinder with round ends."""
    ends = [[float(value) for value in place] for place in (start, end)]
    made = {f"{name}_{k}": {"type": "sphere", "center": place, "radius": radius} for k, place in enumerate(ends)}
    made[name] = {"type": "cylinder", "p0": ends[0], "p1": ends[1], "radius": radius}
    return {part: {**shape, "bsdf": colour} for part, shape in made.items()}


def _matt(srgb: tuple[int, int, int]) -> dict[str, Any]:
    shares = np.array(srgb) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    return {"type": "diffuse", "reflectance": {"type": "rgb", "value": np.clip(linear, 0.01, 0.95).tolist()}}


def _round_about(angle: float, distance: float, rise: float) -> list[float]:
    """A place in front of the figure, which looks to -y, and so far round it to the right."""
    return [distance * float(np.sin(np.radians(angle))), -distance * float(np.cos(np.radians(angle))), rise]
