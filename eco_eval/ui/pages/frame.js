// What the address says and what the page shows, kept the same. Nothing here asks the server for anything.
(() => {
  const isEnglish = /\/en\/?$/.test(location.pathname);
  document.documentElement.lang = isEnglish ? "en" : "es";

  // The link to the other language goes to the same tab and the same choices, as they are when it is followed.
  const keep = (event) => {
    const link = event.target.closest?.("a.eco-lang");
    if (link) {
      link.search = location.search;
      link.hash = location.hash;
    }
  };
  for (const type of ["click", "auxclick", "contextmenu"]) document.addEventListener(type, keep, true);

  const TABS = "#tabs > .tab-wrapper [role=tab]";

  // Put some parameters into the address without a step in the history; an empty one is taken out.
  const write = (values) => {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(values)) {
      if (value === null || value === undefined || value === "") query.delete(name);
      else query.set(name, value);
    }
    const search = query.toString();
    const hash = "tab" in values ? "" : location.hash;
    history.replaceState(history.state, "", location.pathname + (search ? `?${search}` : "") + hash);
  };

  // Pages fill their fields while they are drawn, all of them at once, and tell of it late: that is no choice of a tab.
  let isTouched = false;
  for (const type of ["pointerdown", "keydown", "click"]) {
    document.addEventListener(type, () => { isTouched = true; }, true);
  }

  window.ecoEval = {
    // For pages: as `write`; a page that names its tab says so only while it is the one that is shown.
    remember({ tab, ...values }) {
      const shown = document.querySelector(`${TABS}[aria-selected=true]`)?.dataset.tabId;
      write(isTouched && tab && tab === shown ? { ...values, tab } : values);
    },
  };

  // Gradio also tells of a tab when it first draws them; only what a person chooses is put into the address.
  document.addEventListener("click", (event) => {
    const tab = event.target.closest?.(TABS);
    if (tab) write({ tab: tab.dataset.tabId });
  });
})();
