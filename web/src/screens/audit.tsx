import { useState } from "preact/hooks";
import { type Change, get, type Page } from "../api";
import { say } from "../events";
import { count, instant } from "../format";
import { List, type Column } from "../list";
import { useLoad } from "../load";
import { attempt, Badge, Command, Dialog, Empty, Fields, Head, save } from "../parts";
import { param, setParam } from "../router";

interface Checkpoint { size: number; note: string; at: string }
interface Verification { whole: boolean; done: boolean; entries: number; total: number; checkpoints: number; problem?: string }
type Entry = Change & { hash?: string };

const columns: Column<Entry>[] = [
  { title: "No.", width: "80px", right: true, cell: (e) => (e.seq ? count(e.seq) : "…"), text: (e) => String(e.seq) },
  { title: "At", width: "190px", cell: (e) => instant(e.at), text: (e) => e.at },
  { title: "Kind", width: "170px", cell: (e) => e.kind },
  { title: "What", width: "minmax(220px, 3fr)", cell: (e) => say(e), text: (e) => `${e.subject} ${JSON.stringify(e.data ?? {})}` },
  { title: "Who", width: "minmax(120px, 1fr)", cell: (e) => e.actor },
];

export function Audit() {
  const subject = param("subject"), last = useLoad<Page<Checkpoint>>("/journal/checkpoints", { limit: 1 });
  const [open, setOpen] = useState<Entry>(), [check, setCheck] = useState<Verification & { running: boolean }>();
  const verify = async () => {
    let v: Verification = { whole: true, done: false, entries: 0, total: 0, checkpoints: 0 }, seen = 0;
    try {
      while (!v.done) {
        v = await get<Verification>("/journal/verify", { after: v.entries });
        seen += v.checkpoints;
        setCheck({ ...v, checkpoints: seen, running: !v.done });
      }
    } catch (e) { setCheck({ ...v, whole: false, problem: (e as Error).message, running: false }); }
  };
  const point = last.data?.items[0];
  return (
    <>
      <Head title="Audit" at={last.at} cli={`chancery audit list${subject ? ` --subject ${subject}` : ""}`} curl={`/journal${subject ? "?subject=" + encodeURIComponent(subject) : ""}`}
        note={point ? `${count(point.size)} entries are under a checkpoint signed ${instant(point.at)}` : "No checkpoint is signed yet."}>
        <button type="button" onClick={verify} disabled={check?.running}>Verify</button>
      </Head>
      {check && <p role="status">{check.whole ? <Badge tone={check.running ? "info" : "good"}>{check.running ? "verifying" : "whole"}</Badge> : <Badge tone="bad">broken</Badge>} {count(check.entries)} of {count(check.total)} entries, {count(check.checkpoints)} checkpoints {check.problem}</p>}
      <form class="search" role="search" onSubmit={(e) => { e.preventDefault(); setParam("subject", new FormData(e.currentTarget).get("subject") as string); }}>
        <label class="hidden" for="subject">Subject</label>
        <input id="subject" name="subject" type="search" key={subject} defaultValue={subject} placeholder="certificate:ID, account:ID, token:ID, session:ID" spellcheck={false} />
        <button type="submit" class="primary">Search</button>
      </form>
      <List<Entry> path="/journal" query={{ subject }} label="entries" columns={columns} id={(e) => e.id} open={setOpen} empty={<Empty title="No entry fits."><Command text="chancery audit list" /></Empty>} />
      {open && <Dialog title={`Entry ${open.seq}`} onClose={() => setOpen(undefined)}>
        <Fields of={[["Kind", open.kind], ["At", instant(open.at)], ["Who", open.actor], ["About", open.subject], ["Hash", open.hash && <code class="break">{open.hash}</code>]]} />
        <pre tabIndex={0}>{JSON.stringify(open.data, null, 1)}</pre>
        {open.seq > 0 && <button type="button" onClick={() => attempt("The proof is saved.", async () => save(`entry-${open.seq}.proof`, "text/plain", (await get<{ proof: string }>(`/journal/${open.seq}/proof`)).proof))}>Save its proof</button>}
      </Dialog>}
    </>
  );
}
