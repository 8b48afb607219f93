import { useState } from "preact/hooks";
import { can, change, type Page } from "../api";
import { ago, count, instant } from "../format";
import { useLoad } from "../load";
import { attempt, Command, Dialog, Empty, Fields, Head, Loading, Section, State, Trouble } from "../parts";

interface Incident { id: string; name: string; explanation_url?: string; q?: string; listed?: number; reason: string; state: string; actor: string; created_at: string; revoke_at: string; finished_at?: string; marked: number; revoked: number; skipped: number; left: number }
interface Plan { plan?: string; matched: number; whole: boolean; sample: { id: string; names: string[] }[] }

export function Incidents() {
  const { data, error, at, reload } = useLoad<Page<Incident>>("/incidents", { limit: 100 }), [adding, setAdding] = useState(false);
  return (
    <>
      <Head title="Incidents" at={at} cli="chancery certs incidents list" curl="/incidents" note="Many certificates revoked for one cause, with time to renew first">
        {can("create-incident") && <button type="button" class="danger" onClick={() => setAdding(true)}>New incident…</button>}
      </Head>
      <Trouble error={error} retry={reload} />
      {!data && !error && <Loading />}
      {data?.items.length === 0 && <Empty title="There was none."><Command text="chancery certs revoke --incident 'leaked keys' --query '*.pay.example.com' --at 5d --dry-run" /></Empty>}
      <div class="cards">{data?.items.map((i) => (
        <Section key={i.id} title={i.name}>
          <p><State value={i.state} /> {count(i.revoked)} of {count(i.marked)} revoked{i.skipped ? `, ${count(i.skipped)} were already` : ""}</p>
          <progress aria-label="Revoked" max={i.marked || 1} value={i.revoked + i.skipped} />
          <Fields of={[["Certificates", i.q ? <code>{i.q}</code> : `${count(i.listed ?? 0)} listed`], ["Reason", i.reason], ["Revoked from", `${instant(i.revoke_at)} (${ago(i.revoke_at)})`], ["Explained at", i.explanation_url && <a href={i.explanation_url} rel="noreferrer">{i.explanation_url}</a>], ["Begun by", i.actor], ["Begun", instant(i.created_at)], ["Finished", instant(i.finished_at)]]} />
          {can("cancel-incident") && (i.state === "marking" || i.state === "waiting") && <button type="button" onClick={() => attempt("It is cancelled.", async () => { await change("POST", `/incidents/${i.id}/cancel`); reload(); })}>Cancel it</button>}
        </Section>
      ))}</div>
      {adding && <Begin onClose={() => { setAdding(false); reload(); }} />}
    </>
  );
}

// Begin plans an incident, shows the plan, and then begins exactly that.
function Begin({ onClose }: { onClose: () => void }) {
  const [f, set] = useState({ name: "", q: "", explanation_url: "", revoke_at: "5d", reason: "superseded" }), [plan, setPlan] = useState<Plan>(), [key] = useState(() => crypto.randomUUID());
  const field = (name: keyof typeof f, label: string, required = false) => <label>{label}<input required={required} value={f[name]} onInput={(e) => { set({ ...f, [name]: e.currentTarget.value }); setPlan(undefined); }} /></label>;
  const submit = (e: Event) => {
    e.preventDefault();
    void attempt(plan ? "The incident has begun." : "This is the plan; nothing has changed yet.", async () => {
      if (!plan) { setPlan(await change<Plan>("POST", "/incidents", { ...f, dry_run: true })); return; }
      await change("POST", "/incidents", { ...f, confirm: true, plan: plan.plan }, key);
      onClose();
    });
  };
  return (
    <Dialog title="New incident" onClose={onClose}>
      <form class="form" onSubmit={submit}>
        {field("name", "What happened", true)}{field("q", "Which certificates, as a query", true)}{field("explanation_url", "Page that explains it")}{field("revoke_at", "Revoke after (a period, or an instant)")}
        <label>Reason<select value={f.reason} onChange={(e) => { set({ ...f, reason: e.currentTarget.value }); setPlan(undefined); }}>{["superseded", "keyCompromise", "cessationOfOperation", "affiliationChanged", "privilegeWithdrawn", "unspecified"].map((r) => <option key={r}>{r}</option>)}</select></label>
        {plan && <div class="plan"><p><b>{count(plan.matched)}{plan.whole ? "" : " or more"}</b> certificates will be revoked, among them</p><ul>{plan.sample.slice(0, 8).map((c) => <li key={c.id}>{c.names[0]}</li>)}</ul></div>}
        <button type="submit" class="danger" disabled={plan?.matched === 0}>{plan ? "Begin" : "Show the plan"}</button>
      </form>
    </Dialog>
  );
}
