"""Time EM on the 60,000 training images: `make benchmark`.

Everything is timed in turn, round after round, so that a machine's changes of speed meet all alike;
the medians are printed. A function's yardstick is the time of its matrix products' operations at
the rate of a large square float32 product of the same round (thin products run below that rate,
some run above it). The plain step is EM as one writes it first.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from nbimport import ROOT, import_notebook


@jax.jit
def plain_em_step(params, images):
    x, means = images.reshape(len(images), -1).astype(jnp.float32), params.cluster_means
    log_joint = x @ (jnp.log(means) - jnp.log1p(-means)).T
    log_joint += jnp.log1p(-means).sum(axis=1) + jnp.log(params.cluster_weights)
    shares = jax.nn.softmax(log_joint, axis=-1)
    n_k = shares.sum(axis=0)
    means = jnp.clip(shares.T @ x / n_k[:, None], 1e-6, 1 - 1e-6)
    return params.replace(cluster_weights=n_k / n_k.sum(), cluster_means=means)


em = import_notebook()
ds = em.tfds.load("mnist", split="train", data_dir=ROOT / "data")
images = jnp.asarray(em.tfds_to_numpy(ds)[0])
square, multiply = jnp.ones((4_096, 4_096)), jax.jit(lambda a, _: a @ a)
calls = [(multiply, 0), (em.em_step, 2), (em.log_likelihood, 1), (plain_em_step, 2)]
print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; ms (times the yardstick)")
print("clusters         em_step  log_likelihood  plain em_step")
for n_clusters, n_rounds in ((15, 15), (100, 9), (500, 5)):
    params = em.init_mixture_params(jax.random.key(0), n_clusters, images[0].size)
    seconds = np.zeros((n_rounds + 1, len(calls)))
    for one_round in seconds:
        for i, (call, n_products) in enumerate(calls):
            start = time.perf_counter()
            jax.block_until_ready(call(params if n_products else square, images))
            one_round[i] = time.perf_counter() - start
    one, *others = np.median(seconds[1:], axis=0)  # the first round warms up
    product = images.size * n_clusters * one / len(square) ** 3
    cells = [(s, s / n / product) for s, (_, n) in zip(others, calls[1:], strict=True)]
    print(f"{n_clusters:8}", *(f"{1e3 * s:6.1f} ({ratio:5.2f})" for s, ratio in cells))
