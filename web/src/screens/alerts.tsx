import { useState } from "preact/hooks";
import { can, change, changes, type Page } from "../api";
import { ago, instant } from "../format";
import { List, type Column } from "../list";
import { useLoad, usePulse } from "../load";
import { attempt, Badge, Command, Confirm, Dialog, Empty, Head, Loading, Parts, partOf, Section, State, Table, type Tone, Trouble } from "../parts";
import { Link, param } from "../router";
import { Findings, Logs } from "./ct";

interface Alert { id: string; rule: string; subject: string; state: string; severity: string; summary: string; labels: Record<string, string>; since: string; fired_at?: string; resolved_at?: string; silence?: string }
interface Definition { kind: string; severity: string; enabled: boolean; share?: number; within?: string; for?: string; failures?: number; of?: number; entries?: string[]; clears?: string[]; lasts?: string; match?: string[]; channels?: string[]; escalate_after?: string; escalate_to?: string[] }
interface Rule extends Definition { name: string; built_in: boolean; changed: boolean; looked_at?: string; error?: string }
interface Kind { kind: string; doc: string; uses: string[] }
interface Preview { found: { subject: string; summary: string }[]; more: boolean }
interface Silence { id: string; matchers: string[]; reason: string; active: boolean; created_by: string; ends_at: string }
interface Delivery { id: string; channel: string; rule?: string; event: string; state: string; alerts: number; attempts: number; error?: string; created_at: string; due_at?: string; done_at?: string }
interface Channel { name: string; kind: string; severity: string }

const tones: Record<string, Tone> = { critical: "bad", warning: "warn", info: "info" };
export const Severity = ({ value }: { value: string }) => <Badge tone={tones[value] ?? ""}>{value}</Badge>;
const views = [["firing", "Firing", "list-alerts"], ["pending", "Pending", "list-alerts"], ["resolved", "Resolved", "list-alerts"], ["ct", "Unknown certificates", "list-ct-findings"], ["logs", "CT logs", "list-ct-logs"], ["rules", "Rules", "list-alert-rules"], ["silences", "Silences", "list-alert-silences"], ["deliveries", "Deliveries", "list-alert-deliveries"]] as const;
const behind: Record<string, [cli: string, curl: string]> = {
  ct: ["chancery ct findings list --state open", "/ct/findings?state=open"], logs: ["chancery ct logs list", "/ct/logs"], rules: ["chancery alerts rules list", "/alerts/rules"],
  silences: ["chancery alerts silence list", "/alerts/silences"], deliveries: ["chancery alerts deliveries", "/alerts/deliveries"],
};

export function Alerts() {
  const view = partOf(views, "view"), [cli, curl] = behind[view] ?? [`chancery alerts list --state ${view}`, `/alerts?state=${view}`];
  return (
    <>
      <Head title="Alerts" cli={cli} curl={curl} note="What needs somebody, the rules that say so, and who was told" />
      <Parts label="View" current={view} of={views} name="view" to="/alerts" />
      {view === "rules" ? <Rules /> : view === "silences" ? <Silences /> : view === "deliveries" ? <Deliveries /> : view === "ct" ? <Findings /> : view === "logs" ? <Logs /> : <Episodes state={view} key={view} />}
    </>
  );
}

function Episodes({ state }: { state: string }) {
  const [silencing, setSilencing] = useState<string>(), rule = param("rule"), severity = param("severity"), here = { view: state === "firing" ? undefined : state, severity };
  const columns: Column<Alert>[] = [
    { title: "Severity", width: "90px", cell: (a) => <Severity value={a.severity} />, text: (a) => a.severity },
    { title: "What", width: "minmax(260px, 3fr)", cell: (a) => <span title={`${a.summary}\n${a.subject}`}>{a.summary}</span>, text: (a) => a.summary },
    { title: "Subject", width: "minmax(120px, 1fr)", cell: (a) => <code title={a.subject}>{a.subject}</code>, text: (a) => a.subject },
    { title: "Rule", width: "minmax(130px, .8fr)", cell: (a) => <Link to="/alerts" query={{ ...here, rule: a.rule }} title={`Only ${a.rule}`}>{a.rule}</Link>, text: (a) => a.rule },
    { title: "Since", width: "100px", cell: (a) => <span title={instant(a.since)}>{ago(a.since)}</span>, text: (a) => a.since },
    { title: state === "resolved" ? "Ended" : "Told", width: "110px", cell: (a) => (a.resolved_at ? ago(a.resolved_at) : a.silence ? <Badge>silenced</Badge> : can("create-alert-silence") ? <button type="button" class="quiet" onClick={() => setSilencing(`subject=${a.subject}`)}>Silence…</button> : "yes"), text: (a) => a.resolved_at ?? a.silence ?? "" },
  ];
  return (
    <>
      <p class="chips" role="group" aria-label="Only">{["", "critical", "warning", "info"].map((s) => <Link key={s} class="chip" to="/alerts" query={{ ...here, rule, severity: s }} current={s === severity}>{s || "every severity"}</Link>)}{rule && <Link class="chip" to="/alerts" query={here}>{rule} ✕</Link>}</p>
      <List<Alert> path="/alerts" query={{ state, rule, severity }} label="alerts" columns={columns} id={(a) => a.id} empty={<Empty title={state === "firing" ? "Nothing fires." : "None."} />} />
      {silencing !== undefined && <Silencer matchers={silencing} onClose={() => setSilencing(undefined)} />}
    </>
  );
}

// Silencer begins a silence.
function Silencer({ matchers, onClose }: { matchers: string; onClose: () => void }) {
  const [f, set] = useState({ what: matchers, for: "4h", reason: "" });
  const field = (name: keyof typeof f, label: string, hint = "") => <label>{label}<input required value={f[name]} placeholder={hint} onInput={(e) => set({ ...f, [name]: e.currentTarget.value })} /></label>;
  return (
    <Dialog title="Silence alerts" onClose={onClose}>
      <form class="form" onSubmit={async (e) => { e.preventDefault(); if (await attempt("It is silenced.", () => change("POST", "/alerts/silences", { matchers: f.what.trim().split(/\s+/), for: f.for, reason: f.reason }))) onClose(); }}>
        {field("what", "Alerts that fit all of these, with spaces between", "team=web rule=certificate-*")}{field("for", "For how long (30m, 4h, 7d)")}{field("reason", "Why; it is kept", "migration, ticket 4711")}
        <button type="submit" class="primary">Silence</button>
      </form>
    </Dialog>
  );
}

const parameters = (r: Rule) => [r.share && `${Math.round(r.share * 100)} % of life left`, r.within && `within ${r.within}`, r.for && `for ${r.for}`, r.failures && `${r.failures} of ${r.of}`, r.entries?.join(" "), r.match?.join(" ")].filter(Boolean).join(", ");

function Rules() {
  const { data, error, reload } = useLoad<Page<Rule>>("/alerts/rules", { limit: 1000 }), kinds = useLoad<Page<Kind>>("/alerts/kinds", { limit: 1000 });
  const [editing, edit] = useState<Rule>(), [resetting, reset] = useState<Rule>();
  const fresh = (): Rule => ({ name: "", kind: kinds.data!.items[0].kind, severity: "warning", enabled: true, built_in: false, changed: false });
  return (
    <>
      <Trouble error={error ?? kinds.error} retry={reload} />
      {!data && !error && <Loading />}
      {can("put-alert-rule") && kinds.data && <p><button type="button" class="primary" onClick={() => edit(fresh())}>New rule…</button></p>}
      {data && <Table label="Rules" head={["Rule", "Severity", "Fires when", "Told to", "Looked", ""]}>
        {data.items.map((r) => (
          <tr key={r.name}>
            <td>{r.name}{r.changed && <> <Badge>changed</Badge></>}{!r.enabled && <> <Badge tone="warn">off</Badge></>}<br /><code>{r.kind}</code></td>
            <td><Severity value={r.severity} /></td><td class="break">{parameters(r)}</td><td>{r.channels?.join(", ") || "all"}</td>
            <td>{r.error ? <Badge tone="bad">{r.error}</Badge> : r.looked_at && ago(r.looked_at)}</td>
            <td>{can("preview-alert-rule") && kinds.data && <button type="button" onClick={() => edit(r)}>{can("put-alert-rule") ? "Edit" : "Preview"}…</button>} {can("delete-alert-rule") && r.changed && <button type="button" onClick={() => reset(r)}>{r.built_in ? "Reset" : "Delete"}…</button>}</td>
          </tr>))}
      </Table>}
      {editing && kinds.data && <Editor rule={editing} kinds={kinds.data.items} onClose={() => { edit(undefined); reload(); }} />}
      {resetting && <Confirm title={`${resetting.built_in ? "Reset" : "Delete"} ${resetting.name}`} action={resetting.built_in ? "Reset" : "Delete"} danger done={resetting.built_in ? "The rule is as it was shipped." : "The rule is gone."} onClose={() => reset(undefined)} run={async () => { await change("DELETE", `/alerts/rules/${resetting.name}`); reload(); }}>
        <p>{resetting.built_in ? "What was changed here about the rule is dropped." : "What it found ends, and it looks for nothing more."}</p></Confirm>}
    </>
  );
}

const fields: [name: keyof Definition, label: string, use: string, hint: string][] = [
  ["share", "At most this share of the life is left (0 to 1)", "share", "0.2"], ["within", "And at most so long until the end", "within", "30d"], ["for", "It must have been so for", "for", "1h"],
  ["failures", "So many observations must be bad", "failures", "3"], ["of", "Of the last", "failures", "5"], ["entries", "Kinds of journal entries that begin it", "entries", "token.create session.*"], ["clears", "And that end it", "entries", ""], ["lasts", "Without one of those it ends after", "lasts", "7d"],
  ["match", "Only what fits all of", "", "team=web owner!=lab*"], ["channels", "Tell only these channels", "", "all"], ["escalate_after", "If it still fires after", "", "1h"], ["escalate_to", "Tell these as well", "", ""],
];
const lists: (keyof Definition)[] = ["entries", "clears", "match", "channels", "escalate_to"], numbers: (keyof Definition)[] = ["share", "failures", "of"];

// Editor changes a rule; what it would find is shown before it is stored.
function Editor({ rule, kinds, onClose }: { rule: Rule; kinds: Kind[]; onClose: () => void }) {
  const text = (v: unknown) => (Array.isArray(v) ? v.join(" ") : v ? String(v) : "");
  const [f, set] = useState<Record<string, string>>(() => Object.fromEntries([...fields.map(([n]) => [n, text(rule[n])]), ["name", rule.name], ["kind", rule.kind], ["severity", rule.severity]]));
  const [enabled, enable] = useState(rule.enabled), [seen, setSeen] = useState<Preview>();
  const kind = kinds.find((k) => k.kind === f.kind)!, used = fields.filter(([, , use]) => !use || kind.uses.includes(use));
  const put = (name: string, v: string) => { set({ ...f, [name]: v }); setSeen(undefined); };
  const body = () => {
    const b: Record<string, unknown> = { kind: f.kind, severity: f.severity, enabled };
    for (const [n] of used) if (f[n].trim()) b[n] = lists.includes(n) ? f[n].trim().split(/\s+/) : numbers.includes(n) ? Number(f[n]) : f[n].trim();
    return b;
  };
  const preview = () => attempt("This is what it would find now; nothing is stored.", async () => setSeen(await change<Preview>("POST", "/alerts/rules/preview?limit=50", body())));
  return (
    <Dialog title={rule.name ? `Rule ${rule.name}` : "New rule"} onClose={onClose}>
      <form class="form" onSubmit={async (e) => { e.preventDefault(); if (await attempt("The rule was stored.", () => change("PUT", `/alerts/rules/${encodeURIComponent(f.name)}`, body()))) onClose(); }}>
        {!rule.name && <><label>Name<input required pattern="[a-z0-9][a-z0-9\-]*" value={f.name} onInput={(e) => put("name", e.currentTarget.value)} /></label>
          <label>Looks for<select value={f.kind} onChange={(e) => put("kind", e.currentTarget.value)}>{kinds.map((k) => <option key={k.kind}>{k.kind}</option>)}</select></label></>}
        <p class="note">{kind.doc}</p>
        <label>Severity<select value={f.severity} onChange={(e) => put("severity", e.currentTarget.value)}>{["info", "warning", "critical"].map((s) => <option key={s}>{s}</option>)}</select></label>
        <label class="check"><input type="checkbox" checked={enabled} onChange={(e) => enable(e.currentTarget.checked)} /> It is looked at</label>
        {used.map(([n, label, , hint]) => <label key={n}>{label}<input value={f[n]} placeholder={hint} onInput={(e) => put(n, e.currentTarget.value)} /></label>)}
        {seen && <div class="plan" role="status"><p>It would find <b>{seen.found.length}{seen.more ? " and more" : ""}</b>.</p><ul>{seen.found.slice(0, 10).map((m) => <li key={m.subject} class="break">{m.summary}</li>)}</ul></div>}
        <div class="actions"><button type="button" onClick={preview}>Preview</button>{can("put-alert-rule") && <button type="submit" class="primary">Store</button>}</div>
      </form>
    </Dialog>
  );
}

function Silences() {
  const { data, error, reload } = useLoad<Page<Silence>>("/alerts/silences", { limit: 200 }), [adding, setAdding] = useState(false);
  return (
    <>
      <Trouble error={error} retry={reload} />
      {can("create-alert-silence") && <p><button type="button" class="primary" onClick={() => setAdding(true)}>New silence…</button></p>}
      {!data && !error && <Loading />}
      {data?.items.length === 0 && <Empty title="There are no silences."><Command text="chancery alerts silence add team=web --for 4h --reason migration" /></Empty>}
      {!!data?.items.length && <Table label="Silences" head={["State", "What", "Why", "By", "Ends", ""]}>
        {data.items.map((s) => (
          <tr key={s.id}><td><Badge tone={s.active ? "info" : ""}>{s.active ? "active" : "ended"}</Badge></td><td><code class="break">{s.matchers.join(" ")}</code></td><td>{s.reason}</td><td class="break">{s.created_by}</td><td title={instant(s.ends_at)}>{ago(s.ends_at)}</td>
            <td>{s.active && can("end-alert-silence") && <button type="button" onClick={() => attempt("It ended; what still fires is told now.", async () => { await change("DELETE", `/alerts/silences/${s.id}`); reload(); })}>End</button>}</td></tr>))}
      </Table>}
      {adding && <Silencer matchers="" onClose={() => { setAdding(false); reload(); }} />}
    </>
  );
}

const deliveries: Column<Delivery>[] = [
  { title: "When", width: "120px", cell: (d) => <span title={instant(d.created_at)}>{ago(d.created_at)}</span>, text: (d) => d.created_at },
  { title: "Channel", width: "minmax(90px, 1fr)", cell: (d) => d.channel },
  { title: "What", width: "minmax(150px, 1.4fr)", cell: (d) => `${d.event} ${d.rule ?? ""}` },
  { title: "Alerts", width: "70px", right: true, cell: (d) => d.alerts },
  { title: "State", width: "100px", cell: (d) => <State value={d.state} />, text: (d) => d.state },
  { title: "Tries", width: "60px", right: true, cell: (d) => d.attempts },
  { title: "Next", width: "90px", cell: (d) => ago(d.due_at), text: (d) => d.due_at ?? "" },
  { title: "Last error", width: "minmax(150px, 2fr)", cell: (d) => <span title={d.error}>{d.error}</span>, text: (d) => d.error ?? "" },
];

function Deliveries() {
  const channels = useLoad<Page<Channel>>("/alerts/channels", { limit: 1000 });
  usePulse();
  return (
    <>
      <Trouble error={channels.error} retry={channels.reload} />
      {channels.data?.items.length === 0 && <Empty title="Nobody is told: there are no channels."><p>Add one to the configuration; docs/alerts.md has an example for each kind:</p><Command text={'[alert_channel.ops] kind = "slack" url_file = "/etc/chancery/slack.url"'} /></Empty>}
      {!!channels.data?.items.length && <Section title="Channels" wide><p class="actions">{channels.data.items.map((c) => <span key={c.name}>{c.name} <span class="note">{c.kind}, from {c.severity}</span> {can("test-alert-channel") && <button type="button" onClick={() => attempt(`A test for ${c.name} is on its way.`, async () => { await change("POST", `/alerts/channels/${c.name}/test`); changes.value++; })}>Test {c.name}</button>}</span>)}</p></Section>}
      <List<Delivery> path="/alerts/deliveries" label="messages" columns={deliveries} id={(d) => d.id} empty={<Empty title="Nobody was told of anything yet." />} />
    </>
  );
}
