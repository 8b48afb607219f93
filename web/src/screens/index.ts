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

// under is the view that the navigation shows for one that it does not list.
export const screens: { path: string; nav?: string; under?: string; view: ComponentType<any> }[] = [
  { path: "/", nav: "Overview", view: Overview },
  { path: "/certs", nav: "Inventory", view: Inventory },
  { path: "/certs/:id", view: Certificate },
  { path: "/keys", under: "/certs", view: Keys },
  { path: "/policies", under: "/certs", view: Policies },
  { path: "/issuance", nav: "Issuance", view: Issuance },
  { path: "/renewals", nav: "Renewals", view: Renewals },
  { path: "/renewals/:id", view: ManagedOne },
  { path: "/agents", nav: "Agents", view: Agents },
  { path: "/agents/:id", view: AgentOne },
  { path: "/incidents", nav: "Incidents", view: Incidents },
  { path: "/scanners", nav: "Scanners", view: Scanners },
  { path: "/authorities", nav: "Authorities", view: Authorities },
  { path: "/authorities/:id", view: Authority },
  { path: "/alerts", nav: "Alerts", view: Alerts },
  { path: "/approvals", nav: "Approvals", view: Approvals },
  { path: "/audit", nav: "Audit", view: Audit },
];
