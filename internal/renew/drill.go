package renew

import "context"

func (e *Engine) endDrillItem(ctx context.Context, l lease, m *Managed, w *issuance) error {
	return nil
}
