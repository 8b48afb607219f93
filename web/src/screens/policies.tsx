import { useEffect, useState } from "preact/hooks";
import { can, change, get, type Page } from "../api";
import { ago, count, day, instant } from "../format";
import { useLoad } from "../load";
import { attempt, Badge, Command, Confirm, Dialog, Empty, Head, Loading, State, Table, Trouble } from "../parts";
import { Link } from "../router";
import { Severity } from "./alerts";
import { EstateTabs, type Known, title1 } from "./inventory";

interface Policy { name: string; q: string; severity: string; mode: string; note?: string; updated_by: string; updated_at: string }
interface Count { count: number; exact: boolean }
interface Facet { values: { value: string; count: number }[]; exact: boolean }
interface Report { q: string; violations: Count; active: Count; by_owner: Facet; by_issuer: Facet; sample: Known[] }

const number = (c: Count) => count(c.count) + (c.exact ? "" : "+");

export function Policies() {
  const { data, error, at, reload } = useLoad<Page<Policy>>("/policies", { limit: 200 }), [editing, edit] = useState<Policy>(), [deleting, drop] = useState<Policy>();
  const fresh: Policy = { name: "", q: "", severity: "warning", mode: "shadow", updated_by: "", updated_at: "" };
  return (
    <>
      <Head title="Inventory" at={at} cli="chancery certs policy list" curl="/policies" note="Policies say what certificates must not be; each is tried on the whole inventory before it is enforced">
        {can("put-policy") && <button type="button" class="primary" onClick={() => edit(fresh)}>New policy…</button>}
      </Head>
      <EstateTabs current="policies" />
      <Trouble error={error} retry={reload} />
      {!data && !error && <Loading />}
      {data?.items.length === 0 && <Empty title="There is no policy yet."><Command text="chancery certs policy set no-weak-keys key:weak --severity critical --dry-run" /></Empty>}
      {!!data?.items.length && <Table label="Policies" head={["Policy", "Violations", "Severity", "Mode", "What violates it", "Changed", ""]}>
        {data.items.map((p) => <tr key={p.name}><td>{p.name}{p.note && <p class="note">{p.note}</p>}</td><td><Violations q={p.q} at={at} /></td><td><Severity value={p.severity} /></td><td><State value={p.mode} /></td><td><code class="break">{p.q}</code></td><td title={`${instant(p.updated_at)} by ${p.updated_by}`}>{ago(p.updated_at)}</td>
          <td><button type="button" onClick={() => edit(p)}>{can("put-policy") ? "Edit" : "Try"}…</button> {can("delete-policy") && <button type="button" onClick={() => drop(p)}>Delete…</button>}</td></tr>)}
      </Table>}
      {editing && <Editor policy={editing} onClose={() => { edit(undefined); reload(); }} />}
      {deleting && <Confirm title={`Delete ${deleting.name}`} action="Delete" danger done="The policy is gone." onClose={() => drop(undefined)} run={async () => { await change("DELETE", `/policies/${deleting.name}`); reload(); }}><p>{deleting.mode === "enforce" ? "Our authorities issue again what it refused." : "It reports nothing any more."}</p></Confirm>}
    </>
  );
}

// Violations counts what a policy finds now.
function Violations({ q, at }: { q: string; at: number }) {
  const [r, set] = useState<Report>(), [error, fail] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    get<Report>("/inventory/violations", { q }, abort.signal).then(set, (e) => { if (e.name !== "AbortError") fail(e.message); });
    return () => abort.abort();
  }, [q, at]);
  if (error) return <Badge tone="bad">{error}</Badge>;
  if (!r) return <>…</>;
  return r.violations.count ? <Link to="/certs" query={{ q: r.q }}><b>{number(r.violations)}</b></Link> : <Badge tone="good">none</Badge>;
}

// Editor tries a policy on the whole inventory before it is stored.
function Editor({ policy, onClose }: { policy: Policy; onClose: () => void }) {
  const [f, set] = useState({ name: policy.name, q: policy.q, severity: policy.severity, mode: policy.mode, note: policy.note ?? "" }), [r, setReport] = useState<Report>();
  const put = (name: keyof typeof f, v: string) => { set({ ...f, [name]: v }); if (name === "q") setReport(undefined); };
  const field = (name: "name" | "q" | "note", label: string, hint: string, required = true) => <label>{label}<input required={required} value={f[name]} placeholder={hint} spellcheck={false} onInput={(e) => put(name, e.currentTarget.value)} /></label>;
  const select = (name: "severity" | "mode", label: string, of: string[]) => <label>{label}<select value={f[name]} onChange={(e) => put(name, e.currentTarget.value)}>{of.map((v) => <option key={v}>{v}</option>)}</select></label>;
  const submit = async (e: Event) => {
    e.preventDefault();
    if (!r || !can("put-policy")) { await attempt("This is what it finds; nothing is stored.", async () => setReport(await get<Report>("/inventory/violations", { q: f.q }))); return; }
    if (await attempt("The policy is stored.", () => change("PUT", `/policies/${encodeURIComponent(f.name)}`, { q: f.q, severity: f.severity, mode: f.mode, note: f.note || undefined }))) onClose();
  };
  return (
    <Dialog title={policy.name ? `Policy ${policy.name}` : "New policy"} onClose={onClose}>
      <form class="form" onSubmit={submit}>
        {!policy.name && field("name", "Name", "no-weak-keys")}
        {field("q", "What violates it, as a query of the inventory", "key:weak env:prod")}{select("severity", "Severity", ["info", "warning", "critical"])}{select("mode", "Mode", ["shadow", "enforce"])}
        <p class="note">{f.mode === "enforce" ? "Our own authorities refuse what would violate it." : "It only reports."}</p>
        {field("note", "For those who are refused", "ask for P-256", false)}
        {r && <div class="plan" role="status"><p><b>{number(r.violations)}</b> of {number(r.active)} active certificates violate it{r.violations.count ? ":" : "."}</p>
          {r.by_owner.values.length > 0 && <p class="note">{r.by_owner.values.slice(0, 5).map((v) => `${v.value} ${count(v.count)}`).join(", ")}</p>}
          <ul>{r.sample.slice(0, 6).map((c) => <li key={c.id} class="break">{title1(c)} <span class="note">{c.key_type}, ends {day(c.not_after)}</span></li>)}</ul></div>}
        <button type="submit" class="primary">{r && can("put-policy") ? "Store it" : "Try it on the whole inventory"}</button>
      </form>
    </Dialog>
  );
}
