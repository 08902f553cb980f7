"""The same sums over batches, devices and processes: each finds the fit of the whole."""

import itertools
import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import many_machines
import numpy as np
import pytest
import textbook
from nbimport import ROOT

N_ROWS = 42  # three devices, and two processes, can share them
N_PIXELS = 7
N_CLUSTERS = 3
PSEUDO_COUNT = 0.5  # with one, counts that are all too small make another mixture


def make_answers():
    """Answers of three groups to yes/no questions: 0, 1, and NaN for a missing one."""
    images = textbook.make_images(N_ROWS, 1, N_PIXELS).reshape(N_ROWS, N_PIXELS)
    is_seen = textbook.make_seen(images.shape)
    return np.where(is_seen, images, np.nan)


@pytest.fixture(scope="module")
def start(em):
    return em.init_mixture_params(jax.random.key(0), N_CLUSTERS, N_PIXELS)


@pytest.fixture(scope="module")
def answers(em):
    """Rows with holes and weights."""
    weights = np.random.default_rng(1).uniform(0.5, 1.5, size=N_ROWS)
    return em.observe(make_answers(), weights)


@pytest.fixture(scope="module")
def whole(em, start, answers):
    """The fit of all rows at once."""
    return em.fit(start, answers, pseudo_count=PSEUDO_COUNT)


def take(data, rows):
    return jax.tree.map(lambda leaf: leaf[rows], data)


def cut_in_three(data):
    return [take(data, slice(begin, begin + 14)) for begin in (0, 14, 28)]


def weighing_nothing(batch):
    return batch.replace(weights=jnp.zeros_like(batch.weights))


def assert_same_fit(found, expected):
    assert found.converged
    assert found.curve[-1] == pytest.approx(expected.curve[-1], abs=1e-4)
    textbook.assert_agree("a fit", as_fields(expected.params), found.params)


def as_fields(params):
    return textbook.Mixture(**params)


# A stream


def test_a_stream_fits_as_the_whole_does(em, start, answers, whole):
    def make_batches():
        yield from cut_in_three(answers)

    found = em.fit(
        start, make_batches, pseudo_count=PSEUDO_COUNT, e_step=em.e_step_stream
    )

    assert_same_fit(found, whole)


def test_a_stream_may_mix_images_with_rows_that_have_holes_or_weights(em, start):
    table = make_answers()
    weights = np.linspace(0, 2, N_ROWS)
    images = textbook.make_images(N_ROWS, 1, N_PIXELS)
    batches = [images, em.observe(table), em.observe(table, weights)]

    found = em.e_step_stream(start, lambda: batches)

    ones = np.ones(N_ROWS)
    all_seen = np.ones_like(table, dtype=bool)
    expected = textbook.expected_counts(
        start,
        on=np.concatenate([images[:, 0], table == 1, table == 1]),
        seen=np.concatenate([all_seen, ~np.isnan(table), ~np.isnan(table)]),
        weights=np.concatenate([ones, ones, weights]),
    )
    textbook.assert_agree("three batches", expected, found)


def test_a_long_stream_loses_no_rows_to_rounding(em, start, answers):
    """In float32 2 ** 25 + 1 is 2 ** 25."""
    only_cluster_0 = start.replace(cluster_weights=jnp.array([1.0, 0.0, 0.0]))
    row = take(answers, slice(0, 1))
    long = row.replace(weights=jnp.array([2.0**25]))
    short = row.replace(weights=jnp.array([1.0]))

    found = em.e_step_stream(only_cluster_0, lambda: [long, *[short] * 8])

    assert found.cluster_counts[0] == 2**25 + 8
    assert found.cluster_counts.dtype == jnp.float32


def test_an_empty_batch_counts_nothing(em, start, answers):
    first, second, _ = cut_in_three(answers)
    nothing = take(answers, slice(0, 0))

    found = em.e_step_stream(start, lambda: [nothing, first, nothing, second])

    expected = em.e_step_stream(start, lambda: [first, second])
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def one_shot_iterator(em, start, answers):
    em.e_step_stream(start, iter([answers]))


def iterator_that_has_ended(em, start, answers):
    batches = iter([answers])
    em.fit(start, lambda: batches, e_step=em.e_step_stream)


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
            iterator_that_has_ended,
            ValueError,
            "no batches: make_batches.. must begin the stream anew at each call",
            id="an iterator that has ended",
        ),
    ],
)
def test_a_stream_that_can_t_begin_anew_is_refused(
    em, start, answers, call, error, message
):
    with pytest.raises(error, match=message):
        call(em, start, answers)


def test_a_stream_that_fills_one_buffer_again_and_again_is_counted_right(em):
    """JAX may read a batch's memory after e_step has returned."""
    buffer = np.empty((2_000, 784), dtype=bool)  # large: counting it takes a while
    params = em.init_mixture_params(jax.random.key(0), 15, 784)

    def read_ten_batches():
        for number in range(10):
            buffer[:] = number % 2 == 0  # all on, or all off
            yield buffer

    found = em.e_step_stream(params, read_ten_batches)

    n_on = found.on_counts.sum(axis=0)
    np.testing.assert_allclose(n_on, 5 * 2_000, rtol=1e-4)


def test_batches_of_many_sizes_are_counted_by_few_programs(em, start):
    """The rest is padded by rows that count nothing."""
    table = np.resize(make_answers(), (300, N_PIXELS))
    batches = []
    for n in range(1, 151):
        batches.append(em.BinaryData(on=table[:n] == 1, seen=~np.isnan(table[:n])))
    em.e_step.clear_cache()

    found = em.e_step_stream(start, lambda: batches)

    rows = np.concatenate([table[:n] for n in range(1, 151)])
    expected = textbook.expected_counts(start, rows == 1, ~np.isnan(rows))
    textbook.assert_agree("150 batches", expected, found, atol=0.05)
    assert em.e_step._cache_size() < 100


def test_a_stream_counts_repeats_where_it_fills_up_a_batch(em, params, data):
    """39 rows are filled up to 40."""
    repeats = np.resize(np.float32([1, 2, 3]), 39)
    batch = em.BinaryData(on=data.on[:39], repeats=repeats)

    found = em.e_step_stream(params, lambda: [batch])

    expected = textbook.expected_counts(params, batch.on, weights=repeats)
    textbook.assert_agree("counts", expected, found)


# Online EM


def textbook_online_em(params, batches, step_sizes, n_images, pseudo_count):
    """The mixture after each batch, in float64."""
    running = textbook.Counts(0, 0, 0, 0)
    mixtures = []
    for batch, step_size in zip(batches, step_sizes, strict=True):
        counts = textbook.expected_counts(params, batch.on, batch.seen, batch.weights)
        scale = n_images / counts.cluster_counts.sum()
        blended = []
        for old, new in zip(running, counts, strict=True):
            blended.append((1 - step_size) * old + step_size * scale * new)
        running = textbook.Counts(*blended)
        params = textbook.maximise(running, pseudo_count)
        mixtures.append(params)
    return mixtures


def test_online_em_blends_the_batches_as_its_equation_says(em, start, answers):
    batches = cut_in_three(answers)
    step_sizes = [1.0, 3**-0.6, 4**-0.6]

    found = list(em.online_em(start, batches, n_images=500, pseudo_count=30.0))

    expected = textbook_online_em(
        start, batches, step_sizes, n_images=500, pseudo_count=30.0
    )
    assert len(found) == len(batches)
    for number, mixture in enumerate(expected):
        textbook.assert_agree(f"batch {number}", mixture, found[number], atol=1e-5)


def test_online_em_passes_over_batches_without_weight(em, start, answers):
    first, second, _ = cut_in_three(answers)
    nothing = take(answers, slice(0, 0))
    batches = [
        weighing_nothing(first),
        first,
        weighing_nothing(second),
        nothing,
        second,
    ]

    found = list(em.online_em(start, batches, n_images=500))

    after_first, after_second = em.online_em(start, [first, second], n_images=500)
    expected = [start, after_first, after_first, after_first, after_second]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_online_em_moves_after_each_batch_of_an_endless_stream(em, start, answers):
    batch, _, _ = cut_in_three(answers)

    first = next(em.online_em(start, itertools.repeat(batch), n_images=14))

    expected = textbook.step(start, batch.on, batch.seen, batch.weights)
    textbook.assert_agree("the first", expected, first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"n_images": 9, "pseudo_count": np.nan}, "pseudo_count", id="a"),
        pytest.param({"n_images": 0}, "n_images must be above 0", id="n_images"),
    ],
)
def test_online_em_refuses_other_options(em, start, answers, options, words):
    with pytest.raises(ValueError, match=words):
        next(em.online_em(start, [answers], **options))


# Many devices


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((3,), ("data",))


@pytest.fixture(scope="module")
def spread(em, mesh, answers):
    return em.shard(mesh, answers)


@pytest.fixture(scope="module")
def fit_of_three_devices(em, start, mesh, spread):
    e_step = em.sharded_e_step(mesh)
    return em.fit(start, spread, pseudo_count=PSEUDO_COUNT, e_step=e_step)


def test_three_devices_fit_as_one_does(fit_of_three_devices, whole):
    assert_same_fit(fit_of_three_devices, whole)


def test_what_three_devices_fitted_works_on_any_one(em, fit_of_three_devices, answers):
    params = fit_of_three_devices.params
    on_one = jax.device_put(answers, jax.devices()[1])

    found = em.log_likelihood(params, on_one)

    expected = textbook.log_likelihood(params, answers.on, answers.seen)
    textbook.assert_agree("log-likelihood", expected, found)


def test_three_devices_take_a_mixture_that_lives_on_another(
    em, start, mesh, spread, answers
):
    elsewhere = jax.device_put(start, jax.devices()[1])

    found = em.sharded_e_step(mesh)(elsewhere, spread)

    expected = textbook.expected_counts(
        start, answers.on, answers.seen, answers.weights
    )
    textbook.assert_agree("the counts", expected, found)


def test_each_device_holds_its_own_equal_part_of_the_rows(em, mesh):
    images = textbook.make_images(12, 4, 5)

    spread = em.shard(mesh, images)

    begins = set()
    for part in spread.on.addressable_shards:
        begins.add(part.index[0].start)
        rows = images.reshape(12, 20)[part.index]
        np.testing.assert_array_equal(part.data, rows)
        assert part.data.shape == (4, 20)
    assert begins == {0, 4, 8}


@pytest.mark.parametrize(
    "n_rows",
    [pytest.param(41, id="one row too few"), pytest.param(0, id="no rows")],
)
def test_rows_that_the_devices_don_t_divide_are_refused(em, mesh, n_rows):
    with pytest.raises(ValueError, match="pass a multiple of 3"):
        em.shard(mesh, np.zeros((n_rows, N_PIXELS), dtype=bool))


def test_what_is_spread_can_be_used_by_any_function(em, start, spread, answers, whole):
    """On a mesh as jax.make_mesh makes it."""
    found = em.responsibilities(start, spread)
    expected = textbook.responsibilities(start, answers.on, answers.seen)
    textbook.assert_agree("responsibilities", expected, found)
    assert_same_fit(em.fit(start, spread, pseudo_count=PSEUDO_COUNT), whole)


def test_rows_are_split_along_one_axis_of_a_mesh(em, start, answers):
    mesh = jax.make_mesh((1, 3), ("model", "data"))
    rows = em.shard(mesh, answers)
    found = em.sharded_e_step(mesh)(start, rows)
    expected = textbook.expected_counts(start, *as_tuple(answers))
    textbook.assert_agree("the counts", expected, found)
    with pytest.raises(ValueError, match="3 devices can't share 41 rows"):
        em.shard(mesh, take(answers, slice(0, 41)))


def as_tuple(data):
    return data.on, data.seen, data.weights


# Many processes


def run_two_processes(*options):
    """Run many_machines.py twice, side by side; what process 0 prints."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # a free port
        _, port = server.getsockname()
    program = [
        sys.executable,
        ROOT / "tests" / "many_machines.py",
        f"--coordinator=127.0.0.1:{port}",
        "--processes=2",
        *options,
    ]
    one_device = {"XLA_FLAGS": ""}
    proxy = {"http_proxy": "http://127.0.0.1:9"}  # which has no part in this
    env = os.environ | one_device | proxy
    processes = []
    for number in range(2):
        process = subprocess.Popen(
            [*program, f"--process={number}"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    ends = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, ends, strict=True):
        assert process.returncode == 0, errors
    (printed, _), _ = ends
    return printed


def load_mixture(path):
    with np.load(path) as arrays:
        return textbook.Mixture(**arrays)


def test_two_processes_fit_a_table_as_one_does(em, start, tmp_path):
    """Only rows of process 0 have holes, and a row more than two can share comes last."""
    table = make_answers()
    table[21:] = np.nan_to_num(table[21:])
    np.save(tmp_path / "table.npy", np.concatenate([table, table[:1]]))

    printed = run_two_processes(
        f"--table={tmp_path}/table.npy",
        f"--clusters={N_CLUSTERS}",
        f"--pseudo-count={PSEUDO_COUNT}",
        f"--save={tmp_path}/mixture.npz",
    )

    expected = em.fit(start, em.observe(table), pseudo_count=PSEUDO_COUNT)
    found = load_mixture(tmp_path / "mixture.npz")
    textbook.assert_agree("the mixture", as_fields(expected.params), found)
    assert "42 of 43 rows on 2 devices\n" in printed
    (value,) = re.findall(r"converged after \d+ steps at (\S+) nats per row", printed)
    assert float(value) == pytest.approx(expected.curve[-1], abs=2e-4)


def test_a_process_says_where_its_rows_begin_in_a_bad_table(em, tmp_path, monkeypatch):
    table = make_answers()
    table[24, 3] = 7
    np.save(tmp_path / "table.npy", table)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)

    with pytest.raises(ValueError, match="row 3, column 3 is 7.0") as error:
        many_machines.read_table(em, tmp_path / "table.npy")

    (note,) = error.value.__notes__
    assert re.search("process's row 0 is row 21 of .*table.npy", note)
