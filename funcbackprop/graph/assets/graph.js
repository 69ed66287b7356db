// The picture of a graph. The data is a list of nodes, edges and groups (see drawing.py); what is
// shown depends on which groups are open. layout.js says where it goes, panels.js what is around it.
"use strict";

const MANY = 60;  // a graph of more nodes opens with as many groups closed as needed
const LEVELS = { good: ["✓", "good"], note: ["!", "to note"], bad: ["✗", "bad"], unknown: ["?", "not known"] };
const WORST = ["bad", "unknown", "note", "good"];
const LOOPS = new Set(["scan", "while", "cond", "shard_map", "run_state"]);
const LONGEST = 44;  // signs of a text in the graph, and of a path; the details have all of it
const LONGEST_PATH = 30;

const data = JSON.parse(document.getElementById("data").textContent);
const items = new Map([...data.nodes, ...data.groups].map((item) => [item.id, item]));
const children = new Map([["", []], ...data.groups.map((group) => [group.id, []])]);
const merged = new Map();  // id -> the node that is drawn together with it
for (const item of [...data.groups, ...data.nodes]) {
  if (item.within) merged.set(item.within, item);
  else children.get(item.group).push(item);
}
const leads = { from: new Map(), to: new Map() };  // id -> its edges
for (const edge of data.edges) {
  for (const end of ["from", "to"]) {
    if (!leads[end].has(edge[end])) leads[end].set(edge[end], []);
    leads[end].get(edge[end]).push(edge);
  }
}

const state = { open: new Set(), chosen: null, matches: new Set(), drawn: null };
const isGroup = (id) => children.has(id);
const inside = (id) => children.get(id).flatMap((c) => (isGroup(c.id) ? [c, ...inside(c.id)] : [c]));
const byId = (id) => document.getElementById(id);

// ---- What is visible

function around(id) {  // the groups around an item, outermost first
  const path = [];
  for (let group = items.get(id).group; group; group = items.get(group).group) path.unshift(group);
  return path;
}

function visible(id) {  // the item itself, or the outermost closed group around it
  if (items.get(id).within) return visible(items.get(id).within);
  return around(id).find((group) => !state.open.has(group)) ?? id;
}

function openFirst() {  // all, or, of a large graph, as many levels as leave it small
  let level = children.get("").filter((item) => isGroup(item.id));
  const shown = () => new Set([...items.keys()].filter((id) => !isGroup(id)).map(visible)).size;
  state.open = new Set(data.groups.map((group) => group.id));
  if (shown() <= MANY) return;
  state.open.clear();
  while (level.length) {
    level.forEach((group) => state.open.add(group.id));
    if (shown() > MANY) {
      level.forEach((group) => state.open.delete(group.id));
      return;
    }
    level = level.flatMap((group) => children.get(group.id)).filter((item) => isGroup(item.id));
  }
}

function visibleLinks() {
  const links = new Map();
  for (const edge of data.edges) {
    const [from, to] = [visible(edge.from), visible(edge.to)];
    const name = `${from} ${to}`;
    const known = links.get(name);
    if (from === to) continue;
    if (!known) links.set(name, { from, to, types: new Set([edge.type]), size: edge.size });
    else {
      known.types.add(edge.type);
      known.size = larger(known.size, edge.size);
    }
  }
  return [...links.values()];
}

function larger(a, b) {  // of two sizes; one that is not finite (a text) wins
  if (a === undefined || typeof b === "string") return b;
  if (b === undefined || typeof a === "string") return a;
  return Math.max(a, b);
}

function together(item) {  // a node, and the one that is drawn together with it
  return merged.has(item.id) ? [item, ...together(merged.get(item.id))] : [item];
}

function worst(id) {  // the worst verdict in a closed group, and how many there are of each
  const counts = {};
  const all = new Map([items.get(id), ...inside(id).flatMap(together)].map((item) => [item.key, item]));
  for (const item of all.values()) {
    if (item.level) counts[item.level] = (counts[item.level] ?? 0) + 1;
  }
  return { level: WORST.find((level) => counts[level]), counts };
}

// ---- Texts and sizes of nodes

const canvas = document.createElement("canvas").getContext("2d");
const family = getComputedStyle(document.body).fontFamily;

function widthOf(text, size, weight = 400) {
  canvas.font = `${weight} ${size}px ${family}`;
  return canvas.measureText(text).width;
}

function cut(text, tail = false) {  // the end of a path tells more than its beginning
  if (text.length <= (tail ? LONGEST_PATH : LONGEST)) return text;
  if (!tail) return `${text.slice(0, LONGEST - 1)}…`;
  const part = text.indexOf("[", text.length - LONGEST_PATH);
  return `…${text.slice(part < 0 ? 1 - LONGEST_PATH : part)}`;
}

function equationsAmong(some) {  // some equations are both a group and a node in it
  return new Set(some.filter((item) => item.key && item.kind !== "input").map((item) => item.key)).size;
}

function many(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

function texts(item) {  // the lines of a node: title, second and third
  if (!isGroup(item.id)) {
    const types = [...new Set(together(item).map((one) => one.type))].filter(Boolean);
    const size = together(item).map((one) => one.size_text).filter(Boolean).at(-1);
    const third = item.kind === "equation" && item.source ? item.source : "";
    return [cut(item.title, item.kind !== "equation"),
            cut([types.join(" of "), size].filter(Boolean).join("  ·  ")), cut(third, true)];
  }
  const count = equationsAmong(inside(item.id));
  const kind = item.title.startsWith(item.kind) || item.kind === "function" ? [] : [item.kind];
  const { counts } = worst(item.id);
  const verdicts = WORST.filter((level) => counts[level] && level !== "good")
    .map((level) => `${counts[level]} ${LEVELS[level][1]}`);
  return [cut(item.title), cut([given(item), item.size_text].filter(Boolean).join("  ·  ")),
          verdicts.length ? verdicts.join(", ") : [...kind, many(count, "equation")].join("  ·  ")];
}

function given(item) {  // the type of what leaves a group
  if (item.type) return item.type;
  const own = new Set(inside(item.id).map((node) => node.id));
  const leaving = data.edges.filter((edge) => own.has(edge.from) && !own.has(edge.to));
  const types = [...new Set(leaving.map((edge) => edge.type))];
  return types.length > 2 ? `${types[0]} and ${types.length - 1} more` : types.join(", ");
}

function measured(item) {
  if (isGroup(item.id) && state.open.has(item.id)) {
    const [title, note] = frameTexts(item);
    return { id: item.id, height: 0, children: children.get(item.id).map(measured),
             width: widthOf(title, 13, 600) + widthOf(note, 11) + 70 };
  }
  const [title, second, third] = texts(item);
  const room = isGroup(item.id) ? 58 : ["equation", "constant"].includes(item.kind) ? 24 : 34;
  const width = Math.max(widthOf(title, 13, 600), widthOf(second, 12), widthOf(third, 11)) + room
    + (shownLevel(item) && !isGroup(item.id) ? 14 : 0);
  return { id: item.id, width: Math.ceil(width), height: 14 + 16 * [title, second, third].filter(Boolean).length };
}

function frameTexts(item) {
  const kind = item.title.startsWith(item.kind) || item.kind === "program" ? "" : item.kind;
  return [cut(item.title), [kind, item.size_text, item.source].filter(Boolean).join("  ·  ")];
}

function shownLevel(item) {
  if (isGroup(item.id) && !state.open.has(item.id)) return worst(item.id).level;
  return WORST.find((level) => together(item).some((one) => one.level === level));
}

// ---- Drawing

const svg = d3.select("#graph");
const stage = svg.append("g").attr("id", "stage");
const zoom = d3.zoom().scaleExtent([0.01, 4]).on("zoom", (event) => stage.attr("transform", event.transform));
svg.call(zoom).on("dblclick.zoom", null);

function draw() {
  const links = visibleLinks();
  const root = { id: "", width: 0, height: 0, children: children.get("").map(measured) };
  const drawn = layout(root, links);
  const frames = [...drawn.boxes].filter(([id]) => isGroup(id) && state.open.has(id));
  const nodes = [...drawn.boxes].filter(([id]) => !(isGroup(id) && state.open.has(id)));
  const share = shares(links);
  stage.selectAll("*").remove();
  stage.append("g").selectAll("g").data(frames).join("g").each(drawFrame);
  stage.append("g").selectAll("g").data(drawn.lines).join("g").each(function (line) { drawLine(this, line, share); });
  stage.append("g").selectAll("g").data(frames).join("g").each(drawTitle);
  stage.append("g").selectAll("g").data(nodes).join("g").each(drawNode);
  state.drawn = drawn;
  mark();
  document.documentElement.dataset.nodes = nodes.length;
}

function drawFrame([id, box]) {
  const item = items.get(id);
  const g = element(this, item, "frame").attr("transform", `translate(${box.x},${box.y})`);
  g.classed("loop", LOOPS.has(item.kind)).classed("function", item.kind === "function");
  g.append("rect").attr("class", "shape").attr("rx", 10).attr("width", box.width).attr("height", box.height);
}

function drawTitle([id, box]) {  // above the lines that run through the frame
  const item = items.get(id);
  const [title, note] = frameTexts(item);
  const g = d3.select(this).attr("class", `caption ${item.level ?? ""}`).attr("transform", `translate(${box.x},${box.y})`);
  g.append("text").attr("class", "title").attr("x", 34).attr("y", 20).text(title);
  g.append("text").attr("class", "third").attr("x", 42 + widthOf(title, 13, 600)).attr("y", 20).text(note);
  g.on("click", () => choose(id)).on("dblclick", () => flip(id));
  verdict(g, item, box.width - 12, 14);
  toggle(g, item, 9, 7, "−");
}

function drawNode([id, box]) {
  const item = items.get(id);
  const round = ["input", "output", "port"].includes(item.kind);
  const g = element(this, item, "node").attr("transform", `translate(${box.x},${box.y})`);
  if (isGroup(id)) {
    g.append("rect").attr("class", "behind").attr("x", 4).attr("y", 4).attr("rx", 6)
      .attr("width", box.width).attr("height", box.height);
  }
  g.append("rect").attr("class", "shape").attr("width", box.width).attr("height", box.height)
    .attr("rx", round ? Math.min(18, box.height / 2) : item.kind === "constant" ? 0 : 6);
  const middle = box.width / 2 + (isGroup(id) ? 11 : 0);
  texts(item).filter(Boolean).forEach((text, i) => {
    g.append("text").attr("class", ["title", "second", "third"][i]).attr("text-anchor", "middle")
      .attr("x", middle).attr("y", 20 + 16 * i).text(text);
  });
  verdict(g, item, box.width - 2, 2);
  if (isGroup(id)) toggle(g, item, 8, box.height / 2 - 9, "+");
}

function element(node, item, kind) {
  const level = shownLevel(item) ?? "";
  const g = d3.select(node).attr("class", `${kind} ${item.kind.split(",")[0].replace(/\W/g, "")} ${level}`)
    .attr("data-id", item.id).attr("tabindex", 0).attr("role", "button")
    .attr("aria-label", `${item.title} ${item.type ?? ""}`);
  g.append("title").text(hover(item));
  g.on("click", () => choose(item.id)).on("dblclick", () => isGroup(item.id) && flip(item.id));
  g.on("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(item.id); }
    if ((event.key === "+" || event.key === "-") && isGroup(item.id)) flip(item.id);
  });
  return g;
}

function hover(item) {
  return together(item).flatMap((one) => [one.key ?? one.title, one.role, one.type, one.source,
    one.level && LEVELS[one.level].join(" "), one.size_text && `size ${one.size_text}`, one.text])
    .filter(Boolean).join("\n");
}

function verdict(g, item, x, y) {
  const level = shownLevel(item);
  if (!level) return;
  g.append("circle").attr("class", "level").attr("cx", x).attr("cy", y).attr("r", 8);
  g.append("text").attr("class", "mark").attr("x", x).attr("y", y + 4).text(LEVELS[level][0]);
}

function toggle(g, item, x, y, sign) {
  const t = g.append("g").attr("class", "toggle").attr("transform", `translate(${x},${y})`);
  t.append("title").text(sign === "+" ? "Open" : "Close");
  t.append("rect").attr("width", 18).attr("height", 18).attr("rx", 4);
  t.append("path").attr("d", sign === "+" ? "M4.5 9h9M9 4.5v9" : "M4.5 9h9");
  t.on("click", (event) => { event.stopPropagation(); flip(item.id); }).on("dblclick", (e) => e.stopPropagation());
}

function drawLine(node, line, share) {
  const size = line.links.map((link) => link.size).reduce(larger, undefined);
  const types = [...new Set(line.links.flatMap((link) => [...link.types]))];
  const g = d3.select(node).attr("class", "line").attr("data-from", line.from)
    .attr("data-to", line.links.map((link) => link.to).join(" "));
  const width = sized(g, size, share);
  const tip = line.end ? 7 + width : 0;
  const points = [...line.points];
  const { x, y } = points.pop();
  g.append("title").text(types.join("\n"));
  g.append("path").attr("d", curve([...points, { x, y: y - tip / 2 }])).style("stroke-width", width);
  if (line.end) g.append("path").attr("class", "tip").attr("d", `M${x} ${y}l${-tip / 1.8} ${-tip}h${tip / 0.9}z`);
}

function sized(g, size, share) {  // the look of a line; returns its width
  if (typeof size === "string") g.classed("lost", true);
  if (size === 0) g.classed("zero", true);
  if (typeof size !== "number" || size === 0) return size === undefined || size === 0 ? 1.2 : 2.5;
  g.classed("sized", true).style("--share", `${Math.round(100 * share(size))}%`);
  return 1.2 + 3.8 * share(size);
}

function curve(points) {  // through all points, downwards at each of them
  let path = `M${points[0].x} ${points[0].y}`;
  points.slice(1).forEach((p, i) => {
    const half = (points[i].y + p.y) / 2;
    path += `C${points[i].x} ${half} ${p.x} ${half} ${p.x} ${p.y}`;
  });
  return path;
}

function sizes() {
  return data.edges.map((edge) => edge.size).filter((size) => typeof size === "number" && size !== 0);
}

function shares() {  // size -> 0..1, on a logarithmic scale over all edges
  const logs = sizes().map((size) => Math.log(Math.abs(size)));
  const low = logs.reduce((a, b) => Math.min(a, b), Infinity);
  const high = logs.reduce((a, b) => Math.max(a, b), -Infinity);
  return (size) => (high > low ? (Math.log(Math.abs(size)) - low) / (high - low) : 1);
}

// ---- Moving around

function bounds() {
  const box = stage.node().getBBox();
  return { x: box.x - 20, y: box.y - 20, width: box.width + 40, height: box.height + 40 };
}

function moveTo(transform) {
  svg.call(zoom.transform, transform);
}

function screen() {  // the part of the picture that the details leave free
  const { clientWidth: width, clientHeight: height } = svg.node();
  const panel = byId("details");
  const below = !panel.hidden && getComputedStyle(panel).position === "absolute";
  return { width, height: height - (below ? panel.clientHeight : 0) };
}

function fit(smallest = 0) {  // all of it, or its upper end where it would be too small to read
  const box = bounds();
  const { width, height } = screen();
  const whole = Math.min(1.2, width / box.width, height / box.height);
  const k = Math.max(whole, Math.min(smallest, 1.3 * width / box.width));
  const y = whole < k ? 0 : (height - k * box.height) / 2;
  moveTo(d3.zoomIdentity.translate((width - k * box.width) / 2 - k * box.x, y - k * box.y).scale(k));
}

function center(id) {
  const box = state.drawn.boxes.get(visible(id));
  const { width, height } = screen();
  const k = Math.max(d3.zoomTransform(svg.node()).k, 0.8);
  const fits = (room, size, start) => (k * size < room ? room / 2 - k * (start + size / 2) : 40 - k * start);
  moveTo(d3.zoomIdentity.translate(fits(width, box.width, box.x), fits(height, box.height, box.y)).scale(k));
}

function flip(id) {  // open or close a group; it stays where it is, with its title on the screen
  const before = state.drawn.boxes.get(id);
  if (!state.open.delete(id)) state.open.add(id);
  draw();
  const after = state.drawn.boxes.get(id);
  const dx = before.x + before.width / 2 - after.x - after.width / 2;
  const at = d3.zoomTransform(svg.node()).translate(dx, before.y - after.y);
  moveTo(at.translate(Math.max(0, (10 - at.applyX(after.x)) / at.k), 0));
  if (state.chosen) showDetails(state.chosen);
}

function reveal(id) {
  const closed = around(id).filter((group) => !state.open.has(group));
  if (closed.length) {
    closed.forEach((group) => state.open.add(group));
    draw();
  }
  choose(id);
  center(id);
}
