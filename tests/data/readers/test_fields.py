"""The table of keys: images under any of them, in any nesting; videos and unknown keys are errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.data.readers.fields import (
    IMAGE_KEYS,
    check_media,
    check_media_placeholders,
    check_unread_images,
    find_keys,
    image_names,
    single_image,
)
from firstsight.data.records import RecordError

IMAGE = b"\x89PNG and more bytes"
nestings = st.recursive(
    st.sampled_from([IMAGE, list(IMAGE), [byte - 256 if byte > 127 else byte for byte in IMAGE]]),
    lambda inner: (
        inner.map(lambda value: [value])
        | inner.map(lambda value: {"bytes": value, "path": None})
        | inner.map(lambda value: {"image": value})
    ),
    max_leaves=3,
)


@given(key=st.sampled_from(IMAGE_KEYS), name=st.sampled_from(["a.jpg", "x/y.PNG"]), data=st.data())
def test_an_image_is_read_under_every_key(key: str, name: str, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from([key, key.upper(), key.title()]))
    value = data.draw(st.sampled_from([name, [name], {"path": name, "bytes": None}, [{"url": name}]]))
    assert image_names({"id": 1, key: value, "conversations": []}, None) == [name]
    assert image_names({key: None}, None) == image_names({key: []}, None) == image_names({key: ""}, None) == []


@given(nestings)
def test_bytes_are_read_in_any_nesting(value: object) -> None:
    assert single_image(value) == IMAGE


def test_several_images_are_an_error() -> None:
    with pytest.raises(RecordError, match="several images: 2"):
        single_image(["a.jpg", "b.jpg"])
    with pytest.raises(RecordError, match=r"img names 'b\.jpg', another image than 'a\.jpg'"):
        image_names({"image": "a.jpg", "img": "b.jpg"}, None)
    assert image_names({"image": "a.jpg", "image_path": "train/a.jpg", "image_name": "a cat"}, None) == ["a.jpg"]
    assert image_names({"image": "a.jpg", "mine": "b.jpg"}, "mine") == ["b.jpg"]


@pytest.mark.parametrize("key", ["video", "videos", "audio", "Audio_path", "speech", "video_url"])
def test_videos_and_audio_are_errors(key: str) -> None:
    check_media({key: None, "conversations": [], "audiobook": "x", "soundness": 1})
    with pytest.raises(RecordError, match=f"video or audio: {key}"):
        check_media({key: "0.mp4"})


def test_placeholders_of_videos_are_errors_at_an_edge_of_a_question() -> None:
    check_media_placeholders(["How do I use the <video> tag?"])
    for question in ("<video>\nWhat?", "What?\n<audio>"):
        with pytest.raises(RecordError, match="video or audio"):
            check_media_placeholders([question])


def test_an_unknown_key_with_an_image_is_an_error() -> None:
    check_unread_images({"id": "a.jpg", "turns": "b.jpg", "topic": "x", "n": 3, "e": [0.5]}, {"turns"})
    for value in ("a.jpg", ["a.jpg"], {"path": "a.JPEG"}):
        with pytest.raises(RecordError, match=r"columns = \{picture = 'my_file'\}"):
            check_unread_images({"my_file": value}, ())


def test_names_as_they_are_written_come_first() -> None:
    assert find_keys("caption", ("TEXT", "caption", "Caption")) == ("caption", "Caption", "TEXT")
    assert find_keys("id", ("ID", "id")) == ("id", "ID")
    assert find_keys("question", ("answer",)) == ()
