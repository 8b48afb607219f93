package deploy

import (
	"errors"
	"sync"
)

// Parallel calls do for 0 to n-1, at most workers at once, waits for all, and
// joins their errors in the order of the numbers.
func Parallel(n, workers int, do func(int) error) error {
	errs := make([]error, n)
	slots := make(chan struct{}, workers)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
