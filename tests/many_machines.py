"""EM on MNIST as one of many processes, each of which reads its own part of the images.

Two processes on one machine: this in one terminal, and with `--process 1` in another (tested):

    .venv/bin/python tests/many_machines.py --coordinator 127.0.0.1:1234 --processes 2 --process 0

Not tested: under Slurm JAX finds the three by itself (`srun --ntasks 16 .venv/bin/python
tests/many_machines.py`). For your own data replace the three lines that load the images.
"""

import argparse

import jax
import numpy as np
from nbimport import ROOT, import_notebook

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--coordinator", help="address:port of process 0")
parser.add_argument("--processes", type=int, help="how many there are")
parser.add_argument("--process", type=int, help="which of them this one is")
parser.add_argument("--deadline", type=int, default=100, help="seconds to wait for one that fails")
parser.add_argument("--split", default="train", help="of MNIST, for all of them")
parser.add_argument("--clusters", type=int, default=15)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--save", help="where process 0 saves the mixture (.npz)")
args = parser.parse_args()

limits = dict.fromkeys(("heartbeat_timeout_seconds", "shutdown_timeout_seconds"), args.deadline)
jax.distributed.initialize(args.coordinator, args.processes, args.process, **limits)
em = import_notebook()

splits = em.tfds.even_splits(args.split, jax.process_count(), drop_remainder=True)
ds = em.tfds.load("mnist", split=splits[jax.process_index()], data_dir=ROOT / "data")
local_images, _ = em.tfds_to_numpy(ds)

mesh = jax.make_mesh((jax.device_count(),), ("data",))
images, em_step = em.shard_images(mesh, local_images), em.sharded_em_step(mesh)
# The same key everywhere: all processes start from the same parameters.
params = em.init_mixture_params(jax.random.key(0), args.clusters, local_images[0].size)
for _ in range(args.steps):
    # Waiting at each step lets another process's failure end this one here.
    params = jax.block_until_ready(em_step(params, images))
if jax.process_index() == 0:
    print(f"{len(images)} images on {jax.device_count()} devices, done")
    if args.save:
        np.savez(args.save, **params)
