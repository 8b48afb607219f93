import type { Page } from "../api";
import { ago, instant } from "../format";
import { useLoad } from "../load";
import { Badge, Command, Copy, Empty, Fields, Head, Loading, save, Section, State, Trouble } from "../parts";
import { Link } from "../router";

interface AuthorityView { id: string; ca: string; name: string; role: string; state: string; parent?: string; key_type: string; key_here: boolean; shards: number; created_at: string; subject?: string; not_before?: string; not_after?: string; fingerprint?: string; certificate?: string; csr?: string; chains?: string[] }

const postQuantum = (a: AuthorityView) => a.key_type.startsWith("ml-dsa");

export function Authorities() {
  const { data, error, at, reload } = useLoad<Page<AuthorityView>>("/authorities", { limit: 1000 });
  if (error) return <Trouble error={error} retry={reload} />;
  if (!data) return <Loading />;
  const of = (parent?: string) => data.items.filter((a) => (parent ? a.parent === parent : !a.parent || !data.items.some((p) => p.id === a.parent)));
  const tree = (parent?: string, depth = 0): any[] => (depth > 6 ? [] : of(parent).filter((a) => a.role !== "ocsp").flatMap((a) => [{ a, depth }, ...tree(a.id, depth + 1)]));
  const rows = tree() as { a: AuthorityView; depth: number }[], active = rows.filter(({ a }) => a.state === "active");
  return (
    <>
      <Head title="Authorities" at={at} cli="chancery ca list" curl="/authorities" note={`${active.filter(({ a }) => postQuantum(a)).length} of ${active.length} active ones have a post-quantum key`} />
      {rows.length === 0 ? <Empty title="There is no authority yet."><Command text="chancery ca init" /></Empty> : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Authorities"><table><thead><tr><th>Authority</th><th>Role</th><th>State</th><th>Key</th><th>Ends</th><th>CRLs</th></tr></thead><tbody>
          {rows.map(({ a, depth }) => <tr key={a.id}><td style={{ paddingLeft: `${depth * 22 + 10}px` }}>{depth > 0 && <span aria-hidden="true">└ </span>}<Link to={`/authorities/${a.id}`}>{a.name}</Link> <span class="note">{a.ca}</span></td><td>{a.role}</td><td><State value={a.state} /></td><td>{a.key_type}{postQuantum(a) && <Badge tone="good">post-quantum</Badge>}{!a.key_here && <Badge>key elsewhere</Badge>}</td><td title={instant(a.not_after)}>{ago(a.not_after)}</td><td>{a.role === "issuing" ? a.shards : ""}</td></tr>)}
        </tbody></table></div>
      )}
    </>
  );
}

export function Authority({ id }: { id: string }) {
  const { data: a, error, at, reload } = useLoad<AuthorityView>(`/authorities/${encodeURIComponent(id)}`);
  if (error) return <Trouble error={error} retry={reload} />;
  if (!a) return <Loading />;
  return (
    <>
      <Head title={a.name} at={at} cli={`chancery ca show ${a.name}`} curl={`/authorities/${a.id}`} note={<State value={a.state} />}>
        {a.certificate && <button type="button" onClick={() => save(`${a.name}.pem`, "application/x-pem-file", a.certificate!)}>Download</button>}
      </Head>
      <Section title="Authority" wide>
        <Fields of={[["Subject", a.subject], ["Authority of", a.ca], ["Role", a.role], ["Key", a.key_type], ["Its key is", a.key_here ? "in this installation's key store" : "elsewhere"], ["Signed by", a.parent && <Link to={`/authorities/${a.parent}`}>{a.parent}</Link>], ["From", instant(a.not_before)], ["Until", instant(a.not_after)],
          ["SHA-256", a.fingerprint && <code class="break">{a.fingerprint}</code>], ["Made", instant(a.created_at)], ["Certificates", a.role === "issuing" && <Link to="/certs" query={{ q: `issuer:"${a.name}"` }}>show</Link>]]} />
      </Section>
      {a.csr && <Section title="Waits for its certificate" wide><Command text={`chancery ca import ${a.name} CERTIFICATE`} /><Copy text={a.csr} label="Copy the request (PEM)">Copy the request (PEM)</Copy></Section>}
      {a.chains?.map((c, n) => <Section key={n} title={`Chain ${n + 1}`} wide actions={<Copy text={c} label={`Copy chain ${n + 1}`} />}><pre tabIndex={0}>{c}</pre></Section>)}
    </>
  );
}
