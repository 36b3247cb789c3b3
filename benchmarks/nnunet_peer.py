"""nnU-Net (PyPI `nnunetv2`) beside this project, for benchmarks and parity tests alone.

`peer_python()` gives an interpreter that has it. Its packages lie in `work/peers/nnunetv2`, apart from this project's;
torch, NumPy and SciPy are this project's own, so that both sides compute with the same ones.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipelines.tracking.provenance import ROOT

PINS = Path(__file__).with_name("nnunetv2.lock")
_FOLDER = ROOT / "work/peers/nnunetv2"


def peer_python() -> Path:
    """The interpreter that has nnunetv2; installs it, which takes a minute and the package index, where it is not yet.

    Raises:
        subprocess.CalledProcessError: the installation failed; what it printed says why.
    """
    python, done = _FOLDER / "bin/python", _FOLDER / PINS.name
    if not done.exists() or done.read_bytes() != PINS.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(_FOLDER)], check=True)
        command = ["uv", "pip", "install", "--quiet", "--no-deps", "--compile-bytecode", "--python", str(python)]
        subprocess.run([*command, "--requirement", str(PINS)], check=True)
        (folder,) = _FOLDER.glob("lib/python*/site-packages")
        # Looked at last: what nnunetv2 brings itself goes first.
        (folder / "of_this_project.pth").write_text(str(_own_packages()) + "\n")
        done.write_bytes(PINS.read_bytes())
    return python


def peer_environment(folder: Path, num_threads: int = 1) -> dict[str, str]:
    """What the peer's commands need in their environment: its three folders below `folder`, and one torch thread."""
    folders = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    for path in folders.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    threads = {name: str(num_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return folders | threads | {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "2"}


def _own_packages() -> Path:
    import torch

    return Path(torch.__file__).parents[1]
