import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from recbench.errors import DataError
from recbench.leaderboard import leaderboard, replay
from recbench.leaderboard.cited import read_cited
from recbench.leaderboard.tables import variants
from recbench.metrics import KEYS, Ranks, bootstrap_means, impossibilities, interval, per_user
from recbench.results import Estimate, Latency, Run, StageCost, config_hash, ranks_path, write_run

NUM_USERS = 2000


def some_ranks(hits: float, seed: int = 0, num_users: int = NUM_USERS) -> Ranks:
    """Ranks 1 to 10 in turn for the first `hits` of the users, shuffled; a miss for the rest."""
    rank = np.full(num_users, np.inf)
    number = round(hits * num_users)
    rank[:number] = 1 + np.arange(number) % 10
    return Ranks(np.random.default_rng(seed).permutation(rank), np.ones(num_users, dtype=np.int64))


def record(
    root: Path, model: str, ranks: Ranks, *, seed: int = 0, users: np.ndarray | None = None, **changes: object
) -> Path:
    """Write a record as a run would, with its metrics computed from `ranks`."""
    values = per_user(ranks)
    low, high = interval(bootstrap_means(values))
    metrics = zip(KEYS, values.mean(axis=0), low, high, strict=True)
    config = {"model": {"dim": 64}, "seed": seed, "name": model} | changes.pop("config", {})
    fields = {
        "model": model,
        "data": "beauty",
        "seed": seed,
        "config": config,
        "data_fingerprint": "f" * 64,
        "num_users": len(ranks.rank),
        "metrics": {key: Estimate(value=mean, low=a, high=b) for key, mean, a, b in metrics},
        "latency": {"device": Latency(p50_ms=1.25, p95_ms=2.5, p99_ms=3.0, num_calls=200)},
        "stages": {"train": StageCost(train_s=90.0, num_epochs=3)},
        "num_parameters": {"device": 1_234_567},
    } | changes
    fields["config_hash"] = config_hash(config, fields["data_fingerprint"])
    users = np.arange(len(ranks.rank)) if users is None else users
    return write_run(Run.model_validate(fields), root / "results", users=users, ranks=ranks)


def broken(root: Path, model: str, status: str, seed: int = 0, **changes: object) -> Path:
    """Write the record of a run that did not get to its evaluation."""
    config = {"model": {"dim": 64}, "seed": seed, "name": model}
    run = Run(
        model=model,
        data="beauty",
        seed=seed,
        status=status,
        config=config,
        config_hash=config_hash(config, "f" * 64),
        data_fingerprint="f" * 64,
        **changes,
    )
    return write_run(run, root / "results")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "leaderboard"
    folder.mkdir()
    return folder


def tables(root: Path) -> list[list[dict[str, str]]]:
    """The tables of the Markdown page, each a list of rows by column title."""
    text = leaderboard(root)[0].read_text()
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def main_table(root: Path) -> dict[str, dict[str, str]]:
    """Rows of the first table by model."""
    return {row["model"]: row for row in tables(root)[0]}


class TestRows:
    def test_means_and_intervals_are_the_records(self, root: Path) -> None:
        ranks = some_ranks(0.1)
        record(root, "sasrec", ranks)
        low, high = interval(bootstrap_means(per_user(ranks, ("hr@10",))))
        row = main_table(root)["sasrec"]
        assert re.fullmatch(r"\*\*0\.1000 ±\d\.\d{4}\*\*", row["HR@10"])
        assert float(row["HR@10"].strip("*").partition("±")[2]) == pytest.approx(
            (high - low)[0] / 2, abs=1e-3
        )
        assert row["seeds"] == "1"

    def test_costs_are_readable(self, root: Path) -> None:
        record(root, "sasrec", some_ranks(0.1))
        row = main_table(root)["sasrec"]
        assert (row["ms p50 / p95"], row["training"], row["parameters"]) == (
            "1.25 / 2.50",
            "90.0 s",
            "1.23 M",
        )

    def test_what_crosses_is_told_of_methods_that_have_a_cloud(self, root: Path) -> None:
        crossed = {"bytes_up": 259.4, "bytes_down": 20_841.0, "exchanges": 0.2}
        for seed, asked in enumerate((0.25, 0.75)):
            served = {"cache": 1 - asked, "cloud": asked}
            record(root, "duet", some_ranks(0.1, seed), seed=seed, served=served, **crossed)
        record(root, "sasrec", some_ranks(0.2))
        main, detail = ({row["model"]: row for row in table} for table in tables(root)[:2])
        assert (main["duet"]["bytes up / down"], main["sasrec"]["bytes up / down"]) == ("259 / 20,841", "–")
        assert detail["duet"]["served by"] == "cache 50.0%, cloud 50.0%"
        assert detail["sasrec"]["served by"] == "–"

    def test_the_sides_of_a_collaborative_method_are_named(self, root: Path) -> None:
        latency = {
            side: Latency(p50_ms=p, p95_ms=2 * p, p99_ms=3 * p, num_calls=9)
            for side, p in (("cloud", 20.0), ("device", 1.0), ("network", 0.0))
        }
        record(root, "cda4rec", some_ranks(0.1), latency=latency)
        latency["network"] = Latency(p50_ms=30.0, p95_ms=60.0, p99_ms=90.0, num_calls=9)
        record(root, "far", some_ranks(0.2), latency=latency)
        found = main_table(root)
        assert found["cda4rec"]["ms p50 / p95"] == "cloud 20.00 / 40.00, device 1.00 / 2.00"
        assert found["far"]["ms p50 / p95"].endswith(", network 30.00 / 60.00")

    def test_seeds_are_one_row_with_their_mean(self, root: Path) -> None:
        for seed, hits in enumerate((0.10, 0.11, 0.15)):
            record(root, "sasrec", some_ranks(hits, seed), seed=seed)
        (row,) = tables(root)[0]
        assert row["seeds"] == "3"
        assert row["HR@10"].startswith("**0.1200 ±")

    def test_an_option_that_is_off_is_one_that_older_records_do_not_know(self, root: Path) -> None:
        record(root, "sasrec", some_ranks(0.1), config={"model": {"dim": 64}})
        record(root, "sasrec", some_ranks(0.1), seed=1, config={"model": {"dim": 64, "lm": None}, "seed": 1})
        assert {name: row["seeds"] for name, row in main_table(root).items()} == {"sasrec": "2"}

    def test_a_seed_that_finished_twice_counts_once_as_it_was_last(self, root: Path) -> None:
        for options, hits, day in (({}, 0.3, 2), ({"lm": None}, 0.2, 3), ({"kd": None}, 0.4, 1)):
            finished = f"2026-01-0{day}T00:00:00+00:00"
            record(
                root, "sasrec", some_ranks(hits), config={"model": {"dim": 64} | options}, finished=finished
            )
        record(root, "sasrec", some_ranks(0.1), seed=1)
        (row,) = tables(root)[0]
        assert row["seeds"] == "2"
        assert row["HR@10"].startswith("**0.1500 ±")

    def test_the_interval_of_seeds_is_that_of_their_mean(self, root: Path) -> None:
        seeds = [some_ranks(0.1, seed) for seed in range(3)]
        for seed, ranks in enumerate(seeds):
            record(root, "sasrec", ranks, seed=seed)
        mean = np.mean([per_user(ranks, ("hr@10",)) for ranks in seeds], axis=0)
        half = 1.96 * mean.std() / np.sqrt(NUM_USERS)
        printed = main_table(root)["sasrec"]["HR@10"].strip("*").partition("±")[2]
        assert float(printed) == pytest.approx(half, rel=0.08)

    def test_configurations_are_told_apart_by_what_differs(self, root: Path) -> None:
        record(root, "sasrec", some_ranks(0.1))
        record(root, "sasrec", some_ranks(0.2), config={"model": {"dim": 128}})
        assert set(main_table(root)) == {"sasrec", "sasrec (dim=64)"}  # the better one first

    def test_rows_are_ordered_by_ndcg_at_10(self, root: Path) -> None:
        for model, hits in (("a", 0.1), ("b", 0.3), ("c", 0.2)):
            record(root, model, some_ranks(hits))
        assert [(row["model"], row["#"]) for row in tables(root)[0]] == [("b", "1"), ("c", "2"), ("a", "3")]

    def test_details_link_to_the_records(self, root: Path) -> None:
        path = record(root, "sasrec", some_ranks(0.1))
        (row,) = tables(root)[1]
        assert row["records"] == f"[seed 0]({path.relative_to(root).as_posix()})"
        assert row["Precision@10"].startswith("0.0100 ±")

    @pytest.mark.parametrize(
        "changes", [{"data_fingerprint": "e" * 64}, {"protocol": "top-n-99"}, {"data": "sports"}]
    )
    def test_rows_of_other_data_or_protocol_get_their_own_table(
        self, root: Path, changes: dict[str, str]
    ) -> None:
        record(root, "sasrec", some_ranks(0.1))
        record(root, "gru4rec", some_ranks(0.2), **changes)
        found = tables(root)[::2]  # each main table is followed by its details
        assert sorted(row["model"] for table in found for row in table) == ["gru4rec", "sasrec"]
        assert [table[0]["HR@10"].startswith("**") for table in found] == [True, True]

    def test_rows_of_fewer_users_get_their_own_table(self, root: Path) -> None:
        record(root, "sasrec", some_ranks(0.1))
        record(root, "gru4rec", some_ranks(0.2, num_users=1000))
        assert [len(table) for table in tables(root)[::2]] == [1, 1]

    def test_other_users_of_the_same_data_are_refused(self, root: Path) -> None:
        record(root, "gru4rec", some_ranks(0.2))
        path = record(root, "sasrec", some_ranks(0.1), users=np.arange(1, NUM_USERS + 1))
        with pytest.raises(DataError, match="its users are not those of") as caught:
            leaderboard(root)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


class TestComparison:
    def test_the_best_is_bold_and_the_separable_rest_is_not(self, root: Path) -> None:
        record(root, "good", some_ranks(0.3))
        record(root, "bad", some_ranks(0.1))
        rows = main_table(root)
        assert rows["good"]["HR@10"].startswith("**")
        assert not rows["good"]["HR@10"].endswith("†")
        assert "*" not in rows["bad"]["HR@10"]

    def test_what_cannot_be_told_from_the_best_shares_the_top(self, root: Path) -> None:
        ranks = some_ranks(0.1)
        slightly = Ranks(ranks.rank.copy(), ranks.ties)
        slightly.rank[np.flatnonzero(ranks.rank == 1)[0]] = np.inf
        record(root, "best", ranks)
        record(root, "close", slightly)
        rows = main_table(root)
        assert rows["close"]["NDCG@10"].endswith("**†")
        assert (rows["best"]["#"], rows["close"]["#"]) == ("1", "1")

    def test_the_test_is_paired(self, root: Path) -> None:
        # the intervals overlap, yet `best` is never worse and is better for thirty users: separable in pairs
        ranks = some_ranks(0.1)
        worse = Ranks(ranks.rank.copy(), ranks.ties)
        worse.rank[np.flatnonzero(ranks.rank <= 10)[:30]] = np.inf
        record(root, "best", ranks)
        record(root, "worse", worse)
        rows = main_table(root)
        assert "*" not in rows["worse"]["HR@10"]
        assert rows["worse"]["#"] == "2"

    def test_identical_rows_share_the_top(self, root: Path) -> None:
        for model in ("a", "b", "c"):
            record(root, model, some_ranks(0.1))
        assert [row["#"] for row in tables(root)[0]] == ["1", "1", "1"]


class TestGate:
    def test_below_the_best_counting_model(self, root: Path) -> None:
        record(root, "itemknn", some_ranks(0.2))
        record(root, "popularity", some_ranks(0.1))
        record(root, "sasrec", some_ranks(0.15))
        notes = {model: row["note"] for model, row in main_table(root).items()}
        assert notes == {
            "sasrec": "below itemknn: under-trained or not useful",
            "itemknn": "",
            "popularity": "",
        }

    def test_above_but_not_separable(self, root: Path) -> None:
        ranks = some_ranks(0.1)
        better = Ranks(ranks.rank.copy(), ranks.ties)
        better.rank[np.flatnonzero(np.isinf(ranks.rank))[0]] = 1
        record(root, "last_item", ranks)
        record(root, "sasrec", better)
        assert main_table(root)["sasrec"]["note"] == "not separable from last_item"

    def test_clearly_above_needs_no_remark(self, root: Path) -> None:
        record(root, "itemknn", some_ranks(0.1))
        record(root, "sasrec", some_ranks(0.3))
        assert main_table(root)["sasrec"]["note"] == ""

    def test_a_table_without_counting_models_has_no_gate(self, root: Path) -> None:
        record(root, "sasrec", some_ranks(0.01))
        assert main_table(root)["sasrec"]["note"] == ""


class TestBroken:
    @pytest.mark.parametrize("status", ["diverged", "failed", "timeout"])
    def test_is_listed_last_and_never_ranked(self, root: Path, status: str) -> None:
        record(root, "sasrec", some_ranks(0.1))
        broken(root, "gru4rec", status, note="loss is nan at step 3 | of 9")
        (*_, row) = tables(root)[0]
        assert (row["#"], row["model"], row["HR@10"]) == ("–", "gru4rec", "–")
        assert row["note"] == f"{status}; loss is nan at step 3 \\| of 9"

    def test_a_broken_seed_is_counted_beside_the_others(self, root: Path) -> None:
        record(root, "sasrec", some_ranks(0.1))
        broken(root, "sasrec", "diverged", seed=1)
        (row,) = tables(root)[0]
        assert (row["seeds"], row["note"]) == ("1", "1 of 2 seeds diverged")

    def test_alone_it_is_a_table_without_a_best(self, root: Path) -> None:
        broken(root, "sasrec", "failed")
        (table,) = tables(root)
        assert table[0]["note"] == "failed"


def cite(root: Path, **changes: object) -> None:
    row = {
        "model": "sasrec",
        "data": "beauty",
        "metrics": {"hr@10": 0.08, "ndcg@10": 0.04},
        "source": "A paper, T.1",
    }
    (root / "cited.json").write_text(json.dumps([row | changes]))


class TestCited:
    def test_stands_apart_with_source_our_figure_and_the_gap(self, root: Path) -> None:
        cite(root)
        record(root, "sasrec", some_ranks(0.1))
        (row,) = tables(root)[-1]
        assert row["our best HR@10"] == "0.1000"
        assert row["gap"] == "+25.0%"
        assert row["source"] == "A paper, T.1"
        assert "not measured here" in (root / "README.md").read_text()

    def test_is_never_best(self, root: Path) -> None:
        cite(root, metrics={"hr@10": 0.9})
        record(root, "sasrec", some_ranks(0.1))
        assert main_table(root)["sasrec"]["HR@10"].startswith("**")
        assert "*" not in tables(root)[-1][0]["HR@10"]

    def test_another_protocol_has_no_gap(self, root: Path) -> None:
        cite(root, protocol="loo-full-lag2")
        record(root, "sasrec", some_ranks(0.1))
        assert tables(root)[-1][0]["gap"] == "–"

    def test_what_cannot_be_is_flagged_with_the_reason(self, root: Path) -> None:
        cite(
            root,
            metrics={"hr@5": 0.0197, "ndcg@5": 0.0136, "hr@10": 0.0304, "ndcg@10": 0.0192},
            note="held-out users",
        )
        (row,) = tables(root)[-1]
        assert row["note"].startswith("impossible: ndcg@10 - ndcg@5 is 0.0056, but")
        assert row["note"].endswith("; held-out users")

    def test_a_cited_record_is_shown_as_cited(self, root: Path) -> None:
        run = Run(
            model="p5",
            data="beauty",
            origin="cited",
            metrics={"hr@10": Estimate(value=0.04)},
            source="P5, Table 3",
        )
        write_run(run, root / "results")
        (table,) = tables(root)
        assert (table[0]["model"], table[0]["HR@10"], table[0]["source"]) == ("p5", "0.0400", "P5, Table 3")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"source": ""}, "row 0.source: "),
            ({"metrics": {}}, "row 0.metrics: "),
            ({"metrics": {"recall@10": 0.1}}, "row 0 (sasrec): unknown metric 'recall@10'; known: hr@K"),
            ({"hr": 0.1}, "row 0.hr: "),
        ],
    )
    def test_a_damaged_row_is_one_line(self, root: Path, changes: dict[str, object], message: str) -> None:
        cite(root, **changes)
        with pytest.raises(DataError) as caught:
            leaderboard(root)
        assert str(caught.value).startswith(f"{root / 'cited.json'}: {message}")
        assert "\n" not in str(caught.value)

    def test_the_shipped_figures_are_readable_and_flagged_where_the_notes_say_so(self) -> None:
        shipped = read_cited(Path(__file__).parents[1] / "leaderboard" / "cited.json")
        assert {row.data for row in shipped} == {"beauty", "sports", "toys", "yelp"}
        own = {(row.data, row.variant) for row in shipped if row.flaws and row.model == "sasrec"}
        assert {(data, "LSC4Rec's, near-real-time") for data in ("beauty", "toys", "yelp")} <= own
        assert [
            bool(row.flaws)
            for row in shipped
            if row.model in ("cda4rec", "l3rec", "tiger", "bsarec", "lsc4rec")
        ].count(True) == 1

    def test_no_shipped_figure_is_in_percent(self) -> None:
        for row in read_cited(Path(__file__).parents[1] / "leaderboard" / "cited.json"):
            assert not any("[0, 1]" in flaw for flaw in impossibilities(row.metrics, tolerance=0))
            assert max(row.metrics.values()) < 0.15


class TestPages:
    @pytest.fixture
    def filled(self, root: Path) -> Path:
        for seed in range(2):
            record(root, "sasrec", some_ranks(0.12, seed), seed=seed)
        record(root, "itemknn", some_ranks(0.1), data="sports")
        broken(root, "gru4rec", "diverged", note="<script>alert(1)</script>")
        cite(root)
        return root

    def test_regenerating_changes_nothing(self, filled: Path) -> None:
        first = {path: path.read_bytes() for path in leaderboard(filled)}
        assert {path: path.read_bytes() for path in leaderboard(filled)} == first

    def test_the_order_of_writing_does_not_matter(self, filled: Path, tmp_path: Path) -> None:
        other = tmp_path / "other" / "leaderboard"
        for path in sorted(filled.rglob("*"), reverse=True):
            if path.is_file():
                copy = other / path.relative_to(filled)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
        assert [path.read_bytes() for path in leaderboard(filled)] == [
            path.read_bytes() for path in leaderboard(other)
        ]

    def test_no_records_is_an_empty_board(self, root: Path) -> None:
        written = leaderboard(root)
        assert [path.name for path in written] == ["README.md", "index.html"]
        assert "|" not in written[0].read_text()

    def test_the_html_page_is_well_formed_and_asks_no_other_host(self, filled: Path) -> None:
        text = leaderboard(filled)[1].read_text()
        parser = _Tags()
        parser.feed(text)
        assert parser.open == []
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|url\(|@import|<link|<img""", text)
        assert text.count("<script>") == 1
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text

    def test_html_shows_the_figures_of_the_markdown(self, filled: Path) -> None:
        parser = _Tags()
        parser.feed(leaderboard(filled)[1].read_text())
        for table in tables(filled):
            for row in table:
                assert row["model"] in parser.cells
                for value in row.values():
                    plain = value.replace("*", "").replace("\\|", "|").replace("&lt;", "<")
                    assert plain in parser.cells or value.startswith("[")

    def test_the_top_readme_gets_the_main_figures_between_its_marks(self, filled: Path) -> None:
        top = filled.parent / "README.md"
        start, end = "<!-- leaderboard:start -->", "<!-- leaderboard:end -->"
        top.write_text(f"before\n{start}\nold\n{end}\nafter\n")
        assert top in leaderboard(filled)
        text = top.read_text()
        assert text.startswith(f"before\n{start}\n")
        assert text.endswith(f"\n{end}\nafter\n")
        assert "old" not in text
        assert "| 1 | sasrec | 2 | **0.1200 ±" in text
        assert "(leaderboard/README.md)" in text
        leaderboard(filled)
        assert top.read_text() == text

    def test_the_top_readme_has_of_each_model_what_was_best_on_validation_not_on_test(
        self, root: Path
    ) -> None:
        for dim, validation, test in ((8, 0.05, 0.2), (16, 0.07, 0.1), (32, 0.06, 0.15)):
            config, chosen = {"model": {"dim": dim}}, {"ndcg@10": validation}
            record(root, "sasrec", some_ranks(test), config=config, validation=chosen)
        top = root.parent / "README.md"
        top.write_text("<!-- leaderboard:start -->\n<!-- leaderboard:end -->\n")
        leaderboard(root)
        assert re.findall(r"\| sasrec.*?\| \*\*(\S+)", top.read_text()) == ["0.1000"]
        assert len(main_table(root)) == 3

    def test_a_readme_without_marks_is_left_alone(self, filled: Path) -> None:
        top = filled.parent / "README.md"
        top.write_text("mine")
        assert top not in leaderboard(filled)
        assert top.read_text() == "mine"

    def test_a_readme_with_half_the_marks_is_refused_before_anything_is_written(self, filled: Path) -> None:
        (filled.parent / "README.md").write_text("<!-- leaderboard:start -->")
        with pytest.raises(DataError, match="is not followed by"):
            leaderboard(filled)
        assert not (filled / "README.md").exists()


class _Tags(HTMLParser):
    """Tags left open, and the text of every table cell."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag != "meta":
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


class TestReplay:
    def test_shows_every_metric_recomputed(self, root: Path) -> None:
        text = replay(record(root, "sasrec", some_ranks(0.1)))
        assert f"{NUM_USERS:,} users" in text
        assert re.search(r"^hr@10 +0\.100000 +0\.100000$", text, flags=re.MULTILINE)
        assert all(re.search(rf"^{key} ", text, flags=re.MULTILINE) for key in KEYS)

    @pytest.mark.parametrize("command", ["replay", "leaderboard"])
    def test_a_metric_that_its_ranks_do_not_give_is_refused(self, root: Path, command: str) -> None:
        path = record(root, "sasrec", some_ranks(0.1))
        content = json.loads(path.read_text())
        content["metrics"]["hr@10"]["value"] += 1e-8
        path.write_text(json.dumps(content))
        with pytest.raises(
            DataError, match=r"hr@10 is recorded as 0\.10000001, its ranks give 0\.1;"
        ) as caught:
            replay(path) if command == "replay" else leaderboard(root)
        assert caught.value.exit_code == 3
        assert "\n" not in str(caught.value)

    def test_rounding_in_the_last_bits_is_no_change(self, root: Path) -> None:
        path = record(root, "sasrec", some_ranks(0.1))
        content = json.loads(path.read_text())
        content["metrics"]["hr@10"]["value"] += 1e-13
        path.write_text(json.dumps(content))
        assert "recomputed" in replay(path)

    def test_changed_ranks_are_refused(self, root: Path) -> None:
        path = record(root, "sasrec", some_ranks(0.1))
        with ranks_path(path).open("r+b") as file:
            file.seek(100)
            file.write(b"\x00\x01")
        with pytest.raises(DataError, match="sha256"):
            replay(path)

    def test_missing_users_are_refused(self, root: Path) -> None:
        path = record(root, "sasrec", some_ranks(0.1), num_users=NUM_USERS + 1)
        with pytest.raises(DataError, match=r"num_users is 2001, but .* has 2000"):
            replay(path)

    def test_a_record_without_ranks_cannot_be_replayed(self, root: Path) -> None:
        with pytest.raises(DataError, match="no ranks were stored"):
            replay(broken(root, "sasrec", "failed"))

    def test_metrics_that_are_no_function_of_ranks_are_named(self, root: Path) -> None:
        path = record(root, "cda4rec", some_ranks(0.1))
        content = json.loads(path.read_text())
        content["metrics"]["recall@50"] = {"value": 0.3}
        path.write_text(json.dumps(content))
        assert re.search(r"^recall@50 +0\.300000 +not of ranks$", replay(path), flags=re.MULTILINE)


class TestVariants:
    def test_names_only_what_differs(self) -> None:
        assert variants([{"a": 1, "m": {"dim": 64}}, {"a": 1, "m": {"dim": 32}}]) == ["", "dim=32"]

    def test_full_names_where_the_last_part_is_ambiguous(self) -> None:
        configs = [{"m": {"d": 1}, "n": {"d": 1}}, {"m": {"d": 2}, "n": {"d": 3}}]
        assert variants(configs) == ["", "m.d=2, n.d=3"]

    def test_a_setting_that_only_one_has(self) -> None:
        assert variants([{"a": 1}, {"a": 1, "loss": "bce"}]) == ["", "loss=bce"]
        assert variants([{"a": 1, "loss": "bce"}, {"a": 1}]) == ["", "no loss"]
        assert variants([{"a": 1}, {"a": 2, "loss": "bce"}]) == ["", "a=2"]

    def test_every_label_is_against_the_first(self) -> None:
        configs = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 3, "b": 1}, {"a": 3, "b": 2}]
        assert variants(configs) == ["", "b=2", "a=3", "a=3, b=2"]
