// Puts the page together.
import { getJson, onTokenNeeded } from "./api.js";
import { askToken, watchPurposeChip } from "./dialogs.js";
import { find, make } from "./dom.js";
import { Film } from "./film.js";
import { decimals, say, t } from "./i18n.js";
import { watchFiles } from "./intake.js";
import { Live } from "./live.js";
import { clearProblem, inWords, showProblem } from "./messages.js";
import { Pictures } from "./pictures.js";
import { startPreferences } from "./preferences.js";
import { change, session } from "./session.js";
import { Tabs } from "./tabs.js";
import { Teach } from "./teach.js";

startPreferences();
onTokenNeeded(askToken);
watchPurposeChip();

const tabs = new Tabs();
const live = new Live();
const pictures = new Pictures();
const film = new Film();
const teach = new Teach(loadModels);

tabs.addEventListener("show", ({ detail }) => {
  // A camera that nobody sees is off.
  if (detail !== "camera") live.stop();
  if (detail === "teach") teach.show();
  else teach.stop();
});
watchFiles(
  (files) => { tabs.show("pictures"); pictures.take(files); },
  (file) => { tabs.show("film"); film.take(file); },
  (files, label) => { if (teach.isShown) teach.take(files, label); return teach.isShown; },
);
find("#model").addEventListener("change", (event) => change({ model: event.target.value }));
load();

async function load() {
  try {
    change({ info: await getJson("info") });
    await loadModels();
  } catch (problem) {
    showProblem(() => inWords(problem), load);
    return;
  }
  clearProblem();
  if (location.hash === "#teach") tabs.show("teach");
  find("#version").textContent = `ferkit ${session.info.version}`;
}

async function loadModels() {
  const { models, default: usual } = await getJson("models");
  change({ models: models.filter((model) => !model.broken), model: session.model ?? usual });
  showModels();
}

function showModels() {
  const choice = find("#model");
  choice.replaceChildren(...session.models.map((model) => {
    const option = make("option", { value: model.name, selected: model.name === session.model });
    return say(option, () => t("model.size", { name: model.name, count: model.labels.length, size: decimals(model.size_mb) }));
  }));
  choice.disabled = false;
}
