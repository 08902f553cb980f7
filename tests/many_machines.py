"""EM as one of many processes, each of which reads its own part of the data.

Two processes on one machine: this in one terminal, and in another the same with
`--process 1` (it is tested):

    .venv/bin/python tests/many_machines.py \
        --coordinator 127.0.0.1:1234 --processes 2 --process 0 \
        --table answers.npy --clusters 5 --save mixture.npz

The table, of 0, 1 and NaN for what is missing, is written by
`np.save("answers.npy", table)` where all machines can read it. Each process reads its
own rows only.

Not tested: under Slurm JAX finds the coordinator and the numbers by itself
(`srun --ntasks 16 .venv/bin/python tests/many_machines.py --table answers.npy`).
"""

import argparse
import os

import jax
import numpy as np
from nbimport import import_notebook


def parse_arguments():
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--coordinator", help="address:port of process 0")
    parser.add_argument("--processes", type=int, help="how many there are")
    parser.add_argument("--process", type=int, help="which of them this one is")
    parser.add_argument("--table", required=True, help="what to fit: .npy of 0, 1, NaN")
    parser.add_argument("--clusters", type=int, default=15)
    parser.add_argument("--pseudo-count", type=float, default=0.0)
    parser.add_argument(
        "--max-steps", type=int, default=1_000, help="stop here at last"
    )
    parser.add_argument("--save", help="where process 0 saves the mixture (.npz)")
    return parser.parse_args()


def read_table(em, path):
    """This process's own rows of a table, and how many rows the table has."""
    table = np.load(path, mmap_mode="r")  # reads only what is asked for
    n_for_a_device = len(table) // jax.device_count()
    n_rows = n_for_a_device * jax.local_device_count()
    begin = n_rows * jax.process_index()
    try:
        data = em.observe(table[begin : begin + n_rows])
    except ValueError as error:
        error.add_note(f"(This process's row 0 is row {begin} of {path}.)")
        raise
    if data.seen is None:
        # Nothing is missing here, but elsewhere it may be: all need the same arrays.
        data = data.replace(seen=np.ones(data.on.shape, dtype=bool))
    return data, len(table)


def main():
    args = parse_arguments()
    if args.coordinator:  # which no proxy leads to
        os.environ["no_grpc_proxy"] = args.coordinator.rpartition(":")[0]
    jax.distributed.initialize(args.coordinator, args.processes, args.process)
    em = import_notebook()

    own_rows, n_rows = read_table(em, args.table)

    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    rows = em.shard(mesh, own_rows)
    n_used, n_pixels = rows.on.shape

    # The same key everywhere: all processes start from the same parameters.
    start = em.init_mixture_params(jax.random.key(0), args.clusters, n_pixels)
    found = em.fit(
        start,
        rows,
        pseudo_count=args.pseudo_count,
        max_steps=args.max_steps,
        e_step=em.sharded_e_step(mesh),
    )

    if jax.process_index() == 0:
        n_steps = len(found.curve) - 1
        how = "converged" if found.converged else "stopped by --max-steps"
        print(f"{n_used} of {n_rows} rows on {jax.device_count()} devices")
        print(f"{how} after {n_steps} steps at {found.curve[-1]:.4f} nats per row")
        if args.save:
            np.savez(args.save, **found.params)


if __name__ == "__main__":
    main()
