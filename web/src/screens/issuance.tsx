import { useEffect, useMemo, useState } from "preact/hooks";
import { can, feed, get, live } from "../api";
import { ago, count, day, instant } from "../format";
import { List, type Column } from "../list";
import { Command, Empty, Head, Parts, partOf, Section, Stat, State, words } from "../parts";
import { go, href, Link, param, setParam } from "../router";

interface Order { id: string; ca: string; account: string; state: string; profile: string; names: string[]; certificate?: string; replaces?: string; error?: string; created_at: string; expires_at?: string }
interface Issued { id: string; serial: string; status: string; ca: string; profile: string; names: string[]; key_type: string; not_after: string; created_at: string }
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

const issued: Column<Issued>[] = [
  { title: "Names", width: "minmax(180px, 2fr)", cell: (c) => <Link to={`/certs/${c.id}`}>{words(c.names, 2)}</Link>, text: (c) => c.names.join(" ") },
  { title: "Status", width: "110px", cell: (c) => <State value={c.status} />, text: (c) => c.status },
  { title: "Made", width: "120px", cell: (c) => <span title={c.created_at}>{ago(c.created_at)}</span>, text: (c) => c.created_at },
  { title: "Ends", width: "110px", cell: (c) => <span title={c.not_after}>{day(c.not_after)}</span>, text: (c) => c.not_after },
  { title: "Authority", width: "110px", cell: (c) => c.ca },
  { title: "Profile", width: "100px", cell: (c) => c.profile },
  { title: "Key", width: "90px", cell: (c) => c.key_type },
  { title: "Serial", width: "minmax(120px, 1fr)", cell: (c) => <code>{c.serial}</code>, text: (c) => c.serial },
];

const parts = [["live", "Live", "stream-events"], ["issued", "Certificates", "list-issued"], ["orders", "Orders", "list-orders"], ["accounts", "Accounts", "list-accounts"]] as const;

// Books are what our authorities issued.
function Books() {
  const q = param("q");
  return (
    <>
      <form class="search" role="search" key={q} onSubmit={(e) => { e.preventDefault(); setParam("q", (new FormData(e.currentTarget).get("q") as string).trim()); }}>
        <label class="hidden" for="q">Search what was issued</label>
        <input id="q" name="q" type="search" defaultValue={q} placeholder="*.pay.example.com status:issued ca:default expires:<14d" autocomplete="off" spellcheck={false} />
        <button type="submit" class="primary">Search</button>
      </form>
      <List<Issued> path="/issued" query={{ q }} label="certificates" columns={issued} id={(c) => c.id} open={(c) => go(href(`/certs/${c.id}`))} empty={<Empty title={q ? "None fits." : "Nothing was issued yet."} />} />
    </>
  );
}

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
  const show = partOf(parts, "show"), r = useMemo(rates, [feed.value]);
  const last = feed.value.filter((e) => e.kind === "certificate.issue" || e.kind === "certificate.abandon").slice(0, 25);
  return (
    <>
      <Head title="Issuance" cli={{ issued: "chancery certs issued", accounts: "chancery acme accounts list" }[show] ?? "chancery acme orders list --watch"} curl={{ issued: "/issued", accounts: "/acme/accounts" }[show] ?? "/acme/orders"} note={!can("stream-events") ? "What our authorities issued" : live.value ? "live" : "the stream of changes is interrupted"} />
      {can("stream-events") && <div class="stats">
        <Stat label="Issued in the last minute" value={count(r.issued) + (r.full ? "+" : "")} tone="good" />
        <Stat label="Failed in the last minute" value={count(r.failed)} tone={r.failed ? "bad" : ""} />
        <Stat label="Revoked in the last minute" value={count(r.revoked)} />
      </div>}
      <Parts label="Issuance" current={show} of={parts} name="show" to="/issuance" />
      {show === "issued" && <Books />}
      {show === "live" && <Section title="As it happens" wide>
        {last.length === 0 ? <Empty title="Nothing was issued since this page was opened."><Command text={`certbot certonly --server ${location.origin}/acme/default/directory --standalone -d www.example.com`} /></Empty>
          : <ol class="events">{last.map((e) => <li key={e.id}><time dateTime={e.at}>{instant(e.at)}</time> <State value={e.kind === "certificate.issue" ? "issued" : "abandoned"} /> <Named id={e.subject.replace("certificate:", "")} /></li>)}</ol>}
      </Section>}
      {show === "orders" && <List<Order> path="/acme/orders" label="orders" columns={orders} id={(o) => o.id} empty={<Empty title="No order was made yet." />} />}
      {show === "accounts" && <List<Account> path="/acme/accounts" label="accounts" columns={accounts} id={(a) => a.id} empty={<Empty title="No account was made yet." />} />}
    </>
  );
}
