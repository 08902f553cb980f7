"""Parts 2 and 3 of the notebook: starts, fit, and the model at work."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="module")
def images(mnist):
    return mnist[0][0][:3_000]


@pytest.fixture(scope="module")
def small(em):
    """A mixture of 4 clusters over 8 pixels, and all 256 images."""
    params = em.init_mixture_params(jax.random.key(1), 4, 8)
    params = params.replace(cluster_weights=jnp.array([0.1, 0.2, 0.3, 0.4]))
    return params, np.array(list(itertools.product([False, True], repeat=8)))


def test_image_starts_are_halfway_between_a_coin_and_an_image(em, images):
    params = em.init_from_images(jax.random.key(0), 300, images)
    chosen = {row.tobytes() for row in np.asarray(params.cluster_means) > 0.5}
    assert set(np.unique(params.cluster_means)) == {0.25, 0.75}
    assert chosen <= {image.tobytes() for image in images.reshape(len(images), -1)}
    assert len(chosen) == 300  # no image is chosen twice
    np.testing.assert_allclose(params.cluster_weights, 1 / 300)
    other = em.init_from_images(jax.random.key(1), 300, images)
    assert not np.array_equal(other.cluster_means, params.cluster_means)


def test_fit_ends_for_each_of_its_reasons(em, images):
    start = em.init_from_images(jax.random.key(0), 5, images)
    converged = em.fit(start, images, tolerance=0.5, show_bar=False)
    assert converged.converged and 2 < len(converged.curve) < 100
    rises = np.diff(converged.curve)
    assert rises[-1] < 0.5 <= rises[:-1].min()
    stopped = em.fit(start, images, max_steps=3, show_bar=False)
    assert not stopped.converged and len(stopped.curve) == 3
    expected = start
    for _ in range(3):
        expected = em.em_step(expected, images)
    chex.assert_trees_all_close(stopped.params, expected, rtol=1e-5)


def objective(em, params, images, pseudo_count):
    """Mean log-likelihood plus log prior for each image, in float64."""
    means = np.asarray(params.cluster_means, dtype=float)
    log_prior = pseudo_count * (np.log(means) + np.log1p(-means)).sum()
    return em.mean_log_likelihood(params, images) + log_prior / len(images)


@pytest.mark.parametrize("pseudo_count", [0.0, 2.0])
def test_fit_s_last_value_is_that_of_its_params(em, images, pseudo_count):
    start = em.init_from_images(jax.random.key(0), 5, images)
    found = em.fit(start, images, pseudo_count, tolerance=0.3, show_bar=False)
    assert found.converged
    last = objective(em, found.params, images, pseudo_count)
    assert found.curve[-1] == pytest.approx(last, abs=1e-3)
    expected = start
    for _ in found.curve[1:]:
        expected = em.em_step(expected, images, pseudo_count)
    chex.assert_trees_all_close(found.params, expected, rtol=1e-4, atol=1e-6)


def test_fit_climbs_the_posterior_from_a_likelihood_s_top(em, images):
    images = images[:500]
    start = em.init_from_images(jax.random.key(0), 5, images)
    top = em.fit(start, images, tolerance=1e-4, show_bar=False)
    found = em.fit(top.params, images, pseudo_count=5.0, tolerance=1e-4, show_bar=False)
    assert top.converged and found.converged and np.diff(found.curve).min() > -1e-3
    expected = top.params
    for _ in range(200):
        expected = em.em_step(expected, images, 5.0)
    np.testing.assert_allclose(found.params.cluster_means, expected.cluster_means, atol=0.02)


def test_fit_says_when_its_objective_falls(em, images, monkeypatch):
    start = em.init_from_images(jax.random.key(0), 5, images)
    top = em.fit(start, images, tolerance=0.01, show_bar=False).params
    monkeypatch.setattr(em, "m_step", lambda counts, pseudo_count: start)
    with pytest.raises(FloatingPointError, match="EM cannot fall"):
        em.fit(top, images, show_bar=False)


@pytest.mark.parametrize("spoil", [lambda x: x * jnp.nan, lambda x: 2 * x, lambda x: -x])
@pytest.mark.parametrize("field", ["cluster_weights", "cluster_means"])
def test_what_is_no_mixture_is_neither_fitted_nor_saved_nor_loaded(
    em, small, tmp_path, spoil, field
):
    params, images = small
    broken = params.replace(**{field: spoil(params[field])})
    with pytest.raises(ValueError, match=field):
        em.fit(broken, images, show_bar=False)
    with pytest.raises(ValueError, match=field):
        em.save_mixture(tmp_path / "mixture.npz", broken)
    np.savez(tmp_path / "mixture.npz", **dict(broken), facts="{}")
    with pytest.raises(ValueError, match=field):
        em.load_mixture(tmp_path / "mixture.npz")


def test_fit_says_on_its_bar_what_ended_it(em, images, capsys):
    start = em.init_from_images(jax.random.key(0), 5, images)
    em.fit(start, images, max_steps=2)
    assert "2 steps" in (last := capsys.readouterr().err.splitlines()[-1])
    assert "not yet converged" in last
    em.fit(start, images, tolerance=1e3)
    assert "1 steps" in (last := capsys.readouterr().err.splitlines()[-1])
    assert "image, converged" in last


def test_restarts_together_equal_single_runs(em, images):
    keys = jax.random.split(jax.random.key(0), 3)
    starts = jax.vmap(lambda key: em.init_from_images(key, 6, images))(keys)
    found, curves = em.run_restarts(starts, images, n_steps=5)
    assert curves.shape == (5, 3)
    for i in range(3):
        start = jax.tree.map(lambda leaf, i=i: leaf[i], starts)
        alone = em.fit(start, images, tolerance=-1, max_steps=5, show_bar=False)
        np.testing.assert_allclose(curves[:, i], alone.curve, rtol=1e-5)
        together = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        chex.assert_trees_all_close(together, alone.params, rtol=1e-3, atol=1e-5)


def test_the_marginal_equals_brute_force(em, small):
    params, images = small
    observed = np.array([1, 0, 1, 1, 0, 0, 1, 0], dtype=bool)
    p = np.exp(em.log_likelihood(params, images))
    seen = images[:, observed]
    marginal_p = np.exp(em.log_likelihood(em.marginal(params, observed), seen))
    completed = em.complete_images(params, images, observed)
    for image, p_seen, row in zip(seen, marginal_p, completed, strict=True):
        same = (images[:, observed] == image).all(axis=1)
        assert p_seen == pytest.approx(p[same].sum(), rel=1e-4)
        expected = (p[same, None] * images[same]).sum(axis=0) / p[same].sum()
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


def test_completion_of_a_fully_seen_and_of_a_hidden_image(em, small):
    params, images = small
    everything, nothing = np.ones(8, dtype=bool), np.zeros(8, dtype=bool)
    np.testing.assert_array_equal(
        em.complete_images(params, images, everything), images.astype(np.float32)
    )
    prior_mean = params.cluster_weights @ params.cluster_means
    for row in em.complete_images(params, images.reshape(-1, 2, 4), nothing):
        np.testing.assert_allclose(row.reshape(-1), prior_mean, rtol=1e-5)


def test_samples_follow_the_parameters(em, small):
    params, _ = small
    n = 40_000
    images, clusters = em.sample_images(jax.random.key(0), params, n)
    assert images.dtype == bool and images.shape == (n, 8)
    shares = np.bincount(clusters, minlength=4) / n
    np.testing.assert_allclose(shares, params.cluster_weights, atol=0.012)
    for k in range(4):
        means = images[clusters == k].mean(axis=0)
        np.testing.assert_allclose(means, params.cluster_means[k], atol=0.04)


def test_samples_follow_their_key_with_independent_draws(em):
    """Means of 0.5 and as many clusters as pixels: one key for both draws would tie them."""
    params = em.BernoulliMixture(
        cluster_weights=jnp.full(4, 1 / 4), cluster_means=jnp.full((4, 4), 0.5)
    )
    images, clusters = em.sample_images(jax.random.key(0), params, 4_000)
    own = np.asarray(images)[np.arange(4_000), clusters]
    assert own.mean() == pytest.approx(0.5, abs=0.04)
    other, _ = em.sample_images(jax.random.key(1), params, 4_000)
    assert not np.array_equal(images, other)


def test_a_class_s_prior_counts(em, small):
    params, images = small
    log_joint = em.class_log_joint([params, params], [0.9, 0.1], images)
    expected = em.log_likelihood(params, images)[:, None] + np.log([0.9, 0.1])
    np.testing.assert_allclose(log_joint, expected, rtol=1e-5)


def test_a_classifier_of_mixtures_works_on_a_small_slice(em, mnist):
    (images, labels), (test_images, test_labels) = mnist
    images, labels = images[:10_000], labels[:10_000]
    mixtures = []
    for digit, key in enumerate(jax.random.split(jax.random.key(0), 10)):
        own = images[labels == digit][:800]
        start = em.init_from_images(key, 10, own)
        mixtures.append(em.fit(start, own, 0.1, show_bar=False).params)
    weights = np.bincount(labels) / len(labels)
    log_joint = em.class_log_joint(mixtures, weights, test_images[:2_000])
    assert log_joint.shape == (2_000, 10)
    error = (log_joint.argmax(axis=-1) != test_labels[:2_000]).mean()
    assert error < 0.12  # 0.157 with one cluster for each digit and all images


def test_a_saved_mixture_comes_back_equal(em, small, tmp_path):
    params, _ = small
    em.save_mixture(tmp_path / "mixture.npz", params, seed=3, binarisation=">= 0.5")
    loaded, facts = em.load_mixture(tmp_path / "mixture.npz")
    chex.assert_trees_all_equal(loaded, params)
    assert facts == {"seed": 3, "binarisation": ">= 0.5"}
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    em.save_mixture(tmp_path / "mixture.npz", narrow, n=np.int64(7), share=np.float32(0.5))
    loaded, facts = em.load_mixture(tmp_path / "mixture.npz")
    chex.assert_trees_all_close(loaded, params, atol=0.01)
    assert facts == {"n": 7, "share": 0.5}


def test_files_of_another_kind_are_named(em, tmp_path):
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    np.save(tmp_path / "other.npy", np.ones(3))
    (tmp_path / "other.txt").write_text("no array")
    for name in ("other.npz", "other.npy", "other.txt"):
        with pytest.raises(ValueError, match="not saved by save_mixture"):
            em.load_mixture(tmp_path / name)


REFUSED = [
    (
        ValueError,
        "at most the number of images",
        lambda em, p, x: em.init_from_images(jax.random.key(0), 257, x),
    ),
    (
        TypeError,
        "pass boolean images",
        lambda em, p, x: em.init_from_images(jax.random.key(0), 2, x * 1.0),
    ),
    (ValueError, "max_steps", lambda em, p, x: em.fit(p, x, max_steps=0)),
    (ValueError, "tolerance", lambda em, p, x: em.fit(p, x, tolerance=np.nan)),
    (
        ValueError,
        "positive",
        lambda em, p, x: em.run_restarts(jax.tree.map(lambda leaf: leaf[None], p), x, n_steps=0),
    ),
    (ValueError, "for one mixture use fit", lambda em, p, x: em.run_restarts(p, x, n_steps=3)),
    (ValueError, "class_weights must be 2", lambda em, p, x: em.class_log_joint([p, p], [1], x)),
    (ValueError, "sum to 1", lambda em, p, x: em.class_log_joint([p, p], [1, 1], x)),
    (ValueError, "end in .npz", lambda em, p, x: em.save_mixture("mixture", p)),
    (
        ValueError,
        "transposed",
        lambda em, p, x: em.complete_images(p, x.reshape(-1, 2, 4), np.ones((4, 2), dtype=bool)),
    ),
    (TypeError, "boolean mask", lambda em, p, x: em.marginal(p, np.ones(8))),
    (
        ValueError,
        "mixture's 8 pixels",
        lambda em, p, x: em.complete_images(p, x, np.ones(4, dtype=bool)),
    ),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_input_raises_and_names_the_fix(em, small, case):
    error, says, call = REFUSED[case]
    with pytest.raises(error, match=says):
        call(em, *small)
