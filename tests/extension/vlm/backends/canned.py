"""Always the same reply: a model that costs nothing, to try a rubric out."""

from edittools.vlm import Begin, Reply, Request

HELP = "always the same reply"
WHAT = "a canned reply"
OPTIONS = {"canned_reply": "What --backend canned answers."}


def load(model: str, canned_reply: str = "") -> "Canned":
    return Canned(canned_reply)


class Canned:
    name = "canned"

    def __init__(self, text: str) -> None:
        self.text = text

    def draws(self, request: Request) -> bool:
        """Whether asking again may bring another reply."""
        return False

    def prepare(self, request: Request) -> None:
        """In a thread, before `ask`."""

    async def ask(self, request: Request, begin: Begin) -> Reply:
        await begin()  # until there is room for one more call
        return Reply("ok", self.text, model="canned")

    async def close(self) -> None:
        pass
