// Numbers and times for people.
const numbers = new Intl.NumberFormat("en");
const instants = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium", timeZone: "UTC" });
const days = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeZone: "UTC" });

export const count = (n: number) => numbers.format(n);
export const instant = (t?: string) => (t ? instants.format(new Date(t)) + " UTC" : "");
export const day = (t?: string) => (t ? days.format(new Date(t)) : "");

const units: [number, string][] = [[86400 * 365, "y"], [86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

// ago says how far away an instant is: "in 12 d", "3 min ago".
export function ago(t?: string, now = Date.now()): string {
  if (!t) return "";
  const s = Math.round((new Date(t).getTime() - now) / 1000), n = Math.abs(s);
  const [size, unit] = units.find(([size]) => n >= size) ?? [1, "s"];
  const text = `${Math.floor(n / size)} ${unit}`;
  return s >= 0 ? `in ${text}` : `${text} ago`;
}

export const clock = (t: number) => new Date(t).toISOString().slice(11, 19);

// short keeps the beginning of an id or fingerprint.
export const short = (id?: string, n = 10) => (id && id.length > n ? id.slice(0, n) + "…" : id ?? "");
