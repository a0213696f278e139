"""What benchmarks/attention.py concludes, from rows whose figures are known."""

from benchmarks.attention import HELD, Row, verdicts

MIB = 2**20


def rows(power: float = 1.0) -> list[Row]:
    """At 8,192 tokens SDPA takes 5 s and 10 MiB, the explicit softmax 400 MiB, each kind 1 s and 20 MiB."""
    made = []
    for length in (4096, 8192):
        share = length / 8192
        made += [Row("SDPA", length, 5.0 * share**2, 10 * MIB), Row("explicit softmax", length, 20.0, 400 * MIB)]
        made += [Row(kind, length, share, round(20 * MIB * share**power)) for kind in HELD]
    return made


def test_what_is_just_reached_holds_for_every_kind() -> None:
    found = verdicts(rows())
    assert all(found.values())
    assert len(found) == 7 * 4
    assert {name.partition(":")[0] for name in found} >= {"linformer", "local", "block-sparse, causal", "performer"}


def test_each_figure_is_missed_by_itself() -> None:
    good = rows()
    slow, large = Row("linformer", 8192, 1.01, 20 * MIB), Row("linformer", 8192, 1.0, 41 * MIB)
    for row, missed in (
        (slow, ["linformer: 5x faster"]),
        (
            large,
            [
                "linformer: 2x SDPA's memory",
                "linformer: 0.1 of an explicit softmax's memory",
                "linformer: memory grows with the length alone",  # 10 to 41 MiB: 2 to the power of 2.04
            ],
        ),
    ):
        changed = [each for each in good if (each.kind, each.length) != (row.kind, row.length)] + [row]
        assert [name for name, holds in verdicts(changed).items() if not holds] == missed


def test_memory_that_grows_faster_than_the_length_is_missed() -> None:
    missed = [name for name, holds in verdicts(rows(power=1.25)).items() if not holds]
    assert missed == [f"{kind}: memory grows with the length alone" for kind in HELD]


def test_one_length_says_nothing_of_growth_and_another_length_nothing() -> None:
    assert len(verdicts([row for row in rows() if row.length == 8192])) == 7 * 3
    assert verdicts([row for row in rows() if row.length == 4096]) == {}
