import numpy as np
import pyarrow.parquet as pq
import pytest

from regfast.report.results import Study, attack_name


def test_columns_are_paired_across_regularizers_whatever_the_row_order(run_dir, make_study, tmp_path):
    folder = make_study(tmp_path / "shuffled", seeds=2, samples=40)
    plain = Study.read(folder)
    table = pq.read_table(folder / "samples.parquet")
    pq.write_table(table.take(np.random.default_rng(3).permutation(len(table))), folder / "samples.parquet")
    shuffled = Study.read(folder)
    for name in plain.regularizers:
        assert shuffled.column("rms", name).shape == (2, 40)
        np.testing.assert_array_equal(shuffled.column("rms", name), plain.column("rms", name))
    assert plain.regularizers[0] == "hard"


def test_a_missing_file_is_named(make_study, tmp_path):
    folder = make_study(tmp_path / "run", seeds=1, samples=20)
    (folder / "sweep.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"sweep\.parquet"):
        Study.read(folder)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Study.read(tmp_path / "nowhere")


def test_damaged_files_are_named(make_study, tmp_path):
    folder = make_study(tmp_path / "run", seeds=1, samples=20)
    (folder / "samples.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"samples\.parquet is damaged"):
        Study.read(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        Study.read(folder)


def test_a_missing_column_is_named(make_study, tmp_path):
    folder = make_study(tmp_path / "run", seeds=1, samples=20)
    table = pq.read_table(folder / "samples.parquet")
    pq.write_table(table.drop_columns(["confidence"]), folder / "samples.parquet")
    with pytest.raises(ValueError, match="lacks the columns confidence"):
        Study.read(folder)


def test_unpaired_samples_are_refused(make_study, tmp_path):
    folder = make_study(tmp_path / "run", seeds=1, samples=20)
    table = pq.read_table(folder / "samples.parquet")
    pq.write_table(table.slice(1), folder / "samples.parquet")  # hard labels now lack sample 0
    with pytest.raises(ValueError, match="not measured on the same samples"):
        Study.read(folder)


def test_attack_names_say_norm_size_and_setting():
    attack = {"id": "a", "attack": "pgd", "norm": "linf", "eps": 8 / 255, "steps": 20, "setting": "strong"}
    assert attack_name(attack) == "PGD-20 (ℓ∞ ε = 8/255, strong)"
    assert attack_name({"id": "b", "attack": "fgsm", "norm": "l2", "eps": 0.5, "steps": 1}) == "FGSM (ℓ₂ ε = 0.5)"
