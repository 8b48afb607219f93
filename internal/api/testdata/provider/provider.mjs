// An OpenID provider for the sign-in test: node provider.mjs MODULES-DIR
// REDIRECT-URL. It prints its issuer and runs until its input ends.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(pathToFileURL(process.argv[2] + '/'));
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

const groups = { ada: ['pki-admins', 'everybody'], olga: ['team-pay'], mallory: ['everybody'] };
const server = createServer();
await new Promise((up) => server.listen(0, '127.0.0.1', up));
const issuer = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'chancery', client_secret: 'kept in a file', redirect_uris: [process.argv[3]],
    grant_types: ['authorization_code'], response_types: ['code'], token_endpoint_auth_method: 'client_secret_basic',
  }],
  claims: { openid: ['sub'], profile: ['name'], email: ['email'], groups: ['groups'] },
  scopes: ['openid', 'profile', 'email', 'groups'],
  findAccount: (_, sub) => ({
    accountId: sub,
    claims: () => ({ sub, name: sub, email: `${sub}@corp.test`, groups: groups[sub] ?? [] }),
  }),
  pkce: { required: () => true },
  features: { devInteractions: { enabled: true } },
  cookies: { keys: ['a key for this test only'] },
});
server.on('request', provider.callback());
console.log(issuer);
process.stdin.on('end', () => process.exit(0)).resume();
