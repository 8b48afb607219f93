import { useState } from "preact/hooks";
import { can, change, type Page } from "../api";
import { ago, count, instant } from "../format";
import { List, type Column } from "../list";
import { useLoad } from "../load";
import { attempt, Badge, Command, Dialog, Empty, Head, Parts, partOf, Section, State, Trouble } from "../parts";
import { Link, param } from "../router";

interface Endpoint { host: string; port: number; sni?: string; address?: string; certificate?: string; drift: boolean; problems: string[]; failure?: string; failed_since?: string; last_seen_at?: string; last_ok_at?: string }
interface Schedule { id: string; name: string; targets: string; kind: string; interval: string; enabled: boolean; next_at?: string }
interface Tally { stored: number; untried: number; healthy: number; classes: Record<string, number> | null; problems: Record<string, number> | null; slowed: number; open: number; shards: number }
interface Pass { id: string; schedule: string; kind: string; state: string; targets: number; left: number; summary: Tally; error?: string; started_at: string; finished_at?: string }

const columns: Column<Endpoint>[] = [
  { title: "Endpoint", width: "minmax(200px, 2fr)", cell: (e) => `${e.host}:${e.port}` },
  { title: "Address", width: "150px", cell: (e) => e.address ?? "" },
  { title: "Certificate", width: "110px", cell: (e) => (e.certificate ? <Link to={`/certs/${e.certificate}`}>show</Link> : <span class="note">none</span>), text: (e) => e.certificate ?? "" },
  { title: "Seen", width: "130px", cell: (e) => <span title={e.last_seen_at}>{ago(e.last_seen_at)}</span>, text: (e) => e.last_seen_at ?? "" },
  { title: "Findings", width: "minmax(160px, 2fr)", cell: (e) => <>{e.failure && <Badge tone="bad">{e.failure} {ago(e.failed_since)}</Badge>}{e.drift && <Badge tone="warn">another is desired</Badge>}{e.problems.map((p) => <Badge key={p} tone="warn">{p}</Badge>)}</>, text: (e) => [e.failure, e.drift && "drift", ...e.problems].filter(Boolean).join(" ") },
];

const parts = [["passes", "Passes", "list-passes"], ["schedules", "Schedules", "list-schedules"], ["endpoints", "Endpoints", "list-endpoints"], ["failing", "Failing", "list-endpoints"], ["drift", "Drift", "list-endpoints"]] as const;

export function Scanners() {
  const show = partOf(parts, "show"), host = param("host");
  const [adding, setAdding] = useState(false);
  return (
    <>
      <Head title="Scanners" cli={show === "schedules" ? "chancery scan schedules list" : "chancery scan passes list"} curl={show === "passes" || show === "schedules" ? `/scan/${show}` : "/endpoints"}>
        {can("create-schedule") && <button type="button" onClick={() => setAdding(true)}>New schedule…</button>}
      </Head>
      <Parts label="Scanners" current={show} of={parts} name="show" to="/scanners" />
      {show === "passes" && <Passes />}
      {show === "schedules" && <Schedules />}
      {["endpoints", "failing", "drift"].includes(show) && <List<Endpoint> path="/endpoints" query={{ failing: show === "failing", drift: show === "drift", host }} label="endpoints" columns={columns} id={(e) => `${e.host}:${e.port}/${e.sni}/${e.address}`}
        empty={<Empty title={show === "endpoints" ? "No endpoint was scanned yet." : "None."}><Command text="chancery scan --store www.example.com" /></Empty>} />}
      {adding && <Add onClose={() => setAdding(false)} />}
    </>
  );
}

const top = (m: Record<string, number> | null) => Object.entries(m ?? {}).sort((a, b) => b[1] - a[1]).slice(0, 5).map(([k, n]) => `${k} ${count(n)}`).join(", ");

function Passes() {
  const { data, error, reload } = useLoad<Page<Pass>>("/scan/passes", { limit: 50 });
  if (error) return <Trouble error={error} retry={reload} />;
  if (data && !data.items.length) return <Empty title="No scan has run here yet."><Command text="chancery scan schedules create all --targets inventory --interval 1d" /></Empty>;
  return (
    <div class="cards">{data?.items.map((p) => (
      <Section key={p.id} title={`${p.kind} of ${instant(p.started_at)}`} actions={p.state === "running" && can("cancel-pass") ? <button type="button" onClick={() => attempt("The pass ends.", async () => { await change("POST", `/scan/passes/${p.id}/cancel`); reload(); })}>End it</button> : undefined}>
        <p><State value={p.state} /> {count(p.targets - p.left)} of {count(p.targets)} targets, {count(p.summary.healthy)} in order{p.summary.slowed ? `, slowed ${count(p.summary.slowed)} times by the store` : ""}</p>
        <progress aria-label="Targets done" max={p.targets || 1} value={p.targets - p.left} />
        <p class="note">{top(p.summary.classes)}{top(p.summary.problems) && `; ${top(p.summary.problems)}`}</p>
        {p.error && <p class="bad-text">{p.error}</p>}
      </Section>
    ))}</div>
  );
}

function Schedules() {
  const { data, error, reload } = useLoad<Page<Schedule>>("/scan/schedules", { limit: 200 });
  if (error) return <Trouble error={error} retry={reload} />;
  if (data && !data.items.length) return <Empty title="Nothing is scanned regularly."><Command text="chancery scan schedules create all --targets inventory --interval 1d" /></Empty>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Schedules"><table><thead><tr><th>Name</th><th>Targets</th><th>Every</th><th>Next</th><th></th></tr></thead><tbody>
      {data?.items.map((s) => <tr key={s.id}><td>{s.name}{!s.enabled && <Badge>off</Badge>}</td><td class="break">{s.targets.length > 120 ? s.targets.slice(0, 120) + "…" : s.targets}</td><td>{s.interval}</td><td>{ago(s.next_at)}</td>
        <td>{can("run-schedule") && <button type="button" onClick={() => attempt("The scan begins.", async () => { await change("POST", `/scan/schedules/${s.id}/run`); reload(); })}>Run now</button>}</td></tr>)}
    </tbody></table></div>
  );
}

function Add({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState(""), [targets, setTargets] = useState("inventory"), [interval, setInterval] = useState("1d");
  return (
    <Dialog title="New schedule" onClose={onClose}>
      <form class="form" onSubmit={async (e) => { e.preventDefault(); if (await attempt("The schedule is made; its first pass begins.", () => change("POST", "/scan/schedules", { name, targets, interval }))) onClose(); }}>
        <label>Name<input required maxLength={64} value={name} onInput={(e) => setName(e.currentTarget.value)} /></label>
        <label>Targets, one a line: hosts, addresses, networks, inventory<textarea required rows={5} value={targets} onInput={(e) => setTargets(e.currentTarget.value)} /></label>
        <label>Every<input required value={interval} onInput={(e) => setInterval(e.currentTarget.value)} /></label>
        <button type="submit" class="primary">Make it</button>
      </form>
    </Dialog>
  );
}
