"""The site that ``servicebus docs`` writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from click.testing import CliRunner
from lxml import html
from pydantic import BaseModel, Field

from servicebus.cli.main import servicebus
from servicebus.contracts import ErrorContract, NodeContract, ServiceContract
from servicebus.contracts.site import make_site, write_site
from servicebus.errors import ContractError
from servicebus.typed import Services

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"' {{ 7 * 7 }} &amp; \u202e\u2028"


class Line(BaseModel):
    sku: Annotated[str, Field(examples=["s-77"], description="As printed on the shelf.")]
    count: int = 3


class OutOfStock(Exception):
    """There is no more."""

    def __init__(self, shelf: str):
        super().__init__(shelf)
        self.shelf = shelf


def shop() -> NodeContract:
    group = Services("shop")

    @group.rpc(errors=[OutOfStock], version="1.4", threads=4)
    def price(line: Line, currency: str = "EUR") -> list[Line]:
        """What it costs."""
        raise NotImplementedError

    @group.rpc(name="price", version="1.3", former=True)
    def older(sku: str) -> float:
        raise NotImplementedError

    @group.message(deprecated="use stocked")
    def restocked(sku: str) -> None:
        """There is more."""

    return NodeContract(group.contract().services, "NODE-01")


def hostile() -> NodeContract:
    schema = {
        "type": "object",
        "title": HOSTILE,
        "description": HOSTILE,
        "properties": {HOSTILE: {"type": "string", "default": HOSTILE, "description": HOSTILE, "pattern": HOSTILE}},
    }
    error = ErrorContract(HOSTILE, schema, HOSTILE)
    options = {HOSTILE: HOSTILE}
    service = ServiceContract(
        "call", f"a/../{HOSTILE}", HOSTILE, schema, schema, (error,), "", HOSTILE, HOSTILE, HOSTILE, False, options
    )
    return NodeContract((service,), HOSTILE)


def index_of(files: dict[str, str]) -> list[dict[str, str]]:
    text = files["static/search-index.js"].removeprefix("window.servicebusIndex = ").removesuffix(";\n")
    found: list[dict[str, str]] = json.loads(text)
    return found


def tree_of(page: str) -> Any:
    return html.fromstring(page)


def text_of(page: str) -> str:
    return " ".join(str(tree_of(page).text_content()).split())


def test_a_page_says_all_of_a_service() -> None:
    text = text_of(make_site(shop())["services/shop.price.html"])
    for part in (
        *("NODE-01.shop.price", "RPC", "version 1.4", "What it costs.", "threads", "line", "currency", '"EUR"'),
        *("As printed on the shelf.", "s-77", "OutOfStock", "There is no more.", "shelf", "list[Line]", "required"),
        *("servicebus call NODE-01.shop.price", "sender.call('NODE-01.shop.price'", "JSON Schema"),
        "servicebus stubs NODE-01 -o client.py",
        str(getattr(shop().find("shop.price"), "hash", None)),
    ):
        assert part in text, part


def test_messages_deprecated_and_former_services_say_so() -> None:
    files = make_site(shop())
    message = text_of(files["services/shop.restocked.html"])
    assert "Deprecated: use stocked" in message
    assert "sender.send('NODE-01.shop.restocked'" in message
    former = text_of(files["services/shop.price-2.html"])
    assert "former version" in former
    assert "contract='" in former
    assert "servicebus call" not in former and "servicebus stubs" not in former


def test_every_link_leads_somewhere_within_the_site() -> None:
    files = make_site(shop())
    for name, page in files.items():
        if not name.endswith(".html"):
            continue
        tree = tree_of(page)
        for element in tree.xpath("//*[@href or @src]"):
            target = str(element.get("href") or element.get("src"))
            path, _, anchor = target.partition("#")
            found = str(Path("/", name).parent.joinpath(path).resolve().relative_to("/")) if path else name
            assert found in files, (name, target)
            assert not anchor or tree_of(files[found]).xpath("//*[@id=$id]", id=anchor), (name, target)


def test_the_index_of_services_and_the_search_find_each() -> None:
    files = make_site(shop())
    listed = tree_of(files["index.html"]).xpath("//ul[@class='cards']//a/@href")
    assert listed == [f"services/{each['page']}" for each in index_of(files)]
    assert [each["name"] for each in index_of(files)] == ["shop.price", "shop.price", "shop.restocked"]
    words = index_of(files)[0]["words"]
    for word in ("What it costs.", "sku", "As printed on the shelf.", "OutOfStock", "shelf", "currency", "Line"):
        assert word in words


def test_texts_of_strangers_stay_texts() -> None:
    files = make_site(hostile())
    scripts = ["static/search-index.js", "static/search.js"]
    for name, page in files.items():
        assert "\u202e" not in page
        if not name.endswith(".html"):
            continue
        tree = tree_of(page)
        assert [str(each).removeprefix("../") for each in tree.xpath("//script/@src")] == scripts
        assert not tree.xpath("//script[text()] | //img | //style | //@style | //@*[starts-with(name(), 'on')]")
        assert "{{ 7 * 7 }}" in text_of(page)
    [name] = [each for each in files if each.startswith("services/")]
    assert "/" not in name.removeprefix("services/")
    assert ".." not in name
    index = files["static/search-index.js"]
    assert index.isascii()
    assert index.count("\n") == 1
    assert index_of(files)[0]["name"] == f"a/../{HOSTILE}.{HOSTILE}"


def test_pages_allow_nothing_but_what_is_beside_them() -> None:
    for name, page in make_site(shop()).items():
        if name.endswith(".html"):
            [policy] = tree_of(page).xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy


def test_names_that_look_alike_have_pages_of_their_own() -> None:
    names = ["a", "A", "ä", "ö", "a b", "a/b", "x" * 99 + "1", "x" * 99 + "2"]
    files = make_site(NodeContract(tuple(ServiceContract("call", "c", name) for name in names)))
    pages = [each["page"] for each in index_of(files)]
    assert len({each.lower() for each in pages}) == len(names)
    assert all(each.isascii() and len(each) < 100 for each in pages)


@pytest.mark.parametrize("schema", [{"properties": 5}, {"anyOf": 3}, {"enum": 5}, {"type": "object", "properties": []}])
def test_a_malformed_schema_names_its_service(schema: Any) -> None:
    with pytest.raises(ContractError, match=r"^c\.s: a schema is malformed: "):
        make_site(NodeContract((ServiceContract("call", "c", "s", schema, schema),)))


def test_a_schema_without_example_still_has_a_page() -> None:
    files = make_site(
        NodeContract((ServiceContract("call", "c", "s", False, {"type": "string", "pattern": "^\\d{50}$"}),))
    )
    assert "^\\\\d{50}$" in text_of(files["services/c.s.html"])


def test_a_site_is_written_again_without_what_has_gone(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_site(folder, make_site(shop()))
    write_site(folder, make_site(NodeContract((ServiceContract("call", "c", "s"),))))
    assert [each.name for each in (folder / "services").iterdir()] == ["c.s.html"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        write_site(tmp_path, make_site(shop()))
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_command_writes_the_site_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text(json.dumps(shop().to_json()))
    arguments = ["--json", "docs", str(tmp_path / "shop.json"), "-o", str(tmp_path / "site")]
    found = CliRunner().invoke(servicebus, arguments)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["services"] == 3
    assert "shop.price" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    wrong = CliRunner().invoke(servicebus, ["docs", str(tmp_path / "shop.json"), "-o", str(tmp_path)])
    assert (wrong.exit_code, "is not empty" in wrong.output) == (2, True)


def test_a_missing_extra_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for name in ("site", "templates"):
        monkeypatch.delitem(sys.modules, f"servicebus.contracts.{name}", raising=False)
    found = CliRunner().invoke(servicebus, ["docs", "x.json", "-o", str(tmp_path / "site")])
    assert found.exit_code == 1
    assert found.output == "servicebus: docs needs Jinja2: pip install servicebus-failover[docs]\n"
