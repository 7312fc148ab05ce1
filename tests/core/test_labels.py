import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet, LabelTables, meaning_of


@pytest.mark.parametrize("name", LabelTables.built_in().sets)
def test_a_known_set_is_recognised_by_its_classes_in_any_language(name: str):
    labels = LabelSet.named(name)
    for language in ("en", "ko"):
        words = labels.display(language)
        assert len(set(words)) == len(labels)
        assert {meaning_of(word) for word in words} == set(labels.names)
        assert LabelSet.from_names(words).name in LabelTables.built_in().sets


def test_korean_folder_names_are_the_classes_of_ai_hub():
    labels = LabelSet.from_names(["기쁨", "당황", "분노", "불안", "상처", "슬픔", "중립"])
    assert labels.name == "aihub7"
    assert labels.names[0] == "기쁨"
    assert labels.in_latin()[:3] == ("happy", "embarrassed", "angry")


def test_korean_names_are_shown_as_given_in_every_language():
    given = ("짜증", "행복", "무표정", "슬픔")
    assert LabelSet.from_names(given).display("en") == LabelSet.from_names(given).display("ko") == given


@given(
    st.lists(st.text("가나다기쁨abc ", min_size=1), min_size=1, unique=True), st.sampled_from(["en", "ko"])
)
def test_only_known_english_words_are_translated(names: list[str], language: str):
    labels = LabelSet(tuple(names))
    assert labels.display(language) == labels.names


def test_english_spellings_stay_in_english_and_are_translated_into_korean():
    labels = LabelSet.from_names(["joy", "Sadness", "non-teasing"])
    assert labels.display("en") == ("joy", "Sadness", "not teasing")
    assert labels.display("ko") == ("기쁨", "슬픔", "비약올리기")


def test_a_class_that_was_merged_says_so():
    assert LabelSet.named("aihub5").display("ko") == ("기쁨", "당황·불안", "분노", "슬픔·상처", "중립")
    assert LabelSet.named("aihub4").display("ko")[1] == "분노"


def test_the_words_of_the_teasing_project_are_known():
    given = LabelSet.from_names(["약올리기", "비약올리기"])
    assert given.name == "teasing"
    assert given.map_to(LabelSet.named("teasing")).labels(["약올리기", "비약올리기"]) == [
        "teasing",
        "non-teasing",
    ]


def test_spellings_of_one_word_mean_the_same():
    assert {meaning_of(word) for word in (" Happy", "HAPPINESS", "기쁨", "joy", "행복")} == {"happy"}
    assert meaning_of("Grumpy") == "grumpy"


def test_unknown_classes_are_a_custom_set_shown_as_they_are():
    labels = LabelSet.from_names(["cats", "dogs"])
    assert labels.name == "custom"
    assert labels.display("ko") == ("cats", "dogs")


@pytest.mark.parametrize("names", [(), ("a", "a")])
def test_empty_and_doubled_names_are_refused(names: tuple[str, ...]):
    with pytest.raises(DataError, match="distinct class names"):
        LabelSet(names)


def test_an_unknown_set_is_refused_with_those_that_are_known():
    with pytest.raises(DataError, match=r"'fer2014'.*fer2013.*aihub5"):
        LabelSet.named("fer2014")


def test_seven_korean_classes_merge_into_five_and_four():
    seven = LabelSet.from_names(["기쁨", "당황", "분노", "불안", "상처", "슬픔", "중립"])
    five = seven.map_to(LabelSet.named("aihub5"))
    assert five.labels(["당황", "불안", "상처", "기쁨"]) == ["uneasy", "uneasy", "sad", "happy"]
    four = seven.map_to(LabelSet.named("aihub4"))
    assert four.labels(list(seven.names)) == [
        "happy", "distressed", "angry", "distressed", "distressed", "distressed", "neutral",
    ]  # fmt: skip
    assert five.unmapped == four.unmapped == ()
    assert five.unreached == four.unreached == ()


def test_a_target_spelled_in_korean_is_mapped_to_in_korean():
    seven, five = LabelSet.named("aihub7"), LabelSet.from_names(LabelSet.named("aihub5").display("ko"))
    assert five.name == "aihub5"
    assert seven.map_to(five).labels(["anxious", "hurt"]) == ["당황·불안", "슬픔·상처"]


def test_merging_sums_probabilities():
    mapping = LabelSet.named("aihub7").map_to(LabelSet.named("aihub4"))
    proba = np.random.default_rng(0).dirichlet(np.ones(7), size=50).astype(np.float32)
    merged = mapping.proba(proba)
    assert merged.dtype == np.float32
    assert np.allclose(merged.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(merged[:, 0], proba[:, 0], atol=1e-6)
    assert np.allclose(merged[:, 2], proba[:, [1, 3, 4, 5]].sum(axis=1), atol=1e-6)


def test_mass_without_a_place_is_shared_out_in_proportion():
    mapping = LabelSet(("happy", "sad", "sleepy")).map_to(LabelSet(("happy", "sad", "bored")))
    assert mapping.unmapped == ("sleepy",)
    assert mapping.unreached == ("bored",)
    merged = mapping.proba(np.array([[0.3, 0.1, 0.6], [0.0, 0.0, 1.0]]))
    assert np.allclose(merged, [[0.75, 0.25, 0.0], [1 / 3, 1 / 3, 1 / 3]])


def test_labels_outside_the_source_are_named():
    mapping = LabelSet.named("fer2013").map_to(LabelSet.named("valence3"))
    assert mapping.labels(["happy", "surprise"]) == ["positive", None]
    with pytest.raises(DataError, match="sleepy"):
        mapping.labels(["happy", "sleepy"])
