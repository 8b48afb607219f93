import { useState } from "preact/hooks";
import { change, session, type Page, type Session } from "../api";
import { useLoad } from "../load";
import { Trouble } from "../parts";

interface Provider { name: string; title: string; url: string }

export function SignIn() {
  const [token, setToken] = useState(""), [error, setError] = useState<Error>(), [busy, setBusy] = useState(false);
  const providers = useLoad<Page<Provider>>("/session/providers");
  const submit = async (e: Event) => {
    e.preventDefault();
    setBusy(true);
    try { session.value = await change<Session>("POST", "/session", { token: token.trim() }); } catch (e) { setError(e as Error); }
    setBusy(false);
  };
  document.title = "Sign in - Chancery";
  return (
    <main id="main" class="sign-in">
      <img src="/ui/icon.svg" alt="" width="56" height="56" />
      <h1>Chancery</h1>
      {providers.data?.items.map((p) => <a key={p.name} class="button primary" href={`${p.url}?return=${encodeURIComponent(location.pathname + location.search)}`}>Sign in with {p.title}</a>)}
      <form onSubmit={submit}>
        <label for="token">API token</label>
        <input id="token" type="password" autocomplete="current-password" required spellcheck={false} value={token} onInput={(e) => setToken(e.currentTarget.value)} />
        <button type="submit" class="primary" disabled={busy || !token}>Sign in</button>
      </form>
      <Trouble error={error} />
      <p class="note">The first token is in the file <code>admin.token</code> of the server's data directory. <code>chancery config token create</code> makes others.</p>
    </main>
  );
}
