"""CI's study: `dvc repro` by one worker alone, then by two on a cluster of two raylets; the weights must agree.

`RAY_ADDRESS` names a local head with one processor, and a second raylet with one more, so the two workers of a
training sit on different nodes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from tiny_study import copy_project, repro, weights

TOLERANCE = 1e-5


def main() -> None:
    """Run both, compare, print."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as name:
        alone = copy_project(Path(name) / "alone")
        print("one worker:", *repro(alone))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        try:
            shared = copy_project(Path(name) / "shared", ray={"workers": 2})
            print("two workers on two raylets:", *repro(shared, RAY_ADDRESS=cluster.address))
        finally:
            cluster.shutdown()
        first, second = weights(alone), weights(shared)
        assert first.keys() == second.keys()
        assert len(first) == 2
        largest = 0.0
        for file, tensors in first.items():
            for key, tensor in tensors.items():
                largest = max(largest, float(np.abs(tensor - second[file][key]).max()))
                np.testing.assert_allclose(second[file][key], tensor, rtol=0, atol=TOLERANCE, err_msg=f"{file} {key}")
        print(f"largest difference of a weight: {largest:.2e} (allowed {TOLERANCE:.0e})")


if __name__ == "__main__":
    main()
