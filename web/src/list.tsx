// A list of any length: pages are asked for as the reader comes to them, and
// only the rows in sight exist. Keys: up, down, page, home, end; Enter opens,
// space selects.
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { changes, get, limits, type Page, type Query, withQuery } from "./api";
import { count } from "./format";
import { Empty, Loading, save, Trouble } from "./parts";

export interface Column<T> { title: string; cell: (row: T) => ComponentChildren; text?: (row: T) => string; width?: string; right?: boolean; hide?: boolean }

interface Props<T> {
  path: string;
  query?: Query;
  columns: Column<T>[];
  id: (row: T) => string;
  label: string;
  open?: (row: T) => void;
  selected?: Set<string>;
  select?: (ids: Set<string>) => void;
  empty: ComponentChildren;
  onPage?: (rows: T[], more: boolean) => void;
  onTop?: (row: T) => void; // the first row in sight is another
  total?: number; // rows altogether, if known
  refresh?: boolean; // ask again on changes while the reader is at the top
}

const rowHeight = 38, overscan = 6, pageSize = 200, exportSize = 1000, exportMax = 100_000;

export function List<T>(p: Props<T>) {
  const [rows, setRows] = useState<T[]>([]);
  const [next, setNext] = useState<string | undefined>("");
  const [error, setError] = useState<Error>();
  const [busy, setBusy] = useState(false);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const [at, setAt] = useState(0);
  const box = useRef<HTMLDivElement>(null), epoch = useRef(0);
  const url = withQuery(p.path, p.query), moved = p.refresh === false ? 0 : changes.value;

  const more = async (cursor: string, had: T[]) => {
    const mine = ++epoch.current;
    setBusy(true);
    try {
      const page = await get<Page<T>>(p.path, { ...p.query, limit: pageSize, cursor });
      if (mine !== epoch.current) return;
      const all = [...had, ...page.items];
      setRows(all);
      setNext(page.next);
      setError(undefined);
      p.onPage?.(all, !!page.next);
      // A page of a filtered list may be empty and still have a next one.
      if (page.next && page.items.length === 0) { void more(page.next, all); return; }
    } catch (e) {
      if (mine === epoch.current) setError(e as Error);
    }
    if (mine === epoch.current) setBusy(false);
  };
  const begin = () => more("", []);
  useEffect(() => { setTop(0); setAt(0); box.current?.scrollTo(0, 0); void begin(); return () => { epoch.current++; }; }, [url]);
  useEffect(() => { // what is new shows at the top, without moving what is being read
    if (moved && top === 0 && rows.length <= pageSize && !busy) void begin();
  }, [moved]);
  useLayoutEffect(() => {
    const measure = () => { if (box.current) setHeight(box.current.clientHeight); };
    measure();
    const o = new ResizeObserver(measure);
    if (box.current) o.observe(box.current);
    return () => o.disconnect();
  }, []);
  const first = Math.max(0, Math.floor(top / rowHeight) - overscan), last = Math.min(rows.length, Math.ceil((top + height) / rowHeight) + overscan);
  useEffect(() => { if (next && !busy && !error && last + overscan * 4 >= rows.length && rows.length) void more(next, rows); }, [last, next, busy, rows.length]);

  const seen = rows[Math.floor(top / rowHeight)];
  useEffect(() => { if (seen) p.onTop?.(seen); }, [seen]);

  const reveal = (i: number) => {
    const to = Math.max(0, Math.min(rows.length - 1, i)), b = box.current;
    setAt(to);
    if (!b) return;
    if (to * rowHeight < b.scrollTop) b.scrollTop = to * rowHeight;
    else if ((to + 1) * rowHeight > b.scrollTop + height) b.scrollTop = (to + 1) * rowHeight - height;
  };
  const toggle = (i: number) => {
    if (!p.select || !rows[i]) return;
    const s = new Set(p.selected), id = p.id(rows[i]);
    if (!s.delete(id)) s.add(id);
    p.select(s);
  };
  const key = (e: KeyboardEvent) => {
    const page = Math.max(1, Math.floor(height / rowHeight) - 1);
    const to: Record<string, number> = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: rows.length - 1 };
    if (e.key in to) reveal(to[e.key]);
    else if (e.key === "Enter" && rows[at] && e.target === e.currentTarget) p.open?.(rows[at]);
    else if (e.key === " " && p.select && e.target === e.currentTarget) toggle(at);
    else return;
    e.preventDefault();
  };
  const columns = p.columns.filter((c) => !c.hide);
  const template = (p.select ? "34px " : "") + columns.map((c) => c.width ?? "minmax(90px, 1fr)").join(" ");
  const known = p.total ?? (next ? -1 : rows.length);
  const name = (i: number) => `${p.label.replace(/\W+/g, "-")}-${i}`;
  if (error && rows.length === 0) return <Trouble error={error} retry={begin} />;
  if (!busy && next === undefined && rows.length === 0) return <>{p.empty}{limits() && <p class="note center">Your sign-in shows only what belongs to {limits()}.</p>}</>;
  return (
    <div class="list">
      <div role="grid" aria-label={p.label} aria-rowcount={known} aria-multiselectable={p.select ? true : undefined} class="list-body" ref={box} tabIndex={0}
        onScroll={(e) => setTop(e.currentTarget.scrollTop)} onKeyDown={key} aria-activedescendant={rows[at] && at >= first && at < last ? name(at) : undefined}>
        <div role="rowgroup" class="list-top">
          <div role="row" class="list-head" style={{ gridTemplateColumns: template }}>
            {p.select && <span role="columnheader"><span class="hidden">Selected</span></span>}
            {columns.map((c) => <span role="columnheader" key={c.title} class={c.right ? "right" : ""}>{c.title}</span>)}
          </div>
        </div>
        <div role="rowgroup" style={{ height: `${rows.length * rowHeight}px`, position: "relative" }}>
          {rows.slice(first, last).map((r, i) => {
            const n = first + i, id = p.id(r);
            return (
              <div role="row" key={id} id={name(n)} aria-rowindex={n + 2} aria-selected={p.select ? p.selected?.has(id) ?? false : undefined}
                class={`list-row${n === at ? " at" : ""}`} style={{ gridTemplateColumns: template, transform: `translateY(${n * rowHeight}px)` }}
                onClick={(e) => { setAt(n); if (!(e.target as HTMLElement).closest("a,button,input")) p.open?.(r); }}>
                {p.select && <span role="gridcell"><input type="checkbox" tabIndex={-1} aria-label={`Select ${id}`} checked={p.selected?.has(id) ?? false} onChange={() => toggle(n)} /></span>}
                {columns.map((c) => <span role="gridcell" key={c.title} class={c.right ? "right" : ""}>{c.cell(r)}</span>)}
              </div>
            );
          })}
        </div>
      </div>
      <div class="list-foot">
        <span>{p.total !== undefined ? count(p.total) : count(rows.length) + (next ? "+" : "")} {p.label}{busy && <> · loading…</>}</span>
        {error && <Trouble error={error} retry={() => next && more(next, rows)} />}
        <Export {...p} columns={columns} />
      </div>
      {busy && rows.length === 0 && <Loading />}
    </div>
  );
}

// Export writes everything that fits the filter, not only what is in sight.
function Export<T>(p: Props<T>) {
  const [n, set] = useState(-1);
  const run = async (csv: boolean) => {
    const all: T[] = [];
    let cursor: string | undefined = "";
    set(0);
    try {
      do {
        const page: Page<T> = await get<Page<T>>(p.path, { ...p.query, limit: exportSize, cursor });
        all.push(...page.items);
        cursor = page.next;
        set(all.length);
      } while (cursor && all.length < exportMax);
      const note = cursor ? `-first-${all.length}` : "";
      if (csv) save(`${p.label}${note}.csv`, "text/csv", table(all, p.columns));
      else save(`${p.label}${note}.json`, "application/json", JSON.stringify(all, null, 1));
    } finally { set(-1); }
  };
  if (n >= 0) return <span role="status">{count(n)} written…</span>;
  return <span class="tools"><button type="button" class="quiet" onClick={() => run(true)}>CSV</button><button type="button" class="quiet" onClick={() => run(false)}>JSON</button></span>;
}

// table writes CSV (RFC 4180). A cell that a spreadsheet would run is quoted
// with an apostrophe.
function table<T>(rows: T[], columns: Column<T>[]): string {
  const cell = (s: string) => {
    if (/^[=+\-@\t\r]/.test(s)) s = "'" + s;
    return /[",\n\r]/.test(s) ? `"${s.replace(/"/g, '""')}"` : s;
  };
  const text = (c: Column<T>, r: T) => { const v = c.text ? c.text(r) : c.cell(r); return typeof v === "string" || typeof v === "number" ? String(v) : ""; };
  return [columns.map((c) => cell(c.title)).join(","), ...rows.map((r) => columns.map((c) => cell(text(c, r))).join(","))].join("\r\n") + "\r\n";
}
