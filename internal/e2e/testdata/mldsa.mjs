// An ACME client and a verifier of ML-DSA signatures over Node's crypto alone,
// which is OpenSSL 3.5: software that shares nothing with the program it tests.
//
//   node mldsa.mjs order DIRECTORY ROOT ACCOUNT-ALG KEY-ALG NAME WEBROOT CHAIN
//   node mldsa.mjs chain ROOT CHAIN
//   node mldsa.mjs status ISSUER CRL OCSP     (the last two in DER)
import crypto from 'node:crypto'
import fs from 'node:fs'
import https from 'node:https'
import assert from 'node:assert'

const b64u = (b) => Buffer.from(b).toString('base64url')

// DER, as much as is needed.
const tlv = (tag, ...parts) => {
  const body = Buffer.concat(parts)
  let len = Buffer.from([body.length])
  if (body.length > 127) {
    const hex = body.length.toString(16)
    const n = Buffer.from(hex.padStart(hex.length + (hex.length % 2), '0'), 'hex')
    len = Buffer.concat([Buffer.from([0x80 | n.length]), n])
  }
  return Buffer.concat([Buffer.from([tag]), len, body])
}
const read = (b) => {
  let n = b[1], at = 2
  if (n & 0x80) {
    at = 2 + (n & 0x7f)
    n = parseInt(b.subarray(2, at).toString('hex'), 16)
  }
  return { tag: b[0], raw: b.subarray(0, at + n), body: b.subarray(at, at + n), rest: b.subarray(at + n) }
}
const elements = (b) => {
  const out = []
  while (b.length) { const e = read(b); out.push(e); b = e.rest }
  return out
}

const ALGORITHMS = {
  'ML-DSA-44': '300b0609608648016503040311', 'ML-DSA-65': '300b0609608648016503040312', 'ML-DSA-87': '300b0609608648016503040313',
  ES256: '300a06082a8648ce3d040302',
}
const makeKey = (alg) => alg === 'ES256' ? crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }) : crypto.generateKeyPairSync(alg.toLowerCase())
const signDER = (alg, key, data) => alg === 'ES256' ? crypto.sign('sha256', data, key) : crypto.sign(null, data, key)
const signJWS = (alg, key, data) => alg === 'ES256' ? crypto.sign('sha256', data, { key, dsaEncoding: 'ieee-p1363' }) : crypto.sign(null, data, key)

// csr is RFC 2986 with one name in its subjectAltName.
const csr = (alg, { publicKey, privateKey }, name) => {
  const oid = (hex) => tlv(0x06, Buffer.from(hex, 'hex'))
  const san = tlv(0x30, tlv(0x82, Buffer.from(name)))
  const extensions = tlv(0x30, tlv(0x30, oid('551d11'), tlv(0x04, san)))
  const attributes = tlv(0xa0, tlv(0x30, oid('2a864886f70d01090e'), tlv(0x31, extensions)))
  const info = tlv(0x30, Buffer.from([2, 1, 0]), tlv(0x30), publicKey.export({ type: 'spki', format: 'der' }), attributes)
  const sig = signDER(alg, privateKey, info)
  return tlv(0x30, info, Buffer.from(ALGORITHMS[alg], 'hex'), tlv(0x03, Buffer.from([0]), sig))
}

// check verifies SEQUENCE { tbs, algorithm, signature, ... } with the issuer's key.
const check = (der, issuer) => {
  const [tbs, algorithm, signature] = elements(read(der).body)
  const found = Object.entries(ALGORITHMS).find(([, hex]) => hex === algorithm.raw.toString('hex'))
  assert(found, `signature algorithm ${algorithm.raw.toString('hex')} is unknown`)
  const hash = found[0] === 'ES256' ? 'sha256' : null
  assert(crypto.verify(hash, tbs.raw, issuer.publicKey, signature.body.subarray(1)), `${found[0]} signature does not verify`)
  const wrong = Buffer.from(tbs.raw)
  wrong[wrong.length - 1] ^= 1
  assert(!crypto.verify(hash, wrong, issuer.publicKey, signature.body.subarray(1)), 'a changed message verifies')
  return found[0]
}

// checkOCSP verifies an OCSPResponse by the issuer, or by the responder in it
// that the issuer certified.
const checkOCSP = (der, issuer) => {
  const [status, bytes] = elements(read(der).body) // and [0] { type, OCTET STRING { BasicOCSPResponse } }
  assert.equal(status.body[0], 0, 'OCSP response status')
  const basic = read(elements(read(bytes.body).body)[1].body)
  const certs = elements(basic.body)[3]
  if (!certs) return check(basic.raw, issuer)
  const responder = new crypto.X509Certificate(read(certs.body).body)
  assert(responder.checkIssued(issuer) && responder.verify(issuer.publicKey), 'the responder is not certified by the issuer')
  return `${check(basic.raw, responder)} ${check(responder.raw, issuer)}`
}

const certificates = (pem) => pem.toString().match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g).map((c) => new crypto.X509Certificate(c))

// verifyChain checks each certificate by the next, twice: by OpenSSL, and by
// the bytes.
const verifyChain = (chain, root) => {
  const all = [...chain, root]
  const used = []
  for (let i = 0; i + 1 < all.length; i++) {
    assert(all[i].checkIssued(all[i + 1]), `${all[i].subject} is not issued by ${all[i + 1].subject}`)
    assert(all[i].verify(all[i + 1].publicKey), `the signature of ${all[i].subject} does not verify`)
    used.push(check(all[i].raw, all[i + 1]))
  }
  assert(root.verify(root.publicKey), 'the root does not verify itself')
  return used
}

class Client {
  constructor (root, alg) {
    this.agent = new https.Agent({ ca: fs.readFileSync(root), keepAlive: true })
    this.alg = alg
    this.key = makeKey(alg)
    const jwk = this.key.publicKey.export({ format: 'jwk' })
    this.jwk = alg === 'ES256' ? { crv: jwk.crv, kty: jwk.kty, x: jwk.x, y: jwk.y } : { alg: jwk.alg, kty: jwk.kty, pub: jwk.pub }
    this.thumbprint = b64u(crypto.hash('sha256', JSON.stringify(this.jwk), 'buffer')) // RFC 7638; members are in order
  }

  call (method, url, body) {
    return new Promise((resolve, reject) => {
      const r = https.request(url, { method, agent: this.agent, headers: body ? { 'content-type': 'application/jose+json' } : {} }, (resp) => {
        const parts = []
        resp.on('data', (d) => parts.push(d)).on('end', () => {
          this.nonce = resp.headers['replay-nonce'] ?? this.nonce
          resolve({ status: resp.statusCode, headers: resp.headers, body: Buffer.concat(parts) })
        })
      }).on('error', reject)
      r.end(body)
    })
  }

  async post (url, payload) {
    if (!this.nonce) await this.call('HEAD', this.directory.newNonce)
    const head = { alg: this.alg, nonce: this.nonce, url, ...(this.kid ? { kid: this.kid } : { jwk: this.jwk }) }
    this.nonce = undefined
    const signed = `${b64u(JSON.stringify(head))}.${payload === undefined ? '' : b64u(JSON.stringify(payload))}`
    const [protectedHeader, body] = signed.split('.')
    const jws = { protected: protectedHeader, payload: body, signature: b64u(signJWS(this.alg, this.key.privateKey, Buffer.from(signed))) }
    const r = await this.call('POST', url, JSON.stringify(jws))
    assert(r.status < 300, `${url} answers ${r.status}: ${r.body}`)
    r.json = () => JSON.parse(r.body)
    return r
  }

  async poll (url, done) {
    for (;;) {
      const r = (await this.post(url)).json()
      if (done(r)) return r
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}

const order = async (directory, rootFile, accountAlg, keyAlg, name, webroot, chainFile) => {
  const c = new Client(rootFile, accountAlg)
  c.directory = JSON.parse((await c.call('GET', directory)).body)
  c.kid = (await c.post(c.directory.newAccount, { termsOfServiceAgreed: true })).headers.location
  const made = await c.post(c.directory.newOrder, { identifiers: [{ type: 'dns', value: name }] })
  for (const url of made.json().authorizations) {
    const challenge = (await c.post(url)).json().challenges.find((ch) => ch.type === 'http-01')
    fs.writeFileSync(`${webroot}/${challenge.token}`, `${challenge.token}.${c.thumbprint}`)
    await c.post(challenge.url, {})
    const a = await c.poll(url, (a) => a.status !== 'pending')
    assert.equal(a.status, 'valid', JSON.stringify(a))
  }
  const key = makeKey(keyAlg)
  await c.post(made.json().finalize, { csr: b64u(csr(keyAlg, key, name)) })
  const done = await c.poll(made.headers.location, (o) => o.status !== 'processing')
  assert.equal(done.status, 'valid', JSON.stringify(done))
  const pem = (await c.post(done.certificate)).body
  const chain = certificates(pem)
  assert.equal(chain[0].subjectAltName, `DNS:${name}`)
  assert(chain[0].publicKey.equals(key.publicKey), 'the certificate has another key')
  const used = verifyChain(chain, certificates(fs.readFileSync(rootFile))[0])
  fs.writeFileSync(chainFile, pem)
  await c.post(c.directory.revokeCert, { certificate: b64u(chain[0].raw), reason: 4 })
  console.log(`issued and revoked; chain signed by ${used.join(' ')}; TLS checked by ${process.versions.openssl}`)
  c.agent.destroy()
}

const [command, ...args] = process.argv.slice(2)
if (command === 'order') {
  await order(...args)
} else if (command === 'chain') {
  console.log(verifyChain(certificates(fs.readFileSync(args[1])), certificates(fs.readFileSync(args[0]))[0]).join(' '))
} else {
  const issuer = certificates(fs.readFileSync(args[0]))[0]
  console.log(`${check(fs.readFileSync(args[1]), issuer)} ${checkOCSP(fs.readFileSync(args[2]), issuer)}`)
}
