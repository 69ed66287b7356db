// Where everything goes. Each open group is laid out by itself with dagre, inner groups first, and
// then stands in the group around it as one box. A line that crosses the frame of a group does so
// at a port on its upper or lower side: it is drawn in pieces, one for each group it runs through.
"use strict";

const SPACING = { nodesep: 18, ranksep: 34, edgesep: 12 };
const FRAME = { side: 14, top: 54, bottom: 18 };  // room between a frame and what is inside
const TITLE = 28;  // height of the title in a frame, through which lines run straight down

// root: { id, width, height, children }; only an open group has children, and its width and height
// are those of its title. links: [{ from, to, ... }] between boxes without children.
// Returns { boxes: Map id -> { x, y, width, height }, x and y of the upper left corner;
//   lines: [{ points, from, links, end }], end: whether it ends at a box and not at a port }.
function layout(root, links) {
  const paths = pathsTo(root);
  const pieces = new Map();  // id of a group -> the pieces of lines inside
  for (const link of links) addPieces(link, paths, pieces);
  const planned = plan(root, pieces);
  const boxes = new Map();
  const lines = [];
  place(planned, 0, 0, boxes, lines);
  return { boxes, lines };
}

// Id -> the boxes around it and itself, outermost first.
function pathsTo(root) {
  const paths = new Map();
  const walk = (box, path) => {
    paths.set(box.id, path);
    for (const child of box.children ?? []) walk(child, [...path, child.id]);
  };
  walk(root, [root.id]);
  return paths;
}

// A link runs up out of groups, across the innermost group that holds both ends, and down.
function addPieces(link, paths, pieces) {
  const [up, down] = [paths.get(link.from), paths.get(link.to)];
  let common = 0;
  while (up[common + 1] === down[common + 1]) common++;
  const add = (group, start, end) => {
    if (!pieces.has(group)) pieces.set(group, new Map());
    const name = `${start}\n${end}\n${link.from}`;
    const known = pieces.get(group).get(name);
    if (known) known.links.push(link);
    else pieces.get(group).set(name, { start, end, from: link.from, links: [link] });
  };
  for (let i = up.length - 2; i > common; i--) add(up[i], up[i + 1], `out ${link.from}`);
  add(up[common], up[common + 1], down[common + 1]);
  for (let i = common + 1; i < down.length - 1; i++) add(down[i], `in ${link.from}`, down[i + 1]);
}

// A group with coordinates from its own upper left corner.
function plan(group, pieces) {
  const inner = new Map(
    group.children.filter((box) => box.children).map((box) => [box.id, plan(box, pieces)]));
  const mine = [...(pieces.get(group.id) ?? new Map()).values()];
  const graph = newGraph(group, mine, inner);
  if (graph.nodes().some(isPort)) graph.setGraph({ ...SPACING, ranker: rankedByPorts(group, mine, inner) });
  dagre.layout(graph);
  return framed(group, graph, mine, inner);
}

const isPort = (id) => /^(in|out) /.test(id);

function newGraph(group, mine, inner) {
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ ...SPACING });
  for (const box of group.children) {
    const { width, height } = inner.get(box.id) ?? box;
    graph.setNode(box.id, { width, height });
  }
  for (const piece of mine) {
    for (const id of [piece.start, piece.end]) {
      if (isPort(id)) graph.setNode(id, { width: 1, height: 1 });
    }
    graph.setEdge(piece.start, piece.end, {}, piece.from);
  }
  return graph;
}

// A rule for the rows in which the ports are above, or below, everything else. The rows come from a
// layout with a node above all and one below; these would need room for lines that nobody sees, so
// that only the rows are taken over.
function rankedByPorts(group, mine, inner) {
  const graph = newGraph(group, mine, inner);
  const ids = graph.nodes();
  graph.setNode("top", {}).setNode("bottom", {});
  for (const id of ids) {
    const [above, below] = [id.startsWith("in "), id.startsWith("out ")];
    if (!below && !graph.inEdges(id).length) graph.setEdge("top", id, holding(above), "top");
    if (!above && !graph.outEdges(id).length) graph.setEdge(id, "bottom", holding(below), "bottom");
  }
  dagre.layout(graph, { disableOptimalOrderHeuristic: true });
  return (ranked) => {
    for (const id of ranked.nodes()) ranked.node(id).rank = graph.hasNode(id) ? graph.node(id).rank : 0;
  };
}

const holding = (port) => (port ? { weight: 1000 } : { weight: 0, minlen: 2 });

// The group's size, and what is in it, moved to where it is from the group's upper left corner.
function framed(group, graph, mine, inner) {
  const frame = group.id === "" ? { side: 0, top: 0, bottom: 0 } : FRAME;
  const nodes = group.children.map((box) => ({ id: box.id, ...graph.node(box.id) }));
  const points = mine.flatMap((piece) => graph.edge(piece.start, piece.end, piece.from).points);
  const left = Math.min(...nodes.map((n) => n.x - n.width / 2), ...points.map((p) => p.x));
  const right = Math.max(...nodes.map((n) => n.x + n.width / 2), ...points.map((p) => p.x));
  const top = Math.min(...nodes.map((n) => n.y - n.height / 2));
  const bottom = Math.max(...nodes.map((n) => n.y + n.height / 2));
  const width = Math.max(right - left + 2 * frame.side, group.width);
  const height = bottom - top + frame.top + frame.bottom;
  const dx = (width - (right - left)) / 2 - left;
  const dy = frame.top - top;
  const boxes = new Map(nodes.map((n) => [n.id, {
    x: n.x - n.width / 2 + dx, y: n.y - n.height / 2 + dy, width: n.width, height: n.height }]));
  const ports = new Map(graph.nodes().filter(isPort).map((id) => [
    id, { x: graph.node(id).x + dx, y: id.startsWith("in ") ? 0 : height }]));
  const planned = { id: group.id, width, height, boxes, inner, ports };
  planned.lines = mine.map((piece) => {
    const bends = graph.edge(piece.start, piece.end, piece.from).points.slice(1, -1)
      .map((p) => ({ x: p.x + dx, y: p.y + dy }));
    return { ...piece, points: route(planned, piece, bends),
      end: !isPort(piece.end) && !inner.has(piece.end) };
  });
  return planned;
}

// From the lower side of a box, or a port, through the bends to the upper side of another.
function route(planned, piece, bends) {
  const between = bends.length > 1 ? bends : [];  // neighbouring rows: no way around is needed
  const from = fixed(planned, piece.start, `out ${piece.from}`);
  const to = fixed(planned, piece.end, `in ${piece.from}`);
  const start = from ?? side(planned.boxes.get(piece.start), 1, between[0] ?? to ?? middle(planned, piece.end));
  const end = to ?? side(planned.boxes.get(piece.end), 0, between.at(-1) ?? from ?? middle(planned, piece.start));
  const straight = piece.start.startsWith("in ") ? [{ x: start.x, y: TITLE }] : [];
  return [start, ...straight, ...between, end];
}

// A port of this group, or of an open group inside it.
function fixed(planned, id, port) {
  if (isPort(id)) return planned.ports.get(id);
  const [box, at] = [planned.boxes.get(id), planned.inner.get(id)?.ports.get(port)];
  return at && { x: box.x + at.x, y: box.y + at.y };
}

function middle(planned, id) {
  const box = planned.boxes.get(id);
  return { x: box.x + box.width / 2 };
}

// A point on the upper (0) or lower (1) side, a little towards where the line comes from or goes.
function side(box, down, towards) {
  const [center, room] = [box.x + box.width / 2, box.width / 2 - 12];
  const shift = Math.max(-room, Math.min(room, 0.4 * (towards.x - center)));
  return { x: center + shift, y: box.y + down * box.height };
}

function place(planned, x, y, boxes, lines) {
  for (const [id, box] of planned.boxes) {
    boxes.set(id, { ...box, x: x + box.x, y: y + box.y });
    if (planned.inner.has(id)) place(planned.inner.get(id), x + box.x, y + box.y, boxes, lines);
  }
  for (const line of planned.lines) {
    lines.push({ ...line, points: line.points.map((p) => ({ x: x + p.x, y: y + p.y })) });
  }
}
