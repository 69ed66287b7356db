// What stands around the graph: the details of what is chosen, the search, the legend, the paper.
"use strict";

// ---- Choosing, and the details

function choose(id) {
  state.chosen = id;
  mark();
  if (id === null) byId("details").hidden = true;
  else showDetails(id);
}

function mark() {
  const matches = new Set([...state.matches].map(visible));
  const id = state.chosen && (isGroup(state.chosen) ? state.chosen : visible(state.chosen));
  stage.selectAll(".node, .frame").classed("chosen", (d) => d[0] === id).classed("match", (d) => matches.has(d[0]));
  stage.selectAll(".line").classed("near", function () {
    return id !== null && (this.dataset.from === id || this.dataset.to.split(" ").includes(id));
  });
}

function showDetails(id) {
  const item = items.get(id);
  const panel = d3.select("#details").attr("hidden", null).text("");
  panel.append("button").attr("class", "close").attr("type", "button").attr("aria-label", "Close the details")
    .text("×").on("click", () => choose(null));
  panel.append("h2").text(item.title);
  panel.append("p").attr("class", "key").text([item.key ?? item.kind, item.role].filter(Boolean).join("  ·  "));
  if (isGroup(id)) {
    panel.append("button").attr("type", "button").text(state.open.has(visible(id)) ? "Close this group" : "Open this group")
      .on("click", () => flip(id));
  }
  annotation(panel, item);
  if (item.type) lines(panel, isGroup(id) || item.kind === "equation" ? "Gives" : "Type", item.outputs ?? [item.type]);
  if (item.inputs) lines(panel, "Takes", item.inputs);
  if (item.file) lines(panel, "Source", [item.file]);
  if (item.calls) lines(panel, "Calls around it", item.calls);
  if (item.params) parameters(panel, item.params);
  neighbours(panel, "Comes from", neighbour(id, "to", "from"));
  neighbours(panel, "Goes to", neighbour(id, "from", "to"));
  neighbours(panel, "Inside of", around(id));
}

function annotation(panel, item) {
  if (!item.text && !item.level && !item.size_text) return;
  const said = panel.append("p").attr("class", `said ${item.level ?? ""}`);
  const head = [item.level && LEVELS[item.level].join(" "), item.size_text && `size ${item.size_text}`].filter(Boolean);
  said.append("b").text(head.join("  ·  "));
  if (item.text) said.append("span").text(`${head.length ? "\n" : ""}${item.text}`);
}

function lines(panel, title, texts) {
  panel.append("h3").text(title);
  const more = texts.length > 8 ? [`and ${texts.length - 7} more`] : [];
  panel.selectAll(null).data(more.length ? [...texts.slice(0, 7), ...more] : texts).join("p")
    .append("code").text((text) => text);
}

function parameters(panel, params) {
  panel.append("h3").text("Parameters");
  const list = panel.append("dl");
  for (const [name, text] of params) {
    list.append("dt").text(name);
    list.append("dd").append("code").text(text);
  }
}

function neighbour(id, end, other) {  // what the edges of an item, or of all inside, lead to
  const own = new Set(isGroup(id) ? inside(id).map((node) => node.id) : [id]);
  const ids = [...own].flatMap((node) => (leads[end].get(node) ?? []).map((edge) => edge[other]));
  return [...new Set(ids)].filter((node) => !own.has(node));
}

function neighbours(panel, title, ids) {
  if (!ids.length) return;
  panel.append("h3").text(title);
  const list = panel.append("ul");
  for (const id of ids.slice(0, 30)) {
    list.append("li").append("button").attr("type", "button").attr("class", "link")
      .text(items.get(id).key ?? items.get(id).title).on("click", () => reveal(id));
  }
  if (ids.length > 30) list.append("li").text(`and ${ids.length - 30} more`);
}

// ---- Search

const haystacks = new Map([...items.values()].map((item) => [item.id, [
  item.title, item.name, item.key, item.type, item.file, item.kind, item.text, ...(item.calls ?? []),
  ...(item.params ?? []).flat()].filter(Boolean).join("\n").toLowerCase()]));

function search() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length ? [...haystacks].filter(([, text]) => words.every((w) => text.includes(w))).map(([id]) => id) : [];
  const list = d3.select("#found").attr("hidden", words.length ? null : "").text("");
  state.matches = new Set(found);
  mark();
  if (!words.length) return;
  list.append("li").append("p").text(found.length ? `${found.length} found` : "Nothing found");
  for (const id of found.slice(0, 50)) {
    const item = items.get(id);
    const button = list.append("li").append("button").attr("type", "button").on("click", () => pick(id));
    button.append("span").text(item.title);
    button.append("small").text([item.key, item.type, item.source].filter(Boolean).join("  ·  "));
  }
}

function pick(id) {
  byId("found").hidden = true;
  reveal(id);
}

let turn = -1;
byId("search").addEventListener("input", () => { turn = -1; search(); });
byId("search").addEventListener("focus", search);
byId("search").addEventListener("keydown", (event) => {
  const found = [...state.matches];
  if (event.key === "Enter" && found.length) {
    turn = (turn + (event.shiftKey ? -1 : 1) + found.length) % found.length;
    pick(found[turn]);
  }
  if (event.key === "Escape") byId("found").hidden = true;
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".search")) byId("found").hidden = true;
});

// ---- Legend

const SIGNS = [
  ["input", "input or parameter"], ["equation", "equation"], ["constant", "constant"], ["output", "output"],
];

function legend() {
  const signs = d3.select("#signs");
  const row = (text) => {
    const div = signs.append("div");
    const picture = div.append("svg").attr("width", 34).attr("height", 20);
    div.append("span").text(text);
    return picture;
  };
  for (const [kind, text] of SIGNS) {
    if (data.nodes.some((node) => node.kind === kind)) {
      row(text).append("g").attr("class", kind).append("rect").attr("class", "shape").attr("x", 2).attr("y", 2)
        .attr("width", 30).attr("height", 16).attr("rx", ["input", "output"].includes(kind) ? 8 : kind === "constant" ? 0 : 4);
    }
  }
  frameSigns(row);
  for (const [level, [sign, text]] of Object.entries(LEVELS)) {
    if (![...items.values()].some((item) => item.level === level)) continue;
    const g = row(text).append("g").attr("class", level);
    g.append("circle").attr("class", "level").attr("cx", 17).attr("cy", 10).attr("r", 8);
    g.append("text").attr("class", "mark").attr("x", 17).attr("y", 14).text(sign);
  }
  sizeSigns(row);
  byId("legend").open = window.innerWidth > 700;
}

function frameSigns(row) {
  const frame = (kind, text) => {
    const shape = row(text).append("g").attr("class", `frame ${kind}`).append("rect").attr("class", "shape");
    shape.attr("x", 2).attr("y", 2).attr("width", 30).attr("height", 16).attr("rx", 4);
  };
  if (data.groups.some((group) => LOOPS.has(group.kind))) frame("loop", "loop or branches");
  if (data.groups.some((group) => group.kind === "function")) frame("function", "Python function");
  const rest = (group) => !LOOPS.has(group.kind) && !["function", "program"].includes(group.kind);
  if (data.groups.some(rest)) frame("call", "call (jit, remat, custom rule)");
}

function sizeSigns(row) {
  const [known, share] = [sizes(), shares()];
  const line = (text, size) => {
    const g = row(text).append("g").attr("class", "line");
    const width = sized(g, size, share);
    g.append("path").attr("d", "M2 10h30").style("stroke-width", width);
  };
  const ends = [known.reduce((a, b) => Math.max(a, b), -Infinity), known.reduce((a, b) => Math.min(a, b), Infinity)];
  for (const size of known.length ? new Set(ends) : []) line(`size ${Number(size.toPrecision(2))}`, size);
  if (data.edges.some((edge) => edge.size === 0)) line("size 0", 0);
  if (data.edges.some((edge) => typeof edge.size === "string")) line("size not finite", "nan");
}

// ---- Printing: the whole graph as wide as the paper, cut into pages where no node is

const PAPER = { width: 680, height: 820 };

function cuts(box) {  // the heights at which pages begin
  const page = PAPER.height * Math.max(1, box.width / PAPER.width);
  const spans = [...state.drawn.boxes].filter(([id]) => !state.open.has(id)).map(([, b]) => [b.y - 10, b.y + b.height + 6]);
  const free = (y) => !spans.some(([top, bottom]) => top < y && y < bottom);
  const starts = [box.y];
  while (starts.at(-1) + page < box.y + box.height) {
    let next = starts.at(-1) + page;
    while (!free(next) && next > starts.at(-1) + page / 2) next -= 4;
    starts.push(next);
  }
  return starts;
}

window.addEventListener("beforeprint", () => {
  const box = bounds();
  const starts = cuts(box);
  starts.forEach((y, i) => {
    const height = (starts[i + 1] ?? box.y + box.height) - y;
    d3.select("main").insert("svg", "#legend").attr("class", "page")
      .attr("viewBox", `${box.x} ${y} ${box.width} ${height}`).style("max-width", `${box.width}px`)
      .append("use").attr("href", "#stage");
  });
  state.view = d3.zoomTransform(svg.node());
  stage.attr("transform", null);
});
window.addEventListener("afterprint", () => {
  d3.selectAll(".page").remove();
  moveTo(state.view);
});

// ---- The page

function all(open) {
  state.open = new Set(open ? data.groups.map((group) => group.id) : []);
  draw();
  fit(0.9);
}

byId("expand").addEventListener("click", () => all(true));
byId("collapse").addEventListener("click", () => all(false));
byId("fit").addEventListener("click", () => fit());
svg.on("click", (event) => { if (event.target === svg.node()) choose(null); });
if (!data.groups.length) { byId("expand").hidden = byId("collapse").hidden = true; }
byId("counts").textContent = many(equationsAmong([...items.values()]), "equation");
legend();
openFirst();
draw();
fit(0.9);
