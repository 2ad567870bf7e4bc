"""A Prefect server and a Ray cluster of two nodes on this machine, as a process of its own.

Says where they are as one line of JSON; `kill` on stdin kills the second node, the end of stdin ends everything.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

sys.path.insert(0, str(Path(__file__).parent.parent / "flows"))

from server import LocalServer

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def main() -> None:
    with LocalServer() as server:
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        second = cluster.add_node(**NODE)
        server.wait()
        sys.stdout.write(json.dumps({"api": server.url, "ray": cluster.address}) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(second, allow_graceful=False)  # SIGKILL, as when the power fails
                sys.stdout.write("killed\n")
                sys.stdout.flush()
        cluster.shutdown()


if __name__ == "__main__":
    main()
