"""Users' own meshes: what is read of OBJ and PLY files, by hand; damaged ones; what a renderer makes of them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Runner, encode, rejects_of, rows_of
from test_synth import TOOLS, make_image

from edittools.errors import UsageError
from edittools.stream.history import History
from edittools.synth import meshes, scene3d
from edittools.synth.config import SynthConfig
from edittools.synth.core import Inapplicable, Tools
from edittools.synth.meshes import find_meshes, read_mesh
from edittools.synth.registry import load
from edittools.synth.scene3d import View, render
from edittools.synth.stage import SynthStage
from edittools.synth.synthesis import invert, synthesize

PHOTO = make_image(4, 96, 128)
CORNERS = [(x, y, z) for z in (0, 2) for y in (0, 4) for x in (0, 2)]  # 2 wide, 4 high, 2 deep
# The square in front (z = 2, towards who looks) has the texture; the others, as polygons, a colour.
BOX = "\n".join(
    ["mtllib box.mtl"]
    + [f"v {x} {y} {z}" for x, y, z in CORNERS]
    + ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    + ["usemtl picture", "f 5/1 6/2 8/3 7/4", "usemtl plain", "f -8 -7 -5 -6", "f 1 2 6 5", "f 3 4 8 7", "f 1 3 7 5"]
    + ["f 2 4 8 6"]
)
HEAD = "ply\nformat {} 1.0\nelement vertex 4\n{}element face {}\nproperty list uchar int vertex_indices\nend_header\n"
FIELDS = "property float x\nproperty float y\nproperty float z\n"


def write_box(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4, :4], picture[:4, 4:], picture[4:] = (220, 20, 20), (20, 20, 220), (20, 200, 20)
    (folder / "picture.png").write_bytes(encode(picture, "PNG"))
    (folder / "box.mtl").write_text("newmtl picture\nKd 1 1 1\nmap_Kd picture.png\nnewmtl plain\nKd 1 1 0\n")
    (folder / "box.obj").write_text(BOX)
    return folder / "box.obj"


def test_an_obj_file_by_hand(tmp_path: Path) -> None:
    front, rest = read_mesh(write_box(tmp_path))
    assert front.texture is not None and front.texture.shape == (8, 8, 3) and front.colour == (255, 255, 255)
    assert rest.texture is None and rest.uv is None and rest.colour == (255, 255, 0)
    assert len(front.faces) == 2 and len(rest.faces) == 10
    # 4 high becomes 1.7 m; y is up in the file and z here, and what was towards the viewer (z) is at -y.
    scale = 1.7 / 4
    assert np.allclose(rest.vertices.min(axis=0), [-scale, -scale, 0])
    assert np.allclose(rest.vertices.max(axis=0), [scale, scale, 1.7])
    assert np.allclose(front.vertices[:, 1], -scale)
    assert front.uv is not None
    for place, uv in zip(front.vertices, front.uv):
        assert np.allclose(uv, [(place[0] + scale) / (2 * scale), place[2] / 1.7])


def test_ply_files_in_all_three_forms(tmp_path: Path) -> None:
    points, faces = [(0, 0, 0), (2, 0, 0), (2, 1, 0), (0, 1, 0)], [(0, 1, 2), (0, 2, 3)]
    (tmp_path / "a.ply").write_text(
        HEAD.format("ascii", FIELDS, 1) + "\n".join(" ".join(map(str, p)) for p in points) + "\n4 0 1 2 3\n"
    )
    for name, order, form in (("b.ply", "<", "binary_little_endian"), ("c.ply", ">", "binary_big_endian")):
        fields = FIELDS + "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        data = b"".join(struct.pack(order + "3f3B", *p, 200, 100, 50) for p in points)
        data += b"".join(struct.pack(order + "B3i", 3, *face) for face in faces)
        (tmp_path / name).write_bytes(HEAD.format(form, fields, 2).encode() + data)
    (ascii_one,), (little,), (big,) = (read_mesh(tmp_path / f"{name}.ply") for name in "abc")
    for part in (ascii_one, little, big):
        corners = part.vertices[part.faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
        assert area == pytest.approx(2 * 0.8**2), "2 by 1, scaled to a radius of .8: 1.6 by .8"
    assert little.colour == big.colour == (200, 100, 50)


TEXTURED = b"mtllib box.mtl\nusemtl picture\nv 0 0 0\nv 1 0 0.5\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"
DAMAGED = {
    "index.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n",
    "none.obj": b"v 0 0 0\nv 1 0 0\n",
    "empty.obj": b"",
    "nan.obj": b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "point.obj": b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n",
    "words.obj": b"v a b c\n",
    "short.obj": b"v 1 2\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "vast.obj": b"v 1e308 0 0\nv -1e308 0 0\nv 0 1 0\nf 1 2 3\n",
    "outside.obj": b"mtllib ../x.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "bytes.obj": bytes(range(256)) * 9,
    "bytes.ply": b"ply\n" + bytes(range(256)),
    "cut.ply": HEAD.format("binary_little_endian", FIELDS, 1).encode() + bytes(20),
    "far.ply": HEAD.format("binary_little_endian", FIELDS, 1).encode() + bytes(48) + struct.pack("<B3i", 3, 0, 1, 9**9),
    "minus.ply": HEAD.format("ascii", FIELDS, 1).encode() + b"0 0 0\n1 0 0\n0 1 0\n1 1 0\n3 0 1 -2\n",
    "many.ply": HEAD.format("ascii", FIELDS, 10**9).encode(),
    "large.ply": HEAD.format("ascii", FIELDS, 1).encode() + b"0 0 0\n1 0 0\n0 1 0\n1 1 0\n3 0 1 99999999999999999999\n",
    "count.ply": HEAD.format("binary_little_endian", FIELDS, 1).replace("uchar int", "float int").encode() + bytes(48)
    + struct.pack("<f3i", np.inf, 0, 1, 2),
    "axis.ply": HEAD.format("ascii", FIELDS.replace(" z", " w"), 1).encode() + b"0 0 0\n" * 4 + b"3 0 1 2\n",
    "type.ply": HEAD.format("ascii", FIELDS.replace("float z", "half z"), 1).encode() + b"0 0 0\n" * 4 + b"3 0 1 2\n",
    "vt_nan.obj": TEXTURED.replace(b"vt 1 0", b"vt nan nan"),
    "vt_far.obj": TEXTURED.replace(b"vt 1 0", b"vt 1e30 -1e30"),
    "lists.ply": HEAD.format("ascii", FIELDS, 1).replace("list uchar int vertex_indices", "int x").encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_drawn_says_why(name: str, tmp_path: Path) -> None:
    """Some of these end the process of the renderer, if they come to it."""
    write_box(tmp_path)
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(Inapplicable, match=f"mesh {name}: "):
        read_mesh(tmp_path / name)


SAID = {
    "large.ply": "has a number that is too large",
    "count.ply": "has a number that is too large",
    "axis.ply": "has vertices without `z`",
    "type.ply": "has properties of `half`, which is no type",
    "vt_nan.obj": "has texture coordinates that are no numbers, or beyond 1,000",
    "vt_far.obj": "has texture coordinates that are no numbers, or beyond 1,000",
    "minus.ply": "has a face of vertex -2, and 4 vertices",
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_wrong_is_said(name: str, tmp_path: Path) -> None:
    write_box(tmp_path)
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(Inapplicable) as raised:
        read_mesh(tmp_path / name)
    assert str(raised.value) == f"mesh {name}: {SAID[name]}"


TRIANGLE = b"v 0 0 0\nv 1 0 0.5\nv 0 1 0\n"


def test_ordinary_meshes_of_other_programs(tmp_path: Path) -> None:
    write_box(tmp_path)
    for k, library in enumerate((b"box.mtl # c", b"absent.mtl box.mtl", b"two words.mtl")):
        path = tmp_path / f"{k}.obj"
        path.write_bytes(b"mtllib " + library + b"\nusemtl plain\n" + TRIANGLE + b"f 1 2 3 # a comment\n")
        (tmp_path / "two words.mtl").write_text("newmtl plain\nKd 1 1 0 # yellow\n")
        (part,) = read_mesh(path)
        assert part.colour == (255, 255, 0) and len(part.faces) == 1
        assert "absent.mtl" in part.missing or k != 1
    (tmp_path / "my picture.png").write_bytes((tmp_path / "picture.png").read_bytes())
    for k, (said, there) in enumerate(
        (
            ("my picture.png", True),
            ("-clamp on -s 2 2 -mm 0 1 my picture.png", True),
            ("-o 0.5 my picture.png", True),
            ("gone.png", False),
        )
    ):
        (tmp_path / f"t{k}.mtl").write_text(f"newmtl picture\nKd 1 0 0\nmap_Kd {said}\n")
        (tmp_path / f"t{k}.obj").write_bytes(TEXTURED.replace(b"box.mtl", b"t%d.mtl" % k))
        (part,) = read_mesh(tmp_path / f"t{k}.obj")
        assert (part.texture is not None) is there and part.missing == (() if there else ("gone.png",))
    (tmp_path / "lone.obj").write_bytes(b"mtllib gone.mtl\nusemtl x\n" + TRIANGLE + b"f 1 2 3\n")
    (part,) = read_mesh(tmp_path / "lone.obj")
    assert part.colour == (180, 180, 180) and part.missing == ("gone.mtl",)


def test_properties_of_ply_faces_and_vertices_that_no_face_uses(tmp_path: Path) -> None:
    more = (
        "property uchar flag\nproperty list uchar int vertex_indices\nproperty list uchar float texcoord\n"
        "property uchar red\n"
    )
    points = [(0, 0, 0), (2, 0, 0), (2, 1, 0), (np.nan, 1e300, np.inf)]
    heads = [
        HEAD.format(form, FIELDS.replace("float", "double"), 1).replace(
            "property list uchar int vertex_indices\n", more
        )
        for form in ("ascii", "binary_little_endian")
    ]
    (tmp_path / "a.ply").write_text(
        heads[0].replace("format", "comment by hand\nformat")
        + "".join(" ".join(map(str, p)) + "\n" for p in points)
        + "7 3 0 1 2 2 .5 .5 200\n"
    )
    packed = b"".join(struct.pack("<3d", *p) for p in points)
    packed += struct.pack("<BB3iB2fB", 7, 3, 0, 1, 2, 2, 0.5, 0.5, 200)
    (tmp_path / "b.ply").write_bytes(heads[1].encode() + packed)
    for name in ("a.ply", "b.ply"):
        (part,) = read_mesh(tmp_path / name)
        assert part.faces.tolist() == [[0, 1, 2]] and part.vertices.shape == (3, 3)
        assert np.isfinite(part.vertices).all()


def test_limits_hold_while_a_mesh_is_read_and_failures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meshes, "_MOST_FACES", 5)
    made: list[int] = []
    triangles = meshes._triangles
    monkeypatch.setattr(meshes, "_triangles", lambda some: made.append(len(some)) or triangles(some))
    path = tmp_path / "many.obj"
    path.write_bytes(TRIANGLE + b"f 1 2 3\n" * 1000)
    for _ in range(2):
        with pytest.raises(Inapplicable, match="more than 5 triangles"):
            read_mesh(path)
    assert len(made) == 5, "no sixth, and the file is read once"
    monkeypatch.setattr(meshes, "_MOST_BYTES", 300)
    path = write_box(tmp_path / "box")
    path.write_bytes(TEXTURED)
    (path.parent / "box.mtl").write_text("newmtl picture\n" + "#" * 300)
    with pytest.raises(Inapplicable, match=r"mesh box\.obj: box\.mtl has more than"):
        read_mesh(path)


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshes, "_MOST_BYTES", 100)
    with pytest.raises(Inapplicable, match="has more than"):
        read_mesh(write_box(tmp_path / "a"))
    monkeypatch.undo()
    monkeypatch.setattr(meshes, "_MOST_FACES", 5)
    with pytest.raises(Inapplicable, match="more than 5 triangles"):
        read_mesh(write_box(tmp_path / "b"))


def test_a_folder_without_meshes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no mesh there"):
        find_meshes(str(tmp_path))
    _, skipped = synthesize(PHOTO, "r", templates=["mesh_turn"], tools=TOOLS)
    assert skipped == [("mesh_turn", "no meshes: --meshes names a folder")]


def test_links_and_folders_are_no_meshes(tmp_path: Path) -> None:
    box = write_box(tmp_path)
    (tmp_path / "gone.obj").symlink_to("nowhere")
    (tmp_path / "folder.obj").mkdir()
    assert find_meshes(str(tmp_path)) == (box,)

    def said() -> object:
        stage = SynthStage(SynthConfig(templates="mesh_light", meshes=str(tmp_path)))
        return stage.settings(pa.schema([]), History())["meshes"]

    before = said()
    assert said() == before
    box.write_text(BOX.replace("v 0 0 0", "v 0 0 1"))
    moved = said()
    (tmp_path / "box.mtl").write_text((tmp_path / "box.mtl").read_text().replace("1 1 0", "0 1 1"))
    assert len({str(before), str(moved), str(said())}) == 3, "by their contents, not their sizes"


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mitsuba")
    monkeypatch.setattr(scene3d, "SIDE", 96)


def test_the_texture_is_upright_where_the_camera_sees_it(quickly: None, tmp_path: Path) -> None:
    drawn = render(View("", "", mesh=write_box(tmp_path)), np.full((96, 128, 3), 90, np.uint8)).astype(int)
    # The front is .85 m wide and 1.7 m high, 4.6 - .425 m away: about half of the picture's height.
    upper, lower = drawn[36], drawn[58]
    assert upper[57, 0] > 2 * upper[57, 1:].max(), "red at the upper left"
    assert upper[71, 2] > 2 * upper[71, :2].max(), "blue at the upper right"
    assert lower[57, 1] > 2 * lower[57, ::2].max() and lower[71, 1] > 2 * lower[71, ::2].max(), "green below"


@pytest.mark.parametrize("name", ["mesh_turn", "mesh_camera", "mesh_light"])
def test_pairs_and_their_way_back(quickly: None, name: str, tmp_path: Path) -> None:
    tools = Tools(TOOLS.fonts, (write_box(tmp_path),))
    (sample,), skipped = synthesize(PHOTO, "r3", templates=[name], tools=tools)
    assert not skipped and sample.slots["mesh"] == "box.obj"
    assert np.array_equal(sample.mask > 0, (sample.source != sample.target).any(axis=2)) and sample.mask.any()
    back = invert(sample, "r3")
    assert back is not None
    pair = load(name).pair(PHOTO, back.slots, tools)
    assert np.array_equal(pair.source, sample.target) and np.array_equal(pair.target, sample.source)
    if name == "mesh_turn":
        assert sample.mask.mean() / 255 < 0.4, "the photograph stays but for the shadow"


def test_what_the_renderer_refuses_or_cannot_count_is_no_row(
    quickly: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mitsuba

    mitsuba.set_variant("scalar_rgb")
    tools, render_it = Tools(TOOLS.fonts, (write_box(tmp_path),)), mitsuba.render

    def refuse(scene: object, seed: int) -> None:
        raise RuntimeError("damaged")

    monkeypatch.setattr(mitsuba, "render", refuse)
    _, skipped = synthesize(PHOTO, "r", templates=["mesh_turn"], tools=tools)
    assert skipped == [("mesh_turn", "mesh box.obj: the renderer does not take it")]
    monkeypatch.setattr(mitsuba, "render", lambda scene, seed: np.array(render_it(scene, seed=seed)) * np.nan)
    _, skipped = synthesize(PHOTO, "r", templates=["mesh_turn"], tools=tools)
    assert skipped == [("mesh_turn", "mesh box.obj: the renderer gives no numbers")]


def test_a_turn_to_the_right_shows_the_left_side(quickly: None, tmp_path: Path) -> None:
    """The front goes to the right: its middle, red beside blue, as well; the plain side comes from the left."""
    plain = np.full((96, 128, 3), 90, np.uint8)
    box = write_box(tmp_path)
    still, turned = (render(View("", "", mesh=box, turn=angle), plain)[36].astype(int) for angle in (0, 45))

    def edge(row: np.ndarray) -> float:
        """Where blue begins."""
        return float(np.nonzero(row[:, 2] > 2 * row[:, :2].max(axis=1))[0].min())

    def yellow(row: np.ndarray) -> np.ndarray:
        return np.nonzero(row[:, :2].min(axis=1) > 3 * row[:, 2])[0]

    assert edge(turned) > edge(still) + 2
    assert len(yellow(turned)) > len(yellow(still)) + 3 and yellow(turned).mean() < 64


def test_the_command(edit: Runner, quickly: None, tmp_path: Path) -> None:
    write_box(tmp_path / "meshes")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.obj").write_bytes(DAMAGED["index.obj"])
    (tmp_path / "a.png").write_bytes(encode(PHOTO, "PNG"))
    edit("synth", "a.png", "--templates", "mesh_light", "--meshes", "meshes", "-o", "made/", cwd=tmp_path)
    (row,) = rows_of(tmp_path / "made")
    assert row["task"] == "tone" and "box.obj" in row["provenance"]["slots"]
    edit("synth", "a.png", "--templates", "mesh_light", "--meshes", "bad", "-o", "none/", cwd=tmp_path)
    (reject,) = rejects_of(tmp_path / "none")
    assert reject["reason"] == "mesh x.obj: has a face of vertex 9, and 3 vertices"
    said = edit("synth", "a.png", "--templates", "mesh_light", "--meshes", "absent", cwd=tmp_path, check=2).stderr
    assert "--meshes absent: no mesh there" in said
    settings = SynthStage(SynthConfig(templates="mesh_light", meshes=str(tmp_path / "meshes")))
    assert settings.config.recorded() == SynthConfig(templates="mesh_light").recorded(), (
        "where they lie is not recorded"
    )
