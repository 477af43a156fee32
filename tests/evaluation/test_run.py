"""One process: rows, carrying, resume, and what is refused."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from regfast.attacks import FGSM, PGD
from regfast.evaluation import EvaluationStopped, OtherRun, evaluate
from regfast.evaluation.store import DamagedPart
from regfast.runs import InputError, RunStopped
from regfast.runs.folder import alone
from tests.evaluation.toy import RowwiseLinear, Toy, attacks


def run(out, **options):
    return evaluate(
        RowwiseLinear().eval(),
        options.pop("data", Toy()),
        options.pop("attacks", attacks()),
        out=out,
        progress=False,
        device="cpu",
        **options,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "toy")


def test_rows_agree_with_the_attack_run_by_hand(finished):
    data = Toy()
    result = PGD("linf", 0.005, steps=5).run(RowwiseLinear().eval(), data.images, data.labels, seed=0)
    rows = [row for row in finished.rows().to_pylist() if row["attack"] == "pgd" and row["eps"] == 0.005]
    assert [row["sample"] for row in rows] == list(range(60))
    assert [row["robust"] for row in rows] == result.robust.tolist()
    assert [row["success"] for row in rows] == result.success.tolist()
    assert [row["correct"] for row in rows] == result.clean.tolist()
    assert [row["stage"] for row in rows] == result.stage
    assert 0 < sum(row["success"] for row in rows) < sum(row["correct"] for row in rows)


def test_what_fell_at_a_smaller_eps_is_carried(finished):
    rows = {(r["eps"], r["sample"]): r for r in finished.rows().to_pylist() if r["attack"] == "pgd"}
    fell = [sample for sample in range(60) if rows[0.005, sample]["success"]]
    assert fell
    for sample in range(60):
        large = rows[0.02, sample]
        assert large["carried"] == (sample in fell)
        if large["carried"]:
            assert large["success"] and not large["robust"] and large["gradients"] == large["queries"] == 0
        assert not rows[0.005, sample]["carried"]


def test_the_summary_counts_the_rows(finished):
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary == finished.summary
    rows = finished.rows().to_pylist()
    for figure in summary["attacks"]:
        here = [
            r for r in rows if (r["attack"], r["norm"], r["eps"]) == (figure["attack"], figure["norm"], figure["eps"])
        ]
        assert figure["robust_accuracy"]["value"] == sum(r["robust"] for r in here) / 60
        assert figure["robust_accuracy"]["low"] < figure["robust_accuracy"]["value"] < figure["robust_accuracy"]["high"]
        assert figure["attack_success_rate"]["of"] == 54
        assert figure["carried"] == sum(r["carried"] for r in here)
    assert summary["clean"]["value"] == 0.9
    worst = {(w["norm"], w["eps"]): w["robust_accuracy"]["value"] for w in summary["worst_case"]}
    assert worst["linf", 0.02] == finished.robust_accuracy("pgd", 0.02)
    text = (finished.folder / "summary.md").read_text()
    assert "90.00 %" in text
    with pytest.raises(KeyError, match=r"this run has .*pgd linf 0.005"):
        finished.robust_accuracy("pgd", 0.3)


@pytest.mark.parametrize("chunk_size", [1, 7, 60])
def test_the_rows_do_not_depend_on_the_chunk_size(finished, tmp_path, chunk_size):
    if chunk_size == 1:
        other = run(tmp_path / "run", chunk_size=1, lanes=3)
    else:
        other = run(tmp_path / "run", chunk_size=chunk_size)
    assert other.rows().equals(finished.rows())


def test_a_finished_run_returns_at_once_and_a_lost_part_is_computed_again(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(folder).summary == finished.summary
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    lost = sorted(folder.glob("parts/*.parquet"))[1]
    lost.unlink()
    again = run(folder, chunk_size=5)
    assert again.rows().equals(finished.rows())


def test_another_configuration_is_refused(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    with pytest.raises(OtherRun, match="seed: 0 there, 1 here"):
        run(folder, seed=1)
    with pytest.raises(OtherRun, match="attacks"):
        run(folder, attacks=[FGSM("linf", 0.1)])
    other = RowwiseLinear().eval()
    with torch.no_grad():
        other.weight[0, 0] += 1
    with pytest.raises(OtherRun, match="model"):
        evaluate(other, Toy(), attacks(), out=folder, progress=False, device="cpu")
    assert run(folder).rows().equals(finished.rows()), "a refused run leaves everything as it was"


def test_a_truncated_part_is_named_and_not_mixed_in(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    part = min(folder.glob("parts/*.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(DamagedPart, match=part.name):
        run(folder)
    part.unlink()
    assert run(folder).rows().equals(finished.rows())


def test_bad_samples_get_a_row_and_are_part_of_no_figure(tmp_path):
    class Bad(Toy):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            if index == 3:
                raise OSError("cannot identify image file")
            if index == 5:
                image = image.clone()
                image[0, 0, 0] = torch.nan
            return image, 4 if index == 7 else label

    result = run(tmp_path / "run", data=Bad(), chunk_size=9)
    assert result.summary["usable"] == 57
    assert result.summary["samples"] == 60
    assert result.summary["unusable"] == {
        "label … is outside [0, 4)": 1,
        "pixels are not finite": 1,
        "unreadable": 1,
    }
    rows = {(r["attack"], r["eps"], r["sample"]): r for r in result.rows().to_pylist()}
    assert rows["pgd", 0.02, 3]["status"] == "unreadable: OSError: cannot identify image file"
    assert not any(rows["pgd", 0.02, bad][flag] for bad in (3, 5, 7) for flag in ("correct", "success", "robust"))
    assert result.summary["attacks"][0]["robust_accuracy"]["of"] == 57


def test_no_samples_give_an_empty_summary(tmp_path):
    result = run(tmp_path / "run", limit=0)
    assert result.summary["samples"] == 0
    assert result.summary["clean"]["value"] is None
    assert result.rows().num_rows == 0


def test_limit_takes_a_seeded_part(finished, tmp_path):
    result = run(tmp_path / "run", limit=20)
    samples = set(result.rows()["sample"].to_pylist())
    assert len(samples) == 20
    whole = [row for row in finished.rows().to_pylist() if row["sample"] in samples]
    assert result.rows().to_pylist() == whole


def test_adversarial_images_are_kept_on_request(tmp_path):
    from safetensors.torch import load_file

    result = run(tmp_path / "run", attacks=[PGD("linf", 0.02, steps=5)], save_images=True, chunk_size=30)
    data, kept = Toy(), {}
    for path in sorted((result.folder / "images").glob("*.safetensors")):
        content = load_file(path)
        kept.update(zip(content["pgd linf 0.02 samples"].tolist(), content["pgd linf 0.02"], strict=True))
    for row in result.rows().to_pylist():
        if row["success"]:
            image = kept[row["sample"]]
            assert (image - data.images[row["sample"]]).abs().max() <= 0.02 + 1e-6
            assert RowwiseLinear()(image[None]).argmax().item() == row["prediction"] != row["label"]


def test_a_full_disk_says_what_is_safe_and_the_run_goes_on_later(finished, tmp_path, monkeypatch):
    calls = []
    sync = os.fsync

    def full(descriptor):
        calls.append(1)
        if len(calls) > 4:  # run.json, three parts
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EvaluationStopped, match=r"No space left.*30 of 60 samples are safe.*same command again"):
        run(tmp_path / "run", chunk_size=10)
    monkeypatch.undo()
    assert run(tmp_path / "run").rows().equals(finished.rows())


def test_two_jobs_on_one_folder_are_refused(tmp_path):
    with alone(tmp_path / "run" / ".lock"), pytest.raises(RunStopped, match="another job"):
        run(tmp_path / "run")


def test_a_finished_run_is_read_where_nothing_can_be_written(finished, monkeypatch):
    def refused(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    assert run(finished.folder).summary == finished.summary


def test_rows_that_vanish_while_the_run_goes_on_are_noticed(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    class Removing(Toy):
        def __getitem__(self, index):
            for part in folder.glob("parts/samples-000000000-*.parquet"):
                part.unlink(missing_ok=True)  # images are read in several threads
            return super().__getitem__(index)

    with pytest.raises(EvaluationStopped, match="10 of 60 samples have vanished"):
        run(folder, data=Removing(), chunk_size=10, dataset_name="Toy")
    assert not (folder / "summary.json").exists()
    assert run(folder).rows().equals(finished.rows())


def test_images_that_vanish_are_made_again(tmp_path):
    options = {"attacks": [PGD("linf", 0.02, steps=5)], "save_images": True, "chunk_size": 30}
    folder = run(tmp_path / "run", **options).folder
    before = {path.name: path.read_bytes() for path in (folder / "images").iterdir()}
    next((folder / "images").iterdir()).unlink()
    run(folder, **options)
    assert before == {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def test_killed_before_the_summary_the_run_is_closed_by_the_next_call(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("regfast.evaluation.run.write_classes", killed)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    assert not (folder / "summary.json").exists()
    monkeypatch.undo()
    assert run(folder).rows().equals(finished.rows())
    assert (folder / "summary.json").exists() and (folder / "classes.csv").exists()


def test_damaged_files_are_named(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary\.json is damaged.*Remove it"):
        run(folder)
    (folder / "run.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        run(folder)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OtherRun, match=r"another kind \(study, not evaluation\)"):
        run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "file"]


@pytest.mark.parametrize("out", ["file/run", "x" * 300])
def test_an_output_that_cannot_be_made_is_said(tmp_path, out):
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, RunStopped), match=out[:20]):
        run(tmp_path / out)


def test_data_that_changed_where_the_fingerprint_did_not_look_is_noticed(finished, tmp_path, monkeypatch):
    class Hidden(Toy):
        def __init__(self):
            super().__init__()
            self._images, self._labels = self.images, self.labels
            del self.images, self.labels
            self.changed = None

        def __len__(self):
            return 60

        def __getitem__(self, index):
            return self._images[index] * (0.5 if index == self.changed else 1), int(self._labels[index])

    monkeypatch.setattr("regfast.evaluation.identity._PROBED", 2)
    data, folder = Hidden(), tmp_path / "run"
    run(folder, data=data)
    next(folder.glob("parts/*-000000059-*.parquet")).unlink()
    data.changed = 7
    with pytest.raises(OtherRun, match="sample 7 is not the image"):
        run(folder, data=data)


def test_an_attack_without_eps_or_given_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="given twice"):
        run(tmp_path / "run", attacks=[PGD("linf", 0.1), PGD("linf", 0.1)])


def test_names_in_the_summary_make_no_tags_or_columns(tmp_path):
    result = run(tmp_path / "run", model_name="<img src=x>|`a`", attacks=[FGSM("linf", 0.01)], command="regfast `x`")
    text = (result.folder / "summary.md").read_text()
    assert text.startswith("# &lt;img src=x>\\|\\`a\\` on Toy\n") and "Made by `regfast x`." in text
