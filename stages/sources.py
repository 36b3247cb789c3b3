"""Stage `sources`: what code each entry's training is made of."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipelines.atomic_files import write_text
from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.tracking.sources import training_sources


@exits_cleanly
def main() -> None:
    """Write `sources/A.json` for every entry: file -> digest of its meaning."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    study = read_params()
    for name in study.architectures:
        architecture = study.entry(name).architecture
        assert architecture
        files = training_sources(study.family, architecture)
        write_text(arguments.out / f"{name}.json", json.dumps(files, indent=2) + "\n")


if __name__ == "__main__":
    main()
