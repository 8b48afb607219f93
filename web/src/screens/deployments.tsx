import { useState } from "preact/hooks";
import { can, type Page } from "../api";
import { ago, count, instant } from "../format";
import { List, type Column } from "../list";
import { useLoad, usePulse } from "../load";
import { Badge, Command, Dialog, Empty, Fields, State } from "../parts";
import { go, href, Link, param } from "../router";

interface Placement { target: string; live: boolean; due_at?: string; attempts?: number; error?: string; detail?: string; updated_at: string }
interface Deployment { id: string; name: string; names: string[]; owner?: string; not_after?: string; placements: Placement[] }
interface Batch { id: string; target: string; outcome: string; began_at: string; took_ms: number; items: number; live: number; error?: string; detail?: string }

const state = (p: Placement) => (p.live ? "live" : p.attempts ? "failing" : "waits");
const about = (p: Placement) => `${p.target}: ${p.live ? `serves the newest since ${instant(p.updated_at)}` : `${p.error || "does not serve the newest yet"}${p.due_at ? `; next ${instant(p.due_at)}` : ""}`}`;
const mark = (p?: Placement) => (p ? <span title={about(p)}><State value={state(p)} /></span> : <span class="note" aria-label="not there">–</span>);

const maxColumns = 6; // more targets than that share one column

// TargetChips narrow a list to one target.
function TargetChips({ show, extra, targets }: { show: string; extra?: Record<string, string>; targets: string[] }) {
  const target = param("target"), shown = target && !targets.slice(0, 20).includes(target) ? [target, ...targets.slice(0, 19)] : targets.slice(0, 20);
  return (
    <p class="chips" role="group" aria-label="Target">
      <Link class="chip" to="/agents" query={{ show, ...extra }} current={!target}>every target</Link>
      {shown.map((t) => <Link key={t} class="chip" to="/agents" query={{ show, target: t, ...extra }} current={t === target}>{t}</Link>)}
    </p>
  );
}

// useTargets names the targets of this server.
function useTargets(): string[] {
  const lanes = useLoad<Page<{ kind: string; name: string }>>(can("list-queues") ? "/queues" : null, { limit: 1000 });
  return lanes.data?.items.filter((l) => l.kind === "target").map((l) => l.name) ?? [];
}

// Matrix shows what is where: certificates by targets.
export function Matrix() {
  const targets = useTargets(), target = param("target"), failing = param("failing");
  usePulse();
  const columns: Column<Deployment>[] = [
    { title: "Certificate", width: "minmax(130px, 2fr)", cell: (d) => <Link to={`/renewals/${d.id}`}>{d.name}</Link>, text: (d) => d.name },
    ...(target || targets.length <= maxColumns ? (target ? [target] : targets).map((t): Column<Deployment> => ({ title: t, width: "minmax(90px, 1fr)", cell: (d) => mark(d.placements.find((p) => p.target === t)), text: (d) => { const p = d.placements.find((p) => p.target === t); return p ? state(p) : ""; } }))
      : [{ title: "Targets", width: "minmax(220px, 3fr)", cell: (d: Deployment) => d.placements.map((p) => <Badge key={p.target} tone={p.live ? "good" : p.attempts ? "bad" : "info"}><span title={about(p)}>{p.target}{p.live ? "" : ` ${state(p)}`}</span></Badge>), text: (d: Deployment) => d.placements.map((p) => `${p.target}=${state(p)}`).join(" ") }]),
    { title: "Ends", width: "100px", cell: (d) => <span title={instant(d.not_after)}>{ago(d.not_after)}</span>, text: (d) => d.not_after ?? "" },
    { title: "Said", width: "minmax(160px, 2fr)", cell: (d) => { const bad = d.placements.find((p) => p.attempts && (!target || p.target === target)); return bad && <span class="bad-text" title={`${bad.error ?? ""}\n${bad.detail ?? ""}`}>{targets.length > 1 && `${bad.target}: `}{bad.error}</span>; }, text: (d) => d.placements.filter((p) => p.error).map((p) => `${p.target}: ${p.error}`).join("; ") },
  ];
  return (
    <>
      <TargetChips show="matrix" extra={failing ? { failing } : undefined} targets={targets} />
      <p class="chips" role="group" aria-label="Only">{[["", "everything"], ["yes", "failing"]].map(([v, word]) => <Link key={v} class="chip" to="/agents" query={{ show: "matrix", target, failing: v }} current={v === failing}>{word}</Link>)}</p>
      <List<Deployment> path="/deployments" query={{ target, failing: failing === "yes" }} label="certificates" columns={columns} id={(d) => d.id} open={(d) => go(href(`/renewals/${d.id}`))}
        empty={failing ? <Empty title="Nothing fails." /> : <Empty title="No managed certificate has a target."><p>Targets are <code>[target.NAME]</code> tables of the configuration; what agents deploy is under Assignments.</p><Command text="chancery renew adopt FINGERPRINT --target web" /></Empty>} />
    </>
  );
}

const batches: Column<Batch>[] = [
  { title: "When", width: "110px", cell: (b) => <span title={instant(b.began_at)}>{ago(b.began_at)}</span>, text: (b) => b.began_at },
  { title: "Target", width: "minmax(110px, 1fr)", cell: (b) => b.target },
  { title: "Outcome", width: "100px", cell: (b) => <State value={b.outcome} />, text: (b) => b.outcome },
  { title: "In service", width: "110px", right: true, cell: (b) => `${count(b.live)} of ${count(b.items)}` },
  { title: "Took", width: "100px", right: true, cell: (b) => `${count(b.took_ms)} ms` },
  { title: "Said", width: "minmax(180px, 3fr)", cell: (b) => <span class="bad-text" title={b.error}>{b.error}</span>, text: (b) => b.error ?? "" },
];

const words: Record<string, string> = { live: "All of it is verified in service.", partly: "What is not in service was taken back: the target serves there what it did before.", failed: "It was taken back, or never applied: the target serves what it did before." };

// Reloads are what each target got at once, with one reload.
export function Reloads() {
  const targets = useTargets(), target = param("target"), [shown, show] = useState<Batch>();
  usePulse();
  return (
    <>
      <TargetChips show="reloads" targets={targets} />
      <List<Batch> path="/deployments/batches" query={{ target }} label="reloads" columns={batches} id={(b) => b.id} open={show} empty={<Empty title="Nothing was deployed in the last 30 days." />} />
      {shown && <Dialog title={`${shown.target}, ${instant(shown.began_at)}`} onClose={() => show(undefined)}>
        <p><State value={shown.outcome} /> {words[shown.outcome]}</p>
        <Fields of={[["Certificates", `${count(shown.live)} of ${count(shown.items)} in service`], ["Took", `${count(shown.took_ms)} ms`], ["Error", shown.error && <span class="bad-text">{shown.error}</span>], ["It said", shown.detail && <pre tabIndex={0}>{shown.detail}</pre>], ["Batch", <code class="break">{shown.id}</code>]]} />
        <p><Link to="/agents" query={{ show: "matrix", target: shown.target }}>What {shown.target} should serve</Link></p>
      </Dialog>}
    </>
  );
}
