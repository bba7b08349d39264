"""One file for each tab of the page, and what the tabs share: components drawn by scripts, and figures."""
