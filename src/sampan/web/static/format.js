// Sizes and times for people.

export function bytes(count) {
  let unit = 0;
  while (count >= 1024 && unit < 4) { count /= 1024; unit += 1; }
  return `${count >= 100 || unit === 0 ? Math.round(count) : count.toPrecision(3)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

export const percent = (part) => `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} %`;
export const rate = (count) => `${bytes(Math.max(count, 0))}/s`;

export function ago(moment) {
  const seconds = (Date.now() - new Date(moment).getTime()) / 1000;
  if (!(seconds >= 0) || seconds > 1e9) return "";
  for (const [name, size] of [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]]) {
    const count = Math.floor(seconds / size);
    if (count >= 1) return `${count} ${name}${count > 1 ? "s" : ""} ago`;
  }
  return "just now";
}
