// The table of contents of the UI.
import type { ComponentType } from "preact";
import { AgentOne, Agents } from "./agents";
import { Alerts } from "./alerts";
import { Approvals } from "./approvals";
import { Audit } from "./audit";
import { Authorities, Authority } from "./authorities";
import { Certificate } from "./certificate";
import { Incidents } from "./incidents";
import { Inventory } from "./inventory";
import { Issuance } from "./issuance";
import { Keys } from "./keys";
import { Overview } from "./overview";
import { Policies } from "./policies";
import { ManagedOne, Renewals } from "./renewals";
import { Scanners } from "./scanners";

// under is the view that the navigation shows for one that it does not list. A
// sign-in that may call none of needs is not led there.
export const screens: { path: string; nav?: string; under?: string; title?: string; needs?: string[]; view: ComponentType<any> }[] = [
  { path: "/", nav: "Overview", view: Overview },
  { path: "/certs", nav: "Inventory", needs: ["list-certificates"], view: Inventory },
  { path: "/certs/:id", view: Certificate },
  { path: "/keys", under: "/certs", title: "Inventory", needs: ["list-facets"], view: Keys },
  { path: "/policies", under: "/certs", title: "Inventory", needs: ["list-policies"], view: Policies },
  { path: "/issuance", nav: "Issuance", needs: ["list-orders", "list-issued", "list-accounts"], view: Issuance },
  { path: "/renewals", nav: "Renewals", needs: ["list-queues", "list-managed"], view: Renewals },
  { path: "/renewals/:id", view: ManagedOne },
  { path: "/agents", nav: "Agents", needs: ["list-agents"], view: Agents },
  { path: "/agents/:id", view: AgentOne },
  { path: "/incidents", nav: "Incidents", needs: ["list-incidents"], view: Incidents },
  { path: "/scanners", nav: "Scanners", needs: ["list-passes"], view: Scanners },
  { path: "/authorities", nav: "Authorities", view: Authorities },
  { path: "/authorities/:id", view: Authority },
  { path: "/alerts", nav: "Alerts", needs: ["list-alerts"], view: Alerts },
  { path: "/approvals", nav: "Approvals", view: Approvals },
  { path: "/audit", nav: "Audit", needs: ["list-journal"], view: Audit },
];
