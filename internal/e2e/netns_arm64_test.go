package e2e

const sysSetns = 268 // setns(2), which package syscall does not name
