"""How the continuity benchmark judges what became of people."""

from benchmarks.accuracy.continuity import Figures, People, is_reached, judge

BEFORE = People(
    names={"p1": "Ann", "p2": "Bob", "p3": "Eve"},
    shown={"p1": {"Ann"}, "p2": {"Bob"}, "p3": {"Eve"}},
    photos={"p1": 3, "p2": 2, "p3": 1},
)


def test_whoever_has_id_name_and_faces_is_kept() -> None:
    assert judge(BEFORE, BEFORE) == Figures(1.0, 1.0, 0)


def test_a_new_id_a_lost_name_and_a_person_without_faces_are_not_kept() -> None:
    new_id = People({"p9": None, "p2": "Bob", "p3": "Eve"}, {"p9": {"Ann"}, "p2": {"Bob"}, "p3": {"Eve"}}, {})
    assert judge(BEFORE, new_id) == Figures(0.5, 1.0, 0)
    no_name = People({**BEFORE.names, "p3": None}, BEFORE.shown, {})
    assert judge(BEFORE, no_name) == Figures(1.0, 0.0, 0)
    no_face = People(BEFORE.names, {"p1": {"Ann"}, "p3": {"Eve"}}, {})
    assert judge(BEFORE, no_face) == Figures(0.5, 1.0, 0)


def test_a_name_that_is_not_that_of_most_faces_is_wrong() -> None:
    swapped = People(BEFORE.names, {"p1": {"Bob"}, "p2": {"Ann"}, "p3": {"Eve"}}, {})
    assert judge(BEFORE, swapped) == Figures(0.0, 1.0, 2)


def test_of_two_who_are_shown_equally_often_both_names_are_right() -> None:
    both = People(BEFORE.names, {**BEFORE.shown, "p2": {"Bob", "Eve"}}, {})
    assert judge(BEFORE, both) == Figures(1.0, 1.0, 0)


def test_the_figures_are_reached_where_all_ways_reach_them() -> None:
    good = {"kept": 0.99, "kept_single": 0.95, "wrong_names": 0}
    assert is_reached({"pack": "open", "renamed": good})
    for worse in ({"kept": 0.98}, {"kept_single": 0.94}, {"wrong_names": 1}):
        assert not is_reached({"pack": "open", "renamed": good, "another_model": {**good, **worse}})
