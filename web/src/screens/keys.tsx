import { can } from "../api";
import { count } from "../format";
import { useLoad } from "../load";
import { Badge, Command, Empty, Head, Loading, Section, Stat, Table, Trouble } from "../parts";
import { Link } from "../router";
import { EstateTabs } from "./inventory";

interface Facets { facets: { by: string; values: { value: string; count: number }[] }[] }
interface Count { count: number; exact: boolean }

const groups: [name: string, title: string, series: string][] = [["post-quantum", "Post-quantum", "2"], ["classical", "Classical", "0"], ["weak", "Weak", "4"]];

// group is the strength of a kind of key; the server decides by the same rule.
function group(key: string): string {
  const bits = Number(key.replace(/^(rsa|p)/, ""));
  if (key.startsWith("ml-dsa")) return "post-quantum";
  return (key.startsWith("rsa") && bits < 2048) || (/^p\d/.test(key) && bits < 224) ? "weak" : "classical";
}

// Keys shows what the estate's keys are made of.
export function Keys() {
  const facets = useLoad<Facets>("/inventory/facets", { by: "key", q: "status:active" });
  const pq = useLoad<Count>("/inventory/count", { q: "status:active key:post-quantum" }), weak = useLoad<Count>("/inventory/count", { q: "status:active key:weak" }), weakPaths = useLoad<Facets>("/inventory/facets", { by: "owner,issuer", q: "status:active key:weak" });
  const values = facets.data?.facets[0]?.values ?? [], all = values.reduce((n, v) => n + v.count, 0), share = (n?: number) => (n === undefined || !all ? "…" : `${((100 * n) / all).toFixed(n && n < all / 100 ? 2 : 1)} %`);
  return (
    <>
      <Head title="Inventory" at={facets.at} cli="chancery certs facets --by key status:active" curl="/inventory/facets?by=key&q=status:active" note="What the keys in use are made of, and what would break them">
        {can("export-cbom") && <a class="button" href="/api/v1/inventory/cbom?q=status:active" download="chancery.cdx.json">CBOM (CycloneDX 1.6)</a>}
      </Head>
      <EstateTabs current="keys" />
      <Trouble error={facets.error ?? pq.error ?? weak.error} retry={facets.reload} />
      {!facets.data && !facets.error && <Loading />}
      {facets.data && !all && <Empty title="No active certificate is known yet."><Command text="chancery scan --store www.example.com" /></Empty>}
      {!!all && <>
        <div class="stats">
          <Stat label="Active certificates" value={count(all)} to="/certs" query={{ q: "status:active" }} />
          <Stat label="Post-quantum share" value={share(pq.data?.count)} hint={pq.data && `${count(pq.data.count)} certificates`} tone={pq.data?.count ? "good" : "warn"} to="/certs" query={{ q: "status:active key:post-quantum" }} />
          <Stat label="Weak keys" value={weak.data ? count(weak.data.count) : "…"} hint="below 112 bits of strength" tone={weak.data?.count ? "bad" : "good"} to="/certs" query={{ q: "status:active key:weak" }} />
        </div>
        <Section title="Keys in use" wide>
          <div class="share" role="img" aria-label={values.map((v) => `${v.value} ${share(v.count)}`).join(", ")}>{groups.flatMap(([name, , s]) => values.filter((v) => group(v.value) === name).map((v) => <span key={v.value} class={`series-${s}`} title={`${v.value}: ${count(v.count)}`} style={{ flexGrow: v.count }} />))}</div>
          <p class="legend">{groups.map(([name, title, s]) => <span key={name}><i class={`series-${s}`} />{title}</span>)}</p>
          <Table label="Kinds of keys" head={["Key", "Certificates", "Share", "Against a quantum computer"]}>
            {values.map((v) => <tr key={v.value}><td><Link to="/certs" query={{ q: `status:active key:${v.value}` }}>{v.value}</Link></td><td>{count(v.count)}</td><td>{share(v.count)}</td><td>{group(v.value) === "post-quantum" ? <Badge tone="good">holds</Badge> : group(v.value) === "weak" ? <Badge tone="bad">weak today</Badge> : <Badge>breaks</Badge>}</td></tr>)}
          </Table>
        </Section>
        {!!weak.data?.count && <div class="columns">{weakPaths.data?.facets.map((f) => <Section key={f.by} title={`Weak keys by ${f.by}`}><ul>{f.values.slice(0, 8).map((v) => <li key={v.value}><Link to="/certs" query={{ q: `status:active key:weak ${f.by}:${/\s/.test(v.value) ? `"${v.value}"` : v.value}` }}>{v.value}</Link> {count(v.count)}</li>)}</ul></Section>)}</div>}
      </>}
    </>
  );
}
