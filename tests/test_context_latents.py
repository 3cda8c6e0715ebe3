"""A context network as the likelihood of a model with latents: coded without loss, at the rate of its bound."""

import functools
import math

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, photograph, run_main, run_script, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import small_network
from PIL import Image
from test_autoregressive import extreme_weights
from test_bitsback import assert_round_trip, bins_for, random_words

import discretization
from codec import bitsback, block_codec, command
from codec.autoregressive import Pixels
from codec.conditionals import Conditionals, FloatNetwork
from codec.rans import EmptyLaneError, Rans
from model import checkpoints, context, exact, imagenetcrop_train, make_exact, mnist_train, train_options
from model.context import HIDDEN
from model.make_exact import bits_per_dim, in_floats
from model.vae import Model
from utils.cli import UserError
from utils.fixed_point import FRACTION, MU_LIMIT
from utils.torch.modules import fold_weight_norm

TRAIN = ("--likelihood=context", "--nz=1", "--width=6", "--blocks=1", "--nprocessing=1", "--batch=20", "--test-every=1")


def context_model(nz=1, xs=(1, 32, 32), **options):
    return small_model(nz, xs, likelihood="context", **options)


def conditionals(model, network=None, q=8):
    network = network or FloatNetwork(fold_weight_norm(model))
    return Conditionals(network, bins_for(model, q), context.check(model.context.weights())[0])


def images(model, lanes=2, count=2, seed=0):
    """Noise that a network can make something of: uint8 [lanes, count, *xs]."""
    noise = np.random.default_rng(seed).normal(128, 10, (lanes, count, *model.xs))
    return np.clip(noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("scheme", bitsback.SCHEDULES)
@pytest.mark.parametrize(("nz", "xs"), [(1, (1, 32, 32)), (2, (3, 8, 12)), (4, (3, 8, 8))])
def test_round_trip(scheme, nz, xs):
    model = context_model(nz, xs, zchannels=2)
    initial = random_words(np.random.default_rng(0), 2, nz * math.prod(model.zs) + 2)
    assert_round_trip(bitsback.SCHEDULES[scheme](nz), conditionals(model), images(model), initial)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]),
    st.sampled_from([0.0, 0.1, 999.0]), st.sampled_from([0, 1 << FRACTION, MU_LIMIT]), st.integers(0, 99),
)  # fmt: skip
def test_any_image_given_any_features(lanes, height, width, channels, size, limit, seed):
    rng = np.random.default_rng(seed)
    features = rng.integers(-limit, limit, (lanes, HIDDEN, height, width), endpoint=True)
    dims = height * width * channels
    symbols = rng.choice(np.array([0, 1, 128, 254, 255]), (lanes, dims))
    likelihood = Pixels(extreme_weights(seed, size), features)
    initial = random_words(rng, lanes + 1, 5)  # a lane more, which is none of its business
    coder = Rans.from_words(initial)
    likelihood.push(coder, symbols)
    assert all(len(lane) <= 5 + dims for lane in coder.to_words())
    np.testing.assert_array_equal(likelihood.pop(coder, lanes, dims), symbols)
    for left, start in zip(coder.to_words(), initial, strict=True):
        np.testing.assert_array_equal(left, start)


def test_popping_more_than_there_is_says_so():
    model = context_model()
    likelihood = conditionals(model)(0, 1, np.zeros((1, 256), np.int64))
    with pytest.raises(EmptyLaneError):
        likelihood.pop(Rans.from_words(np.ones((1, 3), np.uint32)), 1, 1024)


def test_features_change_the_likelihood_as_in_training():
    """What pushing takes is what PyTorch says, which is another thing without the features."""
    model = context_model(xs=(3, 16, 16))
    model.context.load_weights(small_network().weights)
    with torch.no_grad():
        model.gen_mu[0].gain += 3  # so that features matter
    folded, pixels = fold_weight_norm(model), images(model, 3, 1)[:, 0]
    z = torch.randn(3, *model.zs)
    fixed = (z * (1 << FRACTION)).round().long()
    features, scale = FloatNetwork(folded).generate(0, fixed)
    assert scale is None
    weights = context.check(model.context.weights())[0]
    taken = []
    for given_features in (features, torch.zeros_like(features)):
        coder = Rans.from_words(random_words(np.random.default_rng(0), 3, 4))
        before = coder.bits()
        Pixels(weights, given_features.numpy()).push(coder, pixels.reshape(3, -1).astype(np.int64))
        taken.append(coder.bits() - before)
    with torch.no_grad():
        expected = -folded.context.log_likelihood(torch.from_numpy(pixels), folded.generate(0, z)[0]) / math.log(2)
    np.testing.assert_allclose(taken[0], expected, rtol=2e-4)
    assert np.abs(taken[1] / taken[0] - 1).max() > 2e-3


def test_exact_form():
    model = context_model(2, (3, 16, 16))
    pixels = torch.from_numpy(images(model, 8, 1)[:, 0])
    integers = make_exact.make(model, pixels)
    assert integers.fields.architecture["likelihood"] == "context"
    rates = [bits_per_dim(form, pixels).mean() for form in (fold_weight_norm(model), in_floats(integers, model))]
    assert abs(rates[1] - rates[0]) < 0.01
    initial = random_words(np.random.default_rng(0), 2, 2 * 64 + 2)
    assert_round_trip(bitsback.bitswap(2), conditionals(model, integers), images(model), initial)


def test_a_checkpoint_says_what_its_likelihood_is(tmp_path):
    model = context_model(2)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    read, _ = checkpoints.load(tmp_path / "model.pt")
    assert read.likelihood == "context" and read.xs == model.xs and read.nz == 2
    for name, value in read.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])
    assert Model.from_state_dict(small_model().state_dict()).likelihood == "logistic"


def test_weights_are_taken_over():
    first, second = (context_model(seed=seed).context for seed in (0, 1))
    second.load_weights(first.weights())
    for ours, theirs in zip(second.weights(), first.weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_files_do_not_take_it(tmp_path):
    torch.save(context_model(xs=(3, 32, 32)).state_dict(), tmp_path / "model.pt")
    with pytest.raises(UserError, match="context likelihood"):
        block_codec.open_checkpoint(tmp_path / "model.pt", integers=False)


# The scripts


def train(mnist, output, *flags, check=0):
    main = functools.partial(train_options.main, mnist_train.SETTINGS)
    done = run_main(main, *TRAIN, "--data", mnist, "--output", output, *flags)
    assert done.returncode == check, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(mnist, tmp_path_factory):
    """A folder with a model that was trained for four steps, from a context network that is given."""
    output = tmp_path_factory.mktemp("context_latents")
    start = context_model(seed=3).context
    context.save(output / "start.npz", start.weights())
    train(mnist, output, "--max-steps=4", "--kl-warmup=8", "--context", output / "start.npz", "--lr=1e-6")
    state = torch.load(output / "model" / "params" / "mnist_context" / "nz1", weights_only=True)
    torch.testing.assert_close(state["context.first"], start.first.detach(), atol=1e-4, rtol=0)
    assert (output / "plots" / "mnist_context1" / "elbo.csv").exists()
    return output


def test_a_run_goes_on_where_it_stopped(trained, mnist, tmp_path):
    flags = ("--kl-warmup=8", "--context", trained / "start.npz", "--lr=1e-6")
    train(mnist, tmp_path, "--max-steps=2", *flags)
    train(mnist, tmp_path, "--max-steps=4", *flags, "--resume")
    halves, whole = (
        torch.load(folder / "model" / "params" / "mnist_context" / "nz1.resume", weights_only=True)["model"]
        for folder in (tmp_path, trained)
    )
    for name, value in whole.items():
        assert torch.equal(halves[name], value), name
    assert_one_line_error(train(mnist, tmp_path, "--max-steps=9", "--resume", check=1), "kl_warmup")


def test_script_codes_and_decodes(trained, mnist):
    flags = ("--likelihood=context", "--nz=1", "--quantbits=6", "--experiments=4", "--ndatapoints=3")
    flags = (*flags, "--data", mnist, "--output", trained)
    printed = run_script("mnist_compress.py", *flags, check=0).stdout
    assert printed.count("all 12 images and all initial words are identical") == 2
    folder = trained / "plots" / "mnist_context1"
    nets, elbos = (np.load(folder / f"bitswap_6bits_4x3_{measure}.npy") for measure in ("nets", "elbos"))
    np.testing.assert_allclose(nets.mean(), elbos.mean(), rtol=0.02)
    again = run_main(functools.partial(command.main, "mnist"), *flags, "--verify-only")
    assert again.stdout.count("all 12 images and all initial words are identical") == 2


@pytest.mark.parametrize(("flag", "name"), [("--exact", "_exact"), ("--precision=bfloat16", "_bf16")])
def test_script_codes_in_every_arithmetic(trained, mnist, tmp_path, flag, name):
    """What lies under another --output is found by --checkpoint, which implies the latents."""
    ours = trained / "model" / "params" / "mnist_context" / "nz1"
    flags = ("--likelihood=context", "--checkpoint", ours, "--quantbits=6", "--experiments=3", "--ndatapoints=2", flag)
    done = run_main(
        functools.partial(command.main, "mnist"), *flags, "--bitswap=1", "--data", mnist, "--output", tmp_path
    )
    assert "all 6 images and all initial words are identical" in done.stdout, done.stderr
    assert (tmp_path / "plots" / "mnist_context1" / f"bitswap_6bits{name}_3x2_nets.npy").exists()


def test_bins_and_the_exact_form_are_made_of_the_likelihood_that_is_asked_for(trained, mnist, tmp_path):
    shared = ("mnist", "--likelihood=context", "--nz=1", "--data", mnist)
    done = run_main(discretization.main, *shared, "--quantbits=3", "--output", trained, "--to", tmp_path / "bins.npz")
    assert done.returncode == 0, done.stderr
    ours = trained / "model" / "params" / "mnist_context" / "nz1"
    _, identity = checkpoints.load(ours)
    assert discretization.load(tmp_path / "bins.npz").checkpoint == identity
    to = tmp_path / "nz1.exact.npz"
    done = run_main(make_exact.main, *shared, "--checkpoint", ours, "--compare=20", "--to", to)
    assert done.returncode == 0, done.stderr
    assert exact.load(to).fields.checkpoint == identity


def test_photographs_have_folders_of_their_own(tmp_path):
    torch.save(context_model(1, (3, 32, 32), zchannels=2).state_dict(), tmp_path / "model.pt")
    for split in ("train", "test"):
        (tmp_path / "imagenetcrop" / split / "class").mkdir(parents=True)
        Image.fromarray(photograph(70, 100, 1)).save(tmp_path / "imagenetcrop" / split / "class" / "1.png")
    flags = ("--likelihood=context", "--checkpoint", tmp_path / "model.pt", "--bitswap=1", "--quantbits=4")
    run_script("imagenetcrop_compress.py", *flags, "--data", tmp_path, "--output", tmp_path, check=0)
    assert (tmp_path / "plots" / "imagenetcrop_context1").is_dir()
    assert sorted(path.name for path in (tmp_path / "bitstreams").iterdir()) == ["imagenetcrop_context1"]


def test_what_does_not_go_together_is_refused(trained, mnist, checkpoint):
    compress = functools.partial(run_main, functools.partial(command.main, "mnist"))
    both = ("--data", mnist, "--output", trained, "--likelihood=context", "--nz=2")
    assert_one_line_error(compress(*both), "mnist_train.py --likelihood=context --nz=2", "there is one for --nz=1")
    assert_one_line_error(compress(*both, "--checkpoint", checkpoint), "logistic")
    ours = trained / "model" / "params" / "mnist_context" / "nz1"
    assert_one_line_error(compress("--data", mnist, "--checkpoint", ours), "--likelihood=context")
    assert_one_line_error(compress("--nz=0"), "--likelihood=context")
    assert_one_line_error(train(mnist, trained, "--colour-transform", check=2), "colours")
    assert_one_line_error(train(mnist, trained, "--likelihood=logistic", "--context=x.npz", check=2), "--likelihood")
    crops = functools.partial(train_options.main, imagenetcrop_train.SETTINGS)
    assert_one_line_error(run_main(crops, "--likelihood=context", "--nz=4", "--colour-transform"), "logistic")
