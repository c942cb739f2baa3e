"""A data set in tables, however they are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edittools.bench import published
from edittools.bench.dataset import GROUPS, UNKNOWN, judge_score
from edittools.bench.terminal import ReportListing, number

_REASONS = 4  # of a command that are named; the figures have all


def dataset_listings(found: Mapping[str, Any], score: str | None = None) -> list[ReportListing]:
    """evaluate.dataset_statistics' result; what no row had is left out. `score` is the one that stands for quality."""
    facts = {name.replace("_", " "): found[name] for name in ("rows", "images", "multi_turn", "words", "characters")}
    facts["share of tiny edits"] = found["tiny_region_share"]
    facts |= {f"share detected: {name}": share for name, share in found["detected"].items()}
    listings = [
        ReportListing("Data set", ["", "value"], [[name, number(value)] for name, value in facts.items()]),
        task_listing(found, score),
        funnel_listing(found["funnel"]),
        *composition(found),
    ]
    total = sum(found["formats"].values())
    rows = [[name, str(count), f"{count / total:.1%}"] for name, count in found["formats"].items()]
    listings.append(ReportListing("Formats", ["format", "images", "share"], rows))
    sizes = dict(found["size"] or {})
    histogram = sizes.pop("histogram", [])
    extremes = ["min", "median", "max"]
    rows = [[name.replace("_", " "), *(number(size[key]) for key in extremes)] for name, size in sizes.items()]
    listings.append(ReportListing("Sizes", ["", *extremes], rows))
    rows = [[f"{bin['from']}–{bin['to'] or ''}", str(bin["count"])] for bin in histogram if bin["count"]]
    listings.append(ReportListing("Megapixels", ["from–to", "images"], rows))
    columns = ["n", "mean", "min", "max"]
    rows = [[name, *(number(entry[key]) for key in columns)] for name, entry in found["scores"].items()]
    listings.append(ReportListing("Scores", ["score", *columns], rows))
    own, table = published_row(found, score), published.load("imgedit-datasets")
    listings.append(own._replace(rows=own.rows + [[row.model, *map(str, row.scores.values())] for row in table.rows]))
    return [listing for listing in listings if listing.rows]


def task_listing(found: Mapping[str, Any], score: str | None = None) -> ReportListing:
    """Counts, sizes, the score, tiny edits and distinct words of every task."""
    score = score or judge_score(found)
    rows = []
    for task, one in found["by_task"].items():
        size, rated = one["size"], one["scores"].get(score)
        sides = size["short_side"] if size else {}
        rows.append([
            task,
            f"{one['rows']:,}",
            f"{one['rows'] / found['rows']:.1%}",
            f"{sides['min']:,}" if size else "–",
            f"{sides['median']:,}" if size else "–",
            f"{size['megapixels']['median']:.2f}" if size else "–",
            *([f"{rated['mean']:.2f}" if rated else "–", f"{rated['n']:,}" if rated else "0"] if score else []),
            _share(one["tiny_region_share"]),
            f"{one['words']:,}",
            f"{one['characters']:,}",
        ])  # fmt: skip
    quality = ["score", "rated"] if score else []
    columns = [
        "task",
        "rows",
        "share",
        "least side",
        "median side",
        "MP",
        *quality,
        "tiny edits",
        "words",
        "Chinese signs",
    ]
    notes = [
        "Sides: the shorter one of an image, in pixels; MP: median megapixels; words: distinct English ones.",
        "Tiny edits change less than 1% of the image, of the rows with the score edit_ratio (`edit score`).",
        f"Score: the mean of {score} over the rated rows." if score else
        "No judge's overall score (`edit judge`); --score NAME shows another.",
    ]  # fmt: skip
    return ReportListing("By task", columns, rows, notes)


def funnel_listing(funnel: Mapping[str, Any]) -> ReportListing:
    """What every command read, dropped and wrote."""
    rows = []
    for step in funnel["steps"]:
        read, written, lost = step["read"], step["written"], step["dropped"] + step["failed"]
        if read is None or written is None or not read:
            kept = "–"
        elif read - lost == written:
            kept = f"{written / read:.1%}"
        else:
            kept = f"{written / read:.2f} of each"
        named = [f"{reason} {count:,}" for reason, count in step["reasons"].items()]
        more = f", and {len(named) - _REASONS} more" if len(named) > _REASONS else ""
        rows.append([
            step["command"], set_name(step), _count(read), f"{step['dropped']:,}", f"{step['failed']:,}",
            _count(written), kept, ", ".join(named[:_REASONS]) + more,
        ])  # fmt: skip
    notes = []
    if any("–" in (row[2], row[5]) for row in rows):
        notes.append("–: not written down. A set knows the run that wrote it; --earlier names those before.")
    columns = ["command", "set", "read", "dropped", "failed", "written", "kept", "why"]
    return ReportListing("What became of the rows", columns, rows, notes, funnel["warnings"])


def set_name(step: Mapping[str, Any]) -> str:
    """The folder of a step of the funnel, without those above it."""
    return str(step["set"]).rstrip("/").rpartition("/")[2]


def composition(found: Mapping[str, Any]) -> list[ReportListing]:
    """Groups of edits and classes of images, beside FireRed-Image-Edit's; without what there are no rows of."""
    theirs = published.load("firered-composition")
    edits = found["groups"]
    total = sum(edits.values())
    rows = [
        [group, ", ".join(GROUPS.get(group, ["what FireRed names in none of them"])), f"{count:,}",
         f"{count / total:.1%}", str(theirs.row(group).scores["Share"]) if group in GROUPS else "–"]
        for group, count in edits.items()
    ] if total else []  # fmt: skip
    listings = [ReportListing("Groups of edits", ["group", "tasks", "rows", "share", "FireRed's"], rows)]
    known = {row.model for row in theirs.rows} - GROUPS.keys()
    classes = found["image_classes"]
    total = sum(one["rows"] for one in classes.values())
    rows = [
        [name, ", ".join(f"{sub} {count:,}" for sub, count in one["subclasses"].items() if sub != UNKNOWN),
         f"{one['rows']:,}", f"{one['rows'] / total:.1%}",
         str(theirs.row(name).scores["Share"]) if name in known else "–"]
        for name, one in classes.items()
    ]  # fmt: skip
    note = "Classes by `edit caption --kinds classify`. FireRed-Image-Edit 2.1 has the three, in text-to-image rows."
    listings.append(
        ReportListing("Classes of images", ["class", "subclasses", "rows", "share", "FireRed's"], rows, [note])
    )
    return [listing for listing in listings if listing.rows]


def published_row(found: Mapping[str, Any], score: str | None = None) -> ReportListing:
    """The data set as a row of ImgEdit's table 1, in its columns."""
    table = published.load("imgedit-datasets")
    score = score or judge_score(found)
    rated = found["scores"].get(score)
    tasks = found["tasks"].keys() - {UNKNOWN, "t2i"}
    fake = [share for name, share in found["detected"].items() if "fake" in name] or [*found["detected"].values()]
    cells = {
        "Size": f"{found['rows']:,}",
        "Types": str(len(tasks)),
        "Res. (px)": f"{found['size']['short_side']['median']:,}" if found["size"] else "–",
        "GPT score": f"{rated['mean']:.2f}" if rated else "–",
        "Fake score": f"{fake[0]:.3f}" if fake else "–",
        "Tiny-ROE ratio": _share(found["tiny_region_share"]),
        "Concepts": f"{found['words']:,}",
        "ID cons. edit": _yes({"extract", "visual"} & tasks),
        "Hybrid edit": _yes({"hybrid"} & tasks),
        "Multi-turn": _yes(found["multi_turn"]),
    }
    judge = f"GPT score the mean of {score} over {rated['n']:,} rows, on its own scale, " if rated else ""
    notes = [
        f"This one: types are canonical tasks, resolution is the median short side, {judge}fake score the share that a "
        "classifier detects, concepts are distinct English words, ID-consistent edits the tasks extract and visual."
    ]
    title = f"Beside other data sets ({table.paper}, {table.table})"
    return ReportListing(title, ["data set", *table.columns], [["this one", *(cells[c] for c in table.columns)]], notes)


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _yes(value: object) -> str:
    return "yes" if value else "no"
