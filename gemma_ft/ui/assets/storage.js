// For TensorBoard, which keeps settings in the browser's storage and draws nothing where the browser denies it: in a
// page that stands in a frame of another site, as a Space does. There it gets a storage that lasts as long as the page.

function lastingAsLongAsThePage() {
  const kept = new Map();
  return {
    getItem: (name) => kept.get(String(name)) ?? null,
    setItem: (name, value) => void kept.set(String(name), String(value)),
    removeItem: (name) => void kept.delete(String(name)),
    clear: () => kept.clear(),
    key: (index) => [...kept.keys()][index] ?? null,
    get length() {
      return kept.size;
    },
  };
}

for (const name of ["localStorage", "sessionStorage"]) {
  try {
    window[name].getItem("");
  } catch {
    Object.defineProperty(window, name, { value: lastingAsLongAsThePage() });
  }
}
