"""The site of ``servicebus docs`` in a real browser: its search, its links, and texts of strangers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from browser import look_at

from servicebus.contracts import NodeContract, ServiceContract
from servicebus.contracts.site import make_site, write_site

HOSTILE = "</script><script>parent.told.attacked = 1</script><img src=x onerror=parent.told.attacked=1>"
PARAMS = {
    "type": "object",
    "properties": {"count": {"type": "integer", "description": "How many of them there are."}},
    "additionalProperties": False,
}
SITE = NodeContract(
    (
        ServiceContract("call", "shop", "price", PARAMS, docs="Its price."),
        ServiceContract("call", "shop", "stock", docs="What there is."),
        ServiceContract("call", "audit", "stock-taking", {"description": HOSTILE}, docs=f"Counts {HOSTILE}"),
        ServiceContract("message", "shop", "restocked", docs="There is more."),
    ),
    "NODE-01",
)


def look(tmp_path: Path, script: str) -> dict[str, Any]:
    """Runs *script* with ``page``, the document, and ``ask(text)``, which types into the search."""
    write_site(tmp_path / "site", make_site(SITE))
    prepared = """
      let page = frame.contentDocument;
      const find = id => page.getElementById(id);
      const names = () => [...page.querySelectorAll("#results .name")].map(each => each.textContent);
      const ask = text => {
        find("query").value = text;
        find("query").dispatchEvent(new Event("input", { bubbles: true }));
        return names();
      };
    """
    told, requests = look_at(tmp_path / "site", prepared + script, tmp_path / "browser")
    assert {path for path, status in requests if status >= 400} == set()
    assert "attacked" not in told
    return told


def test_the_search_finds_services_by_all_of_their_words(tmp_path: Path) -> None:
    told = look(
        tmp_path,
        """
        told.hidden = find("search").hidden || !find("found").hidden;
        told.name = ask("stock");
        told.shown = !find("found").hidden && find("status").textContent;
        told.docs = ask("HOW many");
        told.both = ask("shop more");
        told.none = ask("shop nowhere");
        told.says = find("status").textContent;
        press("Escape", find("query"));
        told.closed = find("found").hidden && find("query").value === "";
        """,
    )
    assert told == {
        "hidden": False,
        "name": ["audit.stock-taking", "shop.stock", "shop.restocked"],
        "shown": "3 services",
        "docs": ["shop.price"],
        "both": ["shop.restocked"],
        "none": [],
        "says": "No service found",
        "closed": True,
    }


def test_keys_lead_to_the_page_of_a_service_and_its_search(tmp_path: Path) -> None:
    told = look(
        tmp_path,
        """
        press("/", page.body);
        told.focused = page.activeElement.id;
        ask("stock");
        press("ArrowDown", find("query"));
        press("ArrowDown", page.activeElement);
        told.second = page.activeElement.querySelector(".name").textContent;
        press("ArrowUp", page.activeElement);
        press("ArrowUp", page.activeElement);
        told.back = page.activeElement.id;
        let next = loaded();
        press("Enter", find("query"));
        await next;
        page = frame.contentDocument;
        told.first = page.querySelector("h1").textContent;
        told.there = ask("price");
        next = loaded();
        page.querySelector("#results a").click();
        await next;
        page = frame.contentDocument;
        told.linked = page.querySelector("h1").textContent;
        """,
    )
    assert told == {
        "focused": "query",
        "second": "shop.stock",
        "back": "query",
        "first": "audit.stock-taking",
        "there": ["shop.price"],
        "linked": "shop.price",
    }


def test_texts_of_strangers_do_nothing(tmp_path: Path) -> None:
    told = look(
        tmp_path,
        """
        ask("counts");
        told.summary = page.querySelector("#results .summary").textContent;
        told.made = page.querySelectorAll("#results script, #results img").length;
        const next = loaded();
        page.querySelector("#results a").click();
        await next;
        page = frame.contentDocument;
        told.docs = page.querySelector(".docs").textContent.trim();
        const policy = new Promise(done => page.addEventListener("securitypolicyviolation", done));
        const script = page.createElement("script");
        script.textContent = "parent.told.attacked = 1";
        page.body.append(script);
        told.blocked = (await policy).effectiveDirective;
        """,
    )
    text = f"Counts {HOSTILE}"
    assert told == {"summary": text, "made": 0, "docs": text, "blocked": "script-src-elem"}
