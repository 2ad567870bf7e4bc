// Before anything is painted: the theme that was chosen on this machine, else that of the system.
(function () {
  try {
    const theme = localStorage.getItem("assetmill-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch { /* storage is off: the system's theme */ }
})();
