// The table of contents of the UI.
import type { ComponentType } from "preact";
import { Alerts } from "./alerts";
import { Approvals } from "./approvals";
import { Audit } from "./audit";
import { Authorities, Authority } from "./authorities";
import { Certificate } from "./certificate";
import { Incidents } from "./incidents";
import { Inventory } from "./inventory";
import { Issuance } from "./issuance";
import { Overview } from "./overview";
import { ManagedOne, Renewals } from "./renewals";
import { Scanners } from "./scanners";

export const screens: { path: string; nav?: string; view: ComponentType<any> }[] = [
  { path: "/", nav: "Overview", view: Overview },
  { path: "/certs", nav: "Inventory", view: Inventory },
  { path: "/certs/:id", view: Certificate },
  { path: "/issuance", nav: "Issuance", view: Issuance },
  { path: "/renewals", nav: "Renewals", view: Renewals },
  { path: "/renewals/:id", view: ManagedOne },
  { path: "/incidents", nav: "Incidents", view: Incidents },
  { path: "/scanners", nav: "Scanners", view: Scanners },
  { path: "/authorities", nav: "Authorities", view: Authorities },
  { path: "/authorities/:id", view: Authority },
  { path: "/alerts", nav: "Alerts", view: Alerts },
  { path: "/approvals", nav: "Approvals", view: Approvals },
  { path: "/audit", nav: "Audit", view: Audit },
];
