"""What `edit shard` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edittools.errors import UsageError
from edittools.ingest import EDITED, HALVES, dataset_names, load_dataset
from edittools.settings import Config, max_pixels_setting, setting
from edittools.suites import benchmark_names

if TYPE_CHECKING:
    from edittools.ingest.dataset import PublishedDataset

ROWS = 1000  # in a shard


@dataclass(frozen=True)
class ShardConfig(Config):
    """Settings of the stage that makes rows of what was found, and of how they are cut into shards."""

    max_pixels: int = max_pixels_setting()
    dataset: str | None = setting(
        None,
        "The input is this published data set: its columns, tasks and masks become ours (`edit man datasets`).",
        flag="--from",
        group="Input",
        metavar="NAME",
        choices=dataset_names(),
    )
    renames: tuple[str, ...] = setting(
        (),
        "Read the input's column OLD as NEW. May be given several times; `edit man datasets` says what OLD may be.",
        flag="--map",
        group="Input",
        metavar="NEW=OLD",
    )
    images: tuple[str, ...] = setting(
        (),
        "COLUMN holds images: paths, or their bytes. May be given several times; `--map source=...` says so too.",
        flag="--image",
        group="Input",
        metavar="COLUMN",
    )
    roots: tuple[str, ...] = setting(
        (),
        "Images that the rows name are in this folder, tar or archive, or in the parts of one. May be given several "
        "times.",
        flag="--root",
        group="Input",
        metavar="PATH",
        recorded=False,
    )
    inverse: str | None = setting(
        None,
        "COLUMN has the instruction that undoes the edit: the way back becomes a row of its own.",
        group="Input",
        metavar="COLUMN",
    )
    dialogues: str | None = setting(
        None,
        "Rows that follow each other with the same GROUP are the turns of a dialogue, numbered by TURN: they become "
        "one row. `set`: the columns that the data set of --from has for it.",
        group="Input",
        metavar="GROUP,TURN|set",
    )
    frames: bool = setting(
        False,
        "The input holds videos: every clip between two cuts becomes pairs of its frames, of the task motion.",
        group="Input",
    )
    gap: tuple[float, float] = setting(
        "0.2..2", "With --frames: seconds between the frames of a pair.", group="Input", metavar="A..B",
        parse=lambda text: parse_gap(text),
    )  # fmt: skip
    per_clip: int = setting(1, "With --frames: pairs of every clip.", group="Input", metavar="N", low=1)
    halves: str | None = setting(
        None,
        "Images without a source show before and after in one, the left or upper half being before: cut them in two. "
        "With --from before_after those whose name or folder says both.",
        group="Input",
        choices=HALVES,
    )
    mask: str | None = setting(
        None, "What is edited in the masks, unless white is.", flag="--edited", group="Input", choices=EDITED
    )
    fetch: str | None = setting(
        None,
        "Images that the rows name by addresses of the web are fetched into this folder first; what is there is not "
        "fetched again, what failed is tried again. Without it such a row is a reject: nothing is asked of the web.",
        group="Addresses",
        metavar="DIR/",
        recorded=False,
    )
    fetch_rate: float = setting(
        10.0, "Requests a second to one host.", group="Addresses", metavar="N", low=0.01, recorded=False
    )
    fetch_threads: int = setting(
        32, "Images that are fetched at the same time.", group="Addresses", metavar="N", low=1, high=1024,
        recorded=False,
    )  # fmt: skip
    fetch_retries: int = setting(
        2, "More tries of what may succeed later.", group="Addresses", metavar="N", low=0, recorded=False
    )
    fetch_bytes: str = setting(
        "50M",
        "Larger images are not fetched.",
        group="Addresses",
        metavar="SIZE",
        recorded=False,
        parse=lambda text: parse_size(text, "--fetch-bytes"),
    )
    fetch_seconds: float = setting(
        30.0, "What takes longer is given up.", group="Addresses", metavar="SECONDS", low=0.1, recorded=False
    )
    fetch_private: bool = setting(
        False,
        "Also from addresses of this machine and its network.",
        group="Addresses",
        recorded=False,
    )
    task_names: str | None = setting(
        None,
        "Task names of this benchmark become canonical ones; the native name stays in provenance.",
        group="Input",
        choices=benchmark_names(),
    )
    origin: str | None = setting(None, "What the data set is called, for provenance.", group="Input", metavar="NAME")
    license: str | None = setting(None, "The licence, for provenance.", group="Input", metavar="NAME")
    verify: bool = setting(False, "Decode every image, and reject damaged ones now.", group="Input")
    rows: int | None = setting(None, "Rows in a shard. Default: 1000.", group="Output", metavar="N", low=1)
    size: int | None = setting(
        None,
        "Bytes of images in a shard instead, such as 500M or 1G; a larger image has a shard to itself.",
        flag="--bytes",
        group="Output",
        metavar="SIZE",
        parse=lambda text: parse_size(text),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.rows is not None:
            raise UsageError("--rows and --bytes cannot be used together")
        if self.halves is not None and self.frames:
            raise UsageError("--halves and --frames cannot be used together")
        if self.halves is not None and self.published is not None and self.published.pair is None:
            raise UsageError(f"--halves: the rows of --from {self.dataset} are pairs already")
        told = [flag for flag, given in (("--map", self.renames), ("--image", self.images)) if given]
        if self.dataset is not None and told:
            raise UsageError(f"--from and {told[0]} cannot be used together", hint="--from says what the columns are")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The (new, old) names of --map. Raises UsageError."""
        pairs = []
        for pair in self.renames:
            new, equals, old = pair.partition("=")
            if not equals or not new or not old:
                raise UsageError(f"--map {pair}: expected NEW=OLD")
            pairs.append((new, old))
        return pairs

    @property
    def published(self) -> PublishedDataset | None:
        """The data set that --from names."""
        return load_dataset(self.dataset) if self.dataset is not None else None

    @property
    def dialogue(self) -> tuple[str, str] | None:
        """The columns that --dialogues comes to. Raises UsageError."""
        if self.dialogues is None:
            return None
        if self.dialogues == "set":
            if self.published is None or self.published.dialogue is None:
                raise UsageError("--dialogues set: the data set has none", hint="--dialogues GROUP,TURN names columns")
            return self.published.dialogue
        group, comma, turn = self.dialogues.partition(",")
        if not comma or not group or not turn:
            raise UsageError(f"--dialogues {self.dialogues}: expected GROUP,TURN or set")
        return group, turn

    @property
    def rows_per_shard(self) -> int | None:
        """None where shards are cut by their bytes."""
        return self.rows or (None if self.size is not None else ROWS)

    def recorded(self, **resolved: Any) -> dict[str, Any]:
        """The settings that the history records."""
        told = {} if self.frames else {"gap": None, "per_clip": None}
        return super().recorded(rows=self.rows_per_shard, **told, **resolved)


def parse_gap(text: Any) -> tuple[float, float]:
    """`0.2..2` in seconds. Raises ValueError."""
    if not isinstance(text, str):
        return float(text[0]), float(text[1])
    least, dots, most = text.partition("..")
    try:
        found = float(least), float(most)
    except ValueError:
        found = (0.0, 0.0)
    if not dots or not 0 < found[0] <= found[1] < 3600:
        raise ValueError("expected two numbers of seconds, such as 0.2..2")
    return found


def parse_size(text: Any, flag: str = "--bytes") -> int | None:
    """`500M` in bytes; K, M, G, T are powers of 1024. Raises UsageError."""
    if text is None or isinstance(text, int):
        return text
    units = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    number, unit = text.rstrip("KMGTkmgtiB"), text.lstrip("0123456789.").upper().replace("IB", "").replace("B", "")
    try:
        size = int(float(number) * 1024 ** units[unit])
    except (ValueError, KeyError):
        size = 0
    if size <= 0:
        raise UsageError(f"{flag} {text}: expected a size such as 500M or 1G")
    return size
