"""A training's history as a page: pictures by day, and tables of the days and the slowest files."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed_trainer.results import TRAINED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Day = Mapping[str, Any]

# Stages of a worker's time, in the order of the road; `wait_*` is time that computing stood still.
STAGES = {
    "start": "start: model, connections",
    "wait_read": "waiting for data",
    "wait_pull": "waiting for rows",
    "step": "computing",
    "wait_push": "waiting for pushes",
}
SLOWEST_FILES = 10
TABLES_SHOWN = 12  # the largest ones; a legend of more says nothing


def write_report(history: Sequence[Day], folder: str | Path, title: str = "Training") -> list[Path]:
    """Writes `report.png` and `report.html` (self-contained) into `folder`.

    Args:
        history: `DistributedTrainer.get_training_history()`.

    Returns:
        The files written. Nothing is written for a history without trained days.
    """
    days = [day for day in history if day["status"] == TRAINED]
    if not days:
        return []
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    picture, page = target / "report.png", target / "report.html"
    _draw(days, picture, title)
    page.write_text(_page(history, picture, title), encoding="utf-8")
    return [picture, page]


def _draw(days: Sequence[Day], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 12), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=14)
    (quality, loss), (speed, tables), (time, by_day) = figure.subplots(3, 2)
    dates = [str(day["date"]) for day in days]
    _quality(quality, days)
    _loss(loss, days)
    _speed(speed, days)
    _tables(tables, days)
    _time(time, days)
    _time_by_day(by_day, days)
    for axes in (quality, loss, speed, tables, by_day):
        _label_dates(axes, dates)
    figure.savefig(path)


def _quality(axes: Axes, days: Sequence[Day]) -> None:
    name = "auc" if "auc" in days[0]["metrics"] else next(iter(days[0]["metrics"]), "")
    axes.set_title(f"{name} by day")
    _by_day(axes, [day["metrics"].get(name, math.nan) for day in days], "while training on it")
    before = [(day["validation"] or {}).get(name, math.nan) for day in days]
    if any(day["validation"] for day in days):
        _by_day(axes, before, "before training on it", "tab:blue")
    axes.legend(frameon=False)


def _loss(axes: Axes, days: Sequence[Day]) -> None:
    axes.set_title("loss by day")
    _by_day(axes, [day["avg_loss"] for day in days], "while training on it")
    if any(day["validation"] for day in days):
        before = [(day["validation"] or {}).get("loss", math.nan) for day in days]
        _by_day(axes, before, "before training on it", "tab:blue")


def _speed(axes: Axes, days: Sequence[Day]) -> None:
    axes.set_title("samples per second by day (all that a day takes counted)")
    _by_day(axes, [_rate(day) for day in days], "", "tab:green")
    axes.set_ylim(bottom=0)


def _by_day(axes: Axes, values: Sequence[float], label: str, color: str = "tab:gray") -> None:
    axes.plot(values, color=color, linewidth=1, marker="." if len(values) < 40 else "", label=label)


def _tables(axes: Axes, days: Sequence[Day]) -> None:
    axes.set_title("rows by table")
    last = days[-1]["table_rows"]
    for table in sorted(last, key=lambda name: -last[name])[:TABLES_SHOWN]:
        axes.plot([day["table_rows"].get(table, 0) for day in days], label=table)
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _stages(days: Sequence[Day]) -> dict[str, float]:
    """Seconds of all workers by stage, what is in no stage as "other"."""
    totals = {
        label: sum(day["seconds"].get(stage, 0.0) for day in days)
        for stage, label in STAGES.items()
    }
    rest = sum(day["seconds"].get("total", 0.0) for day in days) - sum(totals.values())
    return {**totals, "other": max(0.0, rest)}


def _time(axes: Axes, days: Sequence[Day]) -> None:
    axes.set_title("where the workers' time went (s)")
    totals = _stages(days)
    bars = axes.barh(list(totals), list(totals.values()), color="tab:blue")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def _time_by_day(axes: Axes, days: Sequence[Day]) -> None:
    axes.set_title("the workers' time by day (s)")
    by_stage = [_stages([day]) for day in days]
    axes.stackplot(
        range(len(days)),
        *[[stages[label] for stages in by_stage] for label in by_stage[0]],
        labels=list(by_stage[0]),
        step="mid",
    )
    axes.legend(fontsize=8)


def _label_dates(axes: Axes, dates: Sequence[str]) -> None:
    step = -(-len(dates) // 5)
    axes.set_xticks(range(0, len(dates), step), list(dates[::step]), fontsize=8)


def _rate(day: Day) -> float:
    return float(day["samples"] / max(day["time_seconds"], 1e-9))


def _page(history: Sequence[Day], picture: Path, title: str) -> str:
    image = base64.b64encode(picture.read_bytes()).decode()
    names = list(next(day["metrics"] for day in history if day["metrics"]))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>"
        "body{font-family:sans-serif;max-width:80em;margin:2em auto;padding:0 1em}"
        "img{max-width:100%}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
        "td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}"
        f"</style></head><body><h1>{html.escape(title)}</h1>"
        "<img alt='metrics, loss, speed, table growth and time by day' "
        f"src='data:image/png;base64,{image}'>"
        + _table(
            "Days",
            ["date", "status", "samples", "samples/s", "seconds", "loss", *names],
            [_day_cells(day, names) for day in history],
        )
        + _table(
            "Slowest files",
            ["date", "seconds", "rows", "files read together", "first of them"],
            _slowest(history),
        )
        + "</body></html>\n"
    )


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<h2>{title}</h2><table>{line(heads, 'th')}\n{body}</table>"


def _day_cells(day: Day, names: Sequence[str]) -> list[str]:
    if day["status"] != TRAINED:
        return [str(day["date"]), str(day["status"])]
    return [
        str(day["date"]),
        str(day["status"]),
        f"{day['samples']:,}",
        f"{_rate(day):,.0f}",
        f"{day['time_seconds']:.2f}",
        f"{day['avg_loss']:.4f}",
        *(f"{day['metrics'].get(name, math.nan):.4f}" for name in names),
    ]


def _slowest(history: Sequence[Day]) -> list[list[str]]:
    files = [(file, str(day["date"])) for day in history for file in day["slowest_files"]]
    files.sort(key=lambda entry: -entry[0]["seconds"])
    return [
        [date, f"{file['seconds']:.2f}", f"{file['rows']:,}", str(file["files"]), file["path"]]
        for file, date in files[:SLOWEST_FILES]
    ]
