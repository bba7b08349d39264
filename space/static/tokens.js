// Tokens, in one row for each line of the text. They are inserted as text, never as HTML.
const list = element.querySelector(".tokens");
const card = element.querySelector(".card");
let touched = false;

function make(parent, kind, text, name) {
  const made = parent.appendChild(document.createElement(kind));
  made.textContent = text ?? "";
  if (name) made.className = name;
  return made;
}

function draw() {
  const value = props.value || {};
  list.replaceChildren();
  card.hidden = true;
  for (const line of value.lines || []) {
    const row = make(list, "div", "", "row");
    const content = make(row, "span", "", "line");
    if (line.before) make(content, "span", line.before, "given");
    for (const token of line.tokens) {
      const button = make(content, "button", token.text, "token");
      button.type = "button";
      button.tabIndex = -1;
      button.token = token;
      if (value.ids) button.dataset.id = token.id;
      if (token.probability !== null) button.style.setProperty("--doubt", 1 - token.probability);
      if (token.copied) button.classList.add("copied");
      if (token.index === value.selected) button.setAttribute("aria-pressed", "true");
      button.setAttribute("aria-label", [token.text, token.description, token.copied].filter(Boolean).join(", "));
    }
    if (line.remark) make(row, "span", line.remark, "remark");
  }
  const first = list.querySelector("[aria-pressed]") || list.querySelector("button");
  if (first) first.tabIndex = 0; // a single tab stop; arrow keys move between tokens
}

function show(button) {
  const token = button.token;
  card.replaceChildren();
  make(card, "strong", token.text);
  if (token.id !== undefined) make(card, "span", ` #${token.id} `);
  make(card, "div", token.description);
  if (token.copied) make(card, "div", token.copied);
  if (token.alternatives?.length) {
    const rows = make(card, "table");
    for (const [text, share] of token.alternatives) {
      const row = make(rows, "tr");
      make(row, "td", text);
      make(row, "td", share);
    }
  }
  card.hidden = false;
  const [at, all] = [button.getBoundingClientRect(), element.getBoundingClientRect()];
  const left = Math.min(at.left - all.left, all.width - card.offsetWidth - 8);
  card.style.left = `${Math.max(0, left)}px`;
  card.style.top = `${at.bottom - all.top + 4}px`;
}

const tokenAt = (event) => event.target.closest("button.token");
list.addEventListener("pointerdown", (event) => (touched = event.pointerType === "touch"));
list.addEventListener("mouseover", (event) => tokenAt(event) && show(tokenAt(event)));
list.addEventListener("mouseleave", () => (card.hidden = true));
list.addEventListener("focusin", (event) => tokenAt(event) && show(tokenAt(event)));
list.addEventListener("focusout", () => (card.hidden = true));
list.addEventListener("click", (event) => {
  const button = tokenAt(event);
  if (!button) return;
  // A finger cannot hover: the first tap shows the card, the second one selects. A click made by a key has no detail.
  if (touched && event.detail && list.tapped !== button) {
    list.tapped = button;
    show(button);
    return;
  }
  trigger("select", { index: button.token.index, id: button.token.id });
});
list.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const buttons = [...list.querySelectorAll("button")];
  if (event.key === "Escape") card.hidden = true;
  if (!step) return;
  event.preventDefault();
  const next = buttons[buttons.indexOf(tokenAt(event)) + step];
  if (!next) return;
  buttons.forEach((button) => (button.tabIndex = -1));
  next.tabIndex = 0;
  next.focus();
});
draw();
watch("value", draw);
