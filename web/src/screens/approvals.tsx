import { can, change, limits, type Page, session } from "../api";
import { ago, instant } from "../format";
import { useLoad } from "../load";
import { attempt, Command, Empty, Fields, Head, Loading, Section, State, Tabs, Trouble } from "../parts";
import { param } from "../router";

interface Approval { id: string; state: string; operation: string; path: string; query?: string; request?: unknown; actor: string; actor_name: string; created_at: string; expires_at?: string; decided_by?: string; decided_at?: string; comment?: string; status?: number; reply?: any }

const states = ["waiting", "done", "rejected", "withdrawn", "expired"];

export function Approvals() {
  const state = param("state") || "waiting", { data, error, at, reload } = useLoad<Page<Approval>>("/approvals", { state, limit: 100 });
  const decide = (a: Approval, approve: boolean) => {
    const comment = prompt(approve ? "Approve: a comment that is kept with the decision" : "Reject: why?");
    if (comment !== null) void attempt(approve ? "It was approved and ran." : "It was rejected.", async () => { await change("POST", `/approvals/${a.id}/decision`, { approve, comment }); reload(); });
  };
  return (
    <>
      <Head title="Approvals" at={at} cli={`chancery approvals list --state ${state}`} curl={`/approvals?state=${state}`} note={limits() ? "What you asked for that needs a second person" : "Operations that need a second person"} />
      <Tabs label="State" current={state} of={states.map((s) => ({ name: s, title: s, to: "/approvals", query: s === "waiting" ? undefined : { state: s } }))} />
      <Trouble error={error} retry={reload} />
      {!data && !error && <Loading />}
      {data?.items.length === 0 && <Empty title={state === "waiting" ? "Nothing waits." : "None."}>{state === "waiting" && <><p>Name operations that need two people in the configuration:</p><Command text={'[approval] operations = ["create-root", "revoke-certificates"]'} /></>}</Empty>}
      <div class="cards">{data?.items.map((a) => (
        <Section key={a.id} title={a.operation}>
          <Fields of={[["State", <State value={a.state} />], ["Asked by", a.actor_name || a.actor], ["Asked", `${instant(a.created_at)} (${ago(a.created_at)})`], ["Ends", a.expires_at && ago(a.expires_at)], ["Request", <code class="break">{a.path} {JSON.stringify(a.request)}</code>], ["Decided by", a.decided_by], ["Decided", instant(a.decided_at)], ["Comment", a.comment], ["Outcome", a.status ? `${a.status}${a.reply?.detail ? ": " + a.reply.detail : ""}` : ""]]} />
          {a.state === "waiting" && <div class="actions">
            {a.actor === session.value?.actor ? <button type="button" onClick={() => attempt("It was withdrawn.", async () => { await change("DELETE", `/approvals/${a.id}`); reload(); })}>Withdraw</button>
              : can("decide-approval") && <><button type="button" class="primary" onClick={() => decide(a, true)}>Approve…</button><button type="button" onClick={() => decide(a, false)}>Reject…</button></>}
          </div>}
        </Section>
      ))}</div>
    </>
  );
}
