"""Pictures are hashed as outputs: the same figures draw the same bytes, in whatever order they come."""

from components.evaluation.pictures import bars


def test_bars_stand_in_order_of_height_then_of_name() -> None:
    groups = {"b": 0.5, "d": 0.25, "a": 0.5, "c": 0.5}
    for given in (groups, dict(reversed(groups.items()))):
        [axes] = bars(given, 0.4, "errors").axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["d", "a", "b", "c"]
        assert [bar.get_width() for bar in axes.patches] == [25.0, 50.0, 50.0, 50.0]
