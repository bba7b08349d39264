// Gradio's chat inserts messages as HTML even without Markdown, so "&amp;" would be shown as "&". A message's label for
// screen readers holds the text as it was written: show that instead, before anything is painted.
() => {
  const chat = document.querySelector("#chat");
  const show = () => {
    for (const message of chat.querySelectorAll("[data-testid][aria-label]")) {
      const text = message.getAttribute("aria-label").replace(/^\w+'s message: /, "");
      const shown = message.querySelector(".message-content .md");
      if (shown && shown.textContent !== text) shown.textContent = text;
    }
  };
  const changes = { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label"] };
  new MutationObserver(show).observe(chat, changes);
  show();
}
