// Holds a document against the schema of CycloneDX 1.6, by the project's own
// library: node validate.mjs NODE_MODULES_PARENT FILE
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
const require = createRequire(process.argv[2] + "/");
const { Validation, Spec } = require("@cyclonedx/cyclonedx-library");
const problem = await new Validation.JsonStrictValidator(Spec.Version.v1dot6).validate(readFileSync(process.argv[3], "utf8"));
console.log(problem === null ? "valid" : JSON.stringify(problem, null, 1).slice(0, 4000));
