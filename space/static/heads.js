// A thumbnail of every head, in one row for each layer. A click or Enter selects one.
const root = element.querySelector(".heads");

function draw() {
  root.replaceChildren();
  const value = props.value || {};
  (value.layers || []).forEach((heads, layer) => {
    const row = root.appendChild(document.createElement("div"));
    row.className = "layer";
    for (const head of heads) {
      const button = row.appendChild(document.createElement("button"));
      button.type = "button";
      button.title = button.ariaLabel = head.name;
      button.dataset.layer = layer;
      button.dataset.head = head.index;
      button.ariaPressed = String(layer === value.layer && head.index === value.head);
      if (head.muted) button.classList.add("muted");
      if (head.first) button.classList.add("first");
      const picture = button.appendChild(document.createElement("img"));
      picture.src = head.picture;
      picture.alt = "";
    }
  });
}

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("select", { layer: Number(button.dataset.layer), head: Number(button.dataset.head) });
});
draw();
watch("value", draw);
