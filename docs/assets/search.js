// Search by words instead of smalldocs' fuzzy one: a section must have every word; titles and phrases count most.
// The index is a script, because a page that is opened from a disk may not fetch() its neighbours.
(() => {
  "use strict";
  const here = document.currentScript.src;
  const plainFetch = window.fetch.bind(window);
  const loadIndex = () => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("search-index.js", here).href;
    script.onload = () => resolve({ json: async () => window.searchIndex });
    script.onerror = reject;
    document.head.append(script);
  });
  window.fetch = (url, ...rest) => (String(url).endsWith("search.json") ? loadIndex() : plainFetch(url, ...rest));

  const plain = (text) => text.toLowerCase().replace(/_/g, " "); // step_size is found as "step size"
  const count = (text, word) => text.split(word).length - 1;
  const score = (entry, query) => {
    const words = query.split(/\s+/).filter(Boolean);
    let points = 0;
    for (const word of words) {
      const found = 10 * count(entry.heading, word) + Math.min(count(entry.text, word), 5);
      if (!found) return 0;
      points += found;
    }
    const phrase = 30 * count(entry.heading, query) + 10 * Math.min(count(entry.text, query), 3);
    return (points + phrase) * entry.weight;
  };
  window.Fuse = class {
    constructor(index) {
      this.entries = index.map((item) => (
        { item, weight: item.weight, heading: plain(`${item.title}; ${item.section}`), text: plain(item.text) }));
    }
    search(query, { limit }) {
      const wanted = plain(query).trim();
      const scored = this.entries.map((entry) => ({ item: entry.item, points: score(entry, wanted) }));
      return scored.filter((hit) => hit.points).sort((a, b) => b.points - a.points).slice(0, limit);
    }
  };
})();
