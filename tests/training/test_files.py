import pytest

from training.files import whole_file, write_text


def test_a_text_is_written_whole_into_a_folder_that_is_made(tmp_path):
    path = tmp_path / "new" / "poem.txt"
    for text in ("月\n", "the moon\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "poem.txt"
    write_text(path, "whole")

    def fail(unfinished):
        unfinished.write_text("ha")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"), whole_file(path) as unfinished:
        fail(unfinished)
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "poem.txt"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # it finished last
