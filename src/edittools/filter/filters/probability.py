"""What a classifier says: generated or real, safe or not."""

from typing import Any

from edittools.filter import Filter, Input, Model
from edittools.settings import setting


def load(name: str, config: Any) -> Any:
    from edittools.encoders.classifier import load_classifier

    model = load_classifier(name, **config.placed)
    model.column(config.label)  # which is there
    return model


CLASSIFIER = Model(
    "classifier",
    help="An image-classification checkpoint, for --max-prob.",
    load=load,
    told={"label": setting(None, "Which of the classifier's labels.", group="Model", metavar="LABEL")},
    parts=lambda weights, config: [config.label, *weights],
    missing="--max-prob bounds what a classifier says: name it with --classifier and --label",
)
FILTER = Filter(
    name="probability",
    option="--max-prob",
    help="Probability that the --classifier gives to its --label, at most this.",
    unit="0 to 1",
    group="By a model",
    source="FireRed 2.2.5: detection of generated images, by any image-classification checkpoint",
    bare="max",
    inputs=(Input(CLASSIFIER, "image"),),
    score=lambda models, image: image[:, models["classifier"].column(models.config.label)],
)
