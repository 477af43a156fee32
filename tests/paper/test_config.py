import pytest

from regfast.paper import PaperConfig, paper_config
from regfast.paper.config import study_folder


def test_the_default_studies():
    config = paper_config()
    assert [(study.dataset, study.model, len(study.seeds)) for study in config.studies] == [
        ("noisy-digits", "small-cnn", 3),
        ("digits", "small-cnn", 2),
        ("noisy-digits", "resnet20", 2),
    ]
    assert [attack.id for attack in config.main.attacks] == [
        "fgsm_linf_weak",
        "pgd_linf_weak",
        "pgd_linf_strong",
        "autoattack-fast_linf_weak",
        "autoattack-fast_linf_strong",
    ]
    assert 1.0 in config.parts["scaling"]["scales"] and 1.0 in config.parts["radius"]["radii"]


def test_every_data_set_with_every_model_and_options_reach_all():
    config = paper_config(
        "small", ["digits", "cifar10"], ["small-cnn", "timm:resnet18"], data_root="data", seeds=[4], epochs=7
    )
    assert [study_folder(study) for study in config.studies] == [
        "studies/digits-small-cnn",
        "studies/digits-timm-resnet18",
        "studies/cifar10-small-cnn",
        "studies/cifar10-timm-resnet18",
    ]
    assert {study.seeds for study in config.studies} == {(4,)}
    assert {study.recipe.epochs for study in config.studies} == {7}
    assert [study.data_root for study in config.studies] == [None, None, "data", "data"]
    assert [study.limit for study in paper_config("full").studies] == [None, 96, 96]
    assert [study.recipe.epochs for study in paper_config("full").studies] == [40, 15, 15]
    assert [study.recipe.epochs for study in paper_config("full", epochs=7).studies] == [7] * 3
    assert [study.limit for study in paper_config("full", limit=300).studies] == [300] * 3
    assert paper_config("full", ["cifar10"], data_root="data").main.limit == 1000
    assert paper_config("full", ["cifar10"], data_root="data", limit=20).main.limit == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "size must be one of"),
        ({"datasets": ["mnist"]}, "no data set is called 'mnist'"),
        ({"regularizers": ["cutout"]}, "no regularizer is called 'cutout'"),
        ({"label": -1}, "label must be at least 0"),
        ({"datasets": ["digits", "digits"]}, "share a folder"),
        ({"limit": 0}, "limit must be at least 1"),
    ],
)
def test_what_does_not_exist_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        paper_config(**options)


def test_a_run_needs_a_study():
    with pytest.raises(ValueError, match="at least one study"):
        PaperConfig((), {})
