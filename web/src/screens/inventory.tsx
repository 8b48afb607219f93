import { useRef, useState } from "preact/hooks";
import { can, change, Held, limits } from "../api";
import { type Bucket, Scroller } from "../charts";
import { ago, count, day } from "../format";
import { List, type Column } from "../list";
import { useLoad } from "../load";
import { attempt, Command, Dialog, Empty, Head, say, State, Tabs, Trouble } from "../parts";
import { go, href, Link, param, setParam } from "../router";

export interface Known {
  id: string; fingerprint: string; serial: string; status: string; source: string[]; managed: boolean; owner: string; team: string; environment: string;
  issuer: string; key_type: string; common_name: string; names: string[]; name_count: number; not_before: string; not_after: string; successor?: string;
}
interface Facets { facets: { by: string; values: { value: string; count: number }[]; other?: number; exact: boolean }[] }
interface Count { count: number; exact: boolean }
interface View { id: string; name: string; q: string }

const title: Record<string, string> = { status: "Status", issuer: "Issuer", key: "Key", owner: "Owner", team: "Team", env: "Environment", source: "Source", managed: "Managed" };

export const reasons = ["unspecified", "superseded", "cessationOfOperation", "affiliationChanged", "privilegeWithdrawn", "keyCompromise"];

export const title1 = (c: Known) => c.names[0] ?? c.common_name ?? c.serial;

const left = (c: Known) => {
  const days = (new Date(c.not_after).getTime() - Date.now()) / 86_400_000;
  return <span class={c.status === "active" && days < 7 ? "bad-text" : c.status === "active" && days < 30 ? "warn-text" : ""} title={c.not_after}>{day(c.not_after)} <span class="note">{ago(c.not_after)}</span></span>;
};

const columns: Column<Known>[] = [
  { title: "Name", width: "minmax(180px, 2.4fr)", cell: (c) => <><Link to={`/certs/${c.id}`}>{title1(c)}</Link>{c.name_count > 1 && <span class="note"> +{c.name_count - 1}</span>}</>, text: (c) => c.names.join(" ") || c.common_name },
  { title: "Status", width: "110px", cell: (c) => <State value={c.status} />, text: (c) => c.status },
  { title: "Ends", width: "minmax(150px, 1fr)", cell: left, text: (c) => c.not_after },
  { title: "Owner", width: "minmax(80px, .8fr)", cell: (c) => c.owner || <span class="note">none</span>, text: (c) => c.owner },
  { title: "Issuer", width: "minmax(100px, 1.1fr)", cell: (c) => c.issuer, text: (c) => c.issuer },
  { title: "Key", width: "100px", cell: (c) => c.key_type, text: (c) => c.key_type },
];

// quoted writes a value as the query takes it.
const quoted = (v: string) => (/[\s"]/.test(v) ? `"${v.replace(/"/g, "")}"` : v);

// withTerm replaces the terms of a key in a query.
function withTerm(q: string, key: string, value?: string): string {
  const rest = q.replace(new RegExp(`(^|\\s)${key}:("[^"]*"|\\S+)`, "g"), "").trim();
  return (value === undefined ? rest : `${rest} ${key}:${quoted(value)}`).trim();
}

// The timeline of the list, which is in the order of ends: half a year, and what
// the list asks for when it begins at a day of it.
const weeks = 26, end = "2999-12-31";

// daily are the keys whose certificates are counted by day together, beside status.
const daily = [["issuer", "key"], ["team", "env"], ["owner"], ["source", "managed"]];

// timed reports whether the server can count what fits a query by day.
function timed(q: string): boolean {
  const keys = (q.match(/(?:[^\s"]|"[^"]*")+/g) ?? []).map((t) => t.split(":")[0]).filter((k) => k !== "status");
  return daily.some((of) => keys.every((k) => of.includes(k)));
}

// EstateTabs are the parts of the inventory.
export const EstateTabs = ({ current }: { current: string }) => <Tabs label="Inventory" current={current} of={[{ name: "certs", title: "Certificates", to: "/certs" }, { name: "keys", title: "Keys", to: "/keys" }, { name: "policies", title: "Policies", to: "/policies" }].filter((t) => t.name !== "policies" || can("list-policies"))} />;

export function Inventory() {
  const q = param("q"), from = param("from"), [draft, setDraft] = useState(q), [last, setLast] = useState(q);
  const [selected, select] = useState(new Set<string>()), [editing, setEditing] = useState(false), [acting, act] = useState<Known[]>(), [revoking, revoke] = useState(false), rows = useRef<Known[]>([]);
  if (last !== q) { setLast(q); setDraft(q); select(new Set()); }
  const facets = useLoad<Facets>("/inventory/facets", { q }), total = useLoad<Count>("/inventory/count", { q }), views = useLoad<{ items: View[] }>("/inventory/views");
  const [at, setAt] = useState<string>(), byDay = timed(limits() ? q + " owner:" : q), line = useLoad<{ buckets: Bucket[] }>(byDay && can("list-timeline") ? "/inventory/timeline" : null, { q, days: weeks * 7, by: "status" });
  const search = (text: string) => go(href("/certs", { q: text.trim() }), true), asked = byDay && from ? `${q} expires:${from}..${end}`.trim() : q;
  const many = (revoke_: boolean) => { revoke(revoke_); act(rows.current.filter((c) => selected.has(c.id))); };
  const view = views.data?.items.find((v) => v.q === q);
  const chosen = selected.size ? [...selected].map((id) => `id:${id}`) : [q];
  return (
    <>
      <Head title="Inventory" at={facets.at} cli={`chancery certs list${q ? ` '${q}'` : ""}`} curl={`/certs${q ? "?q=" + encodeURIComponent(q) : ""}`} />
      <EstateTabs current="certs" />
      <form class="search" role="search" onSubmit={(e) => { e.preventDefault(); search(draft); }}>
        <label class="hidden" for="q">Search</label>
        <input id="q" type="search" value={draft} onInput={(e) => setDraft(e.currentTarget.value)} placeholder="owner:pay expires:<14d key:rsa-2048 name:*.pay.example.com" autocomplete="off" spellcheck={false} />
        <button type="submit" class="primary">Search</button>
        {q && <button type="button" onClick={() => search("")}>Clear</button>}
        {q && can("create-view") && <button type="button" onClick={() => { const name = prompt("Name of the view"); if (name) void attempt(`The view ${name} is saved.`, async () => { await change("POST", "/inventory/views", { name, q }); views.reload(); }); }}>Save view</button>}
      </form>
      {!!views.data?.items.length && <p class="chips">{views.data.items.map((v) => <Link key={v.id} class="chip" to="/certs" query={{ q: v.q }} current={v.q === q}>{v.name}</Link>)}
        {view && can("delete-view") && <button type="button" class="quiet" onClick={() => attempt(`The view ${view.name} is forgotten.`, async () => { await change("DELETE", `/inventory/views/${view.id}`); views.reload(); })}>Forget {view.name}</button>}</p>}
      <Trouble error={facets.error} />
      <div class="with-aside">
        <aside aria-label="Facets">
          {facets.data?.facets.filter((f) => f.values.length).map((f) => (
            <details key={f.by} open={["status", "owner", "key", "issuer"].includes(f.by)}>
              <summary>{title[f.by] ?? f.by}</summary>
              <ul>{f.values.slice(0, 8).map((v) => {
                const on = new RegExp(`(^|\\s)${f.by}:${quoted(v.value).replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(\\s|$)`).test(q);
                return <li key={v.value}><Link to="/certs" query={{ q: withTerm(q, f.by, on ? undefined : v.value) }} class={on ? "on" : ""}><span>{v.value}</span><span>{count(v.count)}{f.exact ? "" : "+"}</span></Link></li>;
              })}</ul>
            </details>
          ))}
        </aside>
        <div>
          {can("edit-inventory") && (selected.size > 0 || q) && (
            <div class="actions">
              <span>{selected.size ? `${count(selected.size)} selected` : `All ${total.data ? count(total.data.count) + (total.data.exact ? "" : "+") : "…"} that fit`}</span>
              <button type="button" onClick={() => setEditing(true)}>Assign…</button>
              {selected.size > 0 && can("renew-managed") && <button type="button" onClick={() => many(false)}>Renew…</button>}
              {selected.size > 0 && can("revoke-certificate") && <button type="button" class="danger" onClick={() => many(true)}>Revoke…</button>}
              {selected.size > 0 && <button type="button" class="quiet" onClick={() => select(new Set())}>Select none</button>}
            </div>
          )}
          {byDay && !!line.data?.buckets.length && <Scroller buckets={line.data.buckets} weeks={weeks} at={at ?? from} onMove={(d) => { setAt(undefined); setParam("from", d); }} />}
          <List<Known> path="/certs" query={{ q: asked }} onTop={(c) => setAt(c.not_after.slice(0, 10))} label="certificates" columns={columns} id={(c) => c.id} open={(c) => go(href(`/certs/${c.id}`))}
            onPage={(all) => { rows.current = all; }} selected={selected} select={can("edit-inventory") ? select : undefined} total={total.data?.exact && asked === q ? total.data.count : undefined}
            empty={<Empty title={asked ? "No certificate fits." : "No certificate is known yet."}>{asked ? <p><Link to="/certs">Show all</Link></p> : <Command text="chancery scan --store www.example.com" />}</Empty>} />
        </div>
      </div>
      {acting && <Many rows={acting} revoke={revoking} onClose={() => act(undefined)} />}
      {editing && <Assign queries={chosen} onClose={() => setEditing(false)} />}
    </>
  );
}

interface Plan { matched: number; exact: boolean; sample: Known[] }
interface Edited { matched: number; changed: number; done: boolean }

// Assign plans a bulk edit, shows the plan, and then does exactly that.
function Assign({ queries, onClose }: { queries: string[]; onClose: () => void }) {
  const [edit, setEdit] = useState<Record<string, string>>({}), [plan, setPlan] = useState<Plan>(), [done, setDone] = useState<Edited>();
  const [key] = useState(() => crypto.randomUUID());
  const { tags = "", untag = "", ...text } = edit, list = (s: string) => s.split(/[\s,]+/).filter(Boolean);
  const body: Record<string, unknown> = Object.fromEntries(Object.entries(text).filter(([, v]) => v !== ""));
  if (list(tags).length) body.tags = Object.fromEntries(list(tags).map((t) => { const [k, ...v] = t.split("="); return [k, v.join("=")]; }));
  if (list(untag).length) body.untag = list(untag);
  const field = (name: string, label: string, hint = "") => <label>{label}<input value={edit[name] ?? ""} placeholder={hint} maxLength={255} onInput={(e) => { setEdit({ ...edit, [name]: e.currentTarget.value }); setPlan(undefined); }} /></label>;
  const ask = async () => {
    const all: Plan = { matched: 0, exact: true, sample: [] };
    for (const q of queries) {
      const one = await change<Plan>("POST", "/inventory/plan", { q, edit: body });
      all.matched += one.matched;
      all.exact &&= one.exact;
      all.sample.push(...one.sample);
    }
    setPlan(all);
  };
  const run = () => attempt("The certificates were assigned.", async () => {
    let before = 0;
    for (const [n, q] of queries.entries()) {
      let r: Edited;
      do {
        r = await change<Edited>("POST", "/inventory/edits", { key: `${key}-${n}`, q, edit: body, confirm: true });
        setDone({ ...r, changed: before + r.changed });
      } while (!r.done);
      before += r.changed;
    }
    onClose();
  });
  return (
    <Dialog title="Assign" onClose={onClose}>
      <form class="form" onSubmit={(e) => { e.preventDefault(); void (plan ? run() : attempt("This is the plan; nothing has changed yet.", ask)); }}>
        {field("owner", "Owner")}{field("team", "Team")}{field("environment", "Environment")}{field("tags", "Set tags", "app=shop tier=1")}{field("untag", "Drop tags", "app tier")}
        {plan && <div class="plan"><p><b>{count(plan.matched)}{plan.exact ? "" : " or more"}</b> certificates will change, among them</p><ul>{plan.sample.slice(0, 8).map((c) => <li key={c.id}>{title1(c)}</li>)}</ul></div>}
        {done && <p role="status">{count(done.changed)} changed so far…</p>}
        <button type="submit" class="primary" disabled={!Object.keys(body).length || !!done}>{plan ? "Do it" : "Show the plan"}</button>
      </form>
    </Dialog>
  );
}

const most = 500; // at once from here; more are revoked by an incident, renewed by a query

// Many renews or revokes what is selected, one by one: what was done stays done
// when one fails.
function Many({ rows, revoke, onClose }: { rows: Known[]; revoke: boolean; onClose: () => void }) {
  const fit = rows.filter((c) => (revoke ? c.source.includes("ca") && c.status !== "revoked" && c.status !== "expired" : c.managed)), rest = rows.length - fit.length;
  const [reason, setReason] = useState("superseded"), [done, setDone] = useState(-1), [failed, fail] = useState<string[]>([]), [key] = useState(() => crypto.randomUUID());
  const run = async (e: Event) => {
    e.preventDefault();
    const bad: string[] = [];
    let ok = 0, held = 0;
    for (const [n, c] of fit.entries()) {
      setDone(n);
      try {
        await (revoke ? change("POST", `/certs/${c.id}/revoke`, { reason }, `${key}-${n}`) : change("POST", `/managed/${c.id}/renew`));
        ok++;
      } catch (e) {
        if (e instanceof Held) held++;
        else bad.push(`${title1(c)}: ${(e as Error).message}`);
      }
    }
    setDone(fit.length);
    fail(bad);
    if (ok) say(`${count(ok)} ${revoke ? "revoked" : "renewed now"}.`);
    if (held) say(`${count(held)} wait for a second person.`, "info", "/approvals");
    if (!bad.length) onClose();
  };
  const what = `${count(fit.length)} certificate${fit.length === 1 ? "" : "s"}`;
  return (
    <Dialog title={revoke ? "Revoke" : "Renew now"} onClose={onClose}>
      <form class="form" onSubmit={run}>
        <div class="plan"><p><b>{what}</b> will be {revoke ? "revoked, for ever" : "renewed now"}{fit.length ? ", among them" : "."}</p><ul>{fit.slice(0, 8).map((c) => <li key={c.id}>{title1(c)} <span class="note">{c.issuer}, ends {day(c.not_after)}</span></li>)}</ul>
          {rest > 0 && <p class="note">{count(rest)} other{rest === 1 ? " is" : "s are"} left alone: {revoke ? "not issued here, or ended." : "not managed here."}</p>}</div>
        {fit.length > most && <p class="bad-text">At most {count(most)} at once. {revoke ? "Make an incident of more." : "chancery renew now takes a query."}</p>}
        {revoke && <label>Reason<select value={reason} onChange={(e) => setReason(e.currentTarget.value)}>{reasons.map((r) => <option key={r}>{r}</option>)}</select></label>}
        {done >= 0 && done < fit.length && <><p role="status">{count(done)} of {count(fit.length)}…</p><progress aria-label="Done" max={fit.length} value={done} /></>}
        {failed.length > 0 && <div class="trouble" role="alert">{failed.slice(0, 8).map((f) => <p key={f}>{f}</p>)}{failed.length > 8 && <p>and {count(failed.length - 8)} more</p>}</div>}
        <button type="submit" class={revoke ? "danger" : "primary"} disabled={!fit.length || fit.length > most || done >= 0}>{revoke ? `Revoke ${what}` : `Renew ${what}`}</button>
      </form>
    </Dialog>
  );
}
