import { useState } from "preact/hooks";
import { can, change, type Page } from "../api";
import { ago, count, instant } from "../format";
import { List, type Column } from "../list";
import { useLoad } from "../load";
import { attempt, Badge, Command, Confirm, Dialog, Empty, Fields, Head, Loading, Section, Parts, partOf, Stat, State, Table, Trouble, words } from "../parts";
import { go, href, Link, param } from "../router";
import { Matrix, Reloads } from "./deployments";

interface Agent { id: string; name: string; owner?: string; state: string; parked: boolean; version: string; address: string; targets: string[]; generation: number; enrolled_at: string; started_at?: string; seen_at?: string; identity_not_after: string }
interface Assignment { id: string; agent_id: string; agent?: string; names: string[]; targets: string[]; profile?: string; state: string; sha256?: string; not_after?: string; issue_at: string; attempt?: number; error?: string; stderr?: string; took_ms?: number; created_by: string; reported_at?: string }
interface Fleet { versions: { version: string; state: string; count: number; silent: number }[]; assignments: Record<string, number> }
interface Token { id: string; name_pattern?: string; owner?: string; cidr?: string; created_by: string; expires_at: string; used_at?: string; agent_id?: string }
interface Lane { kind: string; name: string; paused: boolean; breaker: string; waiting: number; in_flight: number; cap: number; oldest?: string; error?: string }

const parts = [["fleet", "Fleet", "list-agents"], ["assignments", "Assignments", "list-fleet-assignments"], ["failed", "Failures", "list-fleet-assignments"], ["targets", "Targets", "list-queues"], ["matrix", "What is where", "list-deployments"], ["reloads", "Reloads", "list-deploy-batches"], ["tokens", "Tokens", "list-agent-tokens"]] as const;

export function Agents() {
  const show = partOf(parts, "show"), [enrolling, setEnrolling] = useState(false);
  const cli = { fleet: "chancery agents list", assignments: "chancery agents assignments", failed: "chancery agents assignments --state failed", targets: "chancery queue list", matrix: "chancery renew deployments", reloads: "chancery renew batches --watch", tokens: "chancery agents token list" }[show];
  const curl = { fleet: "/agents", assignments: "/assignments", failed: "/assignments?state=failed", targets: "/queues", matrix: "/deployments", reloads: "/deployments/batches", tokens: "/agent-tokens" }[show];
  return (
    <>
      <Head title="Agents" cli={cli} curl={curl} note="Hosts that keep certificates in service, with keys that never leave them, and the targets of this server">
        {can("create-agent-token") && <button type="button" class="primary" onClick={() => setEnrolling(true)}>Enrol an agent…</button>}
      </Head>
      <Parts label="Agents and targets" current={show} of={parts} name="show" to="/agents" />
      {show === "fleet" && <FleetView />}
      {show === "assignments" && <Work />}
      {show === "failed" && <Work state="failed" />}
      {show === "targets" && <Targets />}
      {show === "matrix" && <Matrix />}
      {show === "reloads" && <Reloads />}
      {show === "tokens" && <Tokens />}
      {enrolling && <Enrol onClose={() => setEnrolling(false)} />}
    </>
  );
}

// seen tells when an agent was there last, as a word and a tone.
const seen = (a: Agent) => (a.parked ? <Badge tone="good">connected</Badge> : <span title={a.seen_at} class={a.state === "active" && Date.now() - Date.parse(a.seen_at ?? "1970") > 900_000 ? "bad-text" : ""}>{ago(a.seen_at) || "never"}</span>);

const columns: Column<Agent>[] = [
  { title: "Agent", width: "minmax(150px, 1.6fr)", cell: (a) => <Link to={`/agents/${a.name}`}>{a.name}</Link>, text: (a) => a.name },
  { title: "State", width: "110px", cell: (a) => <State value={a.state} />, text: (a) => a.state },
  { title: "Seen", width: "120px", cell: seen, text: (a) => a.seen_at ?? "" },
  { title: "Version", width: "130px", cell: (a) => a.version },
  { title: "Owner", width: "minmax(80px, .8fr)", cell: (a) => a.owner ?? "" },
  { title: "Address", width: "140px", cell: (a) => a.address },
  { title: "Targets", width: "minmax(110px, 1.2fr)", cell: (a) => a.targets.join(", ") },
];

function FleetView() {
  const fleet = useLoad<Fleet>("/fleet"), f = fleet.data, state = param("state"), version = param("version"), silent = param("silent") === "yes";
  const sum = (state: string, what: "count" | "silent") => f?.versions.filter((v) => v.state === state).reduce((n, v) => n + v[what], 0);
  const number = (n?: number) => (n === undefined ? "…" : count(n));
  const bad = (sum("cloned", "count") ?? 0) + (sum("revoked", "count") ?? 0);
  return (
    <>
      <Trouble error={fleet.error} retry={fleet.reload} />
      <div class="stats">
        <Stat label="Active agents" value={number(sum("active", "count"))} to="/agents" query={{ state: "active" }} />
        <Stat label="Silent for 15 minutes" value={number(sum("active", "silent"))} tone={sum("active", "silent") ? "bad" : "good"} to="/agents" query={{ state: "active", silent: "yes" }} />
        <Stat label="Cloned or revoked" value={f ? count(bad) : "…"} tone={bad ? "warn" : ""} to="/agents" query={{ state: "cloned" }} />
        <Stat label="Certificates in service" value={number(f?.assignments.live)} to="/agents" query={{ show: "assignments" }} />
        <Stat label="Failed deployments" value={number(f?.assignments.failed)} tone={f?.assignments.failed ? "bad" : "good"} to="/agents" query={{ show: "failed" }} />
      </div>
      {!!f?.versions.length && <p class="chips" role="group" aria-label="Versions">
        {(state || version || silent) && <Link class="chip" to="/agents">all agents ✕</Link>}
        {f.versions.filter((v) => v.state === "active").map((v) => <Link key={v.version} class="chip" to="/agents" query={{ version: v.version, state: "active" }} current={v.version === version}>{v.version || "unknown"} <span class="note">{count(v.count)}</span></Link>)}
      </p>}
      <List<Agent> path="/agents" query={{ state, version, silent }} label="agents" columns={columns} id={(a) => a.id} open={(a) => go(href(`/agents/${a.name}`))}
        empty={<Empty title={state || version || silent ? "No such agent." : "No agent is enrolled yet."}><p>{can("create-agent-token") ? "“Enrol an agent…” makes the line to run on the host, or:" : "An administrator enrols agents:"}</p><Command text="chancery agents token create --name-pattern 'web*' --expires 1h" /></Empty>} />
    </>
  );
}

const work: Column<Assignment>[] = [
  { title: "Names", width: "minmax(170px, 2fr)", cell: (a) => <Link to={`/agents/${a.agent ?? a.agent_id}`}>{words(a.names, 2)}</Link>, text: (a) => a.names.join(" ") },
  { title: "Agent", width: "minmax(110px, 1fr)", cell: (a) => a.agent ?? "" },
  { title: "Targets", width: "minmax(90px, 1fr)", cell: (a) => a.targets.join(", ") },
  { title: "State", width: "90px", cell: (a) => <State value={a.state} />, text: (a) => a.state },
  { title: "Ends", width: "110px", cell: (a) => <span title={a.not_after}>{ago(a.not_after)}</span>, text: (a) => a.not_after ?? "" },
  { title: "Said", width: "minmax(150px, 2fr)", cell: (a) => <span class="bad-text" title={`${a.error ?? ""}\n${a.stderr ?? ""}`}>{a.error}{a.stderr && ` — ${a.stderr}`}</span>, text: (a) => [a.error, a.stderr].filter(Boolean).join(": ") },
];

const Work = ({ state }: { state?: string }) => <List<Assignment> path="/assignments" query={{ state }} label="assignments" columns={work} id={(a) => a.id} open={(a) => go(href(`/agents/${a.agent}`))}
  empty={<Empty title={state ? "No deployment failed." : "No agent keeps a certificate in service yet."}>{!state && <Command text="chancery agents assign web1 www.internal.example.com --target nginx" />}</Empty>} />;

// Targets are the places that this server deploys to itself.
function Targets() {
  const { data, error, reload } = useLoad<Page<Lane>>("/queues", { limit: 1000 }), all = data?.items.filter((l) => l.kind === "target");
  if (error) return <Trouble error={error} retry={reload} />;
  if (!all) return <Loading />;
  if (!all.length) return <Empty title="This server deploys to no target of its own."><p>Targets are <code>[target.NAME]</code> tables of the configuration; docs/deploy.md has an example for each kind. Targets of agents are in the files of their hosts.</p><Command text="chancery targets kinds" /></Empty>;
  return (
    <Table label="Targets" head={["Target", "State", "In flight", "Waiting", "Oldest", "Last error", ""]}>
      {all.map((l) => <tr key={l.name}><td><Link to="/agents" query={{ show: "matrix", target: l.name }}>{l.name}</Link></td><td>{l.paused ? <Badge tone="warn">paused</Badge> : l.breaker !== "closed" ? <Badge tone="bad">breaker {l.breaker}</Badge> : <Badge tone="good">open</Badge>}</td><td>{count(l.in_flight)} of {count(l.cap)}</td><td>{count(l.waiting)}</td><td>{ago(l.oldest)}</td><td class="break">{l.error}</td>
        <td>{can("change-queue") && <button type="button" onClick={() => attempt(l.paused ? "It goes on." : "Nothing new is deployed there.", async () => { await change("PATCH", `/queues/target/${encodeURIComponent(l.name)}`, { paused: !l.paused }); reload(); })}>{l.paused ? "Resume" : "Pause"}</button>}</td></tr>)}
    </Table>
  );
}

function Tokens() {
  const { data, error, reload } = useLoad<Page<Token>>("/agent-tokens", { limit: 200 }), [ending, setEnding] = useState<Token>();
  if (error) return <Trouble error={error} retry={reload} />;
  if (!data) return <Loading />;
  if (!data.items.length) return <Empty title="No enrolment token was made yet."><Command text="chancery agents token create --name-pattern 'web*' --expires 1h" /></Empty>;
  return (
    <>
      <Table label="Enrolment tokens" head={["Token", "For agents named", "Owner", "From", "Ends", "Used", ""]}>
        {data.items.map((t) => <tr key={t.id}><td><code>{t.id}</code></td><td>{t.name_pattern || "any"}</td><td>{t.owner}</td><td>{t.cidr || "anywhere"}</td><td title={instant(t.expires_at)}>{ago(t.expires_at)}</td><td>{t.used_at && (t.agent_id ? <Link to={`/agents/${t.agent_id}`}>{ago(t.used_at)}</Link> : ago(t.used_at))}</td>
          <td>{can("revoke-agent-token") && !t.used_at && Date.parse(t.expires_at) > Date.now() && <button type="button" onClick={() => setEnding(t)}>End…</button>}</td></tr>)}
      </Table>
      {ending && <Confirm title="End an enrolment token" action="End it" done="The token enrols nobody any more." onClose={() => setEnding(undefined)} run={async () => { await change("DELETE", `/agent-tokens/${ending.id}`); reload(); }}><p>The token <code>{ending.id}</code> for agents named {ending.name_pattern || "anything"} will enrol nobody.</p></Confirm>}
    </>
  );
}

// Enrol makes a token and shows the line to run on the host, once.
function Enrol({ onClose }: { onClose: () => void }) {
  const [f, set] = useState({ name_pattern: "", owner: "", cidr: "", expires: "1h" }), [secret, setSecret] = useState("");
  const field = (name: keyof typeof f, label: string, hint?: string) => <label>{label}<input value={f[name]} placeholder={hint} onInput={(e) => set({ ...f, [name]: e.currentTarget.value })} /></label>;
  const name = f.name_pattern && !f.name_pattern.includes("*") ? ` --name ${f.name_pattern}` : "";
  return (
    <Dialog title="Enrol an agent" onClose={onClose}>
      {secret ? <>
        <p>Run this on the host within {f.expires}. The token in it is shown once and enrols one agent.</p>
        <Command text={`chancery agent --server ${location.origin} --token ${secret} --state /var/lib/chancery-agent --config agent.toml${name}`} />
        <p class="note"><code>agent.toml</code> holds the <code>[target.NAME]</code> tables of that host; docs/agents.md has examples.</p>
        <button type="button" onClick={onClose}>Done</button>
      </> : <form class="form" onSubmit={(e) => { e.preventDefault(); void attempt("The token is made.", async () => setSecret((await change<{ secret: string }>("POST", "/agent-tokens", Object.fromEntries(Object.entries(f).filter(([, v]) => v)))).secret)); }}>
        {field("name_pattern", "Name of the agent; * stands for any text", "web*")}{field("owner", "Owner")}{field("cidr", "Network that it enrols from", "10.1.0.0/16")}{field("expires", "Ends after")}
        <button type="submit" class="primary">Make the token</button>
      </form>}
    </Dialog>
  );
}

// AgentOne is one agent with everything that it keeps in service.
export function AgentOne({ id }: { id: string }) {
  const path = `/agents/${encodeURIComponent(id)}`, { data: a, error, at, reload } = useLoad<Agent>(path), all = useLoad<Page<Assignment>>(path + "/assignments", { limit: 1000 });
  const [dialog, open] = useState<{ kind: "assign" | "revoke" } | { kind: "renew" | "end"; of: Assignment }>(), close = () => open(undefined);
  if (error && !a) return <Trouble error={error} retry={reload} />;
  if (!a) return <Loading />;
  const again = () => { reload(); all.reload(); };
  return (
    <>
      <Head title={a.name} at={at} cli={`chancery agents show ${a.name}`} curl={path} note={<><State value={a.state} /> {seen(a)}</>}>
        {can("create-assignment") && a.state === "active" && <><button type="button" class="primary" disabled={!a.targets.length} title={a.targets.length ? "" : "It has named no target yet"} onClick={() => open({ kind: "assign" })}>Assign…</button><button type="button" class="danger" onClick={() => open({ kind: "revoke" })}>Revoke…</button></>}
      </Head>
      {a.state === "cloned" && <p class="trouble" role="alert">Two programs used this identity, and both are refused. Enrol the host again with a new token and an empty state directory.</p>}
      <Section title="Agent" wide><Fields of={[["Owner", a.owner], ["Version", a.version], ["Address", a.address], ["Targets of its file", a.targets.map((t) => <Badge key={t}>{t}</Badge>)], ["Last seen", a.seen_at && `${instant(a.seen_at)} (${ago(a.seen_at)})`], ["Started", a.started_at && `${instant(a.started_at)} (start ${count(a.generation)})`], ["Enrolled", instant(a.enrolled_at)], ["Its identity ends", `${instant(a.identity_not_after)} (${ago(a.identity_not_after)})`]]} /></Section>
      <Trouble error={all.error} retry={all.reload} />
      {all.data?.items.length === 0 && <Empty title="It keeps nothing in service yet."><Command text={`chancery agents assign ${a.name} www.internal.example.com --target ${a.targets[0] ?? "TARGET"}`} /></Empty>}
      <div class="cards">{all.data?.items.toSorted((x, y) => Number(y.state === "failed") - Number(x.state === "failed")).map((w) => (
        <Section key={w.id} title={words(w.names, 1)} actions={<State value={w.state} />}>
          <Fields of={[["Error", w.error && <span class="bad-text">{w.error}</span>], ["It said", w.stderr && <pre tabIndex={0}>{w.stderr}</pre>], ["Failures in a row", w.attempt || ""], ["Names", w.names.join(", ")], ["Targets", w.targets.join(", ")], ["Profile", w.profile], ["Certificate", w.sha256 && <Link to={`/certs/${w.sha256}`}>show</Link>], ["Ends", w.not_after && `${instant(w.not_after)} (${ago(w.not_after)})`], ["Next is issued", ago(w.issue_at)], ["Took", w.took_ms ? `${count(w.took_ms)} ms` : ""], ["Reported", ago(w.reported_at)]]} />
          {can("renew-assignment") && <div class="actions"><button type="button" onClick={() => open({ kind: "renew", of: w })}>Renew…</button><button type="button" class="danger" onClick={() => open({ kind: "end", of: w })}>Unassign…</button></div>}
        </Section>
      ))}</div>
      {dialog?.kind === "assign" && <Assign agent={a} onClose={() => { close(); again(); }} />}
      {dialog?.kind === "revoke" && <Confirm title={`Revoke ${a.name}`} action="Revoke" danger done={`${a.name} is refused from now on.`} onClose={close} run={async () => { await change("POST", `/agents/${a.id}/revoke`); again(); }}><p>The server refuses {a.name} from its next question on, until it is enrolled again. Its {count(all.data?.items.length ?? 0)} certificates stay in service until they end; this does not revoke them.</p></Confirm>}
      {dialog?.kind === "renew" && <Confirm title="Renew now" action="Renew" done="The next certificate is issued now." onClose={close} run={async () => { await change("POST", `/assignments/${dialog.of.id}/renew`); again(); }}><p>The next certificate for {dialog.of.names.join(", ")} is issued now, and {a.name} puts it into service at {dialog.of.targets.join(", ")}.</p></Confirm>}
      {dialog?.kind === "end" && <Confirm title="End an assignment" action="Unassign" danger done="It is not renewed any more." onClose={close} run={async () => { await change("DELETE", `/assignments/${dialog.of.id}`); again(); }}><p>{a.name} stops renewing {dialog.of.names.join(", ")}. What is in service at {dialog.of.targets.join(", ")} stays there until it ends{dialog.of.not_after ? `, ${ago(dialog.of.not_after)}` : ""}.</p></Confirm>}
    </>
  );
}

// Assign plans a certificate for an agent, shows the plan, and does that.
function Assign({ agent, onClose }: { agent: Agent; onClose: () => void }) {
  const [names, setNames] = useState(""), [targets, setTargets] = useState<string[]>(agent.targets.slice(0, 1)), [profile, setProfile] = useState(""), [plan, setPlan] = useState(false);
  const list = names.split(/[\s,]+/).filter(Boolean);
  const toggle = (t: string) => { setTargets(targets.includes(t) ? targets.filter((x) => x !== t) : [...targets, t]); setPlan(false); };
  const submit = async (e: Event) => {
    e.preventDefault();
    if (!plan) { setPlan(true); return; }
    if (await attempt("It is being issued.", () => change("POST", `/agents/${agent.id}/assignments`, { names: list, targets, profile: profile || undefined }))) onClose();
  };
  return (
    <Dialog title={`Assign to ${agent.name}`} onClose={onClose}>
      <form class="form" onSubmit={submit}>
        <label>Names, with spaces between<input required value={names} onInput={(e) => { setNames(e.currentTarget.value); setPlan(false); }} /></label>
        <fieldset><legend>Targets, in the order in which they get it</legend>{agent.targets.map((t) => <label key={t} class="check"><input type="checkbox" checked={targets.includes(t)} onChange={() => toggle(t)} /> {t}{targets.includes(t) && targets.length > 1 && <span class="note">{targets.indexOf(t) + 1}.</span>}</label>)}</fieldset>
        <label>Profile<input value={profile} placeholder="the usual one" onInput={(e) => { setProfile(e.currentTarget.value); setPlan(false); }} /></label>
        {plan && <div class="plan"><p>{agent.name} makes a key, gets one certificate for <b>{list.join(", ")}</b>, puts it into service at {targets.join(", then ")}, and renews it from then on.</p></div>}
        <button type="submit" class="primary" disabled={!list.length || !targets.length}>{plan ? "Do it" : "Show the plan"}</button>
      </form>
    </Dialog>
  );
}
