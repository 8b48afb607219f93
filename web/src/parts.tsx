// Small parts that the views are made of.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { signal } from "@preact/signals";
import { can, Held, limits, NotYours, Refused, session, type Withheld } from "./api";
import { clock } from "./format";
import { href, Link, param } from "./router";

type Children = { children?: ComponentChildren };

export type Tone = "good" | "warn" | "bad" | "info" | "";

export const Badge = ({ tone = "", children }: Children & { tone?: Tone }) => <span class={`badge ${tone}`}>{children}</span>;

const tones: Record<string, Tone> = {
  active: "good", issued: "good", valid: "good", done: "good", ok: "good", verified: "good", live: "good", idle: "good", following: "good", ours: "good", sent: "good",
  expired: "warn", superseded: "", retired: "", pending: "info", new: "info", collecting: "info", open: "bad", acknowledged: "", failing: "bad", partly: "warn", waits: "info", forked: "bad", cloned: "bad", firing: "bad", enforce: "info", shadow: "", ready: "info", processing: "info", waiting: "info", running: "info", intent: "info", marking: "info", revoking: "warn",
  revoked: "bad", invalid: "bad", failed: "bad", damaged: "bad", rejected: "bad", abandoned: "warn", paused: "warn", cancelled: "", withdrawn: "",
};

export const State = ({ value }: { value: string }) => <Badge tone={tones[value] ?? ""}>{value}</Badge>;

export function Stat({ label, value, tone = "", to, query, hint }: { label: string; value: ComponentChildren; tone?: Tone; to?: string; query?: Record<string, string>; hint?: string }) {
  const inner = <><span class="stat-value">{value}</span><span class="stat-label">{label}</span>{hint && <span class="stat-hint">{hint}</span>}</>;
  return to ? <Link class={`stat ${tone}`} to={to} query={query}>{inner}</Link> : <div class={`stat ${tone}`}>{inner}</div>;
}

export const Empty = ({ title, children }: Children & { title: string }) => <div class="empty"><p class="empty-title">{title}</p>{children}</div>;

export const Command = ({ text }: { text: string }) => <div class="command"><code>{text}</code><Copy text={text} label="Copy the command" /></div>;

export function Copy({ text, label, children }: Children & { text: string; label: string }) {
  const [done, set] = useState(false);
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => set(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return <button type="button" class="quiet" aria-label={label} title={label} onClick={() => { navigator.clipboard.writeText(text).then(() => set(true), () => say("The browser did not allow copying.", "warn")); }}>{done ? "Copied" : children ?? "Copy"}</button>;
}

// Fields is a list of names and values.
export const Fields = ({ of }: { of: [string, ComponentChildren][] }) => (
  <dl class="fields">{of.filter(([, v]) => v !== undefined && v !== "" && v !== null && v !== false).map(([k, v]) => <div key={k}><dt>{k}</dt><dd>{v}</dd></div>)}</dl>
);

export function Section({ title, children, actions, wide }: Children & { title: string; actions?: ComponentChildren; wide?: boolean }) {
  const id = "s-" + title.toLowerCase().replace(/[^a-z]+/g, "-");
  return <section class={wide ? "card wide" : "card"} aria-labelledby={id}><div class="card-head"><h2 id={id}>{title}</h2>{actions}</div>{children}</section>;
}

export function Head({ title, children, at, cli, curl, note }: Children & { title: string; at?: number; cli?: string; curl?: string; note?: ComponentChildren }) {
  useEffect(() => { document.title = `${title} - Chancery`; }, [title]);
  return (
    <header class="view-head">
      <div><h1>{title}</h1>{note && <p class="note">{note}</p>}</div>
      <div class="tools">
        {at ? <span class="stamp" title="When the server was asked last">as of {clock(at)} UTC</span> : null}
        {cli && <Copy text={cli} label="CLI: copy the command that shows this">CLI</Copy>}
        {curl && <Copy text={`curl --cacert root.pem -H "Authorization: Bearer $CHANCERY_TOKEN" '${location.origin}/api/v1${curl}'`} label="curl: copy the request behind this">curl</Copy>}
        {children}
      </div>
    </header>
  );
}

// Trouble shows why something could not be shown.
export function Trouble({ error, retry }: { error?: Error; retry?: () => void }) {
  if (!error) return null;
  if (error instanceof NotYours) return <NotShown of={error.of} />;
  const id = error instanceof Refused ? error.problem.requestId : undefined;
  return <div class="trouble" role="alert"><p>{error.message}</p>{id && <p class="note">Request {id}</p>}{retry && <button type="button" onClick={retry}>Try again</button>}</div>;
}

// NotShown says that a sign-in may not see something, what it lacks, and whom to
// ask.
export const NotShown = ({ of }: { of: Withheld }) => (
  <Empty title="This is not shown to you.">
    <p>{of.why[0].toUpperCase() + of.why.slice(1).replace(/ \(GET .*\)$/, "")}.</p>
    <p class="note">You are signed in as {session.value?.name} with the role {session.value?.role}{limits() && <>, limited to {limits()}</>}. Roles and limits come with a token or with a sign-in: an administrator of this server gives them.</p>
    {!can("list-certificates") && can("list-issued") && <p><Link to="/issuance" query={{ show: "issued" }}>What your authorities issued</Link></p>}
  </Empty>
);

export const Loading = () => <p class="loading" role="status">Loading…</p>;

// Dialog is a modal question. The browser keeps the focus inside.
export function Dialog({ title, children, onClose }: Children & { title: string; onClose: () => void }) {
  const ref = useRef<HTMLDialogElement>(null);
  // The focus is on the dialog, not on its first button, which closes it: a key
  // that opened it and is held, or comes twice, shall not close it again.
  useEffect(() => { ref.current?.showModal(); ref.current?.focus(); }, []);
  return <dialog ref={ref} tabIndex={-1} aria-label={title} onClose={onClose} onCancel={onClose}><div class="card-head"><h2>{title}</h2><button type="button" class="quiet" aria-label="Close" onClick={onClose}>✕</button></div>{children}</dialog>;
}

// Confirm says what will happen, and does it when the reader agrees.
export function Confirm({ title, action, done, danger, run, onClose, children }: Children & { title: string; action: string; done: string; danger?: boolean; run: () => Promise<unknown>; onClose: () => void }) {
  const [busy, set] = useState(false);
  return (
    <Dialog title={title} onClose={onClose}>
      <form class="form" onSubmit={async (e) => { e.preventDefault(); set(true); if (await attempt(done, run)) onClose(); else set(false); }}>
        {children}
        <div class="actions"><button type="submit" class={danger ? "danger" : "primary"} disabled={busy}>{action}</button><button type="button" onClick={onClose}>Leave it</button></div>
      </form>
    </Dialog>
  );
}

// Table is one that scrolls sideways by itself, also by keyboard.
export const Table = ({ label, head, children }: Children & { label: string; head: string[] }) => (
  <div class="scroll" tabIndex={0} role="region" aria-label={label}><table><thead><tr>{head.map((h, i) => (h ? <th key={i}>{h}</th> : <td key={i} />))}</tr></thead><tbody>{children}</tbody></table></div>
);

// words joins the first names of a list.
export const words = (list: string[], n: number) => list.slice(0, n).join(", ") + (list.length > n ? ` +${list.length - n}` : "");

interface Saying { id: number; text: string; tone: Tone; to?: string }
const sayings = signal<Saying[]>([]);
let lastSaying = 0;

// say tells what became of an action.
export function say(text: string, tone: Tone = "good", to?: string) {
  const id = ++lastSaying;
  sayings.value = [...sayings.value, { id, text, tone, to }].slice(-4);
  setTimeout(() => { sayings.value = sayings.value.filter((s) => s.id !== id); }, 8000);
}

export const Sayings = () => (
  <div class="sayings" role="status" aria-live="polite">{sayings.value.map((s) => <div key={s.id} class={`saying ${s.tone}`}>{s.text} {s.to && <a href={href(s.to)}>Look</a>}</div>)}</div>
);

// attempt runs an action and tells what became of it.
export async function attempt(what: string, f: () => Promise<unknown>): Promise<boolean> {
  try {
    await f();
    say(what);
    return true;
  } catch (e) {
    if (e instanceof Held) say(e.message, "info", "/approvals");
    else say((e as Error).message, "bad");
    return false;
  }
}

// Tabs are links between parts of a view.
export const Tabs = ({ of, current, label }: { of: { name: string; title: string; to: string; query?: Record<string, string> }[]; current: string; label: string }) => (
  <nav class="tabs" aria-label={label}>{of.map((t) => <Link key={t.name} to={t.to} query={t.query} current={t.name === current}>{t.title}</Link>)}</nav>
);

// Part is a part of a view: its name, its title, and the operation without which
// there is nothing to show.
export type Part = readonly [name: string, title: string, need: string];

// partOf returns which part the URL names; otherwise the first that the sign-in
// may see.
export const partOf = (parts: readonly Part[], name: string) => param(name) || (parts.find((p) => can(p[2])) ?? parts[0])[0];

// Parts are the tabs of those that the sign-in may see.
export const Parts = ({ of, name, to, current, label }: { of: readonly Part[]; name: string; to: string; current: string; label: string }) => (
  <Tabs label={label} current={current} of={of.filter((p) => can(p[2]) || p[0] === current).map(([part, title]) => ({ name: part, title, to, query: part === of[0][0] ? undefined : { [name]: part } }))} />
);

// save gives the reader a file.
export function save(name: string, kind: string, text: string) {
  const url = URL.createObjectURL(new Blob([text], { type: kind })), a = document.createElement("a");
  a.href = url;
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
