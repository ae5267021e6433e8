// Searches the index of search-index.js. Texts of the index are strangers': they become text nodes, never markup.
(function () {
  "use strict";
  var MOST = 30;
  var root = document.documentElement.dataset.root;
  var box = document.getElementById("search");
  var query = document.getElementById("query");
  var found = document.getElementById("found");
  var status = document.getElementById("status");
  var results = document.getElementById("results");
  var services = (window.servicebusIndex || []).map(function (each) {
    return { entry: each, name: each.name.toLowerCase(), all: (each.name + " " + each.kind + " " + each.words).toLowerCase() };
  });

  // Lower is better; -1 if a term is missing.
  function rank(service, terms) {
    var sum = 0;
    for (var i = 0; i < terms.length; i++) {
      if (service.all.indexOf(terms[i]) < 0) return -1;
      var at = service.name.indexOf(terms[i]);
      var begins = at === 0 || (at > 0 && ".-_".indexOf(service.name[at - 1]) >= 0);
      sum += service.name === terms[i] ? 0 : begins ? 1 : at > 0 ? 2 : 10;
    }
    return sum;
  }

  function matching(text) {
    var terms = text.toLowerCase().split(/\s+/).filter(Boolean);
    var hits = services
      .map(function (service, index) { return { entry: service.entry, rank: rank(service, terms), index: index }; })
      .filter(function (hit) { return hit.rank >= 0; });
    return hits.sort(function (one, other) { return one.rank - other.rank || one.index - other.index; });
  }

  function element(name, className, text) {
    var made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function show() {
    var text = query.value.trim();
    results.textContent = "";
    found.hidden = !text;
    if (!text) { status.textContent = ""; return; }
    var hits = matching(text);
    status.textContent = hits.length === 0 ? "No service found" :
      hits.length === 1 ? "1 service" : hits.length + " services" + (hits.length > MOST ? ", the first " + MOST + " are shown" : "");
    hits.slice(0, MOST).forEach(function (hit) {
      var link = document.createElement("a");
      link.href = root + "services/" + encodeURIComponent(hit.entry.page);
      link.appendChild(element("span", "name", hit.entry.name));
      link.appendChild(element("span", "quiet", hit.entry.kind));
      link.appendChild(element("span", "summary", hit.entry.summary));
      var item = document.createElement("li");
      item.appendChild(link);
      results.appendChild(item);
    });
  }

  function close() { found.hidden = true; }

  function move(event, step) {
    var links = Array.prototype.slice.call(results.querySelectorAll("a"));
    if (found.hidden || !links.length) return;
    event.preventDefault();
    var next = links.indexOf(document.activeElement) + step;
    if (next < 0) query.focus(); else links[Math.min(next, links.length - 1)].focus();
  }

  function isTyping(target) { return /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.isContentEditable; }

  query.addEventListener("input", show);
  query.addEventListener("focus", function () { if (query.value.trim()) show(); });
  box.addEventListener("keydown", function (event) {
    if (event.key === "ArrowDown") move(event, 1);
    else if (event.key === "ArrowUp") move(event, -1);
    else if (event.key === "Escape") { query.focus(); query.value = ""; show(); }
    else if (event.key === "Enter" && event.target === query) {
      var first = results.querySelector("a");
      if (first) { event.preventDefault(); first.click(); }
    }
  });
  document.addEventListener("keydown", function (event) {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    event.preventDefault();
    query.focus();
    query.select();
  });
  document.addEventListener("click", function (event) { if (!box.contains(event.target)) close(); });
  box.addEventListener("focusout", function (event) {
    if (event.relatedTarget && !box.contains(event.relatedTarget)) close();
  });
  box.hidden = false;
  if (query.value.trim()) show();
})();
