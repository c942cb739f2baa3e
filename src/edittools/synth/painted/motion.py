"""A person raises an arm: painted along a skeleton whose arm was turned (a pose ControlNet)."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw

from edittools.ground.maps.pose import Points, openpose_of, skeletons
from edittools.ground.people import Bodies, Body
from edittools.painters.canvas import Brush
from edittools.synth.painting import Plan, Scene, worded

TASK = "motion"
HELP = "a person raises an arm, painted along a skeleton (a pose ControlNet); the person's look is the prompt's"
PROMPT = True
CONTROL = "pose"
BARE = True
# Of OpenPose's joints: shoulder, elbow, wrist; "left" is the viewer's.
_ARMS = {"left": (2, 3, 4), "right": (5, 6, 7)}
_UP = 0.6  # of the arm's length: how far above the shoulder a raised wrist is at least
_SAID = [
    "{have|make|let} the person raise the arm on the <side>",
    "the person should {raise|lift} the arm on the <side> {high|above the head|up}",
]


@functools.cache
def _bodies() -> Bodies:
    return Bodies()


def plans(scene: Scene, rng: np.random.Generator) -> list[Plan]:
    bodies = _bodies().find(scene.image, 0.7)
    return [] if len(bodies) != 1 else [plan for side in _ARMS if (plan := _plan(scene, bodies[0], side, rng))]


def _plan(scene: Scene, body: Body, side: str, rng: np.random.Generator) -> Plan | None:
    height, width = scene.image.shape[:2]
    joints = openpose_of(body)
    moved = raised(joints, _ARMS[side])
    if moved is None:
        return None
    arm = [point for k in _ARMS[side] for point in (moved[k],) if point is not None]
    if any(not (0 <= x < width and 0 <= y < height) for x, y in arm):
        return None
    # What is painted: the person, and where the arm will be.
    reach = Image.fromarray(((body.mask >= 0.5) * 255).astype(np.uint8))
    thick = max(4, round(0.35 * float(np.hypot(*np.subtract(arm[1], arm[0])))))
    ImageDraw.Draw(reach).line([tuple(point) for point in arm], fill=255, width=2 * thick, joint="curve")
    mask = np.asarray(reach) > 0
    grow = max(2, round(0.008 * max(height, width)))
    look = f"a person raising the {side} arm" if not scene.caption else f"{scene.caption}, raising the {side} arm"
    said = worded(_SAID, rng, side=side)
    slots: dict[str, object] = {"object": f"person: {side}", "side": side}
    return Plan(
        mask, Brush(grow, grow, 1.3), said, slots, prompt=look, look=look, there="person",
        control=skeletons([moved], height, width),
    )  # fmt: skip


def raised(joints: Points, arm: tuple[int, int, int]) -> Points | None:
    """The skeleton with an arm turned about its shoulder until it points upwards and a little outwards; None where it
    cannot be seen, or is up already."""
    shoulder, elbow, wrist = (joints[k] for k in arm)
    if shoulder is None or elbow is None or wrist is None:
        return None
    upper, lower = np.hypot(*np.subtract(elbow, shoulder)), np.hypot(*np.subtract(wrist, elbow))
    if min(upper, lower) < 4 or shoulder[1] - wrist[1] >= _UP * (upper + lower):
        return None
    outwards = -1 if arm == _ARMS["left"] else 1
    steep = np.array([outwards * np.sin(np.pi / 9), -np.cos(np.pi / 9)])
    new_elbow = np.array(shoulder) + upper * steep
    new_wrist = new_elbow + lower * steep
    made = list(joints)
    made[arm[1]], made[arm[2]] = tuple(new_elbow.tolist()), tuple(new_wrist.tolist())
    return made
