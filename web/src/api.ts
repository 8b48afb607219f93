// Calls of the public API. Answers to GET are kept with their entity tags, so
// that asking again costs a 304.
import { computed, signal } from "@preact/signals";

export interface Problem { detail: string; status: number; type?: string; requestId?: string }

export class Refused extends Error {
  constructor(public problem: Problem, public retryAfter?: number) { super(problem.detail); }
}

// Withheld is what a sign-in may not call for one reason.
export interface Withheld { why: string; permission?: string; operations: { id: string; method: string; path: string }[] }

// NotYours says that the sign-in may not ask for something. It is known
// beforehand, so the server is not asked.
export class NotYours extends Error {
  constructor(public of: Withheld) { super(of.why); }
}

// Held says that a request waits for a second person.
export class Held extends Error {
  constructor(public id: string) { super("This needs a second person: it waits until somebody else approves it."); }
}

export interface Page<T> { items: T[]; next?: string; partial?: boolean }

export interface Scope { owners?: string[]; cas?: string[]; profiles?: string[] }

export interface Session {
  signed_in: boolean; actor?: string; name?: string; role?: string; permissions: string[];
  scope?: Scope; withheld: Withheld[]; expires_at?: string; csrf?: string;
}

// session is who is signed in; null until it is known.
export const session = signal<Session | null>(null);

const base = "/api/v1";

const barred = computed(() => {
  const byID = new Map<string, Withheld>(), byCall: [RegExp, Withheld][] = [];
  for (const w of session.value?.withheld ?? []) for (const o of w.operations) {
    byID.set(o.id, w);
    byCall.push([new RegExp(`^${o.method} ${o.path.replace(/\{\w+\}/g, "[^/?]+")}(\\?|$)`), w]);
  }
  return { byID, byCall };
});

// can reports whether whoever is signed in may call an operation.
export const can = (operation: string) => !barred.value.byID.has(operation);
// withheld returns why none of some operations may be called; undefined when
// one of them may.
export const withheld = (operations: string[]) => (operations.some(can) ? undefined : barred.value.byID.get(operations[0]));
// limits says in words what a sign-in is limited to.
export const limits = () => Object.entries({ owners: "owner", cas: "authority", profiles: "profile" }).flatMap(([k, word]) => { const of = session.value?.scope?.[k as keyof Scope]; return of?.length ? [`${word} ${of.join(" or ")}`] : []; }).join(", ");

const kept = new Map<string, { etag: string; body: unknown }>();
const maxKept = 200;

export type Query = Record<string, string | number | boolean | undefined>;

export function withQuery(path: string, query?: Query): string {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query ?? {})) if (v !== undefined && v !== "" && v !== false) q.set(k, String(v));
  const text = q.toString();
  return text ? `${path}?${text}` : path;
}

async function refusal(r: Response): Promise<Error> {
  let problem: Problem = { detail: `The server answered ${r.status}.`, status: r.status };
  try { problem = { ...problem, ...(await r.json()) }; } catch { /* not JSON: the status has to do */ }
  if (r.status === 401) session.value = { signed_in: false, permissions: [], withheld: [] };
  const after = Number(r.headers.get("Retry-After"));
  return new Refused(problem, after > 0 ? after : undefined);
}

async function send(path: string, init: RequestInit): Promise<Response> {
  const call = `${init.method ?? "GET"} ${base}${path}`, bar = barred.value.byCall.find(([pattern]) => pattern.test(call));
  if (bar) throw new NotYours(bar[1]);
  try {
    return await fetch(base + path, { credentials: "same-origin", ...init });
  } catch (e) {
    if ((e as Error).name === "AbortError") throw e;
    throw new Refused({ detail: "The server cannot be reached. Is it running, and are you on its network?", status: 0 });
  }
}

export async function get<T>(path: string, query?: Query, abort?: AbortSignal): Promise<T> {
  const url = withQuery(path, query), known = kept.get(url);
  const r = await send(url, { headers: known ? { "If-None-Match": known.etag } : {}, signal: abort });
  if (r.status === 304 && known) return known.body as T;
  if (!r.ok) throw await refusal(r);
  const body = (await r.json()) as T, etag = r.headers.get("ETag");
  if (etag) {
    if (kept.size >= maxKept) kept.delete(kept.keys().next().value!);
    kept.set(url, { etag, body });
  }
  return body;
}

// change sends what changes something. key, if given, makes a repetition safe.
export async function change<T>(method: "POST" | "PUT" | "PATCH" | "DELETE", path: string, body?: unknown, key?: string): Promise<T> {
  const headers: Record<string, string> = { "X-CSRF-Token": session.value?.csrf ?? "" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  const r = await send(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (!r.ok) throw await refusal(r);
  const held = r.headers.get("X-Approval");
  if (held) throw new Held(held);
  return (r.status === 204 ? undefined : await r.json()) as T;
}

// chaos is what a server that misbehaves on purpose says of itself.
export const chaos = signal("");

export async function whoAmI(): Promise<void> {
  const r = await send("/session", {});
  chaos.value = r.headers.get("Chancery-Chaos") ?? "";
  if (!r.ok) throw await refusal(r);
  session.value = await r.json();
}

// changes counts what the server has told us of: views that depend on it ask
// again when it moves.
export const changes = signal(0);
// live says whether the stream of changes is open.
export const live = signal(false);
// feed is the last events, the newest first.
export interface Change { seq: number; id: string; at: string; kind: string; actor: string; subject: string; data?: Record<string, unknown> }
export const feed = signal<Change[]>([]);

const maxFeed = 500;

// follow opens the stream of changes while the page is visible: a hidden page
// would hold one of the few connections that a browser makes to a server. The
// browser opens it again by itself when it breaks.
export function follow(): () => void {
  if (!can("stream-events")) { // the stream tells of everybody's certificates: ask from time to time instead
    const timer = setInterval(() => { if (!document.hidden) changes.value++; }, 30_000);
    return () => clearInterval(timer);
  }
  let source: EventSource | undefined, pending: Change[] = [], timer = 0;
  const flush = () => {
    timer = 0;
    feed.value = [...pending.reverse(), ...feed.value].slice(0, maxFeed);
    pending = [];
    changes.value++;
  };
  const close = () => { source?.close(); source = undefined; live.value = false; };
  const open = () => {
    if (source || document.hidden) return;
    const after = feed.value[0]?.seq;
    source = new EventSource(`${base}/events${after ? `?after=${after}` : ""}`);
    source.onopen = () => { live.value = true; };
    source.onerror = () => { live.value = false; };
    source.onmessage = (e) => {
      pending.push(JSON.parse(e.data));
      if (!timer) timer = window.setTimeout(flush, 250);
    };
  };
  const visible = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", visible);
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
  return () => {
    document.removeEventListener("visibilitychange", visible);
    removeEventListener("pagehide", close);
    removeEventListener("pageshow", open);
    clearTimeout(timer);
    close();
  };
}
