import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import regfast
from regfast.data import Subset, load_images
from regfast.data.images import pick_samples
from regfast.measurement import measure, sized_measurement
from regfast.measurement.images import divide
from regfast.models import split_classifier
from regfast.report import write_report
from regfast.report.claims import against_reference
from regfast.report.results import Study
from regfast.runs import InputError, OtherRun, RunStopped, files
from regfast.study import AttackSetting, Sweep
from regfast.study.measure import centers_at, clean_columns
from regfast.training import predict

TABLES = ("samples", "sweep", "theorem1", "scaling", "radius", "predictors", "boundary", "counterfactual", "transfer",
          "objectives", "feature_attack", "collapse", "smooth")  # fmt: skip
ATTACKS = tuple(AttackSetting("pgd", "linf", eps, 2, 1, setting) for eps, setting in ((0.03, "weak"), (0.1, "strong")))
SMALL = {"attacks": ATTACKS, "sweep": Sweep("linf", (0.02, 0.1), 2), "limit": 150, "attacked": 20}


def network(width, seed, classes=10):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    images, labels = (train := regfast.data.load_training("digits")).batch(torch.arange(400)), train.labels[:400]
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images)[:, :10], labels).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def networks():
    """Two kinds of two widths, two seeds each."""
    return {"wide": [network(24, 0), network(24, 1)], "narrow": [network(12, 2), network(12, 3)]}


@pytest.fixture(scope="module")
def result(networks, tmp_path_factory):
    return measure(networks, "digits", out=tmp_path_factory.mktemp("run"), size="smoke", progress=False, **SMALL)


def content(folder):
    return {name: (folder / name).read_bytes() for name in (*(f"{table}.parquet" for table in TABLES), "metrics.json")}


def test_samples_are_what_a_study_measures_of_the_model(result, networks):
    images, columns = load_images("digits"), result.samples()
    division = divide(images.labels, 150, 20, sized_measurement().holdout)
    ids = division.measured.sort().values
    for name, members in networks.items():
        for seed, member in enumerate(members):
            mine = {
                key: values[(columns["regularizer"] == name) & (columns["seed"] == seed)]
                for key, values in columns.items()
            }
            model = split_classifier(member, example=images.batch(ids[:1]))
            features, logits, labels = predict(model, Subset(images, ids))
            radius = float(np.median(features[logits.argmax(1) == labels].double().norm(dim=1)))
            expected = clean_columns(model, centers_at(model, radius), ids, features, logits, labels)
            for key, values in expected.items():
                # Batches differ between the two: float32 sums of 64 terms in another order.
                np.testing.assert_allclose(mine[key], values, rtol=1e-3, atol=1e-5, err_msg=key)
            assert mine["sample"][mine["attacked"]].tolist() == division.attacked.sort().values.tolist()
            for attack in ATTACKS:
                success = mine[f"success_{attack.id}"]
                assert not success[~mine["attacked"]].any()
                assert np.isnan(mine[f"radial_{attack.id}"][~mine["attacked"]]).all()
                judged = mine["attacked"] & mine["correct"]
                assert result.metrics[name][f"asr_{attack.id}"]["per_seed"][seed] == success.sum() / judged.sum()


@pytest.mark.slow
def test_page_and_verdicts_compare_with_the_reference(result):
    page = write_report(result.folder).read_text(encoding="utf-8")
    assert "narrow" in page and "Attack success over the perturbation size" in page
    study = Study.read(result.folder)
    assert study.reference == "wide"
    assert {verdict.regularizer for verdict in against_reference(study, resamples=20)} == {"narrow"}


def test_pairs_that_do_not_fit_are_left_out(result):
    swaps = pq.read_table(result.folder / "counterfactual.parquet").to_pydict()
    assert set(zip(swaps["norms"], swaps["directions"], strict=True)) == {("wide", "wide"), ("narrow", "narrow")}
    transfers = pq.read_table(result.folder / "transfer.parquet").to_pydict()
    assert len(set(zip(transfers["source"], transfers["target"], strict=True))) == 4


def test_again_is_no_work_and_another_is_refused(result, networks):
    before = {path: path.stat().st_mtime_ns for path in result.folder.rglob("*.parquet")}
    again = measure(networks, "digits", out=result.folder, size="smoke", progress=False, **SMALL)
    assert again.metrics == result.metrics and result.did and not again.did
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(OtherRun, match="attacked: 20 there, 19 here"):
        measure(networks, "digits", out=result.folder, size="smoke", progress=False, **{**SMALL, "attacked": 19})
    with pytest.raises(OtherRun, match=r"regularizers\.narrow\.fingerprints"):
        other = {**networks, "narrow": [network(12, 2), network(12, 4)]}
        measure(other, "digits", out=result.folder, size="smoke", progress=False, **SMALL)


def test_a_run_that_stops_goes_on_and_ends_alike(result, networks, tmp_path, monkeypatch):
    stops = iter((1, 4, 9, 15, 25))
    written = {"left": next(stops)}
    plain = files.replacing

    def failing(path):
        written["left"] -= 1
        if written["left"] < 0:
            raise files.NotWritten(f"{path} could not be written: no space left")
        return plain(path)

    monkeypatch.setattr(files, "replacing", failing)
    kept = 0
    for _ in range(5):
        with pytest.raises(RunStopped, match="no space left"):
            measure(networks, "digits", out=tmp_path / "run", size="smoke", progress=False, **SMALL)
        now = sum(1 for _ in (tmp_path / "run").rglob("*.parquet"))
        assert now >= kept
        kept, written["left"] = now, next(stops, 10**9)
    assert kept > 10
    measure(networks, "digits", out=tmp_path / "run", size="smoke", progress=False, **SMALL)
    ends, whole = content(tmp_path / "run"), content(result.folder)
    assert [name for name in whole if ends[name] != whole[name]] == []


def test_images_of_every_network_may_differ(networks, tmp_path):
    whole = load_images("digits")
    large = regfast.data.ImageArray(whole.batch(torch.arange(60)).repeat_interleave(2, 2).repeat_interleave(2, 3),
                                    whole.labels[:60], whole.classes)  # fmt: skip
    small = Subset(whole, torch.arange(60))
    pooled = nn.Sequential(nn.AvgPool2d(2), *networks["wide"][0])
    members = {"plain": split_classifier(networks["wide"][0], example=small[0][0][None]),
               "pooled": split_classifier(pooled, example=large[0][0][None])}  # fmt: skip
    found = measure(members, {"plain": small, "pooled": large}, out=tmp_path, size="smoke", progress=False,
                    **{**SMALL, "limit": 50, "attacked": 5})  # fmt: skip
    accuracy = [found.metrics[name]["accuracy"]["mean"] for name in members]
    assert accuracy[0] == accuracy[1]  # the same pixels, after pooling
    transfers = pq.read_table(tmp_path / "transfer.parquet").to_pydict()
    assert all(source == target for source, target in zip(transfers["source"], transfers["target"], strict=True))
    assert not (tmp_path / "collapse.parquet").exists()  # no training images
    assert "class_mean" not in pq.read_table(tmp_path / "predictors.parquet")["predictor"].to_pylist()


def test_what_does_not_fit_is_named_before_anything_is_written(networks, tmp_path):
    plain = networks["wide"][0]
    bad = {
        r"network conv: cannot split.*linear": {"a": plain, "conv": nn.Sequential(nn.Flatten(), nn.ReLU())},
        r"network b tells 12 classes apart and a 10": {"a": plain, "b": network(8, 0, classes=12)},
        r"network b has 2 checkpoints and a has 1": {"a": plain, "b": networks["narrow"]},
        r"a network is named by letters": {"a/b": plain},
        r"expected at least one": {},
    }
    for message, given in bad.items():
        with pytest.raises(InputError, match=message):
            measure(given, "digits", out=tmp_path / "run", size="smoke", progress=False)
    with pytest.raises(InputError, match=r"digits has 10: measure it on data with its classes.*some-classes"):
        measure({"b": network(8, 0, classes=12)}, "digits", out=tmp_path / "run", size="smoke", progress=False)
    twos = Subset(load_images("digits"), (load_images("digits").labels == 2).nonzero().flatten())
    with pytest.raises(InputError, match=r"none of its \d+ images is of 9 of the 10 classes \(0, 1, 3, 4, 5 …\)"):
        measure({"a": plain}, twos, out=tmp_path / "run", size="smoke", progress=False)
    with pytest.raises(InputError, match="reference 'c' is none of the networks, which are a"):
        measure({"a": plain}, "digits", out=tmp_path / "run", reference="c", size="smoke", progress=False)
    split = split_classifier(network(8, 0), example=torch.rand(1, 1, 8, 8))
    nn.init.constant_(split.head.weight, float("nan"))
    with pytest.raises(InputError, match="network b: its logits are NaN"):
        measure({"a": plain, "b": split}, "digits", out=tmp_path / "run", size="smoke", progress=False)
    with pytest.raises(TypeError, match=r"network a: expected a torch\.nn\.Module"):
        measure({"a": 3}, "digits", out=tmp_path / "run")
    with pytest.raises(TypeError, match="map-style data set"):
        measure({"a": plain}, 3, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_division_keeps_the_proportions_and_never_changes():
    labels = torch.arange(10).repeat_interleave(50)
    division = divide(labels, None, 40, 0.25)
    assert [len(ids) for ids in division] == [40, 335, 125]
    assert torch.cat(list(division)).sort().values.tolist() == list(range(500))
    assert (labels[division.attacked].bincount() == 4).all()
    some = divide(labels, 200, 40, 0.25)
    assert torch.cat(list(some)).sort().values.tolist() == pick_samples(500, 200, seed=0)
    assert all(map(torch.equal, some, divide(labels, 200, 40, 0.25)))
    with pytest.raises(InputError, match="1 images are too few"):
        divide(labels, 1, None, 0.2)
