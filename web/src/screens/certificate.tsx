import { useState } from "preact/hooks";
import { can, change, type Change } from "../api";
import { say } from "../events";
import { ago, instant, short } from "../format";
import { useLoad } from "../load";
import { attempt, Badge, Copy, Dialog, Fields, Head, Loading, save, Section, State, Trouble } from "../parts";
import { Link } from "../router";
import { type Known, reasons, title1 } from "./inventory";

interface Evidence { name: string; method: string; reference: string; validated_at: string; caa_at?: string }
interface Endpoint { host: string; port: number; sni?: string; address?: string; drift: boolean; problems: string[]; failure?: string; last_seen_at?: string; last_ok_at?: string; probe?: string }
interface Issuance { id: string; status: string; ca: string; profile: string; order?: string; account?: string; revoked_at?: string; revoked_reason?: string; revoked_by?: string; evidence: Evidence[]; events: Change[] }
interface Detail extends Known { all_names: string[]; tags: string[]; predecessors: string[]; endpoints: Endpoint[]; subject?: string; ari?: string; chain?: string; issuance?: Issuance; first_seen_at: string; last_seen_at: string; revoked_at?: string; signature: string }

export function Certificate({ id }: { id: string }) {
  const { data: c, error, at, reload } = useLoad<Detail>(`/certs/${encodeURIComponent(id)}`), [revoking, setRevoking] = useState(false);
  if (error && !c) return <Trouble error={error} retry={reload} />;
  if (!c) return <Loading />;
  const i = c.issuance;
  return (
    <>
      <Head title={title1(c)} at={at} cli={`chancery certs show ${c.id}`} curl={`/certs/${c.id}`} note={<><State value={c.status} /> ends {instant(c.not_after)} ({ago(c.not_after)})</>}>
        {c.chain && <button type="button" onClick={() => save(`${c.serial}.pem`, "application/x-pem-file", c.chain!)}>Download</button>}
        {i && i.status === "issued" && can("revoke-certificate") && <button type="button" class="danger" onClick={() => setRevoking(true)}>Revoke…</button>}
      </Head>
      <div class="columns">
        <Section title="Certificate">
          <Fields of={[["Subject", c.subject], ["Issuer", c.issuer], ["Serial", <><code>{c.serial}</code> <Copy text={c.serial} label="Copy the serial number" /></>], ["SHA-256", <code class="break">{c.fingerprint}</code>], ["Key", c.key_type], ["Signature", c.signature],
            ["From", instant(c.not_before)], ["Until", instant(c.not_after)], ["Renewal information id", c.ari && <code class="break">{c.ari}</code>], ["Revoked", i?.revoked_at ? `${instant(i.revoked_at)}: ${i.revoked_reason ?? "unspecified"}` : instant(c.revoked_at)]]} />
        </Section>
        <Section title="Belongs to">
          <Fields of={[["Owner", c.owner || "nobody yet"], ["Team", c.team], ["Environment", c.environment], ["Tags", c.tags.length ? c.tags.map((t) => <Badge key={t}>{t}</Badge>) : ""], ["Managed", c.managed ? "renewed here" : "no"], ["Known from", c.source.join(", ")],
            ["First seen", instant(c.first_seen_at)], ["Last seen", instant(c.last_seen_at)], ["Successor", c.successor && <Link to={`/certs/${c.successor}`}>{short(c.successor)}</Link>],
            ["Predecessors", c.predecessors.length ? c.predecessors.map((p) => <><Link key={p} to={`/certs/${p}`}>{short(p)}</Link> </>) : ""]]} />
        </Section>
      </div>
      <Section title={`Names (${c.all_names.length})`} wide><p class="names">{c.all_names.slice(0, 500).map((n) => <code key={n}>{n}</code>)}</p></Section>
      <Section title="Where it is served" wide>
        {c.endpoints.length === 0 ? <p class="note">No endpoint was seen to serve it.</p> : (
          <div class="scroll" tabIndex={0} role="region" aria-label="Endpoints"><table><thead><tr><th>Endpoint</th><th>Address</th><th>Last good</th><th>Problems</th></tr></thead>
            <tbody>{c.endpoints.map((e) => <tr key={`${e.host}:${e.port}/${e.sni}/${e.address}`}><td>{e.host}:{e.port}</td><td>{e.address}</td><td>{instant(e.last_ok_at)}</td><td>{e.drift && <Badge tone="warn">another is desired</Badge>}{e.failure && <Badge tone="bad">{e.failure}</Badge>}{e.problems.map((p) => <Badge key={p} tone="warn">{p}</Badge>)}</td></tr>)}</tbody></table></div>
        )}
      </Section>
      {i && <div class="columns">
        <Section title="Why it was issued">
          <Fields of={[["Authority", i.ca], ["Profile", i.profile], ["Order", i.order && <code>{i.order}</code>], ["Account", i.account && <code>{i.account}</code>]]} />
          <div class="scroll" tabIndex={0} role="region" aria-label="Evidence"><table><thead><tr><th>Name</th><th>Method</th><th>Validated</th><th>CAA checked</th></tr></thead><tbody>{i.evidence.map((e) => <tr key={e.name}><td>{e.name}</td><td>{e.method}</td><td>{instant(e.validated_at)}</td><td>{instant(e.caa_at)}</td></tr>)}</tbody></table></div>
        </Section>
        <Section title="What happened to it"><ol class="events">{i.events.map((e) => <li key={e.id}><time dateTime={e.at}>{instant(e.at)}</time> {say(e)}</li>)}</ol></Section>
      </div>}
      {revoking && i && <Revoke id={i.id} name={title1(c)} onClose={() => { setRevoking(false); reload(); }} />}
    </>
  );
}

function Revoke({ id, name, onClose }: { id: string; name: string; onClose: () => void }) {
  const [reason, setReason] = useState("unspecified"), [block, setBlock] = useState(false), [key] = useState(() => crypto.randomUUID());
  return (
    <Dialog title={`Revoke ${name}`} onClose={onClose}>
      <form class="form" onSubmit={async (e) => { e.preventDefault(); if (await attempt(`${name} is revoked.`, () => change("POST", `/certs/${id}/revoke`, { reason, block_key: block }, key))) onClose(); }}>
        <p>Whoever checks will refuse it within seconds. This cannot be undone.</p>
        <label>Reason<select value={reason} onChange={(e) => setReason(e.currentTarget.value)}>{reasons.map((r) => <option key={r}>{r}</option>)}</select></label>
        {reason === "keyCompromise" && <label class="check"><input type="checkbox" checked={block} onChange={(e) => setBlock(e.currentTarget.checked)} /> Refuse its key for ever</label>}
        <button type="submit" class="danger">Revoke</button>
      </form>
    </Dialog>
  );
}
