"""Tuning with no trials: the planned settings are the best known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.atomic_files import atomic_path, write_text


def pass_on(optimizer: dict[str, Any], schedule: dict[str, Any], out_dir: Path) -> None:
    """Write `best.yaml` with the settings given, and a `trials.parquet` without a trial.

    Args:
        optimizer: name and settings.
        schedule: name and settings.
        out_dir: folder of the two files.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    best = {"num_trials": 0, "optimizer": optimizer, "schedule": schedule}
    write_text(out_dir / "best.yaml", yaml.safe_dump(best, sort_keys=False))
    schema = pa.schema([("trial", pa.string()), ("score", pa.float64())])
    with atomic_path(out_dir / "trials.parquet") as temporary:
        pq.write_table(schema.empty_table(), temporary)
