// Gradio's chat makes HTML of a message, also without Markdown, so that "&amp;" is shown as "&". The label that it gives
// the message for screen readers has the text as it was written: put that in its place, before anything is painted.
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
