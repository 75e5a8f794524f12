"""The auditor's page as a tree, and what every page has to be."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "link", "img", "input"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    parent: "Node | None" = None
    children: "list[Node | str]" = field(default_factory=list)

    def walk(self) -> "Iterator[Node]":
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += [child for child in reversed(node.children) if isinstance(child, Node)]

    def all(self, *tags: str) -> "list[Node]":
        return [node for node in self.walk() if node.tag in tags]

    def of_class(self, name: str) -> "list[Node]":
        return [node for node in self.walk() if name in node.attributes.get("class", "").split()]

    def by_id(self, name: str) -> "Node":
        (found,) = [node for node in self.walk() if node.attributes.get("id") == name]
        return found

    @property
    def text(self) -> str:
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, Node):
                yield from child._texts()
            else:
                yield child

    def rows(self) -> "list[list[Node]]":
        (body,) = self.all("tbody")
        return [[cell for cell in row.children if isinstance(cell, Node)] for row in body.all("tr")]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Node("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), names
        node = Node(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(node)
        if tag not in VOID:
            self.at = node

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)


def parse(page: str) -> Node:
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert parser.at is parser.root, f"<{parser.at.tag}> is never closed"
    return parser.root


def well_formed(tree: Node) -> None:
    """See that a page is one document that a browser, a keyboard and a screen reader can find their way in."""
    every = [node for node in tree.walk() if "id" in node.attributes]
    ids = {node.attributes["id"]: node for node in every}
    assert len(ids) == len(every)
    for node in tree.walk():
        for name, value in node.attributes.items():
            assert name not in ("src", "style", "srcset", "action", "background"), (node.tag, name)
            assert not name.startswith("on"), (node.tag, name)
            if name == "href":
                assert value.startswith("#"), value
                assert value[1:] in ids, value
            if name in ("popovertarget", "aria-labelledby"):
                assert ids.keys() >= set(value.split()), value
    assert not tree.all("script", "link", "iframe", "object", "embed", "img", "form", "base", "input", "foreignobject")
    assert [len(tree.all(tag)) for tag in ("html", "head", "body", "main", "nav", "header", "footer", "h1")] == [1] * 8
    levels = [int(node.tag[1]) for node in tree.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    for table in tree.all("table"):
        assert table.all("caption")[0].text
        (head,) = table.all("thead")
        assert all(cell.attributes["scope"] == "col" and cell.text for cell in head.all("th"))
        width = len(head.all("th"))
        for cells in table.rows():
            assert len(cells) == width
            assert [cell.tag for cell in cells] == ["th", *["td"] * (width - 1)]
            assert cells[0].attributes["scope"] == "row"
    for drawing in tree.of_class("sequence"):
        assert drawing.attributes["role"] == "img"
        title, told = drawing.attributes["aria-labelledby"].split()
        assert (ids[title].tag, ids[told].tag) == ("title", "desc")
    for details in tree.all("details"):
        assert next(child.tag for child in details.children if isinstance(child, Node)) == "summary"
    for scroll in tree.of_class("scroll"):
        # What scrolls must be reachable by keyboard, and say what it is.
        assert scroll.attributes["tabindex"] == "0"
        assert scroll.attributes["aria-label"]
