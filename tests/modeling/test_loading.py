"""What a user is told whose checkpoint cannot be found."""

import pytest

from modeling.loading import load_model


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "has no config.json; give the folder of a checkpoint"), ("no/such/folder", "there is no folder")],
    ids=["an empty folder", "no folder"],
)
def test_a_missing_checkpoint_is_named(name, words, tmp_path):
    with pytest.raises(OSError, match=words) as refusal:
        load_model(tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value)
