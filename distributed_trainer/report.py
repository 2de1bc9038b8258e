"""A training's history as pictures: a PNG, and a page that holds it and the days' table."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stages of a worker's time, in the order of the road; `wait_*` is time that computing stood still.
STAGES = {
    "start": "start: model, connections",
    "wait_read": "waiting for data",
    "wait_pull": "waiting for rows",
    "step": "computing",
    "wait_push": "waiting for pushes",
}


def write_report(
    history: Sequence[Mapping[str, Any]], folder: str | Path, title: str = "Training"
) -> list[Path]:
    """Writes `report.png` and `report.html` (self-contained) into `folder`.

    Args:
        history: `DistributedTrainer.get_training_history()`.

    Returns:
        The files written. Nothing is written for a history without trained days.
    """
    days = [day for day in history if day["status"] == "trained"]
    if not days:
        return []
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    picture, page = target / "report.png", target / "report.html"
    _draw(days, picture, title)
    page.write_text(_page(history, picture, title), encoding="utf-8")
    return [picture, page]


def _draw(days: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=14)
    (quality, loss), (tables, time) = figure.subplots(2, 2)
    dates = [str(day["date"]) for day in days]
    _quality(quality, days)
    _loss(loss, days)
    _tables(tables, days)
    _time(time, days)
    for axes in (quality, loss, tables):
        _label_dates(axes, dates)
    figure.savefig(path)


def _quality(axes: Axes, days: Sequence[Mapping[str, Any]]) -> None:
    name = "auc" if "auc" in days[0]["metrics"] else next(iter(days[0]["metrics"]), "")
    axes.set_title(f"{name} by day")
    axes.plot(
        [day["metrics"].get(name, float("nan")) for day in days],
        color="tab:gray",
        linewidth=1,
        label="while training on the day",
    )
    before = [(i, day["validation"][name]) for i, day in enumerate(days) if day["validation"]]
    if before:
        axes.plot(*zip(*before, strict=True), color="tab:blue", label="before training on it")
    axes.legend(frameon=False)


def _loss(axes: Axes, days: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("loss by day")
    axes.plot([day["avg_loss"] for day in days], color="tab:gray", linewidth=1)
    before = [(i, day["validation"]["loss"]) for i, day in enumerate(days) if day["validation"]]
    if before:
        axes.plot(*zip(*before, strict=True), color="tab:blue")


def _tables(axes: Axes, days: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("rows by table")
    for table in sorted(days[-1]["table_rows"], key=lambda t: -days[-1]["table_rows"][t]):
        axes.plot([day["table_rows"].get(table, 0) for day in days], label=table)
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _time(axes: Axes, days: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("where the workers' time went (s)")
    totals = {
        label: sum(day["seconds"].get(stage, 0.0) for day in days)
        for stage, label in STAGES.items()
    }
    rest = sum(day["seconds"].get("total", 0.0) for day in days) - sum(totals.values())
    totals["other"] = max(0.0, rest)
    bars = axes.barh(list(totals), list(totals.values()), color="tab:blue")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def _label_dates(axes: Axes, dates: Sequence[str]) -> None:
    step = -(-len(dates) // 5)
    axes.set_xticks(range(0, len(dates), step), dates[::step], fontsize=8)


def _page(history: Sequence[Mapping[str, Any]], picture: Path, title: str) -> str:
    image = base64.b64encode(picture.read_bytes()).decode()
    names = list(next(day["metrics"] for day in history if day["metrics"]))
    heads = ["date", "status", "samples", "seconds", "loss", *names]
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(day, names)) + "</tr>"
        for day in history
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>"
        "body{font-family:sans-serif;max-width:80em;margin:2em auto;padding:0 1em}"
        "img{max-width:100%}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
        "td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}"
        f"</style></head><body><h1>{html.escape(title)}</h1>"
        "<img alt='metrics, loss, table growth and time by day' "
        f"src='data:image/png;base64,{image}'>"
        "<h2>Days</h2><table><tr>"
        + "".join(f"<th>{html.escape(head)}</th>" for head in heads)
        + f"</tr>\n{rows}</table></body></html>\n"
    )


def _cells(day: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [
        str(day["date"]),
        str(day["status"]),
        f"{day['samples']:,}",
        f"{day['time_seconds']:.2f}",
        f"{day['avg_loss']:.4f}",
        *(f"{day['metrics'].get(name, float('nan')):.4f}" for name in names),
    ]
