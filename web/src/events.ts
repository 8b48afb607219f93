// Words for entries of the journal.
import type { Change } from "./api";

const verbs: Record<string, string> = {
  "certificate.issue": "certificate issued", "certificate.intend": "certificate about to be signed", "certificate.revoke": "certificate revoked", "certificate.abandon": "serial number abandoned",
  "account.create": "ACME account made", "account.deactivate": "ACME account deactivated", "session.open": "signed in", "session.close": "signed out", "session.deny": "was refused",
  "token.create": "token made", "token.revoke": "token revoked", "approval.request": "asked for a second person", "approval.approve": "approved", "approval.reject": "rejected", "approval.break_glass": "acted alone",
  "agent.enroll": "agent enrolled", "agent.assign": "agent given a certificate to keep", "agent.deploy": "agent deployed", "agent.revoke": "agent revoked", "managed.stop": "renewal given up", "managed.deploy_failed": "target does not serve it", "managed.deploy_recovered": "target serves it again",
  "policy.put": "policy stored", "policy.delete": "policy deleted", "alert.put_rule": "alert rule stored", "alert.silence": "alerts silenced", "ct.finding": "unknown certificate logged", "ct.acknowledge": "unknown certificate dismissed", "ct.adopt": "unknown certificate adopted",
};

// say renders one entry in one line.
export function say(e: Change): string {
  const names = e.data?.names, about = Array.isArray(names) ? names.slice(0, 3).join(", ") + (names.length > 3 ? `, and ${names.length - 3} more` : "") : e.subject;
  return `${verbs[e.kind] ?? e.kind}: ${about}${e.actor && e.actor !== "system" ? ` (${e.actor})` : ""}`;
}
