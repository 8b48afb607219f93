// Charts as SVG. Each has a table behind it for those who do not see it.
import { count, day } from "./format";
import { go, href } from "./router";

export interface Bucket { day: string; value: string; count: number }

const colours = 7; // series-0 .. series-6 in the style sheet; the last is "others"
const iso = (t: number) => new Date(t).toISOString().slice(0, 10);
const dayMs = 86_400_000;

// Bars shows how many certificates end per day, stacked by the largest values.
export function Bars({ buckets, days }: { buckets: Bucket[]; days: number }) {
  const start = Math.floor(Date.now() / dayMs) * dayMs, totals = new Map<string, number>(), perDay = new Map<string, Map<string, number>>();
  const last = iso(start + (days - 1) * dayMs);
  for (const b of buckets) {
    if (b.day < iso(start) || b.day > last) continue;
    totals.set(b.value, (totals.get(b.value) ?? 0) + b.count);
  }
  const ranked = [...totals].sort((a, b) => b[1] - a[1]).map(([v]) => v), named = ranked.slice(0, colours - 1);
  const series = ranked.length > named.length ? [...named, "others"] : named;
  for (const b of buckets) {
    const v = named.includes(b.value) ? b.value : "others", d = perDay.get(b.day) ?? new Map<string, number>();
    d.set(v, (d.get(v) ?? 0) + b.count);
    perDay.set(b.day, d);
  }
  const sum = (d?: Map<string, number>) => (d ? [...d.values()].reduce((a, b) => a + b, 0) : 0);
  const all = Array.from({ length: days }, (_, i) => iso(start + i * dayMs)), most = Math.max(1, ...all.map((d) => sum(perDay.get(d))));
  const w = 8, h = 140;
  return (
    <figure class="chart">
      <svg viewBox={`0 0 ${days * w} ${h + 16}`} preserveAspectRatio="none" role="img" aria-label={`Certificates that end per day in the next ${days} days, at most ${count(most)} on one day`}>
        {all.map((d, i) => {
          let y = h;
          return (
            <g key={d} class="bar-day" onClick={() => go(href("/certs", { q: `expires:${d}..${d}` }))}>
              <title>{`${day(d)}: ${count(sum(perDay.get(d)))}`}</title>
              <rect x={i * w} y={0} width={w} height={h} fill="transparent" />
              {series.map((s, n) => {
                const c = perDay.get(d)?.get(s) ?? 0, high = (c / most) * h;
                if (!c) return null;
                y -= high;
                return <rect key={s} class={`series-${s === "others" ? colours - 1 : n}`} x={i * w + 1} y={y} width={w - 2} height={high} />;
              })}
            </g>
          );
        })}
        <line x1={0} x2={days * w} y1={h} y2={h} class="axis" />
      </svg>
      <figcaption class="legend"><span>{day(all[0])}</span>{series.map((s, n) => <span key={s}><i class={`series-${s === "others" ? colours - 1 : n}`} />{s || "unknown"} {count(totals.get(s) ?? ranked.slice(colours - 1).reduce((a, v) => a + (totals.get(v) ?? 0), 0))}</span>)}<span>{day(all[days - 1])}</span></figcaption>
    </figure>
  );
}

// Scroller is a timeline to move in a list by: a bar for each week, and the week
// that the list is in. It is a slider for the keyboard and for screen readers.
export function Scroller({ buckets, weeks, at, onMove }: { buckets: Bucket[]; weeks: number; at?: string; onMove: (day: string) => void }) {
  const start = Math.floor(Date.now() / dayMs) * dayMs, week = (d: string) => Math.floor((Date.parse(d) - start) / (7 * dayMs)), n = Array<number>(weeks).fill(0);
  for (const b of buckets) if (week(b.day) >= 0 && week(b.day) < weeks) n[week(b.day)] += b.count;
  const now = Math.max(0, Math.min(weeks - 1, at ? week(at) : 0)), most = Math.max(1, ...n), first = (w: number) => iso(start + w * 7 * dayMs), h = 30;
  const move = (w: number) => { const to = Math.max(0, Math.min(weeks - 1, w)); if (to !== now) onMove(to ? first(to) : ""); };
  const key = (e: KeyboardEvent) => {
    const to: Record<string, number> = { ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now - 1, ArrowDown: now - 1, PageUp: now + 4, PageDown: now - 4, Home: 0, End: weeks - 1 };
    if (e.key in to) { move(to[e.key]); e.preventDefault(); }
  };
  const point = (e: MouseEvent) => { const r = (e.currentTarget as Element).getBoundingClientRect(); move(Math.floor(((e.clientX - r.left) / r.width) * weeks)); };
  return (
    <div class="scroller" role="slider" tabIndex={0} aria-label="The week in which the first certificates of the list end" aria-valuemin={0} aria-valuemax={weeks - 1} aria-valuenow={now}
      aria-valuetext={`week of ${day(first(now))}, ${count(n[now])} certificates`} onKeyDown={key} onClick={point}>
      <svg viewBox={`0 0 ${weeks * 10} ${h}`} preserveAspectRatio="none" aria-hidden="true">
        {n.map((c, w) => {
          const high = c ? Math.max(2, (c / most) * h) : 0;
          return <g key={w} class={w === now ? "now" : ""}><title>{`week of ${day(first(w))}: ${count(c)}`}</title><rect class="slot" x={w * 10} y={0} width={10} height={h} /><rect x={w * 10 + 1} y={h - high} width={8} height={high} /></g>;
        })}
      </svg>
    </div>
  );
}

// Heat shows weeks as columns and weekdays as rows.
export function Heat({ buckets, weeks }: { buckets: Bucket[]; weeks: number }) {
  const today = Math.floor(Date.now() / dayMs) * dayMs, monday = today - ((new Date(today).getUTCDay() + 6) % 7) * dayMs, perDay = new Map<string, number>();
  for (const b of buckets) perDay.set(b.day, (perDay.get(b.day) ?? 0) + b.count);
  const cells = Array.from({ length: weeks * 7 }, (_, i) => ({ d: iso(monday + i * dayMs), n: perDay.get(iso(monday + i * dayMs)) ?? 0 }));
  const most = Math.max(1, ...cells.map((c) => c.n)), size = 14;
  return (
    <figure class="chart heat">
      <svg viewBox={`0 0 ${weeks * size} ${7 * size}`} role="img" aria-label={`Certificates that end per day in the next ${weeks} weeks`}>
        {cells.map((c, i) => (
          <rect key={c.d} class="heat-day" x={Math.floor(i / 7) * size + 1} y={(i % 7) * size + 1} width={size - 2} height={size - 2} rx={2}
            style={{ fillOpacity: c.n ? 0.2 + (0.8 * Math.log1p(c.n)) / Math.log1p(most) : 0.06 }} onClick={() => c.n && go(href("/certs", { q: `expires:${c.d}..${c.d}` }))}>
            <title>{`${day(c.d)}: ${count(c.n)}`}</title>
          </rect>
        ))}
      </svg>
      <figcaption class="note">Columns are weeks, rows Monday to Sunday. The darkest day has {count(most)}.</figcaption>
    </figure>
  );
}

// Load shows orders per day, and on top those that wait for a budget.
export function Load({ days }: { days: { date: string; orders: number; deferred?: number }[] }) {
  const w = 10, h = 140, most = Math.max(1, ...days.map((d) => d.orders + (d.deferred ?? 0)));
  return (
    <figure class="chart">
      <svg viewBox={`0 0 ${days.length * w} ${h + 4}`} preserveAspectRatio="none" role="img" aria-label={`Orders per day, at most ${count(most)}`}>
        {days.map((d, i) => {
          const a = (d.orders / most) * h, b = ((d.deferred ?? 0) / most) * h;
          return <g key={d.date}><title>{`${day(d.date)}: ${count(d.orders)}${d.deferred ? `, ${count(d.deferred)} wait` : ""}`}</title><rect x={i * w} y={0} width={w} height={h} fill="transparent" /><rect class="series-0" x={i * w + 1} y={h - a} width={w - 2} height={a} /><rect class="series-4" x={i * w + 1} y={h - a - b} width={w - 2} height={b} /></g>;
        })}
        <line x1={0} x2={days.length * w} y1={h} y2={h} class="axis" />
      </svg>
      <figcaption class="legend"><span>{day(days[0]?.date)}</span><span><i class="series-0" />orders</span><span><i class="series-4" />wait for a budget</span><span>{day(days[days.length - 1]?.date)}</span></figcaption>
    </figure>
  );
}
