"""The same sums over batches, devices and processes: each finds the fit of the whole.

All fits start from the same parameters. They must agree on the number of steps, on the
curve and on the parameters, also where values are missing and rows have weights.
"""

import itertools
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from nbimport import ROOT

N_ROWS = 4_800  # 1, 3, 4 and 8 devices divide them
N_PIXELS = 20
N_CLUSTERS = 3
BATCH_SIZES = [700, 1, 2_600, 1_499]  # they add up to N_ROWS
PSEUDO_COUNT = 0.5  # with one, counts that are all too small make another mixture


def make_table(share_missing):
    """Answers of three groups to yes/no questions: 0, 1, and NaN for a missing one."""
    rng = np.random.default_rng(0)
    shares_of_yes = rng.uniform(0.05, 0.95, size=(3, N_PIXELS))
    groups = rng.integers(3, size=N_ROWS)
    yes = rng.uniform(size=(N_ROWS, N_PIXELS)) < shares_of_yes[groups]
    missing = rng.uniform(size=(N_ROWS, N_PIXELS)) < share_missing
    return np.where(missing, np.nan, yes)


def make_weights():
    return np.random.default_rng(1).uniform(0, 3, size=N_ROWS)


def cut(data, sizes):
    """The rows of a BinaryData in batches of these sizes."""
    batches = []
    begin = 0
    for size in sizes:
        rows = slice(begin, begin + size)
        batches.append(take(data, rows))
        begin += size
    return batches


def take(data, rows):
    return jax.tree.map(lambda leaf: leaf[rows], data)


def make_mesh(n_devices):
    return jax.sharding.Mesh(jax.devices()[:n_devices], ("data",))


def assert_same_fit(found, expected):
    assert found.converged
    assert expected.converged
    assert len(found.curve) == len(expected.curve)
    np.testing.assert_allclose(found.curve, expected.curve, rtol=0, atol=1e-4)
    assert_same_mixture(found.params, expected.params)


def assert_same_mixture(found, expected):
    np.testing.assert_allclose(
        found.cluster_weights, expected.cluster_weights, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        found.cluster_means, expected.cluster_means, rtol=0, atol=1e-5
    )


@pytest.fixture(scope="module")
def start(em):
    return em.init_mixture_params(jax.random.key(0), N_CLUSTERS, N_PIXELS)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((0.0, None), id="complete"),
        pytest.param((0.8, None), id="four fifths missing"),
        pytest.param((0.8, make_weights()), id="missing and weighted"),
    ],
)
def data(request, em):
    share_missing, weights = request.param
    return em.observe(make_table(share_missing), weights)


@pytest.fixture(scope="module")
def whole(em, start, data):
    """The fit of all rows at once."""
    return em.fit(start, data, pseudo_count=PSEUDO_COUNT)


# A stream


def test_a_stream_fits_as_the_whole_does(em, start, data, whole):
    def make_batches():
        yield from cut(data, BATCH_SIZES)

    found = em.fit(
        start, make_batches, pseudo_count=PSEUDO_COUNT, e_step=em.e_step_stream
    )

    assert_same_fit(found, whole)


def test_a_stream_of_images_counts_what_the_whole_counts(em, start):
    images = textbook.make_images(3_000, 4, 5)
    batches = [images[:700], images[700:]]

    found = em.e_step_stream(start, lambda: batches)

    expected = textbook.expected_counts(start, images)
    textbook.assert_agree("a stream of images", expected, found, atol=0.01)


def test_a_stream_may_mix_images_with_rows_that_have_holes_or_weights(em, start):
    complete = make_table(share_missing=0.0)
    missing = make_table(share_missing=0.8)
    weights = make_weights()
    batches = [complete == 1, em.observe(missing), em.observe(missing, weights)]

    found = em.e_step_stream(start, lambda: batches)

    table = np.concatenate([complete, missing, missing])
    expected = textbook.expected_counts(
        start,
        on=table == 1,
        off=table == 0,
        weights=np.concatenate([np.ones(2 * N_ROWS), weights]),
    )
    textbook.assert_agree("three batches", expected, found, atol=0.01)


def one_shot_iterator(em, start, images):
    return em.e_step_stream(start, iter([images]))


def list_of_batches(em, start, images):
    return em.e_step_stream(start, [images])


def function_of_an_iterator_that_ends(em, start, images):
    batches = iter([images])
    return em.fit(start, lambda: batches, e_step=em.e_step_stream)


def empty_stream(em, start, images):
    return em.e_step_stream(start, lambda: images[:0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        pytest.param(
            one_shot_iterator,
            TypeError,
            "a function that begins the stream anew, lambda: batches",
            id="a one-shot iterator",
        ),
        pytest.param(
            list_of_batches,
            TypeError,
            "a function that begins the stream anew, lambda: batches",
            id="a list",
        ),
        pytest.param(
            function_of_an_iterator_that_ends,
            ValueError,
            "must begin the stream anew at each call",
            id="a function that returns the same iterator again",
        ),
        pytest.param(empty_stream, ValueError, "no batches", id="an empty stream"),
    ],
)
def test_a_stream_that_can_t_begin_anew_is_refused(em, start, call, error, message):
    images = textbook.make_images(50, 4, 5)
    with pytest.raises(error, match=message):
        call(em, start, images)


# Online EM


def textbook_online_em(params, batches, step_sizes, n_images, pseudo_count):
    """The mixture after each batch, in float64."""
    running = textbook.Counts(0, 0, 0, 0)
    mixtures = []
    for batch, step_size in zip(batches, step_sizes, strict=True):
        counts = textbook.expected_counts(params, batch.on, batch.off, batch.weights)
        scale = n_images / counts.cluster_counts.sum()
        blended = []
        for old, new in zip(running, counts, strict=True):
            blended.append((1 - step_size) * old + step_size * scale * new)
        running = textbook.Counts(*blended)
        params = textbook.maximise(running, pseudo_count)
        mixtures.append(params)
    return mixtures


def test_online_em_blends_the_batches_as_its_equation_says(em, start, data):
    batches = cut(data, BATCH_SIZES)
    step_sizes = [1.0, 3**-0.6, 4**-0.6, 5**-0.6]

    found = list(em.online_em(start, batches, n_images=500, pseudo_count=30.0))

    expected = textbook_online_em(
        start, batches, step_sizes, n_images=500, pseudo_count=30.0
    )
    assert len(found) == len(batches)
    for number, mixture in enumerate(expected):
        textbook.assert_agree(f"batch {number}", mixture, found[number], atol=1e-5)


def test_online_em_moves_after_each_batch_of_an_endless_stream(em, start):
    images = textbook.make_images(50, 4, 5)
    mixtures = em.online_em(start, itertools.repeat(images), n_images=50)

    first = next(mixtures)

    textbook.assert_agree("the first", textbook.step(start, images), first, atol=1e-5)


# Many devices


@pytest.mark.parametrize("n_devices", [1, 3, 4, 8])
def test_many_devices_fit_as_one_does(em, start, data, whole, n_devices):
    mesh = make_mesh(n_devices)
    spread = em.shard(mesh, data)
    e_step = em.sharded_e_step(mesh)

    found = em.fit(start, spread, pseudo_count=PSEUDO_COUNT, e_step=e_step)

    assert_same_fit(found, whole)


def test_each_device_holds_its_own_equal_part_of_the_rows(em):
    images = textbook.make_images(24, 4, 5)

    spread = em.shard(make_mesh(8), images)

    begins = set()
    for part in spread.addressable_shards:
        begins.add(part.index[0].start or 0)
        np.testing.assert_array_equal(part.data, images[part.index])
        assert part.data.shape == (3, 4, 5)
    assert begins == {0, 3, 6, 9, 12, 15, 18, 21}


@pytest.mark.parametrize(
    ("n_devices", "n_rows", "message"),
    [
        pytest.param(8, 47, "pass a multiple of 8", id="8 devices"),
        pytest.param(3, 47, "pass a multiple of 3", id="3 devices"),
        pytest.param(8, 5, "pass a multiple of 8", id="fewer rows than devices"),
        pytest.param(1, 0, "pass a multiple of 1", id="no rows"),
    ],
)
def test_rows_that_the_devices_don_t_divide_are_refused(em, n_devices, n_rows, message):
    with pytest.raises(ValueError, match=message):
        em.shard(make_mesh(n_devices), np.zeros((n_rows, 4, 5), dtype=bool))


def test_one_device_takes_one_row(em):
    row = textbook.make_images(1, 4, 5)
    np.testing.assert_array_equal(em.shard(make_mesh(1), row), row)


@pytest.fixture(scope="module")
def compiled(em, start, data):
    """The text of the program that three devices run."""
    mesh = make_mesh(3)
    lowered = em.sharded_e_step(mesh).lower(start, em.shard(mesh, data))
    return lowered.compile().as_text()


def test_devices_send_the_expected_counts_and_nothing_more(compiled):
    sums = re.findall(r" = (.*) all-reduce(?:-start)?\(", compiled)
    shapes = re.findall(r"f32\[([\d,]*)\]", " ".join(sums))

    counts = f"{N_CLUSTERS},{N_PIXELS}"
    assert sorted(shapes) == sorted(["", f"{N_CLUSTERS}", counts, counts])


@pytest.mark.parametrize(
    "operation",
    [
        "all-gather",
        "all-to-all",
        "collective-broadcast",
        "collective-permute",
        "ragged-all-to-all",
        "reduce-scatter",
    ],
)
def test_devices_send_in_no_other_way(compiled, operation):
    assert f" {operation}" not in compiled


# Memory


def images_of_shape(em, n):
    return jax.ShapeDtypeStruct((n, 28, 28), bool)


def rows_with_holes(em, n):
    pixels = jax.ShapeDtypeStruct((n, 784), bool)
    return em.BinaryData(on=pixels, off=pixels)


def weighted_rows_with_holes(em, n):
    weights = jax.ShapeDtypeStruct((n,), jnp.float32)
    return rows_with_holes(em, n).replace(weights=weights)


@pytest.mark.parametrize(
    "make_data",
    [
        pytest.param(images_of_shape, id="images"),
        pytest.param(rows_with_holes, id="holes"),
        pytest.param(weighted_rows_with_holes, id="holes and weights"),
    ],
)
@pytest.mark.parametrize(
    "name",
    ["log_joint_prob", "log_likelihood", "e_step", "em_step", "complete_images"],
)
def test_working_memory_doesn_t_grow_with_the_images(em, name, make_data):
    """What a compiled function needs beside its arguments and its result."""
    params = em.init_mixture_params(jax.random.key(0), 15, 784)
    needed = {}
    for n in (6_000, 60_000, 60_100):  # the last doesn't divide into batches
        lowered = getattr(em, name).lower(params, make_data(em, n))
        needed[n] = lowered.compile().memory_analysis().temp_size_in_bytes

    assert max(needed.values()) < 1.01 * needed[6_000] + 1_000, needed  # bytes


# Many processes


def run_processes(*options_of_each):
    """Run many_machines.py side by side, one process for each of these lists."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # a free port
        host, port = server.getsockname()
    commands = []
    for number, options in enumerate(options_of_each):
        command = [
            sys.executable,
            str(ROOT / "tests" / "many_machines.py"),
            f"--coordinator={host}:{port}",
            f"--processes={len(options_of_each)}",
            f"--process={number}",
            *options,
        ]
        commands.append(command)
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(run_one_process, commands))


def run_one_process(command):
    one_device = {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(
        command,
        env=os.environ | one_device,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_all_succeeded(processes):
    for process in processes:
        assert process.returncode == 0, process.stderr


def load_mixture(em, path):
    with np.load(path) as arrays:
        return em.BernoulliMixture(**arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def fit_of_two_processes(folder):
    """The processes, of a table with a row more than two can share equally."""
    table = make_table(share_missing=0.8)
    np.save(folder / "table.npy", np.concatenate([table, table[:1]]))
    options = [
        f"--table={folder}/table.npy",
        f"--clusters={N_CLUSTERS}",
        f"--pseudo-count={PSEUDO_COUNT}",
        f"--save={folder}/mixture.npz",
    ]
    processes = run_processes(options, options)
    assert_all_succeeded(processes)
    return processes


@pytest.fixture(scope="module")
def fit_of_one_process(em, start):
    data = em.observe(make_table(share_missing=0.8))
    return em.fit(start, data, pseudo_count=PSEUDO_COUNT)


def test_two_processes_find_the_mixture_that_one_finds(
    em, folder, fit_of_two_processes, fit_of_one_process
):
    found = load_mixture(em, folder / "mixture.npz")

    assert_same_mixture(found, fit_of_one_process.params)


def test_two_processes_take_as_many_steps_as_one(
    fit_of_two_processes, fit_of_one_process
):
    zero, _ = fit_of_two_processes
    n_steps = len(fit_of_one_process.curve) - 1

    assert f"converged after {n_steps} steps" in zero.stdout


def test_two_processes_end_at_the_objective_of_one(
    fit_of_two_processes, fit_of_one_process
):
    zero, _ = fit_of_two_processes
    objective = re.search(r"at (\S+) nats per row", zero.stdout)

    assert float(objective[1]) == pytest.approx(fit_of_one_process.curve[-1], abs=2e-4)


def test_two_processes_say_which_rows_they_used(fit_of_two_processes):
    zero, _ = fit_of_two_processes

    assert "4800 rows on 2 devices" in zero.stdout
    assert "left out, so that the parts are equal: 1 of 4801 rows" in zero.stdout


def test_a_process_that_misses_nothing_works_with_one_that_does(em, start, folder):
    table = make_table(share_missing=0.0)
    table[-1, :5] = np.nan
    np.save(folder / "nearly_complete.npy", table)
    options = [
        f"--table={folder}/nearly_complete.npy",
        f"--clusters={N_CLUSTERS}",
        "--max-steps=2",
        f"--save={folder}/nearly_complete.npz",
    ]

    assert_all_succeeded(run_processes(options, options))

    found = load_mixture(em, folder / "nearly_complete.npz")
    expected = em.fit(start, em.observe(table), max_steps=2)
    assert_same_mixture(found, expected.params)


def test_two_processes_fit_mnist(em, mnist, folder):
    options = ["--split=train[:4001]", "--max-steps=2", f"--save={folder}/mnist.npz"]

    assert_all_succeeded(run_processes(options, options))

    (images, _), _ = mnist
    start = em.init_mixture_params(jax.random.key(0), 15, 784)
    expected = em.fit(start, images[:4_000], max_steps=2)
    found = load_mixture(em, folder / "mnist.npz")
    assert_same_mixture(found, expected.params)


@pytest.fixture(scope="module")
def processes_of_which_one_fails(folder):
    """Process 1 meets a value that is neither 0 nor 1."""
    table = make_table(share_missing=0.8)
    table[2_405, 3] = 7
    np.save(folder / "bad.npy", table)
    options = [f"--table={folder}/bad.npy", "--deadline=3"]
    return run_processes(options, options)


def test_a_process_that_fails_ends_the_others(processes_of_which_one_fails):
    for process in processes_of_which_one_fails:
        assert process.returncode != 0


def test_a_process_that_fails_says_why(processes_of_which_one_fails):
    _, one = processes_of_which_one_fails

    assert "row 5, column 3 is 7.0: need 0, 1 or NaN" in one.stderr
    assert "This process's row 0 is row 2400" in one.stderr
