import { useState } from "preact/hooks";
import { can, change, type Page } from "../api";
import { ago, count, instant } from "../format";
import { List, type Column } from "../list";
import { useLoad } from "../load";
import { attempt, Badge, Command, Dialog, Empty, Fields, Loading, State, Table, Trouble, words } from "../parts";
import { Link, param, setParam } from "../router";

interface Finding { id: string; state: string; matched: string; names: string[]; issuer: string; serial: string; precertificate: boolean; certificate?: string; log: string; index: number; logged_at: string; not_before?: string; not_after?: string; found_at: string; alerted_at?: string; decided_by?: string; decided_at?: string; comment?: string }
interface Log { name: string; url: string; kind: string; state: string; error?: string; size: number; head_size: number; lag: number; matches: number; unreadable: number; entry_at?: string; checked_at?: string; proof?: string }

const columns: Column<Finding>[] = [
  { title: "State", width: "120px", cell: (f) => <State value={f.state} />, text: (f) => f.state },
  { title: "Our name", width: "minmax(140px, 1.4fr)", cell: (f) => f.matched },
  { title: "Names", width: "minmax(140px, 1.4fr)", cell: (f) => <span title={f.names.join("\n")}>{words(f.names, 2)}</span>, text: (f) => f.names.join(" ") },
  { title: "Issuer", width: "minmax(140px, 1.4fr)", cell: (f) => <span title={f.issuer}>{f.issuer}</span>, text: (f) => f.issuer },
  { title: "Logged", width: "100px", cell: (f) => <span title={instant(f.logged_at)}>{ago(f.logged_at)}</span>, text: (f) => f.logged_at },
  { title: "Ends", width: "100px", cell: (f) => ago(f.not_after), text: (f) => f.not_after ?? "" },
  { title: "Log", width: "100px", cell: (f) => f.log },
];

// Findings are certificates for our names that our issuance does not know.
export function Findings() {
  const state = param("state") || "open", [shown, show] = useState<Finding>(), [turn, next] = useState(0);
  return (
    <>
      <p class="chips" role="group" aria-label="State">{[["open", "open"], ["acknowledged", "dismissed"], ["ours", "ours"]].map(([s, word]) => <button type="button" key={s} class={s === state ? "primary" : ""} aria-pressed={s === state} onClick={() => setParam("state", s === "open" ? "" : s)}>{word}</button>)}</p>
      <List<Finding> key={turn} path="/ct/findings" query={{ state }} label="findings" columns={columns} id={(f) => f.id} open={show}
        empty={<Empty title={state === "open" ? "No unknown certificate for our names." : "None."}>{state === "open" && <p>Logs are followed when the configuration says so: docs/find.md.</p>}</Empty>} />
      {shown && <One finding={shown} onClose={() => show(undefined)} done={() => { show(undefined); next(turn + 1); }} />}
    </>
  );
}

// One finding, and what to do about it.
function One({ finding: f, onClose, done }: { finding: Finding; onClose: () => void; done: () => void }) {
  const [comment, setComment] = useState(""), [to, setTo] = useState({ owner: "", team: "", environment: "" });
  const decide = async (e: Event, what: string, verb: string, body: unknown) => { e.preventDefault(); if (await attempt(what, () => change("POST", `/ct/findings/${f.id}/${verb}`, body))) done(); };
  const holder = (name: keyof typeof to, label: string) => <label>{label}<input required={name === "owner"} maxLength={255} value={to[name]} onInput={(e) => setTo({ ...to, [name]: e.currentTarget.value })} /></label>;
  return (
    <Dialog title={f.matched} onClose={onClose}>
      <Fields of={[["State", <State value={f.state} />], ["Names", f.names.join(", ")], ["Issuer", f.issuer], ["Serial", <code class="break">{f.serial}</code>], ["Valid", f.not_before && `${instant(f.not_before)} to ${instant(f.not_after)}`], ["Logged", `${instant(f.logged_at)}, entry ${count(f.index)} of ${f.log}`], ["What was logged", f.precertificate ? "the precertificate" : "the certificate"], ["Alerts", f.alerted_at ? `told ${ago(f.alerted_at)}` : "within its grace"],
        ["Decided", f.decided_by && `${f.decided_by}, ${ago(f.decided_at)}`], ["Comment", f.comment], ["In the inventory", f.certificate && <Link to={`/certs/${f.certificate}`}>show</Link>]]} />
      {f.state === "open" && <p class="note">Nobody here asked for it? Ask its CA to revoke it.</p>}
      {f.state !== "ours" && can("adopt-ct-finding") && <form class="form" onSubmit={(e) => decide(e, "It is ours: it is in the inventory with its owner.", "adopt", { ...Object.fromEntries(Object.entries(to).filter(([, v]) => v)), comment: comment || undefined })}>
        <fieldset><legend>It is ours</legend>{holder("owner", "Owner")}{holder("team", "Team")}{holder("environment", "Environment")}<button type="submit" class="primary">Adopt</button></fieldset>
      </form>}
      {f.state === "open" && can("acknowledge-ct-finding") && <form class="form" onSubmit={(e) => decide(e, "It is dismissed; no alert is made of it any more.", "acknowledge", { comment })}>
        <fieldset><legend>It is not, and that is all right</legend><label>Why it is all right<input required value={comment} maxLength={1000} onInput={(e) => setComment(e.currentTarget.value)} /></label><button type="submit">Dismiss</button></fieldset>
      </form>}
    </Dialog>
  );
}

// Logs are the transparency logs that are followed.
export function Logs() {
  const { data, error, reload } = useLoad<Page<Log>>("/ct/logs", { limit: 1000 });
  if (error) return <Trouble error={error} retry={reload} />;
  if (!data) return <Loading />;
  if (!data.items.length) return <Empty title="No log is followed."><p>Add <code>[ct_log.NAME]</code> with <code>watch = true</code> to the configuration; docs/find.md has examples.</p><Command text="chancery ct logs list" /></Empty>;
  return (
    <Table label="Logs" head={["Log", "State", "Looked at", "Behind", "For our names", "Newest entry", ""]}>
      {data.items.map((l) => <tr key={l.name}><td>{l.name} <Badge>{l.kind}</Badge><br /><code class="break">{l.url}</code></td><td><State value={l.state} />{l.error && <p class="bad-text break">{l.error}</p>}</td><td>{count(l.size)} of {count(l.head_size)}</td><td>{count(l.lag)}</td><td>{count(l.matches)}{!!l.unreadable && <span class="note">, {count(l.unreadable)} unreadable</span>}</td><td title={instant(l.entry_at)}>{ago(l.entry_at)}</td>
        <td>{can("reset-ct-log") && (l.state === "forked" || l.state === "failing") && <button type="button" onClick={() => attempt("It is followed anew.", async () => { await change("POST", `/ct/logs/${l.name}/reset`); reload(); })}>Follow anew</button>}</td></tr>)}
    </Table>
  );
}
