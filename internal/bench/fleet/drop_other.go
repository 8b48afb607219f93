//go:build !linux

package fleet

import "errors"

// errLinux: only Linux has all of 127.0.0.0/8 on its loopback interface.
var errLinux = errors.New("the fleet needs Linux")

type blackhole struct{ port uint16 }

func newBlackhole() (*blackhole, error) { return nil, errLinux }

func (b *blackhole) close() {}

type deadPort struct{ port uint16 }

func newDeadPort() (*deadPort, error) { return nil, errLinux }

func (d *deadPort) close() {}
