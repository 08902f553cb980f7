"""Time EM on the 60,000 training images: `make benchmark`.

Everything is timed in turn, round after round, so that a machine's changes of speed meet
all alike; the medians of the rounds are printed, and their ratios. The bound of a
function is the time of its matrix products' operations at the rate of a large square
float32 product of the same round.

Measured on 2 cores of an AMD EPYC (about 185 GFLOP/s), Python 3.11, jax 0.10.2:

    clusters          em_step (bound)   log_likelihood (bound)      plain JAX (em_step)
          15            26.0 ( 1.64x)            14.7 ( 1.85x)            74.6 ( 2.87x)
         100           113.6 ( 1.06x)            68.1 ( 1.27x)           152.7 ( 1.34x)
         500           489.2 ( 0.89x)           241.6 ( 0.88x)           540.3 ( 1.10x)

    em_step at 100 clusters, time for each image relative to 60,000 images:
      6,000: 1.05, 12,000: 1.07, 30,000: 1.00, 60,000: 1.00
    em_step of 12,000 images, time for each cluster relative to 100 clusters:
      10: 2.07, 30: 1.53, 100: 1.00, 300: 0.91, 1,000: 0.89

    one E-step of 15 clusters, images per second (time relative to in memory):
      from disk                22,368 (58.2x)
      from TFDS's cache       184,060 (7.1x)
      in memory             1,301,413 (1.0x)

    sixteen restarts together, relative to one by one: 0.63x

Below 1 the products of 500 clusters run faster than the square one. Few clusters make thin
products, which run below that rate. Not measured on a GPU.
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


def numpy_em_step(params, images):
    """The same in NumPy."""
    x = images.reshape(len(images), -1).astype(np.float32)
    means = np.asarray(params.cluster_means)
    log_joint = x @ (np.log(means) - np.log1p(-means)).T
    log_joint += np.log1p(-means).sum(axis=1) + np.log(params.cluster_weights)
    shares = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    n_k = shares.sum(axis=0)
    means = np.clip(shares.T @ x / n_k[:, None], 1e-6, 1 - 1e-6)
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


def time_functions(em, host_images, n_clusters, n_rounds):
    """Print one row: the functions, their bound and their rivals."""
    images = jnp.asarray(host_images)
    square = jnp.ones((SQUARE, SQUARE))
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    params = em.init_mixture_params(jax.random.key(0), n_clusters, images[0].size)
    t = medians(
        {
            "square": lambda: multiply(square),
            "em_step": lambda: em.em_step(params, images),
            "log_likelihood": lambda: em.log_likelihood(params, images),
            "plain": lambda: plain_em_step(params, images),
            "numpy": lambda: numpy_em_step(params, host_images),
        },
        n_rounds,
    )
    product = images.size * n_clusters * t["square"] / SQUARE**3
    cells = (
        (t["em_step"], 2 * product),
        (t["log_likelihood"], product),
        (t["plain"], t["em_step"]),
        (t["numpy"], t["em_step"]),
    )
    print(f"{n_clusters:8}", *(f"{1e3 * a:15.1f} ({a / b:5.2f}x)" for a, b in cells))


def time_scaling(em, host_images):
    """Print em_step's time for each image and cluster, relative to the full size's."""
    images = jnp.asarray(host_images)

    def call(n_images, n_clusters):
        key, part = jax.random.key(0), images[:n_images]
        params = em.init_mixture_params(key, n_clusters, images[0].size)
        return lambda: em.em_step(params, part)

    sizes = (6_000, 12_000, 30_000, 60_000)
    t = medians({n: call(n, 100) for n in sizes}, 11)
    print("\nem_step at 100 clusters, time for each image relative to 60,000 images:")
    ratios = (f"{n:,}: {t[n] / n / (t[60_000] / 60_000):.2f}" for n in sizes)
    print("  " + ", ".join(ratios))
    t = medians({k: call(12_000, k) for k in (10, 30, 100, 300, 1_000)}, 11)
    print("em_step of 12,000 images, time for each cluster relative to 100 clusters:")
    print("  " + ", ".join(f"{k:,}: {t[k] / k / (t[100] / 100):.2f}" for k in t))


def time_stream(em, train, host_images):
    """Print the images per second of one EM step, streamed and in memory."""
    images = jnp.asarray(host_images)
    no_cache = em.tfds.ReadConfig(try_autocache=False)
    options = {"split": "train", "data_dir": ROOT / "data", "read_config": no_cache}
    stream = em.tfds.load("mnist", **options)
    params = em.init_mixture_params(jax.random.key(0), 15, images[0].size)
    t = medians(
        {
            "from disk": lambda: em.e_step_stream(params, em.stream_images(stream)),
            "from TFDS's cache": lambda: em.e_step_stream(params, em.stream_images(train)),
            "in memory": lambda: em.e_step(params, images),
        },
        5,
    )
    print("\none E-step of 15 clusters, images per second (time relative to in memory):")
    for name, seconds in t.items():
        ratio = seconds / t["in memory"]
        print(f"  {name:18} {len(images) / seconds:12,.0f} ({ratio:.1f}x)")


def time_restarts(em, host_images):
    """Print the time of sixteen restarts together, relative to one by one."""
    images = jnp.asarray(host_images[:2_000])
    keys = jax.random.split(jax.random.key(0), 16)
    starts = jax.vmap(lambda key: em.init_from_images(key, 15, images))(keys)
    one = jax.tree.map(lambda leaf: leaf[:1], starts)
    t = medians(
        {
            "together": lambda: em.run_restarts(starts, images, 21),
            "alone": lambda: em.run_restarts(one, images, 21),
        },
        5,
    )
    ratio = t["together"] / (16 * t["alone"])
    print(f"\nsixteen restarts together, relative to one by one: {ratio:.2f}x")


def main():
    em = import_notebook(ROOT / "bernoulli_em.ipynb")
    train = em.tfds.load("mnist", split="train", data_dir=ROOT / "data")
    images, _ = em.tfds_to_numpy(train)
    device = jax.devices()[0]
    print(f"{device.platform} ({device.device_kind}), jax {jax.__version__}")
    print("medians in ms; in brackets, the ratio to what the column's head names")
    head = ("em_step (bound)", "log_likelihood (bound)", "plain JAX (em_step)")
    print("clusters", *(f"{text:>24}" for text in (*head, "NumPy (em_step)")))
    for n_clusters, n_rounds in ((15, 15), (100, 9), (500, 5)):
        time_functions(em, images, n_clusters, n_rounds)
    time_scaling(em, images)
    time_stream(em, train, images)
    time_restarts(em, images)


if __name__ == "__main__":
    main()
