"""The landscape renderer and its trainings: determinism, labels against depth, a few steps, and going on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from examples.landscapes.dataset import open_set, render_set
from examples.landscapes.light import CLASSES, CLOUD, SKY, SUN, WATER
from examples.landscapes.scenes import FAR, World, render
from examples.landscapes.terrain import KINDS, SEA

SIZE = 32


@pytest.fixture(scope="module")
def world() -> World:
    return World(3)


def test_same_seed_gives_the_same_scene_and_another_does_not(world: World) -> None:
    first, again, other = (render(world, np.random.default_rng(s), size=SIZE, kind=0) for s in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_worlds_of_different_seeds_differ(world: World) -> None:
    a = render(world, np.random.default_rng(5), size=SIZE, kind=1)
    b = render(World(4), np.random.default_rng(5), size=SIZE, kind=1)
    assert not np.array_equal(a[1], b[1])


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_labels_agree_with_depth(world: World, kind: int) -> None:
    image, labels, depth, found = render(world, np.random.default_rng(kind), size=SIZE, kind=kind)
    assert (image.shape, image.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((SIZE, SIZE), np.uint8)
    assert (depth.shape, depth.dtype) == ((SIZE, SIZE), np.float32)
    assert found == kind
    assert labels.max() < len(CLASSES)
    np.testing.assert_array_equal(np.isinf(depth), np.isin(labels, (SKY, CLOUD, SUN)))
    ground = depth[np.isfinite(depth)]
    assert ground.min() >= 8
    assert ground.max() <= FAR


def test_water_lies_on_one_plane(world: World) -> None:
    _, labels, depth, _ = render(world, np.random.default_rng(2), size=64, kind=SEA)
    rows, columns = np.nonzero((labels == WATER) & (depth < 0.5 * FAR))
    assert len(np.unique(rows)) > 8
    # 1 / depth of a level plane grows linearly from the horizon down
    line = np.polyfit(rows, 1 / depth[rows, columns], 1)
    np.testing.assert_allclose(np.polyval(line, rows), 1 / depth[rows, columns], rtol=0, atol=1e-3 / depth.min())


def test_a_set_goes_on_and_refuses_to_mix_training_and_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    numbers = {"first_world": 7, "num_worlds": 2, "per_world": 2, "size": SIZE, "processes": 1}
    render_set(folder, **numbers)
    before = np.array(open_set(folder).images)
    done = np.load(folder / "done.npy")
    np.save(folder / "done.npy", done & [True, False])
    with pytest.raises(ValueError, match="1 of 2 worlds"):
        open_set(folder)
    render_set(folder, **numbers)
    np.testing.assert_array_equal(open_set(folder).images, before)
    with pytest.raises(ValueError, match="another folder"):
        render_set(folder, **{**numbers, "size": 64})
    with pytest.raises(ValueError, match="part training"):
        render_set(tmp_path / "mixed", **{**numbers, "first_world": 99999})


torch = pytest.importorskip("torch")

from examples.landscapes.codebook import Codebook
from examples.landscapes.condition_maps import disparity
from examples.landscapes.dataset import LandscapeSet
from examples.landscapes.losses import PatchDiscriminator, output_gradient, reconstruction_loss
from examples.landscapes.train_gpt import GptTraining, Sequences, fuse_attention, gpt_spec, read_sequences
from examples.landscapes.train_vqgan import Recipe, VqganTraining, measure
from examples.landscapes.training_state import Run, compact, load_state, save_state
from trt_vqgan.export.gpt_modules import GPT
from trt_vqgan.spec import AutoencoderSpec, TransformerSpec

TINY = AutoencoderSpec(
    quantizer="nearest",
    in_channels=3,
    out_channels=3,
    base_channels=32,
    channel_multipliers=(1, 1, 1, 1),
    num_res_blocks=1,
    attention_resolutions=(),
    resolution=SIZE,
    z_channels=8,
    code_dim=8,
    codebook_size=16,
)


@pytest.fixture(autouse=True)
def _thread_count() -> Iterator[None]:
    """Trainings set torch to one thread; other tests get their threads back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def landscapes(world: World) -> LandscapeSet:
    pictures = [render(world, np.random.default_rng(i), size=SIZE, kind=i) for i in range(4)]
    images, labels, depth, kinds = zip(*pictures, strict=True)
    return LandscapeSet(
        images=np.stack(images),
        labels=np.stack(labels),
        depth=np.stack(depth).astype(np.float16),
        kinds=np.array(kinds, np.uint8),
    )


def test_vqgan_training_goes_on_as_if_never_stopped(tmp_path: Path, landscapes: LandscapeSet) -> None:
    recipe = Recipe(crops=2, crop_side=SIZE, whole=2, adversary_from=0, adversary_ramp=1, warmup=1, restart_every=1)
    straight = VqganTraining(TINY, recipe, Run(tmp_path / "a", steps=3), landscapes)
    for step in range(2):
        losses = straight.advance(step)
    save_state(tmp_path / "a" / "state.pt", straight.state())
    resumed = VqganTraining(TINY, recipe, Run(tmp_path / "b", steps=3), landscapes)
    resumed.restore(load_state(tmp_path / "a" / "state.pt"))
    losses, others = straight.advance(2), resumed.advance(2)
    assert losses == pytest.approx(others, rel=1e-4)
    assert losses["discriminator"] > 0
    figures, picture = measure(resumed.average.weights, TINY, landscapes, count=2)
    assert 0 < figures["psnr_db"] < 40
    assert picture.size == (2 * SIZE, 2 * SIZE)


def test_gpt_training_learns_and_drops_no_condition_that_is_no_class(tmp_path: Path) -> None:
    codes = np.tile(np.arange(16, dtype=np.uint16), (6, 2, 1))
    sequences = Sequences(codes=codes, conditions=codes[:, :, :4], is_class=False)
    spec = gpt_spec(sequences, layers=1, width=32)
    assert spec.max_seq_len == 4 + 16 - 1
    training = GptTraining(spec, Run(tmp_path, steps=20), sequences, dropout=0.0)
    nats = [training.advance(step)["nats"] for step in range(20)]
    assert nats[-1] < nats[0]


def test_fused_attention_computes_the_reference() -> None:
    torch.manual_seed(0)
    spec = TransformerSpec(vocab_size=16, max_seq_len=12, num_layers=2, num_heads=2, hidden_size=64)
    model = GPT(spec)
    tokens = torch.randint(16, (3, 12))
    wanted = model(tokens)
    fuse_attention(model)
    torch.testing.assert_close(model(tokens), wanted, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="whole sequences"):
        model.forward_with_past(tokens[:, 1:2], model.forward_with_past(tokens[:, :1], None)[1])


def test_unfinished_codes_are_refused_or_their_finished_part_is_read(tmp_path: Path) -> None:
    codes = np.arange(50 * 2 * 4, dtype=np.uint16).reshape(50, 2, 2, 2)
    np.save(tmp_path / "codes.npy", codes)
    np.save(tmp_path / "kinds.npy", np.arange(50, dtype=np.uint8))
    np.save(tmp_path / "done.npy", np.array([False, True, True]))
    with pytest.raises(ValueError, match="2 of 3 chunks"):
        read_sequences([tmp_path], None)
    found = read_sequences([tmp_path], None, partial=True)
    np.testing.assert_array_equal(found.codes, codes[20:].reshape(30, 2, 4))
    np.testing.assert_array_equal(found.conditions[:, 1, 0], np.arange(20, 50))


def test_compact_states_keep_small_moments(tmp_path: Path) -> None:
    state = {"exp_avg_sq": torch.tensor([1e-12]), "weight": torch.tensor([0.5]), "step": torch.tensor(4001.0)}
    save_state(tmp_path / "s.pt", compact(state))
    back = load_state(tmp_path / "s.pt")
    assert back["exp_avg_sq"].item() == pytest.approx(1e-12, rel=1e-2)
    assert back["weight"].item() == 0.5
    assert back["step"].item() == 4001


def test_adversarial_gradients_are_scaled_to_the_reconstruction_gradient() -> None:
    torch.manual_seed(0)
    target = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    output = (target + 0.1 * torch.randn_like(target)).requires_grad_()
    plain, loss = output_gradient(output, target, None, adversarial=1.0, matching=0.0)
    assert loss == reconstruction_loss(output, target)
    both, _ = output_gradient(output, target, PatchDiscriminator(width=8), adversarial=0.5, matching=0.0)
    assert float((both - plain).norm() / plain.norm()) == pytest.approx(0.5, rel=1e-4)


def test_dead_entries_move_onto_latents() -> None:
    torch.manual_seed(0)
    entries = torch.cat([torch.randn(4, 2), torch.full((4, 2), 1e3)])
    codebook = Codebook(entries)
    latents = torch.randn(256, 2)
    for _ in range(400):
        codebook.update(latents)
    assert codebook.restart_dead(latents) == 4
    assert entries.abs().max() < 10


def test_disparity_is_least_in_the_sky() -> None:
    depth = np.array([[[8, 100], [4000, np.inf]]], np.float32)
    found = disparity(depth)
    assert found.ravel()[[0, 3]].tolist() == [1.0, -1.0]
    assert (np.diff(found.ravel()) < 0).all()


def test_zoomed_pictures_are_crops_of_one_scene(tmp_path: Path) -> None:
    folder = tmp_path / "near"
    render_set(folder, first_world=3, num_worlds=1, per_world=3, size=16, processes=1, zoom=2)
    near = open_set(folder)
    whole, labels, _, kind = render(World(3), np.random.default_rng((3, 0)), size=32, kind=0)
    corners = [(t, left) for t in range(17) for left in range(17)]
    for image, found in zip(near.images, near.labels, strict=True):
        places = [(t, x) for t, x in corners if np.array_equal(whole[t : t + 16, x : x + 16], image)]
        assert len(places) == 1
        top, left = places[0]
        np.testing.assert_array_equal(labels[top : top + 16, left : left + 16], found)
    assert (near.kinds == kind).all()
    with pytest.raises(ValueError, match="zoom"):
        render_set(folder, first_world=3, num_worlds=1, per_world=3, size=16, processes=1)
