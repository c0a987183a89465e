"""hsic_mi against dense float64 evaluation, and the dense evaluation against 60 digits."""

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_lens.information.per_trace.hsic import _check, hsic_mi, median_distance
from mi_lens.information.per_trace.kernel_features import KernelFeatures, lay_out, order_for
from mi_lens.information.per_trace.trajectories import mi_trajectories

EPS = 1e-5


def dense(x, y, sigma=50.0, eps=EPS, estimator="normalized"):
    """The formula with d x d matrices, arranged so that float64 keeps 1e-10.

    As printed, KH is not symmetric, its inverse is ill-conditioned and K rounds to 1 where the
    vector is narrow. tr(Rx Ry) is the same for HKH in place of KH, and HKH is the same for K - 1,
    so here: expm1, two-sided centring, Cholesky.
    """
    d = len(x)

    def centred_kernel(v):
        v = v.double()
        kernel = torch.expm1(-(((v[:, None] - v[None]) / sigma) ** 2) / 2)
        kernel = kernel - kernel.mean(0, keepdim=True)
        kernel = kernel - kernel.mean(1, keepdim=True)
        return (kernel + kernel.T) / 2

    def r(kernel):
        ridge = eps * d * torch.eye(d, dtype=torch.float64)
        return torch.cholesky_solve(kernel, torch.linalg.cholesky(kernel + ridge))

    kx, ky = centred_kernel(x), centred_kernel(y)
    if estimator == "hsic":
        return (kx * ky).sum() / (d - 1) ** 2
    return (r(kx) * r(ky).T).sum()


def exact(x, y, sigma, eps, estimator):
    """The formula as printed, one-sided centring and a plain inverse, in 60 digits."""
    with mpmath.workdps(60):
        d = len(x)
        centring = mpmath.eye(d) - mpmath.ones(d) / d

        def one_sided(v):
            v = [mpmath.mpf(float(value)) for value in v]
            gap = mpmath.matrix(d, d)
            for i in range(d):
                for j in range(d):
                    gap[i, j] = mpmath.exp(-((v[i] - v[j]) ** 2) / (2 * mpmath.mpf(sigma) ** 2))
            return gap * centring

        kx, ky = one_sided(x), one_sided(y)
        if estimator == "normalized":
            ridge = mpmath.mpf(eps) * d * mpmath.eye(d)
            kx, ky = kx * (kx + ridge) ** -1, ky * (ky + ridge) ** -1
        product = kx * ky
        trace = mpmath.fsum(product[i, i] for i in range(d))
        return float(trace if estimator == "normalized" else trace / (d - 1) ** 2)


def assert_exact(got, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-12)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
log_uniform = lambda low, high: st.floats(low, high).map(lambda power: 10.0**power)  # noqa: E731


@st.composite
def pairs(draw, most=160):
    """Two vectors of one length: related or not, with far, repeated and constant coordinates."""
    d = draw(st.integers(2, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def vector():
        x = torch.randn(d, generator=generator, dtype=torch.float64)
        x *= draw(log_uniform(-3, 3))
        x += draw(st.sampled_from([0.0, 0.0, 1.0, -300.0]))
        for kind in draw(st.lists(st.sampled_from(["far", "repeat", "round", "grid"]), max_size=2)):
            picks = torch.randperm(d, generator=generator)[: draw(st.integers(1, max(1, d // 4)))]
            if kind == "far":
                picks = picks[:12]
                x[picks] = 1e4 * (2 * torch.rand(len(picks), generator=generator).double() - 1)
            elif kind == "repeat":
                x[picks] = x[picks[0]].clone()
            elif kind == "round":
                x = x.round()
            else:
                x = torch.linspace(float(x.min()), float(x.max()), d, dtype=torch.float64)
        if draw(st.integers(0, 19)) == 0:
            x[:] = x[0].clone()
        return x

    x = vector()
    y = draw(st.sampled_from(["other", "other", "same", "scaled"]))
    y = {"other": vector, "same": x.clone, "scaled": lambda: 7 * x}[y]()
    dtype = draw(st.sampled_from(DTYPES))
    x, y = (v.clamp(-6e4, 6e4) if dtype == torch.float16 else v for v in (x, y))
    return x.to(dtype), y.to(dtype)


@settings(max_examples=300, deadline=None)
@given(pairs(), log_uniform(0, 2.6), st.sampled_from(["normalized", "hsic"]))
def test_equals_the_dense_evaluation(pair, sigma, estimator):
    x, y = pair
    got = hsic_mi(x, y, sigma=sigma, estimator=estimator)
    assert got.dtype == torch.float64
    assert got >= 0
    assert_exact(got, dense(x, y, sigma, estimator=estimator))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 2), min_size=2, max_size=7),
    log_uniform(0, 2.6),
    log_uniform(-7, 0),
    st.sampled_from(["normalized", "hsic"]),
)
def test_equals_the_printed_formula_in_sixty_digits(columns, sigma, eps, estimator):
    x, y = torch.tensor(columns, dtype=torch.float64).T
    expected = exact(x, y, sigma, eps, estimator)
    assert_exact(hsic_mi(x, y, sigma=sigma, eps=eps, estimator=estimator), expected)
    assert_exact(dense(x, y, sigma, eps, estimator), expected)


@pytest.mark.parametrize("scale", [1e-3, 0.3, 6.0])
def test_wide_and_narrow_relatives_agree_in_sixty_digits(scale):
    """y = 30 x holds x's small curvature in full: the hardest alignment for truncation."""
    x = scale * torch.randn(24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = exact(x, 30 * x, 50.0, EPS, "normalized")
    assert_exact(hsic_mi(x, 30 * x), expected)
    assert_exact(dense(x, 30 * x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1.0, 50.0, 400.0])
@pytest.mark.parametrize("scale", [1e-3, 3.0, 300.0])
def test_equals_the_dense_evaluation_at_full_width(scale, sigma):
    generator = torch.Generator().manual_seed(0)
    x, y = scale * torch.randn(2, 1024, generator=generator)
    y[:10] = torch.linspace(-1e4, 1e4, 10)
    assert_exact(hsic_mi(x, y, sigma=sigma), dense(x, y, sigma))


@pytest.mark.slow
def test_equals_the_dense_evaluation_at_2048():
    x, y = 3 * torch.randn(2, 2048, generator=torch.Generator().manual_seed(1))
    x[5], y[5], x[77] = 900.0, 9000.0, -350.0
    assert_exact(hsic_mi(x, y), dense(x, y))


def test_two_coordinates_by_hand():
    """HKH of two points is (1 - k) times a projection, so MI is a product of two fractions."""
    x, y = torch.tensor([0.0, 3.0]), torch.tensor([1.0, -4.0])
    a, b = (1 - torch.exp(-(torch.tensor(g, dtype=torch.float64) ** 2) / 8) for g in (3.0, 5.0))
    ridge = 2 * 0.01
    expected = a / (a + ridge) * b / (b + ridge)
    assert_exact(hsic_mi(x, y, sigma=2.0, eps=0.01), expected)
    assert_exact(hsic_mi(x, y, sigma=2.0, estimator="hsic"), a * b)


@pytest.fixture
def vectors():
    x = 4 * torch.randn(6, 90, generator=torch.Generator().manual_seed(2))
    x[1, 3], x[2, :5], x[4] = 700.0, torch.linspace(-9000, 9000, 5), 2.5
    return x


def test_batch_shape_and_neighbours_do_not_matter(vectors):
    answer = vectors[0] + 1
    one_by_one = torch.stack([hsic_mi(x, answer) for x in vectors])
    assert one_by_one.shape == (6,)
    assert_exact(hsic_mi(vectors, answer), one_by_one)
    assert_exact(hsic_mi(vectors.reshape(3, 1, 2, 90), answer), one_by_one.reshape(3, 1, 2))
    assert_exact(hsic_mi(vectors.flip(0), answer), one_by_one.flip(0))
    assert hsic_mi(vectors[:0], answer).shape == (0,)
    assert hsic_mi(vectors[0], answer).shape == ()


def test_many_answers_equal_one_by_one(vectors):
    answers = vectors.flip(-1)[:4]
    together = hsic_mi(vectors.reshape(2, 3, 90), answers)
    assert together.shape == (2, 3, 4)
    for i, answer in enumerate(answers):
        assert_exact(together[..., i], hsic_mi(vectors, answer).reshape(2, 3))
    assert hsic_mi(vectors, answers[:0]).shape == (6, 0)


def test_many_chunks_equal_one(vectors, monkeypatch):
    many = vectors.repeat(50, 1)
    whole = hsic_mi(many, vectors)
    monkeypatch.setattr("mi_lens.information.per_trace.kernel_features.WORKSPACE", {"cpu": 4096})
    assert_exact(hsic_mi(many, vectors), whole)


def test_strided_input_equals_contiguous(vectors):
    assert_exact(hsic_mi(vectors.T.contiguous().T, vectors[0]), hsic_mi(vectors, vectors[0]))


def test_symmetric_and_blind_to_order_shift_and_reflection(vectors):
    x, y = vectors[1].double(), vectors[2].double()
    value = hsic_mi(x, y)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(3))
    assert_exact(hsic_mi(y, x), value)
    assert_exact(hsic_mi(x[order], y[order]), value)
    assert_exact(hsic_mi(x + 32, 64 - y), value)
    assert (hsic_mi(x[order], y) - value).abs() > 1e-3


def test_scaling_states_and_sigma_together_changes_nothing(vectors):
    assert_exact(hsic_mi(8 * vectors, 8 * vectors[0], sigma=400.0), hsic_mi(vectors, vectors[0]))


def test_a_constant_vector_carries_nothing(vectors):
    assert_exact(hsic_mi(vectors[4], vectors[0]), 0.0)
    assert_exact(hsic_mi(vectors[0], vectors[4]), 0.0)


def test_values_near_the_end_of_float64_do_not_overflow():
    x = torch.tensor([1.5e308, -1.5e308, 0.0, 1.0], dtype=torch.float64)
    assert_exact(hsic_mi(x, x, sigma=1.0), exact(x, x, 1.0, EPS, "normalized"))


def test_does_not_change_its_input(vectors):
    before = vectors.double()
    given_states = before.clone()
    hsic_mi(given_states, given_states[0])
    assert torch.equal(given_states, before)


@settings(max_examples=50, deadline=None)
@given(pairs(most=40))
def test_median_sigma_is_each_vectors_own(pair):
    x, y = (v.double() for v in pair)

    def median(v):
        first, second = torch.triu_indices(len(v), len(v), 1)
        return (v[first] - v[second]).abs().sort().values[(len(first) - 1) // 2]

    sigmas = [median(x), median(y)]
    for v, sigma in zip((x, y), sigmas, strict=True):
        torch.testing.assert_close(
            median_distance(v[None])[0], sigma, rtol=1e-12, atol=1e-15 * float(v.max() - v.min())
        )
    if min(sigmas) == 0:
        with pytest.raises(ValueError, match="median distance is 0"):
            hsic_mi(x, y, sigma="median")
    else:
        assert_exact(hsic_mi(x, y, sigma="median"), dense(x / sigmas[0], y / sigmas[1], 1.0))


@pytest.mark.parametrize("half_width", [1e-4, 0.05, 0.3, 1.0, 5.0, 30.0])
def test_order_is_enough_and_not_wasteful(half_width):
    """Interpolating the kernel in order_for(w) points errs below 1e-13, wherever the other is."""
    width = torch.tensor(half_width, dtype=torch.float64)

    def error(order):
        k = torch.arange(order, dtype=torch.float64)
        angle = (k + 0.5) * torch.pi / order
        s = torch.linspace(-1, 1, 301, dtype=torch.float64)
        weights = torch.cos(k * torch.acos(s)[:, None]) @ torch.cos(k[:, None] * angle) * 2 / order
        weights = weights - 1 / order
        other = torch.linspace(-2 * half_width - 3, 2 * half_width + 3, 97, dtype=torch.float64)
        kernel = lambda a: torch.exp(-((width * a[:, None] - other) ** 2) / 2)  # noqa: E731
        return (weights @ kernel(angle.cos()) - kernel(s)).abs().max()

    order = int(order_for(width))
    assert error(order) < 1e-13
    assert order <= 6 or error(max(1, int(0.7 * order) - 1)) > 1e-13


def test_far_coordinates_stand_alone(vectors):
    """Five coordinates up to +-9000 add about their own number to the rank, not 360 sigmas."""
    x = vectors.new_zeros(1, 4096) + torch.linspace(-3, 3, 4096)
    x[0, :5] = torch.linspace(-9000, 9000, 5)
    layout = lay_out(x, torch.tensor([50.0], dtype=torch.float64))
    assert int(layout.far) in range(4, 9)
    assert int(layout.order) < 16
    phi = KernelFeatures.of(x, layout).expand()[0]
    kernel = torch.exp(-((x[0, :64, None] - x[0, None, :64]).double() ** 2) / 5000)
    centring = torch.eye(64, dtype=torch.float64) - 1 / 64
    error = centring @ (phi[:64] @ phi[:64].T - kernel) @ centring
    assert error.abs().max() < 1e-13


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(vectors, bad):
    states = vectors.reshape(2, 3, 90).clone()
    states[1, 2, 40] = bad
    with pytest.raises(ValueError, match=r"states\[1, 2\] holds NaN or infinity"):
        hsic_mi(states, vectors[0])
    with pytest.raises(ValueError, match=r"answer holds NaN or infinity"):
        hsic_mi(vectors, states[1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"eps": 1e-9}, "eps is 1e-09"),
    ],
)
def test_arguments_out_of_range_are_refused(vectors, arguments, message):
    with pytest.raises(ValueError, match=message):
        hsic_mi(vectors, vectors[0], **arguments)


def test_shapes_and_dtypes_are_refused(vectors):
    """Checked beneath hsic_mi: under pytest its own annotations refuse them first."""
    check = lambda states, answer: _check(states, answer, 50.0, EPS, "normalized")  # noqa: E731
    with pytest.raises(ValueError, match="90 coordinates and answer has 89"):
        check(vectors, vectors[0, :-1])
    with pytest.raises(ValueError, match="at least 2"):
        check(vectors[:, :1], vectors[0, :1])
    with pytest.raises(TypeError, match="int64"):
        check(vectors.long(), vectors[0])
    with pytest.raises(ValueError, match=r"expected \[d\] or \[answers, d\]"):
        check(vectors, vectors[None])
    with pytest.raises(ValueError, match="estimator is 'mi'"):
        _check(vectors, vectors[0], 50.0, EPS, "mi")
    with pytest.raises(ValueError, match="sigma is 'mean'"):
        _check(vectors, vectors[0], "mean", EPS, "normalized")


def test_trajectories_are_one_row_a_hook(vectors):
    activations = {"blocks.1.hook_resid_post": vectors, "blocks.0.hook_resid_post": 2 * vectors}
    answers = {"blocks.0.hook_resid_post": vectors[0], "blocks.1.hook_resid_post": vectors[1]}
    got = mi_trajectories(activations, answers, sigma=20.0)
    assert got.shape == (2, 6)
    assert_exact(got[0], hsic_mi(vectors, vectors[1], sigma=20.0))
    assert_exact(got[1], hsic_mi(2 * vectors, vectors[0], sigma=20.0))


def test_trajectories_refuse_what_does_not_match(vectors):
    hook = "blocks.0.hook_resid_post"
    with pytest.raises(ValueError, match=r"not in both: \['blocks.1.hook_resid_post'\]"):
        mi_trajectories({hook: vectors}, {hook: vectors[0], "blocks.1.hook_resid_post": vectors[0]})
    with pytest.raises(ValueError, match="same number of steps"):
        mi_trajectories(
            {hook: vectors, "embed": vectors[:2]}, {hook: vectors[0], "embed": vectors[0]}
        )
    with pytest.raises(ValueError, match="empty"):
        mi_trajectories({}, {})


@pytest.mark.parametrize("offset", [0.0, -300.0, 1e4, 5e6])
@pytest.mark.parametrize("sigma", ["median", 50.0, 0.01])
def test_where_a_vector_lies_does_not_matter(offset, sigma):
    """Only differences count, and those of float64 numbers close together are exact."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(30, 257, generator=generator, dtype=torch.float64).mul(2**20).round()
    noise[:10, ::7] *= 40  # far coordinates
    noise *= 2.0**-30  # so that adding the offset loses nothing
    states, answer = noise[:-1] + offset, noise[-1] + offset
    expected = hsic_mi(noise[:-1], noise[-1], sigma=sigma)
    torch.testing.assert_close(
        hsic_mi(states, answer, sigma=sigma), expected, rtol=1e-7, atol=1e-12
    )
