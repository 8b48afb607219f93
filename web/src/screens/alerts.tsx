import { useState } from "preact/hooks";
import { change, may, type Page } from "../api";
import { ago, instant } from "../format";
import { useLoad } from "../load";
import { attempt, Badge, Command, Empty, Head, Loading, Section, State, Tabs, type Tone, Trouble } from "../parts";
import { param } from "../router";

interface Alert { id: string; rule: string; subject: string; state: string; severity: string; summary: string; since: string; fired_at?: string; resolved_at?: string; silence?: string }
interface Rule { name: string; kind: string; severity: string; enabled: boolean; share?: number; within?: string; for?: string; failures?: number; of?: number; entries?: string[]; match?: string[]; channels?: string[]; changed: boolean; looked_at?: string; error?: string }
interface Preview { found: { subject: string; summary: string }[]; more: boolean }
interface Silence { id: string; matchers: string[]; reason: string; active: boolean; created_by: string; ends_at: string }
interface Delivery { id: string; channel: string; rule?: string; event: string; state: string; alerts: number; attempts: number; error?: string; created_at: string; done_at?: string }
interface Channel { name: string; kind: string; severity: string }

const tones: Record<string, Tone> = { critical: "bad", warning: "warn", info: "info" };
const Severity = ({ value }: { value: string }) => <Badge tone={tones[value] ?? ""}>{value}</Badge>;
const views = [["firing", "Firing"], ["pending", "Pending"], ["resolved", "Resolved"], ["rules", "Rules"], ["silences", "Silences"], ["deliveries", "Deliveries"]] as const;

export function Alerts() {
  const view = param("view") || "firing";
  return (
    <>
      <Head title="Alerts" cli={view === "rules" ? "chancery alerts rules list" : view === "silences" ? "chancery alerts silence list" : view === "deliveries" ? "chancery alerts deliveries" : `chancery alerts list --state ${view}`} curl={["rules", "silences", "deliveries"].includes(view) ? `/alerts/${view}` : `/alerts?state=${view}`} note="What needs somebody, the rules that say so, and who was told" />
      <Tabs label="View" current={view} of={views.map(([name, title]) => ({ name, title, to: "/alerts", query: name === "firing" ? undefined : { view: name } }))} />
      {view === "rules" ? <Rules /> : view === "silences" ? <Silences /> : view === "deliveries" ? <Deliveries /> : <List state={view} />}
    </>
  );
}

// silence asks for how long and why, and begins a silence.
async function silence(matchers: string[], done: () => void) {
  const period = prompt(`Silence ${matchers.join(" and ")} for how long? (30m, 4h, 7d)`, "4h");
  const reason = period && prompt("Why? The reason is kept.");
  if (period && reason) await attempt("It is silenced.", async () => { await change("POST", "/alerts/silences", { matchers, for: period, reason }); done(); });
}

function List({ state }: { state: string }) {
  const { data, error, reload } = useLoad<Page<Alert>>("/alerts", { state, limit: 200 });
  return (
    <>
      <Trouble error={error} retry={reload} />
      {!data && !error && <Loading />}
      {data?.items.length === 0 && <Empty title={state === "firing" ? "Nothing fires." : "None."} />}
      {!!data?.items.length && <table>
        <thead><tr><th>Severity</th><th>What</th><th>Rule</th><th>Since</th><th>{state === "resolved" ? "Ended" : ""}</th></tr></thead>
        <tbody>{data.items.map((a) => (
          <tr key={a.id}>
            <td><Severity value={a.severity} /></td>
            <td>{a.summary}<br /><code class="break">{a.subject}</code></td>
            <td>{a.rule}</td>
            <td title={instant(a.since)}>{ago(a.since)}</td>
            <td>{a.resolved_at ? ago(a.resolved_at) : a.silence ? <Badge>silenced</Badge> : may("operate") && <button type="button" onClick={() => silence([`subject=${a.subject}`], reload)}>Silence…</button>}</td>
          </tr>))}</tbody>
      </table>}
      {data?.next && <p>There are more; <code>chancery alerts list --state {state} --limit 0</code> shows all.</p>}
    </>
  );
}

const parameters = (r: Rule) => [r.share && `${Math.round(r.share * 100)} % of life left`, r.within && `within ${r.within}`, r.for && `for ${r.for}`, r.failures && `${r.failures} of ${r.of}`, r.entries?.join(" "), r.match?.join(" ")].filter(Boolean).join(", ");

function Rules() {
  const { data, error, reload } = useLoad<Page<Rule>>("/alerts/rules", { limit: 1000 });
  const [seen, setSeen] = useState<{ name: string; preview: Preview }>();
  // The rule without what only the answer has.
  const body = ({ name, changed, looked_at, error, built_in, updated_by, updated_at, $schema, ...rest }: any) => rest;
  const preview = (r: Rule) => attempt(`Looked for ${r.name}.`, async () => setSeen({ name: r.name, preview: await change<Preview>("POST", "/alerts/rules/preview?limit=50", body(r)) }));
  const edit = (r: Rule) => {
    const text = prompt(`Rule ${r.name}: its definition`, JSON.stringify(body(r)));
    if (text) void attempt("The rule was stored.", async () => { await change("PUT", `/alerts/rules/${r.name}`, JSON.parse(text)); reload(); });
  };
  return (
    <>
      <Trouble error={error} retry={reload} />
      {!data && !error && <Loading />}
      {seen && <Section title={`${seen.name} would find ${seen.preview.found.length}${seen.preview.more ? " and more" : ""}`} actions={<button type="button" class="quiet" onClick={() => setSeen(undefined)}>Close</button>}>
        <ul>{seen.preview.found.map((m) => <li key={m.subject}>{m.summary} <code class="break">{m.subject}</code></li>)}</ul>
      </Section>}
      {data && <table>
        <thead><tr><th>Rule</th><th>Severity</th><th>Fires when</th><th>Told to</th><th>Looked</th><th></th></tr></thead>
        <tbody>{data.items.map((r) => (
          <tr key={r.name}>
            <td>{r.name}{r.changed && <> <Badge>changed</Badge></>}{!r.enabled && <> <Badge tone="warn">off</Badge></>}<br /><code>{r.kind}</code></td>
            <td><Severity value={r.severity} /></td>
            <td>{parameters(r)}</td>
            <td>{r.channels?.join(", ") || "all"}</td>
            <td>{r.error ? <Badge tone="bad">{r.error}</Badge> : r.looked_at && ago(r.looked_at)}</td>
            <td>{may("operate") && <button type="button" onClick={() => preview(r)}>Preview</button>} {may("administer") && <button type="button" onClick={() => edit(r)}>Edit…</button>} {may("administer") && <button type="button" onClick={() => attempt(r.enabled ? "It is off." : "It is on.", async () => { await change("PUT", `/alerts/rules/${r.name}`, { ...body(r), enabled: !r.enabled }); reload(); })}>{r.enabled ? "Switch off" : "Switch on"}</button>}</td>
          </tr>))}</tbody>
      </table>}
    </>
  );
}

function Silences() {
  const { data, error, reload } = useLoad<Page<Silence>>("/alerts/silences", { limit: 200 });
  const add = () => {
    const text = prompt("What? Matchers with a space between, such as: team=web rule=certificate-*");
    if (text) void silence(text.trim().split(/\s+/), reload);
  };
  return (
    <>
      <Trouble error={error} retry={reload} />
      {may("operate") && <p><button type="button" class="primary" onClick={add}>Silence…</button></p>}
      {!data && !error && <Loading />}
      {data?.items.length === 0 && <Empty title="There are no silences." />}
      {!!data?.items.length && <table>
        <thead><tr><th></th><th>What</th><th>Why</th><th>Ends</th><th></th></tr></thead>
        <tbody>{data.items.map((s) => (
          <tr key={s.id}><td><State value={s.active ? "active" : "done"} /></td><td><code class="break">{s.matchers.join(" ")}</code></td><td>{s.reason}</td><td title={instant(s.ends_at)}>{ago(s.ends_at)}</td>
            <td>{s.active && may("operate") && <button type="button" onClick={() => attempt("It ended.", async () => { await change("DELETE", `/alerts/silences/${s.id}`); reload(); })}>End</button>}</td></tr>))}</tbody>
      </table>}
    </>
  );
}

function Deliveries() {
  const { data, error, reload } = useLoad<Page<Delivery>>("/alerts/deliveries", { limit: 200 });
  const channels = useLoad<Page<Channel>>("/alerts/channels", { limit: 1000 });
  return (
    <>
      <Trouble error={error ?? channels.error} retry={reload} />
      {channels.data?.items.length === 0 && <Empty title="Nobody is told: there are no channels."><p>Add one to the configuration; docs/alerts.md has an example for each kind:</p><Command text={'[[alert_channel]] name = "ops" kind = "slack" url_file = "/etc/chancery/slack.url"'} /></Empty>}
      {may("operate") && <p>{channels.data?.items.map((c) => <button type="button" key={c.name} onClick={() => attempt(`A test for ${c.name} is on its way.`, async () => { await change("POST", `/alerts/channels/${c.name}/test`); reload(); })}>Test {c.name} ({c.kind})</button>)}</p>}
      {!data && !error && <Loading />}
      {!!data?.items.length && <table>
        <thead><tr><th>When</th><th>Channel</th><th>What</th><th>Alerts</th><th>State</th><th>Tries</th><th>Last error</th></tr></thead>
        <tbody>{data.items.map((d) => (
          <tr key={d.id}><td title={instant(d.created_at)}>{ago(d.created_at)}</td><td>{d.channel}</td><td>{d.event} {d.rule}</td><td>{d.alerts}</td><td><State value={d.state === "sent" ? "done" : d.state} /></td><td>{d.attempts}</td><td>{d.error}</td></tr>))}</tbody>
      </table>}
    </>
  );
}
