import { useLoad } from "../load";
import { Command, Empty, Head, Section, Stat, Trouble } from "../parts";
import { count, instant } from "../format";
import { can, feed, limits, session } from "../api";
import { Bars, Heat } from "../charts";
import { Link } from "../router";
import { say as sayEvent } from "../events";

export interface Bucket { day: string; value: string; count: number }
interface Timeline { by: string; buckets: Bucket[] }
interface FacetValue { value: string; count: number }
interface Facets { facets: { by: string; values: FacetValue[] }[] }
interface Summary { authorities: Record<string, number>; expiring: { days: number; count: number; at_least?: boolean }[]; open_intents: number; journal_seq: number; server_time: string }
interface EndpointPage { items: { host: string; port: number; drift: boolean; failure?: string; failed_since?: string }[]; next?: string }

const value = (f: Facets | undefined, by: string, name: string) => f?.facets.find((x) => x.by === by)?.values.find((v) => v.value === name)?.count ?? 0;

// parts are what the overview is made of, and the operation behind each.
const parts = [["list-facets", "the inventory in numbers"], ["get-summary", "what ends soon"], ["list-endpoints", "endpoints"], ["stream-events", "what happens"]];

export function Overview() {
  const facets = useLoad<Facets>("/inventory/facets", { by: "status,managed,owner" });
  const line = useLoad<Timeline>("/inventory/timeline", { by: limits() ? "status" : "issuer" });
  const summary = useLoad<Summary>("/summary");
  const failing = useLoad<EndpointPage>("/endpoints", { failing: true, limit: 50 });
  const drift = useLoad<EndpointPage>("/endpoints", { drift: true, limit: 50 });
  const f = facets.data, active = value(f, "status", "active");
  const soon = (days: number) => summary.data?.expiring.find((e) => e.days === days);
  const known = f ? f.facets.find((x) => x.by === "status")?.values.reduce((n, v) => n + v.count, 0) ?? 0 : undefined;
  const hidden = parts.filter(([need]) => !can(need)).map(([, what]) => what);
  const plus = (n?: number, more?: unknown) => (n === undefined ? "…" : count(n) + (more ? "+" : ""));
  return (
    <>
      <Head title="Overview" at={facets.at} cli="chancery certs list" curl="/inventory/facets" />
      <Trouble error={facets.error ?? line.error} retry={facets.reload} />
      {can("list-facets") && <div class="stats">
        <Stat label="Active certificates" value={f ? count(active) : "…"} to="/certs" query={{ q: "status:active" }} />
        {can("get-summary") && <Stat label="End within 7 days" value={plus(soon(7)?.count, soon(7)?.at_least)} tone={soon(7)?.count ? "warn" : "good"} to="/certs" query={{ q: "status:active expires:<7d" }} hint="of our own issuance" />}
        {can("list-endpoints") && <><Stat label="Endpoints failing" value={plus(failing.data?.items.length, failing.data?.next)} tone={failing.data?.items.length ? "bad" : "good"} to="/scanners" query={{ show: "failing" }} />
        <Stat label="Served differs from desired" value={plus(drift.data?.items.length, drift.data?.next)} tone={drift.data?.items.length ? "warn" : "good"} to="/scanners" query={{ show: "drift" }} /></>}
        <Stat label="Managed here" value={f ? count(value(f, "managed", "yes")) : "…"} to="/certs" query={{ q: "managed:yes" }} />
        <Stat label="Without an owner" value={f ? count(value(f, "owner", "none")) : "…"} tone={value(f, "owner", "none") ? "warn" : ""} to="/certs" query={{ q: "owner:none" }} />
      </div>}
      {known === 0 && <First />}
      {!!known && <>
        <Section title="When certificates end" wide>{line.data && <Bars buckets={line.data.buckets} days={91} />}</Section>
        <Section title="The next 26 weeks" wide>{line.data && <Heat buckets={line.data.buckets} weeks={26} />}</Section>
      </>}
      {hidden.length > 0 && can("list-facets") && <p class="note">Not shown to you: {hidden.join(", ")}. {limits() ? `Your sign-in is limited to ${limits()}` : `Your role is ${session.value?.role}`}; an administrator of this server can widen it.</p>}
      <div class="columns">
        {can("list-endpoints") && <Needs failing={failing.data} drift={drift.data} expiring={soon(1)?.count} />}
        {can("stream-events") && <Section title="What happened last" actions={<Link to="/audit">All</Link>}>
          {feed.value.length === 0 ? <p class="note">Nothing since this page was opened.</p>
            : <ol class="events">{feed.value.slice(0, 12).map((e) => <li key={e.id}><time dateTime={e.at}>{instant(e.at)}</time> {sayEvent(e)}</li>)}</ol>}
        </Section>}
      </div>
    </>
  );
}

// Needs lists what wants a person, that which breaks most first.
function Needs({ failing, drift, expiring }: { failing?: EndpointPage; drift?: EndpointPage; expiring?: number }) {
  const nothing = failing && drift && !failing.items.length && !drift.items.length && !expiring;
  return (
    <Section title="Needs you">
      {nothing && <p class="note">Nothing right now.</p>}
      <ul class="needs">
        {!!expiring && <li><Link to="/certs" query={{ q: "status:active expires:<1d" }}>{count(expiring)} end within a day</Link></li>}
        {failing?.items.slice(0, 6).map((e) => <li key={e.host + e.port}><Link to="/scanners" query={{ show: "failing", host: e.host }}>{e.host}:{e.port}</Link> does not answer: {e.failure}, since {instant(e.failed_since)}</li>)}
        {drift?.items.slice(0, 6).map((e) => <li key={e.host + e.port}><Link to="/scanners" query={{ show: "drift", host: e.host }}>{e.host}:{e.port}</Link> serves another certificate than it should</li>)}
      </ul>
    </Section>
  );
}

// First shows how to begin.
function First() {
  const directory = `${location.origin}/acme/default/directory`;
  return (
    <Empty title="No certificate is known yet.">
      <p>Order one with any ACME client,</p>
      <Command text={`certbot certonly --server ${directory} --standalone -d www.example.com`} />
      <p>find those that your hosts serve,</p>
      <Command text="chancery scan --store www.example.com 10.0.0.0/24" />
      <p>or import what you have.</p>
      <Command text="chancery certs import *.pem" />
      <p class="note">You are signed in as {session.value?.name}. Trust anchors: <a href="/root.pem">root.pem</a>.</p>
    </Empty>
  );
}
