// useLoad asks the API for what a view shows, again when the server tells of
// changes, and at least every half minute while the page is visible.
import { useEffect, useRef, useState } from "preact/hooks";
import { changes, get, type Query, withQuery } from "./api";

export interface Loaded<T> { data?: T; error?: Error; at: number; reload: () => void }

const calm = 1000; // at most one question a second, however many changes

// usePulse has a view ask again every few seconds: some things happen without an
// entry in the journal, so nobody tells of them.
export function usePulse() {
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) changes.value++; }, 5000);
    return () => clearInterval(timer);
  }, []);
}

export function useLoad<T>(path: string | null, query?: Query): Loaded<T> {
  const [state, set] = useState<{ data?: T; error?: Error; at: number; url: string }>({ at: 0, url: "" });
  const [turn, next] = useState(0);
  const url = path === null ? "" : withQuery(path, query), moved = changes.value, last = useRef(0);
  useEffect(() => {
    if (!url) return;
    const abort = new AbortController();
    const ask = () => {
      last.current = Date.now();
      get<T>(url, undefined, abort.signal).then(
        (data) => set({ data, at: Date.now(), url }),
        (error) => { if (error.name !== "AbortError") set((s) => ({ ...s, data: s.url === url ? s.data : undefined, error, url })); });
    };
    const wait = state.url === url ? Math.max(0, last.current + calm - Date.now()) : 0;
    const timer = setTimeout(ask, wait);
    return () => { clearTimeout(timer); abort.abort(); };
  }, [url, moved, turn]);
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) next((n) => n + 1); }, 30_000);
    return () => clearInterval(timer);
  }, []);
  const fresh = state.url === url;
  return { data: fresh ? state.data : undefined, error: fresh ? state.error : undefined, at: state.at, reload: () => next((n) => n + 1) };
}
