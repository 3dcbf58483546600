// Search by words instead of smalldocs' fuzzy one: every word of the query must be in a section; titles count most.
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

  const count = (text, word) => text.split(word).length - 1;
  const score = (entry, words) => {
    let total = 0;
    for (const word of words) {
      const points = 20 * count(entry.title, word) + 10 * count(entry.section, word) + Math.min(count(entry.text, word), 5);
      if (!points) return 0;
      total += points;
    }
    return total * entry.weight;
  };
  window.Fuse = class {
    constructor(index) {
      this.entries = index.map((item) => ({
        item, weight: item.weight, title: item.title.toLowerCase(), section: item.section.toLowerCase(), text: item.text.toLowerCase(),
      }));
    }
    search(query, { limit }) {
      const words = query.toLowerCase().split(/\s+/).filter(Boolean);
      const scored = this.entries.map((entry) => ({ item: entry.item, points: score(entry, words) }));
      return scored.filter((hit) => hit.points).sort((a, b) => b.points - a.points).slice(0, limit);
    }
  };
})();
