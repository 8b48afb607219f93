// Every view is a URL below /ui/: path and query are the whole state of it.
import { computed, signal } from "@preact/signals";
import type { ComponentChildren, JSX } from "preact";

const root = "/ui/";

interface Place { path: string; query: URLSearchParams }

function read(): Place {
  const path = location.pathname.startsWith(root) ? location.pathname.slice(root.length) : "";
  return { path: "/" + path.replace(/\/+$/, ""), query: new URLSearchParams(location.search) };
}

const here = signal(read());
addEventListener("popstate", () => { here.value = read(); });

export const path = computed(() => here.value.path);
// param returns one parameter of the view, "" when it is not given.
export const param = (name: string) => here.value.query.get(name) ?? "";

export function href(to: string, query?: Record<string, string | undefined>): string {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query ?? {})) if (v) q.set(k, v);
  const text = q.toString();
  return root + to.replace(/^\//, "") + (text ? "?" + text : "");
}

export function go(url: string, replace = false) {
  if (url === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", url);
  here.value = read();
  if (!replace) { scrollTo(0, 0); document.getElementById("main")?.focus({ preventScroll: true }); }
}

// setParam changes one parameter of the view that is shown.
export function setParam(name: string, value: string) {
  const q = new URLSearchParams(here.value.query);
  if (value) q.set(name, value); else q.delete(name);
  const text = q.toString();
  go(location.pathname + (text ? "?" + text : ""), true);
}

type LinkProps = Omit<JSX.HTMLAttributes<HTMLAnchorElement>, "href"> & { to: string; query?: Record<string, string | undefined>; children: ComponentChildren; current?: boolean };

export function Link({ to, query, children, current, ...rest }: LinkProps) {
  const url = href(to, query);
  const click = (e: MouseEvent) => {
    if (e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return;
    e.preventDefault();
    go(url);
  };
  return <a {...rest} href={url} onClick={click} aria-current={current ? "page" : undefined}>{children}</a>;
}

// match holds the path of the view against a pattern such as "/certs/:id".
export function match(pattern: string): Record<string, string> | null {
  const want = pattern.split("/"), got = path.value.split("/"), found: Record<string, string> = {};
  if (want.length !== got.length) return null;
  for (let i = 0; i < want.length; i++) {
    if (want[i].startsWith(":")) found[want[i].slice(1)] = decodeURIComponent(got[i]);
    else if (want[i] !== got[i]) return null;
  }
  return found;
}
