import { useEffect, useMemo, useState } from "preact/hooks";
import { feed, get, live } from "../api";
import { ago, count, instant } from "../format";
import { List, type Column } from "../list";
import { Command, Empty, Head, Section, Stat, State, Tabs } from "../parts";
import { Link, param } from "../router";

interface Order { id: string; ca: string; account: string; state: string; profile: string; names: string[]; certificate?: string; replaces?: string; error?: string; created_at: string; expires_at?: string }
interface Account { id: string; ca: string; state: string; thumbprint: string; contact: string[]; created_at: string; created_ip: string; eab_key?: string }

const orders: Column<Order>[] = [
  { title: "Names", width: "minmax(180px, 2fr)", cell: (o) => (o.certificate ? <Link to={`/certs/${o.certificate}`}>{o.names[0]}</Link> : o.names[0]), text: (o) => o.names.join(" ") },
  { title: "State", width: "110px", cell: (o) => <State value={o.state} />, text: (o) => o.state },
  { title: "Made", width: "140px", cell: (o) => <span title={o.created_at}>{ago(o.created_at)}</span>, text: (o) => o.created_at },
  { title: "Profile", width: "100px", cell: (o) => o.profile },
  { title: "Authority", width: "110px", cell: (o) => o.ca },
  { title: "Error", width: "minmax(120px, 2fr)", cell: (o) => o.error ?? "" },
];

const accounts: Column<Account>[] = [
  { title: "Account", width: "minmax(200px, 1.4fr)", cell: (a) => <code>{a.id}</code>, text: (a) => a.id },
  { title: "State", width: "120px", cell: (a) => <State value={a.state} />, text: (a) => a.state },
  { title: "Contact", cell: (a) => a.contact.join(", "), text: (a) => a.contact.join(" ") },
  { title: "Made", width: "190px", cell: (a) => instant(a.created_at), text: (a) => a.created_at },
  { title: "From", width: "140px", cell: (a) => a.created_ip },
];

// rates counts what the stream of changes has told in the last minute.
function rates() {
  const since = Date.now() - 60_000, recent = feed.value.filter((e) => new Date(e.at).getTime() > since);
  const of = (kind: string) => recent.filter((e) => e.kind === kind).length;
  return { issued: of("certificate.issue"), failed: of("certificate.abandon"), revoked: of("certificate.revoke"), full: feed.value.length >= 500 };
}

// Named links to a certificate by its names, which the journal does not repeat.
function Named({ id }: { id: string }) {
  const [names, set] = useState("");
  useEffect(() => { get<{ names: string[] }>(`/certs/${id}`).then((c) => set(c.names.join(", ")), () => undefined); }, [id]);
  return <Link to={`/certs/${id}`}>{names || id}</Link>;
}

export function Issuance() {
  const show = param("show") || "live", r = useMemo(rates, [feed.value]);
  const issued = feed.value.filter((e) => e.kind === "certificate.issue" || e.kind === "certificate.abandon").slice(0, 25);
  return (
    <>
      <Head title="Issuance" cli="chancery acme orders list --watch" curl="/acme/orders" note={live.value ? "live" : "the stream of changes is interrupted"} />
      <div class="stats">
        <Stat label="Issued in the last minute" value={count(r.issued) + (r.full ? "+" : "")} tone="good" />
        <Stat label="Failed in the last minute" value={count(r.failed)} tone={r.failed ? "bad" : ""} />
        <Stat label="Revoked in the last minute" value={count(r.revoked)} />
      </div>
      <Tabs label="Issuance" current={show} of={[{ name: "live", title: "Live", to: "/issuance" }, { name: "orders", title: "Orders", to: "/issuance", query: { show: "orders" } }, { name: "accounts", title: "Accounts", to: "/issuance", query: { show: "accounts" } }]} />
      {show === "live" && <Section title="As it happens" wide>
        {issued.length === 0 ? <Empty title="Nothing was issued since this page was opened."><Command text={`certbot certonly --server ${location.origin}/acme/default/directory --standalone -d www.example.com`} /></Empty>
          : <ol class="events">{issued.map((e) => <li key={e.id}><time dateTime={e.at}>{instant(e.at)}</time> <State value={e.kind === "certificate.issue" ? "issued" : "abandoned"} /> <Named id={e.subject.replace("certificate:", "")} /></li>)}</ol>}
      </Section>}
      {show === "orders" && <List<Order> path="/acme/orders" label="orders" columns={orders} id={(o) => o.id} empty={<Empty title="No order was made yet." />} />}
      {show === "accounts" && <List<Account> path="/acme/accounts" label="accounts" columns={accounts} id={(a) => a.id} empty={<Empty title="No account was made yet." />} />}
    </>
  );
}
