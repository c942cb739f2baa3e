"""Costs of calls: a table of prices, and an estimate before a run."""

from __future__ import annotations

import io
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from importlib import resources

from PIL import Image

from edittools.errors import EditError
from edittools.vlm import EncodedImage, Request

_WRITTEN = 500  # tokens that a reply is taken to have where the request has no max_tokens
# A dated or numbered snapshot of a model costs what the model costs; `gpt-4o-mini` is not a snapshot of `gpt-4o`.
_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{3,8}|latest|preview-\d{2}-\d{2,4}(-\d{4})?)$")


@dataclass(frozen=True)
class Price:
    """`input` and `output` per million tokens; an image counts as `image_base` tokens and one more for every
    `pixels_per_token` pixels, of `max_pixels` at most. The defaults are those of Qwen2.5-VL: 28 x 28 pixels a token.
    """

    input: float
    output: float
    image_base: float = 2.0
    pixels_per_token: float = 784.0
    max_pixels: float = 12_845_056.0


@dataclass(frozen=True)
class Prices:
    """A price table: {model: Price}, with the day it was made and the currency, for reports."""

    models: dict[str, Price]
    date: str
    currency: str
    name: str  # of the file

    def find(self, model: str) -> Price:
        """The price of a model or of a dated snapshot of it. Raises EditError."""
        short = model.removeprefix("models/")  # how Gemini's address may write it
        for name in (short, _SNAPSHOT.sub("", short)):
            if name in self.models:
                return self.models[name]
        raise EditError(
            f"{self.name} has no price for `{model}`",
            hint='give a price table of your own: a TOML file with ["MODEL"], input = ... and output = ... (per '
            "million tokens)",
        )

    def scaled(self, factor: float) -> Prices:
        """The same table at another rate, such as that of batches."""
        models = {name: replace(p, input=p.input * factor, output=p.output * factor) for name, p in self.models.items()}
        return replace(self, models=models)

    def cost(self, model: str, prompt_tokens: float, completion_tokens: float) -> float:
        price = self.find(model)
        return (price.input * prompt_tokens + price.output * completion_tokens) / 1e6


def load_prices(path: str | None = None) -> Prices:
    """A price table in TOML, or the one that comes with edittools. Raises EditError."""
    try:
        if path is None:
            text = resources.files(__package__).joinpath("prices.toml").read_text("utf-8")
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EditError(f"{path}: cannot read this price table: {error}") from error
    name = path or "prices.toml"
    date, currency = str(table.pop("date", "undated")), str(table.pop("currency", "USD"))
    known = {field.name for field in fields(Price)}
    models = {}
    for model, values in table.items():
        numbers = isinstance(values, dict) and all(
            isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in values.values()
        )
        if not numbers or not {"input", "output"} <= values.keys() <= known:
            others = ", ".join(sorted(known - {"input", "output"}))
            raise EditError(f"{name}: [{model}] needs the numbers input and output, and may have {others} beside them")
        if values.get("pixels_per_token") == 0:
            raise EditError(f"{name}: [{model}] has 0 pixels_per_token")
        models[model] = Price(**values)
    return Prices(models, date, currency, name)


def estimate_tokens(request: Request, prices: Prices | None = None) -> tuple[int, int]:
    """(prompt tokens, written tokens) that a request may take.

    Text: one token for 4 ASCII characters, and one for every other character. Images: by their size, see Price.
    Written: `max_tokens` or `max_completion_tokens`, else 500. Without prices images count as for Qwen2.5-VL.
    """
    price = Price(0, 0) if prices is None else prices.find(request.model)
    total = 0.0
    for part in request.parts:
        if isinstance(part, EncodedImage):
            total += price.image_base + min(_pixels(part), price.max_pixels) / price.pixels_per_token
        else:
            other = sum(not character.isascii() for character in part)
            total += other + (len(part) - other) / 4
    parameters = request.parameters
    written = parameters.get("max_tokens") or parameters.get("max_completion_tokens") or _WRITTEN
    return round(total), int(written)


def _pixels(encoded: EncodedImage) -> int:
    try:
        with Image.open(io.BytesIO(encoded.data)) as image:
            return image.width * image.height
    except (OSError, ValueError, Image.DecompressionBombError):
        return 1 << 20  # what it is will show when it is sent


@dataclass(frozen=True)
class Estimate:
    """What a run may take, if no call is repeated and no reply is stored. `cost` is None without prices."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


def estimate(requests: Iterable[Request], prices: Prices | None = None, *, calls: int | None = None) -> Estimate:
    """Sum over the requests; with `calls` they are a sample, and the sums are scaled to that many."""
    seen, prompt, written, cost = 0, 0, 0, 0.0
    for request in requests:
        tokens = estimate_tokens(request, prices)
        seen, prompt, written = seen + 1, prompt + tokens[0], written + tokens[1]
        if prices is not None:
            cost += prices.cost(request.model, *tokens)
    scale = 1.0 if calls is None or not seen else calls / seen
    total = seen if calls is None else calls
    return Estimate(total, round(prompt * scale), round(written * scale), cost * scale if prices is not None else None)
