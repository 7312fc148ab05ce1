// Files from wherever they come: the picker, a drop anywhere on the page, the clipboard.
import { find } from "./dom.js";
import { t } from "./i18n.js";
import { clearProblem, isReady, showProblem } from "./messages.js";

const FILM_NAMES = /\.(mp4|m4v|mov|webm|mkv|avi)$/i;
const PICTURE_NAMES = /\.(jpe?g|png|webp|gif|bmp|heic|avif|tiff?)$/i;

const isFilm = (file) => file.type.startsWith("video/") || FILM_NAMES.test(file.name);
const isPicture = (file) => file.type.startsWith("image/") || PICTURE_NAMES.test(file.name);

/**
 * Hand pictures to `onPictures(files)` and the first film to `onFilm(file)`; or all to `onAll(files, label)`, if it takes
 * them, `label` being the class on whose card they were dropped, or null.
 */
export function watchFiles(onPictures, onFilm, onAll) {
  const take = (files, label = null) => {
    if (!isReady() || !files.length) return;
    clearProblem();
    const film = files.find((file) => isFilm(file) && !isPicture(file));
    const pictures = files.filter(isPicture);
    const other = files.find((file) => !isFilm(file) && !isPicture(file));
    if (other) showProblem(() => t("drop.unknown", { name: other.name || other.type || "?" }));
    if (onAll(files.filter((file) => isFilm(file) || isPicture(file)), label)) return;
    if (pictures.length) onPictures(pictures);
    else if (film) onFilm(film);
  };
  for (const name of ["any", "pictures", "film"]) {
    const input = find(`#file-${name}`);
    find(`#pick-${name}`).addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      take([...input.files]);
      input.value = ""; // so that the same file may be chosen again
    });
  }
  watchDrops(take);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
}

function watchDrops(take) {
  const veil = find("#veil");
  let depth = 0;
  let card = null;
  const point = (at) => {
    card?.classList.remove("over");
    card = at;
    card?.classList.add("over");
  };
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const on = (name, act) => window.addEventListener(name, (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    act(event);
    veil.hidden = depth === 0 || !find("#panel-teach").hidden; // there one must see on which class they fall
  });
  on("dragenter", () => { depth += 1; });
  on("dragover", (event) => point(event.target.closest?.(".class") ?? null));
  on("dragleave", () => { depth = Math.max(0, depth - 1); if (!depth) point(null); });
  on("drop", async (event) => {
    depth = 0;
    const label = event.target.closest?.(".class")?.dataset.label ?? null;
    point(null);
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.());
    const files = [...event.dataTransfer.files];
    if (!entries.some((entry) => entry?.isDirectory)) take(files, label);
    else take((await Promise.all(entries.map((entry, i) => (entry?.isDirectory ? listFolder(entry) : [files[i]])))).flat(), label);
  });
}

/** The files of a folder and of those in it, each with the name of its own folder as `folder`. */
async function listFolder(entry) {
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map((one) => (one.isDirectory ? listFolder(one) : new Promise((resolve, reject) => {
    one.file((file) => resolve([Object.assign(file, { folder: entry.name })]), reject);
  }))))).flat();
}
