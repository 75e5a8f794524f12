"""The auditor's page, read as a browser reads it: whole, in order, with everything in it, and nothing injected."""

import base64
import hashlib
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.audit import page
from tertium.audit.examine import examine
from tertium.audit.page_html import el
from tertium.audit.page_matrix import MOST_CELLS
from tertium.audit.page_sequence import MOST_STEPS
from tertium.audit.reading import read_run
from tertium.audit.report import (
    AbortLine,
    Cell,
    Finding,
    Kind,
    Level,
    PartyFacts,
    Ref,
    Refusal,
    Replay,
    Report,
    Row,
    Severity,
)
from tertium.cli import main

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no folder of tests there
from pages import Node, parse, well_formed

Maker = Any
SECTIONS = [
    "verdict",
    "run",
    "matrix",
    "findings",
    "sequence",
    "sums",
    "releases",
    "attempts",
    "refusals",
    "retention",
    "exposure",
    "cannot-show",
    "words",
]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;b&gt;\u202etxt.\x1b[2J"
replace = msgspec.structs.replace


@dataclass
class Drawn:
    folder: Path
    report: Report
    entries: Any
    page: str

    @property
    def tree(self) -> Node:
        return parse(self.page)


def draw(folder: Path, **changes: Any) -> Drawn:
    with read_run(folder) as run:
        report, entries = replace(examine(run).report, **changes), page.entries_of(run)
    return Drawn(folder, report, entries, page.draw(report, entries))


@pytest.fixture(scope="module")
def trusted(make_once: Maker) -> Drawn:
    return draw(make_once.export(make_once.ran(rounds=2)))


@pytest.fixture(scope="module")
def shamir(make_once: Maker) -> Drawn:
    return draw(make_once.export(make_once.ran("shamir 2 of 3")))


def test_the_page_is_one_document_in_order(trusted: Drawn) -> None:
    tree = trusted.tree
    well_formed(tree)
    (shown,) = tree.all("main")
    assert [node.attributes["id"] for node in shown.all("section")] == SECTIONS
    (contents,) = tree.all("nav")
    assert [node.attributes["href"][1:] for node in contents.all("a")] == SECTIONS
    (skip,) = tree.of_class("skip")
    assert skip.attributes["href"] == "#verdict"
    assert tree.all("html")[0].attributes["lang"] == "en"
    verdict = tree.by_id("verdict")
    assert verdict.all("h2")[0].text == "Verdict: Clean"
    assert verdict.of_class("seal")[0].text == "\u2713"
    facts = tree.by_id("run").text
    for said in (
        trusted.report.charter,
        "serial 1",
        "The secure worker opens each update",
        "at least 3 contributors in each sum",
    ):
        assert said in facts
    for party in trusted.report.parties:
        assert party.root is not None
        assert party.root in facts
    told = tree.by_id("cannot-show").text
    assert all(each in told for each in trusted.report.cannot_show)


def test_the_policy_lets_in_the_one_style_sheet_only(trusted: Drawn) -> None:
    tree = trusted.tree
    (policy,) = [n.attributes["content"] for n in tree.all("meta") if "http-equiv" in n.attributes]
    (style,) = re.findall(r"<style>(.*?)</style>", trusted.page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not re.search(r"url\(|@import|expression|http", style)
    assert "http:" not in trusted.page
    assert "https:" not in trusted.page


def cells_of(tree: Node, kind: str) -> list[tuple[str, list[str]]]:
    """Return the rows of the matrices of a kind: who, and the text of each cell."""
    rows = [row for table in tree.of_class(kind) for row in table.rows()]
    return [(", ".join(n.text for n in row[0].of_class("name")), [cell.text for cell in row[1:]]) for row in rows]


def test_every_cell_of_the_report_is_on_the_page(shamir: Drawn) -> None:
    tree = shamir.tree
    well_formed(tree)
    for rows, kind in ((shamir.report.matrix, "party-rows"), (shamir.report.coalitions, "group-rows")):
        assert cells_of(tree, kind) == [(", ".join(row.who), [cell.text for cell in row.cells]) for row in rows]
    (table,) = tree.of_class("party-rows")
    assert [head.text for head in table.all("thead")[0].all("th")][1:] == ["alice", "bob", "carol"]
    levels = [cell.attributes["class"].split()[1] for row in table.rows() for cell in row[1:]]
    assert levels == [cell.level.name.lower() for row in shamir.report.matrix for cell in row.cells]
    shapes = {each.attributes["href"] for each in table.all("use")}
    assert {"#shape-share", "#shape-aggregate", "#shape-own"} <= shapes


def numbers(shown: Node) -> set[tuple[str, int]]:
    """Return the entries that a list names."""
    found = set()
    for line in [n for lines in shown.of_class("refs") for n in lines.all("li")]:
        for first, _, last in re.findall(r"#(\d+)( to #(\d+))?", line.of_class("entry")[0].text):
            found |= {(line.of_class("name")[0].text, at) for at in range(int(first), int(last or first) + 1)}
    return found


def test_a_cell_opens_to_the_entries_that_show_it(trusted: Drawn) -> None:
    tree = trusted.tree
    (table,) = tree.of_class("party-rows")
    for row, cells in zip(trusted.report.matrix, table.rows(), strict=True):
        for cell, shown in zip(row.cells, cells[1:], strict=True):
            wanted = {(r.party, r.entry) for r in (*cell.entries, *(r for a in cell.access for r in a.entries))}
            assert wanted
            (button,) = shown.all("button")
            panel = tree.by_id(button.attributes["popovertarget"])
            assert numbers(panel) == wanted
            assert cell.text in panel.of_class("title")[0].text
            assert [b.attributes["popovertargetaction"] for b in panel.all("button")] == ["hide"]
    opened = next(cell for row in trusted.report.matrix for cell in row.cells if cell.level is Level.PLAINTEXT)
    first = opened.entries[0]
    assert f"first #{first.entry}: opened plaintext update of alice from alice, round 1" in tree.text


def test_cells_of_one_name_and_other_entries_open_their_own(shamir: Drawn) -> None:
    tree = shamir.tree
    rows = [row for table in tree.of_class("group-rows") for row in table.rows()]
    panels = {node.attributes["id"]: numbers(node) for node in tree.of_class("panel")}
    opened = 0
    for row, cells in zip(shamir.report.coalitions, rows, strict=True):
        for cell, shown in zip(row.cells, cells[1:], strict=True):
            buttons = shown.all("button")
            assert bool(buttons) is bool(cell.entries)
            for button in buttons:
                assert panels[button.attributes["popovertarget"]] == {(r.party, r.entry) for r in cell.entries}
                opened += 1
    assert opened > 30


def test_a_cell_with_many_entries_names_them_all(trusted: Drawn) -> None:
    refs = tuple(Ref(party, place) for party in ("alice", "owner", "nobody") for place in (*range(9), 20, 999_999))
    cell = Cell("alice", Level.AGGREGATE, 3, "aggregate of 3", (), refs)
    changed = replace(trusted.report, matrix=(Row(("owner",), True, (cell,)),), coalitions=())
    tree = parse(page.draw(changed, trusted.entries))
    (button,) = tree.of_class("party-rows")[0].all("button")
    panel = tree.by_id(button.attributes["popovertarget"])
    assert numbers(panel) == {(ref.party, ref.entry) for ref in refs}
    assert "What decides the cell" in panel.text
    assert "#0 to #8, #20, #999999" in panel.text


def test_what_was_added_up_again_says_whom_the_auditor_knows_now(trusted: Drawn) -> None:
    assert "Added up again" not in trusted.tree.by_id("sums").text
    session = trusted.report.attempts[0].session
    replays = (
        Replay(session, 1, 0, "equal", "all the same", ("alice", "bob")),
        Replay(session, 2, 0, "different", "not the same", ("carol",)),
        Replay(session, 3, 0, "not replayed", "bob opened nothing", ()),
    )
    tree = parse(page.draw(replace(trusted.report, replays=replays), trusted.entries))
    well_formed(tree)
    assert "knows updates, or shares of them, of 3 data owners now" in tree.by_id("verdict").text
    assert "Known to the auditor now updates, or shares of them, of alice, bob, carol" in tree.by_id("sums").text
    rows = [[cell.text for cell in row] for row in tree.by_id("sums").all("table")[-1].rows()]
    assert rows[0] == ["Round 1", "\u2713equal", "all the same", "alice, bob"]
    assert [row[1][1:] for row in rows] == ["equal", "different", "not replayed"]


def test_the_diagram_agrees_with_every_ledger(trusted: Drawn, shamir: Drawn) -> None:
    for drawn in (trusted, shamir):
        (table, *_) = drawn.tree.of_class("steps")
        rows = [[cell.text for cell in row] for row in table.rows()]
        attempt = drawn.report.attempts[0]
        heard: dict[tuple[str, int], int] = {}
        said: dict[tuple[str, int], int] = {}
        for place, row in enumerate(rows):
            for word, party, number in re.findall(r"(sent|received|opened) (\w+) #(\d+)", row[6]):
                (said if word == "sent" else heard)[party, int(number)] = place
            if row[1] in ("erased", "released"):
                party, _, places = row[6].partition(" ")
                said |= {(party, int(number)): place for number in re.findall(r"#(\d+)", places)}
        ends = {(r.party, r.entry) for s in attempt.steps for r in (s.sent, s.received, s.opened) if r is not None}
        assert ends <= {*heard, *said}
        # What a party says after it heard something stands below it.
        for (party, before), above in heard.items():
            assert all(below > above for (who, at), below in said.items() if who == party and at > before), (
                party,
                before,
            )
        told = drawn.tree.by_id("sequence").text
        for word in (
            "contribution",
            "aggregate, 32 B",
            "released: aggregate of 3",
            "erased: plaintext update of alice",
        ):
            assert word in told
    assert drawn.tree.of_class("opened")


def test_a_message_nobody_got_is_drawn_as_lost(trusted: Drawn) -> None:
    first = trusted.report.attempts[0]
    steps = tuple(
        replace(step, received=None, opened=None) if step.what == "receipt" and step.recipient == "bob" else step
        for step in first.steps
    )
    attempts = (replace(first, steps=steps), *trusted.report.attempts[1:])
    tree = parse(page.draw(replace(trusted.report, attempts=attempts), trusted.entries))
    assert not list(trusted.tree.of_class("lost"))
    assert [n.tag for n in tree.of_class("lost")] == ["line", "text"]


def test_a_violation_is_said_in_word_and_sign_and_its_row_is_marked(make_once: Maker) -> None:
    tree = draw(make_once.export(make_once.ran("plain"))).tree
    well_formed(tree)
    assert tree.by_id("verdict").all("h2")[0].text == "Verdict: Violation"
    assert tree.by_id("verdict").of_class("seal")[0].text == "\u2717"
    (table,) = tree.of_class("party-rows")
    wrong = [row for row in table.all("tr") if row.attributes.get("class") == "wrong"]
    assert [row.all("th")[0].of_class("name")[0].text for row in wrong] == ["owner"]
    assert "\u2717 violation" in wrong[0].text
    assert "\u2717plain access by owner. Concerned: alice, bob, carol." in tree.by_id("findings").text
    assert "a test" in tree.by_id("run").of_class("note")[0].text


def test_unverified_and_failed_sums_say_so_and_come_first(trusted: Drawn) -> None:
    one, other = trusted.report.attempts
    odd = (replace(one, check="unverified", silent=("bob",)), replace(other, check="failed"))
    many = odd + tuple(replace(other, round=number, steps=()) for number in range(3, 60))
    tree = parse(page.draw(replace(trusted.report, attempts=many), trusted.entries))
    well_formed(tree)
    sums = tree.by_id("sums")
    assert [n.text for n in sums.of_class("tally")[0].of_class("mark")] == [
        "\u271357 verified",
        "!1 unverified",
        "\u27171 failed",
    ]
    first = [[cell.text for cell in row] for row in sums.all("table")[0].rows()]
    assert first == [
        ["Round 1", "3", "alice, bob, carol", "!unverified silent: bob"],
        ["Round 2", "3", "alice, bob, carol", "\u2717failed"],
    ]
    assert sum(len(table.rows()) for table in sums.all("table")[1:]) == 59
    assert "39 more of 59" in sums.text


def test_an_exposure_says_what_a_group_can_do_and_no_more(trusted: Drawn) -> None:
    section = trusted.tree.by_id("exposure")
    found = {table.all("caption")[0].text.removeprefix("By this way: "): table for table in section.all("table")}
    said = {
        how: [head.text for head in table.all("th") if head.attributes["scope"] == "col"]
        for how, table in found.items()
    }
    assert said["the mode lets it"][1] == "can read each update of"
    assert said["all others of a sum"][1] == "can work out the update of"
    # Who has reduced a sum to two can read neither.
    assert said["the sum of two is left"][1] == "know a sum of two, in which is that of"
    states = {how: {row[3].text for row in table.rows()} for how, table in found.items()}
    assert states == {
        "the mode lets it": {"ias the mode says"},
        "all others of a sum": {"ino mode stops it"},
        "the sum of two is left": {"ino mode stops it"},
    }


def test_a_ledger_that_was_not_given_is_said_where_it_matters(make_once: Maker) -> None:
    tree = draw(make_once.export(make_once.ran(), without=["alice"])).tree
    well_formed(tree)
    assert "1 of 5 ledgers could not be looked at: alice" in tree.by_id("verdict").text
    row = next(row for row in tree.of_class("party-rows")[0].rows() if row[0].text.startswith("alice"))
    assert "without its ledger" in row[0].text


def poisoned(report: Report) -> Report:
    """Return a report in which everything that a hostile ledger or charter could have a hand in is markup."""
    first = report.attempts[0]
    step = replace(first.steps[0], what=HOSTILE, data=HOSTILE, sender=HOSTILE, recipient="\u202eecila")
    attempt = replace(
        first,
        aborts=(AbortLine(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,)),),
        contributors=(HOSTILE, "bob"),
        declined=(HOSTILE,),
        silent=(HOSTILE,),
        check="unverified",
        steps=(step, *first.steps),
    )
    finding = Finding(Kind.REFUSED, Severity.VIOLATION, HOSTILE, HOSTILE, (HOSTILE,), evidence=HOSTILE)
    cell = Cell(HOSTILE, Level.CIPHERTEXT, 0, HOSTILE, (), report.matrix[0].cells[0].entries)
    return replace(
        report,
        run=HOSTILE,
        federation=HOSTILE,
        mode=HOSTILE,
        scheme=HOSTILE,
        warnings=(HOSTILE,),
        holders=(HOSTILE,),
        collusion_sets=((HOSTILE,),),
        verdict="violation",
        parties=(*report.parties, PartyFacts(HOSTILE, HOSTILE, HOSTILE, False, HOSTILE)),
        attempts=(attempt, *report.attempts[1:]),
        matrix=(Row((HOSTILE,), False, (cell,)),),
        coalitions=(Row((HOSTILE, "bob"), True, (cell,)),),
        findings=(finding, replace(finding, severity=Severity.NOTICE)),
        refusals=(Refusal(HOSTILE, HOSTILE, HOSTILE, 1, ()),),
        cannot_show=(HOSTILE,),
        left_out=(HOSTILE,),
    )


def test_what_a_ledger_says_is_text_and_never_markup(trusted: Drawn) -> None:
    made = page.draw(poisoned(trusted.report), trusted.entries)
    tree = parse(made)
    well_formed(tree)
    assert not tree.all("b")
    assert "\u202e" not in made
    assert "\x1b" not in made
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\x1b", "\ufffd")
    assert tree.all("title")[0].text == f"Audit of {shown}"
    for key in ("run", "matrix", "findings", "sequence", "sums", "attempts", "refusals", "cannot-show"):
        assert shown in tree.by_id(key).text, key


def test_no_element_can_be_given_what_runs_or_loads() -> None:
    assert el("p", "<b>", title='"') == '<p title="&quot;">&lt;b&gt;</p>'
    for more in ({"style": "x"}, {"onclick": "x"}, {"href": "javascript:x"}, {"src": "x"}):
        with pytest.raises(AssertionError, match="in the page"):
            el("a", **more)


def large(report: Report) -> Report:
    """Return a report of 100 rounds and 30 data owners with long names."""
    names = [f"hospital-of-the-holy-{'long-' * 8}name-{number:02d}" for number in range(30)]
    refs = report.matrix[0].cells[0].entries
    cells = tuple(Cell(name, Level.AGGREGATE, 30, "aggregate of 30", (), refs) for name in names)
    parties = tuple(PartyFacts(name, "data owner", "An organisation", True, entries=9, root="0" * 64) for name in names)
    first = report.attempts[0]
    attempts = tuple(replace(first, round=n, contributors=tuple(names), cohort=tuple(names)) for n in range(1, 101))
    return replace(
        report,
        parties=(*report.parties[:2], *parties),
        attempts=attempts,
        matrix=tuple(Row((name,), True, cells) for name in names),
        coalitions=tuple(Row((names[0], name), True, cells) for name in names[1:]) * 30,
        collusion_sets=tuple((name,) for name in names),
    )


def test_a_large_run_stays_readable_and_says_what_it_leaves_out(trusted: Drawn) -> None:
    begin = time.monotonic()
    made = page.draw(large(trusted.report), trusted.entries)
    assert time.monotonic() - begin < 20
    assert len(made) < 8_000_000
    ids = re.findall(r' id="([^"]*)"', made)
    assert len(ids) == len(set(ids))
    matrix = made[made.index('<section id="matrix"') : made.index('<section id="findings"')]
    assert matrix.count('<th scope="row">') == 30 + MOST_CELLS // 30
    assert f"{870 - MOST_CELLS // 30} larger groups are in the JSON" in matrix
    # The rest as a tree; the cells alone would take longer than all other tests.
    tree = parse(
        made.replace(matrix, "")[: made.index('<div class="panels"') - len(matrix)] + "</main></div></body></html>"
    )
    drawn = tree.by_id("sequence").of_class("sequence")
    assert len(drawn) == MOST_STEPS // len(trusted.report.attempts[0].steps)
    assert f"{100 - len(drawn)} more attempts are not drawn" in tree.by_id("sequence").text
    assert "more owners" in drawn[0].text
    for section in ("sums", "releases"):
        first, rest = tree.by_id(section).all("table")
        assert (len(first.rows()), len(rest.rows())) == (20, 80)
        above = rest.parent
        while above is not None and above.tag != "details":
            above = above.parent
        assert above is not None


def test_the_command_writes_the_page(trusted: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "audit.html"
    assert main(["audit", str(trusted.folder), "--html", str(to)]) == 0
    assert to.read_text(encoding="utf-8") == trusted.page
    assert "clean: no violation" in capsys.readouterr().out
    assert main(["audit", str(trusted.folder), "--html", str(tmp_path / "nowhere" / "audit.html")]) == 2
    said = capsys.readouterr().err
    assert "nowhere" in said
    assert "cannot be written" in said


def test_an_unusable_run_has_a_page_that_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "audit.html"
    assert main(["audit", str(tmp_path / "<b>nothing"), "--html", str(to)]) == 2
    assert "is not a folder" in capsys.readouterr().err
    tree = parse(to.read_text(encoding="utf-8"))
    well_formed(tree)
    assert tree.by_id("verdict").all("h2")[0].text == "Verdict: Unusable"
    assert "is not a folder" in tree.by_id("verdict").text
    assert not tree.all("b")
