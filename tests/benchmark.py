"""Time EM on the 60,000 training images of MNIST: `make benchmark`.

All functions are timed in turn, round after round, so that a machine's changes of speed
meet them alike. The medians are printed, and in brackets how many times the yardstick
that is: the time that a function's matrix products would take at the speed of a large
square product of the same run. (Thin products are often slower.)

The plain step is EM as Part 1 of the notebook has it: all images at once, without holes.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from nbimport import ROOT, import_notebook

N_ROUNDS = {15: 15, 100: 9, 500: 5}  # for each number of clusters
SQUARE = 4_096  # rows and columns of the square product
COLUMN = 16  # characters

em = import_notebook()


class Contender(NamedTuple):
    name: str
    run: Callable  # of the parameters
    n_products: int  # of all images with all cluster means


def read_images():
    """The training images: (n, n_pixels) bool."""
    import tensorflow_datasets as tfds

    ds = tfds.load("mnist", split="train", data_dir=ROOT / "data")
    images, _ = em.tfds_to_numpy(ds)
    return jnp.asarray(images.reshape(len(images), -1))


def hide_half(images):
    """The images with a random half of their pixels hidden."""
    seen = jax.random.bernoulli(jax.random.key(0), 0.5, images.shape)
    return em.BinaryData(on=images, seen=seen)


@jax.jit
def plain_em_step(params, images):
    x = images.astype(jnp.float32)
    log_on = jnp.log(params.cluster_means)
    log_off = jnp.log1p(-params.cluster_means)
    log_weights = jnp.log(params.cluster_weights)
    log_joint = log_weights + log_off.sum(axis=1) + x @ (log_on - log_off).T
    r = jax.nn.softmax(log_joint, axis=-1)
    cluster_counts = r.sum(axis=0)
    means = r.T @ x / cluster_counts[:, None]
    return em.BernoulliMixture(
        cluster_weights=cluster_counts / len(x),
        cluster_means=jnp.clip(means, em.MIN_MEAN, 1 - em.MIN_MEAN),
    )


@jax.jit
def square_product(square):
    return square @ square


def make_contenders(images):
    """What is timed, each as a function of the parameters alone."""
    holes = hide_half(images)

    def log_joint_prob(params):
        return em.log_joint_prob(params, images)

    def log_likelihood(params):
        return em.log_likelihood(params, images)

    def em_step(params):
        return em.em_step(params, images)

    def step_on_holes(params):
        return em.em_step(params, holes)

    def plain_step(params):
        return plain_em_step(params, images)

    return [
        Contender("log_joint_prob", log_joint_prob, 1),
        Contender("log_likelihood", log_likelihood, 1),
        Contender("em_step", em_step, 2),
        Contender("em_step, holes", step_on_holes, 4),
        Contender("plain step", plain_step, 2),
    ]


def seconds_of(function, argument):
    start = time.perf_counter()
    jax.block_until_ready(function(argument))
    return time.perf_counter() - start


def time_in_turn(contenders, params, n_rounds):
    """Median seconds of the square product, and of each contender."""
    square = jnp.ones((SQUARE, SQUARE), dtype=jnp.float32)
    rounds = []
    for _ in range(n_rounds + 1):
        seconds = [seconds_of(square_product, square)]
        for contender in contenders:
            seconds.append(seconds_of(contender.run, params))
        rounds.append(seconds)
    square_seconds, *medians = np.median(rounds[1:], axis=0)  # the first compiles
    return square_seconds, medians


def main():
    images = read_images()
    n_images, n_pixels = images.shape
    contenders = make_contenders(images)

    print(f"{n_images} images on {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print("median milliseconds (times the yardstick)")
    names = [contender.name.rjust(COLUMN) for contender in contenders]
    print("clusters", *names)

    for n_clusters, n_rounds in N_ROUNDS.items():
        params = em.init_mixture_params(jax.random.key(0), n_clusters, n_pixels)
        square_seconds, medians = time_in_turn(contenders, params, n_rounds)
        product = square_seconds * n_images * n_pixels * n_clusters / SQUARE**3
        cells = []
        for contender, seconds in zip(contenders, medians, strict=True):
            ratio = seconds / (contender.n_products * product)
            cell = f"{1_000 * seconds:.1f} ({ratio:.2f})"
            cells.append(cell.rjust(COLUMN))
        print(f"{n_clusters:8}", *cells, flush=True)


if __name__ == "__main__":
    main()
