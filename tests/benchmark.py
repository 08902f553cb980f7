"""Time EM on the 60,000 training images: `make benchmark`.

Everything is timed in turn, round after round, so that a machine's changes of speed meet all alike;
the medians are printed, and their ratios. The yardstick of a function is the time of its matrix
products' operations at the rate of a large square float32 product of the same round (thin products
run below that rate, some run above it).
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from nbimport import import_notebook

ROOT = Path(__file__).parent.parent
SQUARE = 4096


@jax.jit
def plain_em_step(params, images):
    """EM as one writes it first: all images as floats, two products."""
    x = images.reshape(len(images), -1).astype(jnp.float32)
    means = params.cluster_means
    log_joint = x @ (jnp.log(means) - jnp.log1p(-means)).T
    log_joint += jnp.log1p(-means).sum(axis=1) + jnp.log(params.cluster_weights)
    shares = jax.nn.softmax(log_joint, axis=-1)
    n_k = shares.sum(axis=0)
    means = jnp.clip(shares.T @ x / n_k[:, None], 1e-6, 1 - 1e-6)
    return params.replace(cluster_weights=n_k / n_k.sum(), cluster_means=means)


def medians(calls, n_rounds):
    """Time every call of a dict once a round, after a warm-up: median seconds of each."""
    seconds = {name: [] for name in calls}
    for round_number in range(n_rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def main():
    em = import_notebook(ROOT / "bernoulli_em.ipynb")
    ds = em.tfds.load("mnist", split="train", data_dir=ROOT / "data")
    images = jnp.asarray(em.tfds_to_numpy(ds)[0])
    square, multiply = jnp.ones((SQUARE, SQUARE)), jax.jit(lambda a: a @ a)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; ms (times the yardstick)")
    print("clusters         em_step  log_likelihood  plain em_step")
    for n_clusters, n_rounds in ((15, 15), (100, 9), (500, 5)):
        params = em.init_mixture_params(jax.random.key(0), n_clusters, images[0].size)
        calls = {
            "square": lambda: multiply(square),
            "em_step": lambda p=params: em.em_step(p, images),
            "log_likelihood": lambda p=params: em.log_likelihood(p, images),
            "plain": lambda p=params: plain_em_step(p, images),
        }
        t = medians(calls, n_rounds)
        product = images.size * n_clusters * t["square"] / SQUARE**3
        cells = (t["em_step"], 2), (t["log_likelihood"], 1), (t["plain"], 2)
        print(f"{n_clusters:8}", *(f"{1e3 * s:6.1f} ({s / n / product:5.2f})" for s, n in cells))


if __name__ == "__main__":
    main()
