"""The poses of people, as the skeletons that pose ControlNets were trained on (Cao et al. 2017, "OpenPose")."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from edittools.ground.networks import Network
from edittools.ground.people import Bodies, Body
from edittools.metrics.boxes import mask_box

HELP = "skeletons of people, OpenPose's 18 joints, offline (BlazePose), or by ViTPose"
WEIGHTS = ""
# OpenPose's joints: nose, neck, right shoulder, elbow, wrist, left ones, right hip, knee, ankle, left ones, right and
# left eye, right and left ear. Of the two other orders, where each is; the neck is the middle of the shoulders.
_BLAZE = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
COLOURS = [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(k / 18, 1, 1)) for k in range(18)]
_SURE = 0.5  # that a joint can be seen, by BlazePose
_SCORE = 0.3  # of a joint, by ViTPose


Points = list[tuple[float, float] | None]
"""OpenPose's 18 joints in pixels; None for those that are not seen."""


def load(weights: str = "", device: str = "cpu", dtype: str = "float32") -> Pose:
    return Pose(Joints(weights, device, dtype) if weights else None)


class Pose:
    def __init__(self, network: Joints | None) -> None:
        self.bodies, self.network = Bodies(), network

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        people = []
        for body in self.bodies.find(pixels, 0.5):
            if self.network is None:
                people.append(openpose_of(body))
            elif (box := mask_box(body.mask >= 0.5)) is not None:
                points, scores = self.network.find(pixels, box)
                people.append(openpose(points, scores >= _SCORE, _COCO))
        return skeletons(people, height, width)


class Joints(Network):
    """The 17 joints of COCO of a person in a box."""

    def __init__(self, weights: str, device: str, dtype: str) -> None:
        from transformers import VitPoseForPoseEstimation

        super().__init__(VitPoseForPoseEstimation, weights, device, dtype)
        # A network of several experts is told which data set the pose is asked in; the first is COCO.
        self.experts = getattr(self.network.config.backbone_config, "num_experts", 1) > 1

    def find(self, pixels: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (17, 2) in pixels and their scores."""
        import torch

        boxes = [[[box[0], box[1], box[2] - box[0], box[3] - box[1]]]]  # x, y, width, height here
        given = self.processor(images=[Image.fromarray(pixels)], boxes=boxes, return_tensors="pt")
        more = {"dataset_index": torch.zeros(1, dtype=torch.long, device=self.device)} if self.experts else {}

        def work() -> Any:
            return self.network(given["pixel_values"].to(self.device, self.dtype), **more)

        said = self.run(work)
        said.heatmaps = said.heatmaps.float().cpu()
        ((found,),) = self.processor.post_process_pose_estimation(said, boxes=boxes)
        return found["keypoints"].numpy().astype(float), found["scores"].numpy().astype(float)


def openpose_of(body: Body) -> Points:
    return openpose(body.joints, body.visible >= _SURE, _BLAZE)


def openpose(points: np.ndarray, seen: np.ndarray, order: tuple[int | None, ...]) -> Points:
    """OpenPose's joints out of another order."""
    found: Points = [(float(points[k, 0]), float(points[k, 1])) if k is not None and seen[k] else None for k in order]
    right, left = found[2], found[5]
    if right is not None and left is not None:
        found[1] = ((right[0] + left[0]) / 2, (right[1] + left[1]) / 2)
    return found


def skeletons(people: list[Points], height: int, width: int) -> np.ndarray:
    """Limbs and joints on black, uint8 HxWx3, at the widths that are usual for 512 pixels."""
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    unit = min(height, width) / 512
    for joints in people:
        for k, (a, b) in enumerate(_LIMBS):
            ends = joints[a], joints[b]
            if ends[0] is not None and ends[1] is not None:
                colour = tuple(round(0.6 * part) for part in COLOURS[k])
                draw.line([ends[0], ends[1]], fill=colour, width=max(1, round(8 * unit)))
        radius = max(1.0, 4 * unit)
        for colour, joint in zip(COLOURS, joints):
            if joint is not None:
                x, y = joint
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return np.asarray(image)
