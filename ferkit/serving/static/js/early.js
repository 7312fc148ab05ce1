// Runs before the page is painted, so that nobody in a dark room is met by a white flash.
(() => {
  let theme = "auto";
  try {
    theme = localStorage.getItem("ferkit.theme") ?? "auto";
  } catch { /* storage may be switched off: then the system decides */ }
  const dark = theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
