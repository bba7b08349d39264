// Lines from each token to the tokens it attends to, darker for larger weights. Hovering over a token hides the others'.
const root = element.querySelector("svg");
const [ROW, LEFT, RIGHT, WIDTH] = [18, 100, 220, 320];

function make(parent, kind, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}

function draw() {
  root.replaceChildren();
  const { queries = [], keys = [], lines = [], name = "" } = props.value || {};
  const height = (Math.max(queries.length, keys.length) + 1) * ROW;
  root.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
  root.setAttribute("aria-label", name);
  root.style.maxWidth = `${WIDTH * 1.6}px`;
  const y = (index) => (index + 1) * ROW;
  for (const [query, key, weight] of lines) {
    const line = { x1: LEFT, y1: y(query) - 5, x2: RIGHT, y2: y(key) - 5, "stroke-opacity": weight };
    const drawn = make(root, "line", { ...line, "data-query": query });
    make(drawn, "title", {}, `${queries[query]} → ${keys[key]}: ${weight.toFixed(2)}`);
  }
  queries.forEach((token, index) => {
    const label = make(root, "text", { x: LEFT - 6, y: y(index), "text-anchor": "end", "data-query": index }, token);
    label.addEventListener("mouseenter", () => only(index));
    label.addEventListener("mouseleave", () => only(null));
  });
  keys.forEach((token, index) => make(root, "text", { x: RIGHT + 6, y: y(index) }, token));
}

function only(query) {
  for (const line of root.querySelectorAll("line"))
    line.style.display = query === null || Number(line.dataset.query) === query ? "" : "none";
}

draw();
watch("value", draw);
