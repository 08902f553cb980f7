"""EM on MNIST as one of many processes: see "Run it on many machines" in the README."""

import argparse
from pathlib import Path

import jax
from nbimport import import_notebook

ROOT = Path(__file__).parent.parent


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", action="store_true", help="let JAX find the rest")
    parser.add_argument("--coordinator", help="address:port of process 0")
    parser.add_argument("--processes", type=int, help="how many there are")
    parser.add_argument("--process", type=int, help="which of them this one is")
    parser.add_argument("--split", default="train", help="of MNIST, for all of them")
    parser.add_argument("--clusters", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save", help="where process 0 saves the mixture (.npz)")
    return parser.parse_args()


def main():
    args = parse_arguments()
    if args.cluster:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    em = import_notebook(ROOT / "bernoulli_em.ipynb")

    splits = em.tfds.even_splits(args.split, jax.process_count(), drop_remainder=True)
    ds = em.tfds.load(
        "mnist", split=splits[jax.process_index()], data_dir=ROOT / "data"
    )
    local_images, _ = em.tfds_to_numpy(ds)

    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    images = em.shard_images(mesh, local_images)
    em_step = em.sharded_em_step(mesh)
    # The same key everywhere: all processes start from the same parameters.
    params = em.init_mixture_params(
        jax.random.key(0), args.clusters, local_images[0].size
    )
    for _ in range(args.steps):
        # Waiting at each step lets another process's failure end this one here.
        params = jax.block_until_ready(em_step(params, images))
    if jax.process_index() == 0:
        print(f"{len(images)} images on {jax.device_count()} devices, done")
        if args.save:
            em.save_mixture(args.save, params, split=args.split, steps=args.steps)


if __name__ == "__main__":
    main()
