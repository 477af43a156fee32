from regfast.report.study_page import chance_note, settings, words


def test_values_are_said_in_words():
    assert (
        words({"epochs": 20, "milestones": [5, 10], "augment": False})
        == "epochs = 20, milestones = 5, 10, augment = False"
    )


def test_settings_mark_what_the_paper_leaves_open():
    config = {
        "dataset": "digits",
        "model": "small-cnn",
        "epochs": 40,
        "seeds": [0, 1],
        "regularizers": {"hard": {}, "smoothing": {"smoothing": 0.1}},
        "attacks": [
            {"id": "pgd", "attack": "pgd", "norm": "linf", "eps": 0.03, "steps": 10, "restarts": 1, "setting": "weak"}
        ],
        "recipe": {"batch_size": 64},
        "data_root": None,
        "command": "regfast study",
    }
    rows = {name: (value, ours) for name, value, ours in settings(config)}
    assert rows["Data set"] == ("digits", False)
    assert rows["Label smoothing"] == ("smoothing = 0.1", True)
    assert rows["Hard labels"] == ("no parameters", False)
    assert rows["Attack pgd"] == ("PGD-10 (ℓ∞ ε = 0.03, weak): eps = 0.03, steps = 10, restarts = 1", True)
    assert rows["recipe"] == ("batch_size = 64", True)
    assert "data_root" not in rows and "command" not in rows


def test_few_seeds_are_owned_up_to():
    assert "choice of test samples only" in chance_note(20, 1)
    assert "3 seeds are few" in chance_note(20, 3)
    assert "few" not in chance_note(20, 5)
