"""Inverters: untrained they are the prior, trained they read the map, and what does not fit is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from entoptic import Model, UserError
from entoptic.base.cache import content_key
from entoptic.base.files import lock_folder
from entoptic.images.photos import Photos
from entoptic.inversion.configs import EntopticRecipe, PaperRecipe
from entoptic.inversion.data import LOCK, Pairs, make_pairs, preprocessing
from entoptic.inversion.inverter import Inverter
from entoptic.inversion.learn import hint_input, learn_inverter, loss, picture_size, standardise_maps
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.network import HintEncoder, build
from entoptic.inversion.saved import load_inverter, save_inverter
from entoptic.priors.learn import network
from entoptic.priors.prior import Level, generate
from entoptic.priors.recipe import Recipe
from entoptic.priors.saved import flow_prior, save_prior
from entoptic.priors.sources import load_prior

RECIPES = [
    EntopticRecipe(steps=4, batch_size=4, hint=8, warmup=2, cycle_from=0.5, decay=0.0),
    EntopticRecipe(steps=4, batch_size=4, hint=8, warmup=2, network="direct", pooled=True, decay=0.0),
    PaperRecipe(steps=4, batch_size=4, hint=8, rate=1e-3),
]
IDS = ["entoptic", "direct-pooled", "paper"]


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    net = network(Recipe(size=8, patch=2, widths=(16, 32), attention=(2,)), 3)
    for p in net.parameters():  # its last layers start at zero, and a network that puts out zeros proves nothing
        p.data += 0.02 * torch.randn_like(p)
    folder = tmp_path_factory.mktemp("prior")
    save_prior(net, folder, {"name": "tiny", "size": 8, "patch": 2, "classes": ["a", "b", "c"]}, half=False)
    return load_prior(f"file:{folder}", device="cpu")


@pytest.fixture
def maps(tiny: Model) -> FeatureMaps:
    spatial = [i.name for i in tiny.layers.values() if i.patches]
    return FeatureMaps.of(tiny, spatial[-1])


@pytest.fixture
def pairs(maps: FeatureMaps, photo_folder: Path, tmp_path: Path) -> Pairs:
    return make_pairs(maps, photo_folder, 8, tmp_path / "pairs")


def inverter(maps: FeatureMaps, prior: Any, pairs: Pairs, recipe: EntopticRecipe, net: Any = None) -> Inverter:
    torch.manual_seed(1)
    net = build(prior, maps.channels, recipe) if net is None else net
    return Inverter("test", "id", maps, prior, net, recipe, pairs.mean_C, pairs.sd_C, steps=4)


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def shaken(made: Inverter) -> Inverter:
    """With all weights moved, as if it were trained."""
    torch.manual_seed(5)
    for p in made.net.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return made


# --- maps -----------------------------------------------------------------------------------------------------------


def test_maps_put_back_give_the_logits(maps: FeatureMaps) -> None:
    pictures = torch.rand(3, 3, *maps.model.card.size)
    with torch.no_grad():
        own, other = maps.read(pictures), maps.read(pictures.flip(0))
        torch.testing.assert_close(maps.logits(own, pictures), maps.model(pictures))
        torch.testing.assert_close(maps.logits(other, pictures), maps.model(pictures.flip(0)))


def test_maps_of_tokens_leave_out_the_class_token() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 6, 4, 4)
            self.block = nn.Linear(6, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            patches = self.patch(x).flatten(2).transpose(1, 2)
            tokens = self.block(torch.cat([patches.new_ones(len(x), 2, 6), patches], 1))
            return self.head(tokens[:, 0] + tokens[:, 2:].mean(1))

    from conftest import tiny_card

    torch.manual_seed(0)
    model = Model(Tokens(), tiny_card(size=(16, 16), labels=None), device="cpu")
    maps = FeatureMaps.of(model, "block")
    assert (maps.channels, maps.grid, maps.prefix) == (6, (4, 4), 2)
    pictures = torch.rand(2, 3, 16, 16)
    found = maps.read(pictures)
    net: Any = model.module
    want = net.block(net.patch(model.normalise(pictures)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, want)
    doubled = maps.logits(2 * found, pictures)
    tokens = net.block(torch.ones(2, 6))
    torch.testing.assert_close(doubled, net.head(tokens + 2 * found.mean((2, 3))))


def test_a_layer_without_positions_is_refused(tiny: Model) -> None:
    with pytest.raises(UserError, match="has no map over the picture; "):
        FeatureMaps.of(tiny, "logits")


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_pairs_hold_what_the_network_sees(maps: FeatureMaps, pairs: Pairs, photo_folder: Path) -> None:
    pictures, values = pairs.batch([0, 1, 2])
    assert pictures.shape == (3, 3, 8, 8)
    everything = torch.from_numpy(pairs.maps[:].astype("float32"))
    torch.testing.assert_close(pairs.mean_C, everything.mean((0, 2, 3)), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(pairs.sd_C, everything.std((0, 2, 3), correction=0), atol=1e-3, rtol=1e-3)
    # each pair is of one photo: the map read from the photo whose small picture is nearest is the stored one
    side = maps.model.card.size[0]
    for k in range(3):
        best, found = 9.0, values[k]
        for path in sorted(photo_folder.rglob("*.*")):
            if path.suffix not in (".png", ".jpg"):
                continue
            image = Image.open(path).convert("RGB")
            edge = min(image.size)
            box = (
                (image.width - edge) / 2,
                (image.height - edge) / 2,
                (image.width + edge) / 2,
                (image.height + edge) / 2,
            )
            small, large = (
                torch.from_numpy(__import__("numpy").array(image.resize((n, n), Image.Resampling.BICUBIC, box=box)))
                .permute(2, 0, 1).float() / 255 for n in (8, side)
            )  # fmt: skip
            gap = float((small - pictures[k]).abs().max())
            if gap < best:
                with torch.no_grad():
                    best, found = gap, maps.read(large[None])[0]
        assert best < 1e-6
        torch.testing.assert_close(values[k], found, atol=2e-3, rtol=2e-3)


def test_interrupted_pairs_go_on(maps: FeatureMaps, photo_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import entoptic.inversion.data as data

    monkeypatch.setattr(data, "_BATCH", 2)
    whole = make_pairs(maps, photo_folder, 8, tmp_path / "whole")

    def stop(what: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pairs(maps, photo_folder, 8, tmp_path / "part", progress=stop)
    seen: list[int] = []
    part = make_pairs(maps, photo_folder, 8, tmp_path / "part", progress=lambda w, done, t: seen.append(done))
    assert seen[0] == 6
    assert (part.maps[:] == whole.maps[:]).all()
    assert (part.pictures[:] == whole.pictures[:]).all()
    torch.testing.assert_close(part.mean_C, whole.mean_C)
    torch.testing.assert_close(part.sd_C, whole.sd_C)


def test_pairs_have_one_writer_and_any_number_of_readers(maps: FeatureMaps, photo_folder: Path, tmp_path: Path) -> None:
    where = tmp_path / "pairs"
    with (
        lock_folder(where, name=LOCK),
        pytest.raises(
            UserError, match=r"pairs is being written by another process .* folders of their own \(--pairs\)"
        ),
    ):
        make_pairs(maps, photo_folder, 8, where)
    assert not (where / "maps.npy").exists()  # the other job's files were not touched
    whole = make_pairs(maps, photo_folder, 8, where)
    with lock_folder(where, name=LOCK):
        again = make_pairs(maps, photo_folder, 8, where)
    assert (again.key, len(again)) == (whole.key, len(whole))
    assert (again.maps[:] == whole.maps[:]).all()


def test_pairs_that_another_job_finished_in_between_are_not_read_again(
    maps: FeatureMaps, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import entoptic.inversion.data as data

    def late(folder: Path, **more: Any) -> Any:
        monkeypatch.setattr(data, "lock_folder", lock_folder)
        make_pairs(maps, photo_folder, 8, folder)
        return lock_folder(folder, **more)

    monkeypatch.setattr(data, "lock_folder", late)
    read: list[int] = []
    pairs = make_pairs(maps, photo_folder, 8, tmp_path / "pairs", progress=lambda w, done, t: read.append(done))
    assert len(pairs) == 40
    assert read == []


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that photos were read from, as often as they were."""
    from entoptic.images.photo_sources import ImageFiles

    read, before = list[str](), ImageFiles.encoded

    def encoded(files: Any, row: int) -> bytes:
        read.append(files.names[row])
        return before(files, row)

    monkeypatch.setattr(ImageFiles, "encoded", encoded)
    return read


def test_photos_that_nobody_touched_are_not_read_again(
    maps: FeatureMaps, photo_folder: Path, tmp_path: Path, bytes_read: list[str]
) -> None:
    where = tmp_path / "pairs"
    first = make_pairs(maps, photo_folder, 8, where)
    assert len(bytes_read) == 2 * 40  # for their maps and, from the system's cache, for their hashes
    bytes_read.clear()
    assert make_pairs(maps, photo_folder, 8, where).key == first.key
    assert bytes_read == []
    # A copy has other times: their bytes tell that they are the same, once.
    shutil.copytree(photo_folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert make_pairs(maps, tmp_path / "copy", 8, where).key == first.key
    assert len(bytes_read) == 40
    bytes_read.clear()
    assert make_pairs(maps, tmp_path / "copy", 8, where).key == first.key
    assert bytes_read == []
    # Of a part that is taken only that is looked at.
    make_pairs(maps, photo_folder, 8, tmp_path / "few", limit=5)
    assert len(set(bytes_read)) == 5


def test_photos_that_changed_or_changed_places_are_others(
    maps: FeatureMaps, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import entoptic.inversion.data as data

    monkeypatch.setattr(data, "_BATCH", 8)

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    def copied(name: str) -> Path:
        return Path(shutil.copytree(photo_folder, tmp_path / name))

    with pytest.raises(KeyboardInterrupt):
        make_pairs(maps, photo_folder, 8, tmp_path / "pairs", progress=stop)
    whole = make_pairs(maps, photo_folder, 8, tmp_path / "whole")
    files = sorted(str(p.relative_to(photo_folder)) for p in photo_folder.glob("*/*.png"))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    seen, unseen = (files[order[k]] for k in (0, -1))

    # The very same photos in another order: the rows that are there would be of others, and some would be there twice.
    swapped = copied("swapped")
    for one, other in ((seen, "kept"), (unseen, seen), ("kept", unseen)):
        (swapped / one).rename(swapped / other)
    changed = copied("changed")
    (changed / seen).write_bytes((changed / files[order[1]]).read_bytes())
    for other_photos in (swapped, changed):
        for where in ("pairs", "whole"):
            with pytest.raises(UserError, match="holds the maps of other photos"):
                make_pairs(maps, other_photos, 8, tmp_path / where)
    # Names alone do not count, and what was not read yet may change.
    renamed = copied("renamed")
    (renamed / files[0]).rename(renamed / files[0].replace(".png", ".0.png"))
    assert make_pairs(maps, renamed, 8, tmp_path / "whole").key == whole.key
    resumed = copied("later")
    (resumed / unseen).write_bytes((resumed / seen).read_bytes())
    pairs = make_pairs(maps, resumed, 8, tmp_path / "pairs")
    assert (pairs.pictures[-1] == pairs.pictures[0]).all()
    assert pairs.key != whole.key


@pytest.mark.parametrize("interrupted", [False, True])
def test_pairs_of_an_older_version_go_on(
    interrupted: bool, maps: FeatureMaps, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    bytes_read: list[str],
) -> None:  # fmt: skip
    import entoptic.inversion.data as data

    monkeypatch.setattr(data, "_BATCH", 8)
    where = tmp_path / "pairs"

    def stop(what: str, done: int, total: int) -> None:
        if interrupted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext():
        make_pairs(maps, photo_folder, 8, where, progress=stop)
    record = json.loads((where / "pairs.json").read_text())
    for name in ("request", "stamp", "content"):
        del record[name]
    record["key"] = content_key({
        "model": maps.model.card.weights_sha256, "seen": preprocessing(maps.model.card), "layer": maps.layer, "size": 8,
        "photos": [Photos.open(photo_folder).fingerprint()], "count": 40,
    })  # fmt: skip
    (where / "pairs.json").write_text(json.dumps(record))
    old = make_pairs(maps, photo_folder, 8, where)
    assert old.key == record["key"]  # so that trainings on them go on, too
    assert (old.maps[:] == make_pairs(maps, photo_folder, 8, tmp_path / "new").maps[:]).all()
    bytes_read.clear()
    assert make_pairs(maps, photo_folder, 8, where).key == record["key"]
    assert bytes_read == []
    (where / "pairs.json").write_text(json.dumps(record | {"key": "0" * 64}))
    with pytest.raises(UserError, match="holds the maps of other photos"):
        make_pairs(maps, photo_folder, 8, where)


def test_an_unreadable_photo_is_left_out(maps: FeatureMaps, photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    count = len(make_pairs(maps, folder, 8, tmp_path / "a"))
    (folder / "broken.png").write_bytes(b"no picture")
    pairs = make_pairs(maps, folder, 8, tmp_path / "b")
    assert (len(pairs), pairs.skipped) == (count, 1)
    with pytest.raises(UserError, match="other photos, another layer or size"):
        make_pairs(maps, folder, 16, tmp_path / "b")


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_untrained_it_is_exactly_the_prior(recipe: EntopticRecipe, maps: FeatureMaps, prior: Any, pairs: Pairs) -> None:
    made = inverter(maps, prior, pairs, recipe)
    _, values = pairs.batch([0, 1, 2])
    noise = made.noise(generators(3))
    bare = prior.decode(generate(prior, noise, None, steps=4))
    assert bare.std() > 0.01
    assert torch.equal(made.sample(values, noise), bare)
    assert not torch.equal(shaken(made).sample(values, noise), bare)
    if recipe.network == "control":
        assert torch.equal(made.sample(values, noise, strength=0.0), bare)


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_only_what_is_trained_gets_gradients(
    recipe: EntopticRecipe, maps: FeatureMaps, prior: Any, pairs: Pairs
) -> None:
    torch.manual_seed(1)
    net = build(prior, maps.channels, recipe)
    for p in net.parameters():
        p.data += 0.02 * torch.randn_like(p)
    loss(net, prior, maps, pairs, recipe, 3).backward()
    assert all(p.grad is None for p in prior.module.parameters())
    assert all(p.grad is None for p in maps.model.module.parameters())
    missing = [name for name, p in net.named_parameters() if p.grad is None]
    assert missing == []


def test_the_loss_is_the_velocity_error_by_hand(maps: FeatureMaps, prior: Any, pairs: Pairs) -> None:
    """An oracle with the prior's bare network, in which an untrained control changes nothing."""
    from torch.nn.functional import pixel_unshuffle

    recipe = EntopticRecipe(batch_size=4, hint=8, cycle=0.0, guess=0.0, logit_normal=False, drop=0.0)
    net = build(prior, maps.channels, recipe)
    draw = torch.Generator().manual_seed(2)
    u = torch.rand(4, generator=draw)
    noise = torch.randn(4, 12, 4, 4, generator=draw)
    from entoptic.base.training import rows_of

    pictures, _ = pairs.batch(rows_of(2, len(pairs), 4, 0))
    total = 0.0
    for i in range(4):
        x0 = pixel_unshuffle(2 * pictures[i : i + 1] - 1, 2)
        x_t = (1 - u[i]) * x0 + u[i] * noise[i : i + 1]
        with torch.no_grad():
            v = prior.module(x_t, 1000 * u[i : i + 1], None, class_labels=torch.tensor([3])).sample
        total += float((v - (noise[i : i + 1] - x0)).square().mean()) / 4
    assert float(loss(net, prior, maps, pairs, recipe, 2).detach()) == pytest.approx(total, rel=1e-5)


def test_the_cycle_loss_is_one_minus_the_cosine_of_the_estimate(maps: FeatureMaps, prior: Any, pairs: Pairs) -> None:
    options: dict[str, Any] = {"batch_size": 4, "hint": 8, "drop": 0.0, "steps": 10, "cycle_from": 0.5}
    without, with_it = (EntopticRecipe(cycle=c, cycle_below=1.1, **options) for c in (0.0, 0.5))
    net = build(prior, maps.channels, without)
    assert float(loss(net, prior, maps, pairs, with_it, 4)) == float(loss(net, prior, maps, pairs, without, 4))
    extra = float(loss(net, prior, maps, pairs, with_it, 6)) - float(loss(net, prior, maps, pairs, without, 6))
    draw = torch.Generator().manual_seed(6)
    u = (torch.randn(4, generator=draw) + 1.0).sigmoid()
    noise = torch.randn(4, 12, 4, 4, generator=draw)
    from entoptic.base.training import rows_of

    pictures, values = pairs.batch(rows_of(6, len(pairs), 4, 0))
    x0, t = prior.states(pictures), u[:, None, None, None]
    cosines = []
    for i in range(4):
        level = Level(1000 * float(u[i]), 1 - float(u[i]), float(u[i]))
        clean = prior.denoise(((1 - t) * x0 + t * noise)[i : i + 1], level)
        again = maps.read(prior.decode(clean))[0]
        for r in range(maps.grid[0]):
            for c in range(maps.grid[1]):
                a, b = again[:, r, c], values[i, :, r, c]
                cosines.append(float(a @ b / (a.norm() * b.norm()).clamp_min(1e-8)))
    assert extra == pytest.approx(0.5 * (1 - sum(cosines) / len(cosines)), rel=1e-3)


def test_a_projected_hint_keeps_positions_apart() -> None:
    torch.manual_seed(0)
    encoder = HintEncoder(5, 8, nn.Conv2d(3, 4, 3, padding=1), 16, project=True)
    nn.init.normal_(encoder.last.weight)
    maps = torch.randn(1, 5, 4, 4)
    moved = maps.clone()
    moved[0, :, 0, 0] += 1
    change = (encoder(moved) - encoder(maps)).abs().sum(1)[0]
    assert change[:6, :6].max() > 0
    assert change[13:, 13:].max() == 0


def test_pooled_maps_hold_no_positions(maps: FeatureMaps, pairs: Pairs) -> None:
    _, values = pairs.batch([0, 1])
    order = torch.randperm(maps.grid[0] * maps.grid[1], generator=torch.Generator().manual_seed(0))
    shuffled = values.flatten(2)[:, :, order].unflatten(2, maps.grid)
    recipe = EntopticRecipe(pooled=True)
    a, b = (hint_input(v, pairs.mean_C, pairs.sd_C, recipe) for v in (values, shuffled))
    torch.testing.assert_close(a, b)
    assert a.shape == values.shape


def test_standardised_maps_have_unit_variance_and_dead_channels_are_zero(pairs: Pairs) -> None:
    everything = torch.from_numpy(pairs.maps[:].astype("float32"))
    dead = pairs.sd_C.clone()
    dead[0] = 0
    z = standardise_maps(everything, pairs.mean_C, dead)
    assert (z[:, 0] == 0).all()
    alive = pairs.sd_C[1:] > 1e-3
    torch.testing.assert_close(
        z[:, 1:].std((0, 2, 3), correction=0)[alive], torch.ones(int(alive.sum())), atol=0.01, rtol=0
    )


# --- sampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"guidance": 1.5}, {"pull": 2}, {"order": 1}], ids=str)
def test_rows_do_not_depend_on_their_batch(options: Any, maps: FeatureMaps, prior: Any, pairs: Pairs) -> None:
    made = shaken(inverter(maps, prior, pairs, RECIPES[0]))
    _, values = pairs.batch([0, 1, 2, 3])
    noise = made.noise(generators(4))
    together = made.sample(values, noise, **options)
    alone = torch.cat([made.sample(values[i : i + 1], noise[i : i + 1], **options) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, made.sample(values, noise, batch_size=3, **options), atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_equal_generators_pair_the_pictures(maps: FeatureMaps, prior: Any, pairs: Pairs) -> None:
    made = shaken(inverter(maps, prior, pairs, RECIPES[0]))
    assert torch.equal(made.noise(generators(2)), made.noise(generators(2)))
    _, values = pairs.batch([0, 0])
    noise = made.noise(generators(1) + generators(1))
    a, b = made.sample(values, noise)
    assert torch.equal(a, b)


def test_feature_guidance_extrapolates_from_the_prior(maps: FeatureMaps, prior: Any, pairs: Pairs) -> None:
    """One step, where the clean estimate is affine in the output: null + g·(given - null) by hand."""
    made = shaken(inverter(maps, prior, pairs, RECIPES[0]))
    _, values = pairs.batch([0, 1])
    noise = 0.1 * made.noise(generators(2))
    given, null, two = (made.sample(values, noise, steps=1, guidance=g) for g in (1.0, 0.0, 2.0))
    bare = prior.decode(generate(prior, noise, None, steps=1))
    torch.testing.assert_close(null, bare)
    inside = (two > 0.01) & (two < 0.99) & (given > 0.01) & (given < 0.99) & (null > 0.01) & (null < 0.99)
    assert inside.float().mean() > 0.3
    torch.testing.assert_close(two[inside], (2 * given - null)[inside], atol=1e-4, rtol=1e-4)


def test_pulled_samples_are_nearer_in_cosine(maps: FeatureMaps, prior: Any, pairs: Pairs) -> None:
    made = shaken(inverter(maps, prior, pairs, RECIPES[0]))
    _, values = pairs.batch(range(6))
    noise = made.noise(generators(6))

    def cosine(pictures: Tensor) -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cosine_similarity(maps.read(pictures), values, dim=1).mean())

    assert cosine(made.sample(values, noise, pull=3)) > cosine(made.sample(values, noise)) + 1e-3


def test_what_does_not_fit_is_refused(maps: FeatureMaps, prior: Any, pairs: Pairs) -> None:
    made = inverter(maps, prior, pairs, RECIPES[0])
    _, values = pairs.batch([0])
    with pytest.raises(UserError, match=r"inverts maps of shape B×.* got \(1, \d+, \d+, \d+\)"):
        made.sample(values[:, :, :-1], made.noise(generators(1)))
    with pytest.raises(UserError, match=r"as many rows as there are maps \(1\), got 2"):
        made.sample(values, made.noise(generators(2)))
    with pytest.raises(UserError, match="not finite"):
        made.sample(values * float("nan"), made.noise(generators(1)))


# --- training -------------------------------------------------------------------------------------------------------


def test_resuming_gives_the_training_that_was_not_interrupted(
    maps: FeatureMaps, prior: Any, photo_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    recipe = RECIPES[0]

    def state(folder: Path) -> dict[str, Tensor]:
        return load_file(folder / json.loads((folder / "training.json").read_text())["state"])

    def stop(what: str, done: int, total: int) -> None:
        if what == "training the inverter" and done == 2:
            raise KeyboardInterrupt

    shared = tmp_path / "pairs"
    whole, _ = learn_inverter(maps, prior, photo_folder, tmp_path / "whole", recipe, pairs_folder=shared)
    with pytest.raises(KeyboardInterrupt):
        learn_inverter(maps, prior, photo_folder, tmp_path / "part", recipe, pairs_folder=shared, progress=stop)
    part, _ = learn_inverter(maps, prior, photo_folder, tmp_path / "part", recipe, pairs_folder=shared)
    a, b = state(whole), state(part)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=name)
    with pytest.raises(UserError, match="with another hint"):
        learn_inverter(maps, prior, photo_folder, part, EntopticRecipe(steps=9, batch_size=4, hint=4))


class Colours(nn.Module):
    """A network whose last map is the picture's mean colour in each cell: what an inverse should find is known."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 4, 4, bias=False)
        self.conv.weight.data = torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4).clone() / 16
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)))


def test_it_learns_to_read_the_map(prior: Any, tmp_path: Path) -> None:
    """Two colours, left and right: after training each half has the colour that the map says; pooled cannot."""
    from conftest import tiny_card

    torch.manual_seed(0)
    model = Model(Colours(), tiny_card(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3, labels=None), device="cpu")
    maps = FeatureMaps.of(model, "conv")
    draw = torch.Generator().manual_seed(0)
    halves = torch.rand(128, 3, 1, 2, generator=draw)
    pictures = interpolate(halves, (8, 8)).expand(-1, -1, 8, 8)
    values = maps.read(pictures).detach()
    pairs = Pairs(
        (255 * pictures).round().byte().numpy(),
        values.half().numpy(),
        values.mean((0, 2, 3)),
        values.std((0, 2, 3)),
        "",
        0,
    )
    errors = {}
    for pooled in (False, True):
        recipe = EntopticRecipe(
            steps=120,
            batch_size=16,
            hint=16,
            rate=6e-3,
            warmup=10,
            decay=0.3,
            cycle=0.0,
            pooled=pooled,
            network="direct",
        )
        torch.manual_seed(0)
        net = build(prior, 3, recipe)
        optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, betas=(0.9, 0.99))
        for step in range(recipe.steps):
            value = loss(net, prior, maps, pairs, recipe, step)
            optimiser.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
        made = Inverter("c", "c", maps, prior, net, recipe, pairs.mean_C, pairs.sd_C, steps=6)
        again = maps.read(made.mean(values[:64]))
        errors[pooled] = float((again - values[:64]).square().mean().sqrt())
    spread = float(values.std((0, 2, 3)).mean())
    assert errors[False] < 0.7 * spread
    assert errors[True] > 1.2 * errors[False]


# --- on disk --------------------------------------------------------------------------------------------------------


def card_of(made: Inverter) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": "t", "model": made.maps.model.card.name, "model_sha256": made.maps.model.card.weights_sha256,
        "layer": made.maps.layer, "prior": made.prior.name, "prior_identity": made.prior.identity,
        "recipe": asdict(made.recipe), "steps": 4, "order": 2, "strength": 1.0, "guidance": 1.0,
        "seen": preprocessing(made.maps.model.card),
    }  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_saved_and_loaded_it_samples_the_same(
    recipe: EntopticRecipe, maps: FeatureMaps, prior: Any, pairs: Pairs, tmp_path: Path
) -> None:
    made = shaken(inverter(maps, prior, pairs, recipe))
    save_inverter(made.net, tmp_path, card_of(made), {"mean": made.mean_C, "sd": made.sd_C}, half=False)
    loaded = load_inverter(f"file:{tmp_path}", maps.model, device="cpu")
    _, values = pairs.batch([0, 1])
    noise = made.noise(generators(2))
    torch.testing.assert_close(loaded.sample(values, noise), made.sample(values, noise))
    assert (loaded.maps.layer, loaded.size, loaded.steps) == (maps.layer, 8, 4)


def test_weights_in_eight_bits_give_nearly_the_same_pictures(
    maps: FeatureMaps, prior: Any, pairs: Pairs, tmp_path: Path
) -> None:
    made = shaken(inverter(maps, prior, pairs, EntopticRecipe(hint=64)))
    statistics = {"mean": made.mean_C, "sd": made.sd_C}
    sizes = []
    for name in ("half", "eight_bit"):
        save_inverter(made.net, tmp_path / name, card_of(made), statistics, **{"half": True, name: True})
        sizes.append((tmp_path / name / "inverter.safetensors").stat().st_size)
    assert sizes[1] < 0.85 * sizes[0]
    loaded = load_inverter(f"file:{tmp_path / 'eight_bit'}", maps.model, device="cpu")
    for name, value in made.net.state_dict().items():
        rows = value.flatten(1) if value.ndim > 1 else value[:, None]
        step = rows.abs().amax(1) / 127
        gap = (loaded.net.state_dict()[name] - value).abs().reshape(len(rows), -1).amax(1)
        assert bool((gap <= 0.51 * step + 1e-7).all()), name
    noise, (_, values) = made.noise(generators(2)), pairs.batch([0, 1])
    torch.testing.assert_close(loaded.sample(values, noise), made.sample(values, noise), atol=0.05, rtol=0)


def test_an_inverter_of_something_else_is_refused(maps: FeatureMaps, prior: Any, pairs: Pairs, tmp_path: Path) -> None:
    from conftest import tiny_card, tiny_module

    made = inverter(maps, prior, pairs, RECIPES[0])
    folder = save_inverter(made.net, tmp_path, card_of(made), {"mean": made.mean_C, "sd": made.sd_C})
    other = Model(tiny_module(seed=3), tiny_card(name="another"), device="cpu")
    with pytest.raises(UserError, match=f"inverts {maps.layer} of .*, and another was given"):
        load_inverter(f"file:{folder}", other)
    torch.manual_seed(3)
    config = Recipe(size=8, patch=2, widths=(16, 32), attention=(2,))
    foreign = flow_prior(
        "foreign", network(config, 0), {"name": "f", "size": 8, "patch": 2, "classes": []}, prior.device
    )
    with pytest.raises(UserError, match=r"was trained on the prior .* foreign is another"):
        load_inverter(f"file:{folder}", maps.model, prior=foreign)
    with pytest.raises(UserError, match="no builtin inverter"):
        load_inverter("builtin:nothing", maps.model)
    (folder / "inverter.safetensors").write_bytes((folder / "inverter.safetensors").read_bytes()[:-4] + b"abcd")
    with pytest.raises(UserError, match="left half written or changed"):
        load_inverter(f"file:{folder}", maps.model)
    (folder / "card.json").unlink()
    with pytest.raises(UserError, match=r"has no card\.json"):
        load_inverter(f"file:{folder}", maps.model)


def test_a_network_with_another_preprocessing_is_refused(
    maps: FeatureMaps, prior: Any, pairs: Pairs, tmp_path: Path
) -> None:
    made = inverter(maps, prior, pairs, RECIPES[0])
    folder = save_inverter(made.net, tmp_path, card_of(made), {"mean": made.mean_C, "sd": made.sd_C})
    other = Model(maps.model.module, maps.model.card.with_(mean=(0.4,) * 3), device="cpu")
    with pytest.raises(UserError, match=r"trained on pictures with mean \[0.5, 0.5, 0.5\], and tiny now takes \[0.4"):
        load_inverter(f"file:{folder}", other)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"recipe": {"colour": 3}}))
    with pytest.raises(UserError, match=r"card\.json is damaged or of another version"):
        load_inverter(f"file:{folder}", maps.model)


def test_priors_that_cannot_be_controlled_are_refused(maps: FeatureMaps) -> None:
    from conftest import TwoClasses  # a mixture in closed form

    with pytest.raises(UserError, match="UNet2DConditionModel"):
        build(TwoClasses(), maps.channels, RECIPES[0])  # type: ignore[arg-type]


# --- a text-to-image prior ------------------------------------------------------------------------------------------


def test_on_a_text_pipeline_in_latents(maps: FeatureMaps, photo_folder: Path, tmp_path: Path) -> None:
    from tiny_pipelines import save_text_pipeline

    folder = save_text_pipeline(tmp_path / "sd")
    prior: Any = load_prior(f"hf:{folder}", device="cpu", guidance=1.75, prompt="abc")
    recipe = PaperRecipe(steps=2, batch_size=2, hint=8, rate=1e-3)
    _, pairs = learn_inverter(maps, prior, photo_folder, tmp_path / "out", recipe)
    assert pairs.encoded
    side = picture_size(prior)
    as_pictures = make_pairs(maps, photo_folder, side, tmp_path / "pictures")
    with torch.no_grad():
        want = prior.states(as_pictures.batch([0, 1])[0])
    torch.testing.assert_close(pairs.batch([0, 1])[0], want, atol=2e-3, rtol=2e-3)
    made = inverter(maps, prior, pairs, recipe)
    _, values = pairs.batch([0, 1])
    noise = made.noise(generators(2))
    bare = prior.decode(generate(prior, noise, None, steps=4))
    torch.testing.assert_close(made.sample(values, noise), bare, atol=1e-5, rtol=1e-5)
    assert made.sample(values, noise).shape == (2, 3, made.size, made.size)
    # text guidance compares prompts, both with the map: by hand, in one step
    shaken(made)
    from entoptic.inversion.network import output

    x, times = noise, torch.full((2,), 500.0)
    hints = made.net.hint(values)
    with torch.no_grad():
        both = [
            made.net.output(prior, x, times, hints, (text.expand(2, -1, -1), None), 1.0)
            for text in (prior.text, prior.null)
        ]
        found = output(made.net, prior, x, times, hints)
    torch.testing.assert_close(found, both[1] + 1.75 * (both[0] - both[1]), atol=1e-5, rtol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-4
