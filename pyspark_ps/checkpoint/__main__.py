"""The commands: inspect, verify, diff."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.progress import Progress

from pyspark_ps.checkpoint import reports
from pyspark_ps.checkpoint.differences import Checkpoint, compare_tables, compare_tensors
from pyspark_ps.checkpoint.verifying import verify as find_problems
from pyspark_ps.errors import NotFoundError, PSError
from pyspark_ps.storage import CheckpointManager, layout, read_manifest
from pyspark_ps.utils.config import PSConfig

EXIT_EQUAL = EXIT_WHOLE = 0
EXIT_DIFFERENT = EXIT_DAMAGED = 1
EXIT_TROUBLE = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Looks into checkpoints of the parameter server, wherever they lie. No servers and no "
    "Spark needed. PATH is a plain path, file://, s3://, s3a:// or any URL that pyarrow reaches; "
    "credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...).",
)

Path = Annotated[str, typer.Argument(help="The checkpoint: a path or URL.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
# Optional[...] because typer reads these at run time, on Python 3.10 too.
Endpoint = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="S3 endpoint, such as http://minio:9000 (default: AWS_ENDPOINT_URL, else AWS)."
    ),
]
Region = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="S3 region (default: AWS_REGION, else us-east-1)."),
]


@app.command()
def inspect(
    path: Path, json_: Json = False, endpoint_url: Endpoint = None, region: Region = None
) -> None:
    """What a checkpoint holds: tables, rows, bytes, tensors, when and by how many servers.

    For a folder of checkpoints: the complete ones in it, newest first.
    """
    with _errors():
        manager = _manager(endpoint_url, region)
        try:
            manifest = manager.manifest(path)
        except NotFoundError:
            infos = manager.list(path)
            if not infos:
                raise
            _print(json_, lambda: reports.infos_json(infos), lambda: reports.infos_table(infos))
            return
        place = str(manager.location(path))
        _print(
            json_,
            lambda: reports.manifest_json(place, manifest),
            lambda: reports.manifest_tables(place, manifest),
        )


@app.command()
def verify(
    path: Path, json_: Json = False, endpoint_url: Endpoint = None, region: Region = None
) -> None:
    """Reads every byte and proves every checksum and row count.

    Exit code: 0 = whole, 1 = damaged, 2 = there is no checkpoint or it cannot be read.
    """
    with _errors():
        place = _manager(endpoint_url, region).location(path)
        manifest = read_manifest(place)
        with _progress("verifying", manifest.file_bytes, json_) as advance:
            problems = find_problems(place, manifest, lambda record: advance(record.bytes))
        named = {file.path for file in manifest.files}
        left_overs = [
            entry.path
            for entry in place.entries()
            if layout.save_id_of(entry.path) and entry.path not in named
        ]
        _print(
            json_,
            lambda: reports.verified_json(place, manifest, problems, left_overs),
            lambda: reports.verified_tables(place, manifest, problems, left_overs),
        )
    raise typer.Exit(EXIT_DAMAGED if problems else EXIT_WHOLE)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="A checkpoint.", show_default=False)],
    new: Annotated[str, typer.Argument(help="A later one.", show_default=False)],
    json_: Json = False,
    endpoint_url: Endpoint = None,
    region: Region = None,
) -> None:
    """Rows added, removed and changed by table, dense tensors changed, definitions changed.

    Exit code: 0 = equal, 1 = different, 2 = one cannot be read.
    """
    with _errors():
        manager = _manager(endpoint_url, region)
        before, after = (
            Checkpoint(place, read_manifest(place)) for place in map(manager.location, (old, new))
        )
        rows = before.manifest.rows + after.manifest.rows
        with _progress("comparing", rows, json_) as advance:
            tables = compare_tables(before, after, advance)
        tensors, equal_tensors = compare_tensors(before, after)
        found = reports.Difference(tables, tensors, equal_tensors)
        _print(json_, lambda: dataclasses.asdict(found), lambda: reports.difference_tables(found))
    raise typer.Exit(EXIT_EQUAL if found.is_equal else EXIT_DIFFERENT)


def _manager(endpoint_url: str | None, region: str | None) -> CheckpointManager:
    config = PSConfig(s3_endpoint_url=endpoint_url)
    if region is not None:
        config = config.replace(s3_region=region)
    config.validate()
    return CheckpointManager(config)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except PSError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(EXIT_TROUBLE) from None


@contextmanager
def _progress(what: str, total: int, json_: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal; gives what advances it."""
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=json_ or not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def _print(json_: bool, plain: Callable[[], Any], tables: Callable[[], list[Any]]) -> None:
    if json_:
        print(json.dumps(plain(), indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    for part in tables():
        console.print(part)


if __name__ == "__main__":
    app(prog_name="python -m pyspark_ps.checkpoint")
