"""ImgEdit 4.2: yes or no for a dialogue of several turns.

Per kind of dialogue: content memory, content understanding, version backtracking. The paper does not say what one
answer is about; ours is about the dialogue.
"""

from edittools.bench.studies.design import Design, StudyDimension

STUDY = Design(
    "yes or no per dialogue (ImgEdit)",
    "Was every turn of the dialogue done as asked, in the light of the turns before it?",
    (StudyDimension("success", "The whole dialogue: yes or no."),),
    ("no", "yes"),
    (0, 1),
    "nominal",
    dialogue=True,
    keys=("n", "y"),
)
