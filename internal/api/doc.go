// Package api is the control plane: every resource of Chancery under /api/v1,
// for the command line, the UI and programs.
//
// It is written code first: an operation is a Go function with typed input and
// output, from which the routes, the validation of input and the OpenAPI
// document (docs/openapi.yaml) follow. Handlers hold no SQL; they call the
// package that owns the resource.
//
// Rules that hold for every operation:
//
//   - a bearer token is needed, unless the access table says "public"; the
//     table names the role that each operation needs, and New fails when an
//     operation is missing from it;
//   - input is strict: an unknown query parameter, a repeated one, an unknown
//     or repeated member of a body, and a limit beyond the maximum are refused,
//     never ignored or clamped;
//   - lists are keyset-paged: a page has "items" and, when more may follow,
//     "next", which is the cursor of the next page. A page of a filtered list
//     may be short, or empty, and still have a next one;
//   - errors are problem documents (RFC 9457) with the request's id;
//   - a GET changes nothing.
package api

//go:generate go run ./gen
