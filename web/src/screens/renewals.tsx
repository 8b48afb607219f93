import { useState } from "preact/hooks";
import { can, change, type Page } from "../api";
import { Load } from "../charts";
import { ago, count, instant } from "../format";
import { List, type Column } from "../list";
import { useLoad } from "../load";
import { attempt, Badge, Command, Dialog, Empty, Fields, Head, Loading, Parts, partOf, Section, State, Trouble } from "../parts";
import { go, href, Link, param } from "../router";

interface Placement { target: string; live: boolean; due_at?: string; attempts?: number; error?: string; detail?: string; updated_at: string }
interface Managed { id: string; name: string; names: string[]; owner?: string; issuer: string; state: string; paused?: boolean; certificate?: string; not_after?: string; renew_at?: string; window_start?: string; window_end?: string; explanation?: string; attempts?: number; error_class?: string; error?: string; placements?: Placement[]; targets?: { name: string }[]; key_type: string }
interface Queue { kind: string; name: string; paused: boolean; divert?: string; breaker: string; sleep_until?: string; waiting: number; in_flight: number; cap: number; allowed: number; oldest?: string; next?: string; error?: string }
interface Plan { days: { date: string; orders: number; deferred?: number }[]; issuers: { name: string; certificates: number; per_day: number; per_day_now: number; peak: number; peak_at?: string; capacity?: number; budget?: string; cleared_at?: string; enough: boolean }[] }
interface Drift { host: string; port: number; desired: string; served?: string; last_seen_at?: string; failure?: string }
interface Drill { id: string; issuer: string; owner?: string; total: number; done: number; failed: number; started_at: string; finished_at?: string; seconds: number; per_second: number }

const parts = [["queues", "Queues", "list-queues"], ["managed", "Managed", "list-managed"], ["forecast", "Forecast", "plan-renewals"], ["drift", "Drift", "list-drift"], ["drills", "Drills", "list-drills"]] as const;

export function Renewals() {
  const show = partOf(parts, "show"), [adding, setAdding] = useState(false);
  return (
    <>
      <Head title="Renewals" cli={{ queues: "chancery queue list --watch", managed: "chancery renew list", forecast: "chancery renew plan", drift: "chancery renew drift", drills: "chancery renew drill --help" }[show]} curl={{ queues: "/queues", managed: "/managed", forecast: "/renewal-plan", drift: "/drift", drills: "/drills" }[show]}>
        {can("create-managed") && <button type="button" onClick={() => setAdding(true)}>Manage a name…</button>}
      </Head>
      <Parts label="Renewals" current={show} of={parts} name="show" to="/renewals" />
      {show === "queues" && <Queues />}
      {show === "managed" && <ManagedList />}
      {show === "forecast" && <Forecast />}
      {show === "drift" && <DriftList />}
      {show === "drills" && <Drills />}
      {adding && <Add onClose={() => setAdding(false)} />}
    </>
  );
}

function Queues() {
  const { data, error, reload } = useLoad<Page<Queue>>("/queues");
  if (error) return <Trouble error={error} retry={reload} />;
  if (!data) return <Loading />;
  if (!data.items.length) return <Empty title="There is no issuer and no target yet."><p>Add an <code>[issuer.NAME]</code> to the configuration; the kinds are in docs/kinds.md.</p><Command text="chancery config kinds" /></Empty>;
  const edit = (q: Queue, what: string, body: unknown) => attempt(what, async () => { await change("PATCH", `/queues/${q.kind}/${encodeURIComponent(q.name)}`, body); reload(); });
  return (
    <div class="cards">{data.items.map((q) => (
      <Section key={q.kind + q.name} title={`${q.name} (${q.kind})`}>
        <p>{q.paused && <Badge tone="warn">paused</Badge>}{q.breaker !== "closed" && <Badge tone="bad">breaker {q.breaker}</Badge>}{q.divert && <Badge tone="info">diverted to {q.divert}</Badge>}{!q.paused && q.breaker === "closed" && <Badge tone="good">open</Badge>}</p>
        <progress aria-label={`In flight at ${q.name}`} max={q.cap || 1} value={q.in_flight} />
        <Fields of={[["In flight", `${count(q.in_flight)} of ${count(q.allowed)}${q.allowed < q.cap ? ` (cap ${count(q.cap)})` : ""}`], ["Waiting", count(q.waiting)], ["Oldest", q.oldest && ago(q.oldest)], ["Next", q.next && ago(q.next)], ["Sleeps until", q.sleep_until && instant(q.sleep_until)], ["Last error", q.error]]} />
        {can("change-queue") && <div class="actions">
          <button type="button" onClick={() => edit(q, q.paused ? "The queue goes on." : "Nothing new is begun; what is under way ends.", { paused: !q.paused })}>{q.paused ? "Resume" : "Pause"}</button>
          {q.breaker !== "closed" && <button type="button" onClick={() => edit(q, "It is tried again.", { reset: true })}>Try again now</button>}
          {q.kind === "issuer" && (q.divert ? <button type="button" onClick={() => edit(q, "What is due is ordered here again.", { divert: "" })}>End the diversion</button>
            : <button type="button" onClick={() => { const to = prompt("Issuer that gets what is due here"); if (to) void edit(q, `What is due goes to ${to}.`, { divert: to }); }}>Divert…</button>)}
        </div>}
      </Section>
    ))}</div>
  );
}

const columns: Column<Managed>[] = [
  { title: "Name", width: "minmax(170px, 2fr)", cell: (m) => <Link to={`/renewals/${m.id}`}>{m.name}</Link>, text: (m) => m.name },
  { title: "State", width: "120px", cell: (m) => <>{m.paused ? <Badge tone="warn">paused</Badge> : <State value={m.state} />}</>, text: (m) => (m.paused ? "paused" : m.state) },
  { title: "Renewed", width: "130px", cell: (m) => <span title={m.renew_at}>{ago(m.renew_at)}</span>, text: (m) => m.renew_at ?? "" },
  { title: "Ends", width: "130px", cell: (m) => <span title={m.not_after}>{ago(m.not_after)}</span>, text: (m) => m.not_after ?? "" },
  { title: "Issuer", width: "120px", cell: (m) => m.issuer },
  { title: "Error", width: "minmax(140px, 2fr)", cell: (m) => (m.error ? <span class="bad-text" title={m.error}>{m.error_class}: {m.error}</span> : ""), text: (m) => m.error ?? "" },
];

function ManagedList() {
  return <List<Managed> path="/managed" label="managed certificates" columns={columns} id={(m) => m.id} open={(m) => go(href(`/renewals/${m.id}`))}
    empty={<Empty title="No certificate is managed here yet."><Command text="chancery order www.example.internal" /><Command text="chancery renew adopt FINGERPRINT" /></Empty>} />;
}

function Forecast() {
  const [life, setLife] = useState(""), plan = useLoad<Plan>("/renewal-plan", { lifetime: life, days: 60 });
  if (plan.error) return <Trouble error={plan.error} retry={plan.reload} />;
  return (
    <>
      <p class="chips" role="group" aria-label="Lifetime">{[["", "as it is"], ["100d", "100 days"], ["47d", "47 days"]].map(([v, t]) => <button type="button" key={v} class={v === life ? "primary" : ""} aria-pressed={v === life} onClick={() => setLife(v)}>{t}</button>)}</p>
      {!plan.data ? <Loading /> : <>
        <Section title="Orders in the next 60 days" wide>{plan.data.days.some((d) => d.orders) ? <Load days={plan.data.days} /> : <p class="note">None.</p>}</Section>
        <div class="cards">{plan.data.issuers.map((i) => <Section key={i.name} title={i.name}>
          <Fields of={[["Certificates", count(i.certificates)], ["Orders a day", `${i.per_day.toFixed(1)} (now ${i.per_day_now.toFixed(1)})`], ["Peak", i.peak ? `${count(i.peak)} on ${i.peak_at}` : ""], ["Budget", i.capacity ? `${i.capacity.toFixed(0)} a day (${i.budget})` : "not limited"], ["Enough", <Badge tone={i.enough ? "good" : "bad"}>{i.enough ? "yes" : "no"}</Badge>], ["Cleared", i.cleared_at]]} />
        </Section>)}</div>
      </>}
    </>
  );
}

function DriftList() {
  return <List<Drift> path="/drift" label="endpoints" id={(d) => `${d.host}:${d.port}`} empty={<Empty title="Every endpoint serves what it should." />} columns={[
    { title: "Endpoint", width: "minmax(200px, 2fr)", cell: (d) => `${d.host}:${d.port}` },
    { title: "Should serve", cell: (d) => <Link to={`/certs/${d.desired}`}>show</Link>, text: (d) => d.desired },
    { title: "Serves", cell: (d) => (d.served ? <Link to={`/certs/${d.served}`}>show</Link> : d.failure ?? "not seen yet"), text: (d) => d.served ?? d.failure ?? "" },
    { title: "Seen", width: "140px", cell: (d) => ago(d.last_seen_at), text: (d) => d.last_seen_at ?? "" },
  ]} />;
}

function Drills() {
  const { data, error, reload } = useLoad<Page<Drill>>("/drills");
  if (error) return <Trouble error={error} retry={reload} />;
  if (data && !data.items.length) return <Empty title="No replacement was rehearsed yet."><Command text="chancery renew drill --issuer staging --limit 100" /></Empty>;
  return <div class="cards">{data?.items.map((d) => <Section key={d.id} title={`${d.issuer}, ${instant(d.started_at)}`}>
    <progress aria-label="Replaced" max={d.total || 1} value={d.done + d.failed} />
    <Fields of={[["Certificates", `${count(d.done)} of ${count(d.total)}`], ["Failed", d.failed ? count(d.failed) : ""], ["Time", `${d.seconds.toFixed(1)} s, ${d.per_second.toFixed(1)} a second`], ["Owner", d.owner], ["Finished", instant(d.finished_at)]]} />
  </Section>)}</div>;
}

function Add({ onClose }: { onClose: () => void }) {
  const [names, setNames] = useState(""), [targets, setTargets] = useState(""), [owner, setOwner] = useState("");
  const list = (s: string) => s.split(/[\s,]+/).filter(Boolean);
  return (
    <Dialog title="Manage a name" onClose={onClose}>
      <form class="form" onSubmit={async (e) => { e.preventDefault(); if (await attempt("It is ordered.", () => change("POST", "/managed", { names: list(names), owner: owner || undefined, targets: list(targets).map((name) => ({ name })) }))) onClose(); }}>
        <label>Names, with spaces between<input required value={names} onInput={(e) => setNames(e.currentTarget.value)} /></label>
        <label>Targets of the configuration<input value={targets} onInput={(e) => setTargets(e.currentTarget.value)} /></label>
        <label>Owner<input value={owner} onInput={(e) => setOwner(e.currentTarget.value)} /></label>
        <button type="submit" class="primary">Order it</button>
      </form>
    </Dialog>
  );
}

interface Explained { managed: Managed; decisions: { at: string; rule: string; detail: string }[] }

// ManagedOne explains one managed certificate.
export function ManagedOne({ id }: { id: string }) {
  const { data, error, at, reload } = useLoad<Explained>(`/managed/${encodeURIComponent(id)}/explain`), one = useLoad<Managed>(`/managed/${encodeURIComponent(id)}`);
  if (error) return <Trouble error={error} retry={reload} />;
  if (!data) return <Loading />;
  const m = data.managed, act = (what: string, verb: string) => attempt(what, async () => { await change("POST", `/managed/${m.id}/${verb}`); reload(); one.reload(); });
  return (
    <>
      <Head title={m.name} at={at} cli={`chancery certs explain ${m.name}`} curl={`/managed/${m.id}/explain`} note={m.paused ? <Badge tone="warn">paused</Badge> : <State value={m.state} />}>
        {can("renew-managed") && <><button type="button" onClick={() => act("It is renewed now.", "renew")}>Renew now</button><button type="button" onClick={() => (m.paused ? act("It goes on.", "resume") : act("Nothing is done about it.", "pause"))}>{m.paused ? "Resume" : "Pause"}</button></>}
      </Head>
      <div class="columns">
        <Section title="Wanted"><Fields of={[["Names", m.names.join(", ")], ["Owner", m.owner], ["Issuer", m.issuer], ["Key", m.key_type], ["Certificate", m.certificate && <Link to={`/certs/${m.certificate}`}>show</Link>], ["Ends", m.not_after && `${instant(m.not_after)} (${ago(m.not_after)})`], ["Renewed", m.renew_at && `${instant(m.renew_at)} (${ago(m.renew_at)})`], ["Window", m.window_start && `${instant(m.window_start)} to ${instant(m.window_end)}`], ["Why", m.explanation && <a href={m.explanation} rel="noreferrer">{m.explanation}</a>], ["Failures", m.attempts || ""], ["Error", m.error && <span class="bad-text">{m.error_class}: {m.error}</span>]]} /></Section>
        <Section title="Where it goes">{!one.data?.placements?.length ? <p class="note">No target.</p> : one.data.placements.map((p) => <Fields key={p.target} of={[["Target", p.target], ["Serves the newest", <Badge tone={p.live ? "good" : "warn"}>{p.live ? "yes" : "not yet"}</Badge>], ["Due", p.due_at && ago(p.due_at)], ["Error", p.error && <span class="bad-text">{p.error}</span>], ["It said", p.detail && <pre tabIndex={0}>{p.detail}</pre>]]} />)}</Section>
      </div>
      <Section title="Decisions" wide>{data.decisions.length === 0 ? <p class="note">None yet.</p> : <ol class="events">{data.decisions.map((d) => <li key={d.at + d.rule}><time dateTime={d.at}>{instant(d.at)}</time> <b>{d.rule}</b> {d.detail}</li>)}</ol>}</Section>
    </>
  );
}
