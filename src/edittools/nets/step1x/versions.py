"""The published versions of Step1X-Edit, and what each is asked with."""

from __future__ import annotations

from dataclasses import dataclass

# The requests that the released models were trained with; they are part of the models' input format.
ENHANCE = (
    'Given a user prompt, generate an "Enhanced prompt" that provides detailed visual descriptions suitable for image '
    "generation. Evaluate the level of detail in the user prompt:\n"
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
    "relationships to create vivid and concrete scenes.\n"
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating."
    "\n\n"
    "Here are examples of how to transform or refine prompts:\n"
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
    "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n"
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
    "skyscrapers.\n\n"
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:\n"
    "User Prompt:"
)
DESCRIBE = (
    "Given a reference image and a user editing instruction.\n"
    "You need to understand the information of the reference image and the content of the editing instruction,\n"
    "and then generate a detailed description of the edited target image based on the reference image and the editing "
    "instruction. \n"
    "The description should include the requirements in the editing instruction and try to closely match the content "
    "of the target image.\n"
    "The editing instruction is:"
)


@dataclass(frozen=True)
class Version:
    """Differences between the releases, as in their inference code."""

    request: str
    dropped: int  # tokens of the system prompt and the request, but for the request's last colon
    length: int  # the text stream's longest; v1.0 and v1.1 pad to it, and all of it attends
    pads: bool
    max_pixels: int  # of the image that the language model sees
    reference_ids: str
    pooled_scale: bool
    quoted_text: bool  # words in quotation marks go past the refiner too, and text tokens have positions


VERSIONS = {
    "1.0": Version(ENHANCE, 217, 640, True, 324 * 28 * 28, "target", True, False),
    "1.1": Version(ENHANCE, 217, 640, True, 324 * 28 * 28, "shifted", False, False),
    "1.2": Version(DESCRIBE, 90, 2048, False, 400 * 28 * 28, "frame", False, True),
}
