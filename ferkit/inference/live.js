const press = key => fetch("key?key=" + encodeURIComponent(key), {method: "POST"}).catch(() => {});
addEventListener("keydown", event => {
  if (!event.ctrlKey && !event.metaKey && !event.altKey) press(event.key === "Escape" ? "q" : event.key.toLowerCase());
});
for (const button of document.querySelectorAll("button")) button.onclick = () => press(button.dataset.key);
const over = () => {
  document.querySelector("nav").hidden = true;
  document.getElementById("over").hidden = false;
};
document.getElementById("live").onerror = over;
setInterval(() => fetch("live.js", {cache: "no-store"}).catch(over), 1500);
