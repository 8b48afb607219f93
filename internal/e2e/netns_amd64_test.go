package e2e

const sysSetns = 308 // setns(2), which package syscall does not name
