import "./style.css";
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { can, change, chaos, follow, live, session, whoAmI, withheld } from "./api";
import { Link, match, path } from "./router";
import { attempt, Empty, Head, Loading, NotShown, Sayings, Trouble } from "./parts";
import { SignIn } from "./screens/signin";
import { screens } from "./screens";

const theme = () => localStorage.getItem("theme") ?? "";
const setTheme = (t: string) => { localStorage.setItem("theme", t); document.documentElement.dataset.theme = t; };
document.documentElement.dataset.theme = theme();

function Header() {
  const [open, set] = useState(false);
  const s = session.value!;
  useEffect(() => set(false), [path.value]);
  return (
    <header class="bar">
      <a class="skip" href="#main">To the content</a>
      <Link class="brand" to="/"><img src="/ui/icon.svg" alt="" width="24" height="24" /> Chancery</Link>
      <button type="button" class="menu" aria-expanded={open} aria-controls="nav" onClick={() => set(!open)}>Menu</button>
      <nav id="nav" aria-label="Views" class={open ? "open" : ""}>
        {screens.filter((v) => v.nav && !withheld(v.needs ?? [""])).map((v) => <Link key={v.path} to={v.path} current={v.path === "/" ? path.value === "/" : path.value.startsWith(v.path) || screens.some((o) => o.under === v.path && o.path === path.value)}>{v.nav}</Link>)}
      </nav>
      <div class="who">
        {can("stream-events") ? <span class={`dot ${live.value ? "good" : "warn"}`} title={live.value ? "Changes arrive as they happen" : "The stream of changes is interrupted"} role="img" aria-label={live.value ? "live" : "not live"} />
          : <span class="dot" title="What is shown is asked for again every half minute" role="img" aria-label="asked every half minute" />}
        <span title={s.actor}>{s.name} <span class="note">{s.role}</span></span>
        <button type="button" class="quiet" aria-label="Light, dark or as the system" title="Light, dark or as the system" onClick={() => setTheme({ "": "dark", dark: "light", light: "" }[theme()] ?? "")}>◐</button>
        <button type="button" class="quiet" onClick={() => attempt("You are signed out.", async () => { await change("DELETE", "/session"); await whoAmI(); })}>Sign out</button>
      </div>
    </header>
  );
}

function View() {
  for (const v of screens) {
    const found = match(v.path);
    if (!found) continue;
    const bar = v.needs && withheld(v.needs);
    return bar ? <><Head title={v.title ?? v.nav!} /><NotShown of={bar} /></> : <v.view {...found} key={v.path + JSON.stringify(found)} />;
  }
  return <Empty title="There is no such view."><p><Link to="/">To the overview</Link></p></Empty>;
}

function App() {
  const [error, set] = useState<Error>();
  const ask = () => { set(undefined); whoAmI().catch(set); };
  useEffect(ask, []);
  const signedIn = session.value?.signed_in;
  useEffect(() => (signedIn ? follow() : undefined), [signedIn]);
  if (error) return <main id="main"><Trouble error={error} retry={ask} /></main>;
  if (!session.value) return <Loading />;
  if (!signedIn) return <SignIn />;
  return <><Header />{chaos.value && <p class="trouble" role="alert">This server misbehaves on purpose: {chaos.value}</p>}<main id="main" tabIndex={-1}><View /></main><Sayings /></>;
}

render(<App />, document.getElementById("app")!);
