package acme

import "math/big"

// canonicalEd25519 reports whether the 32 bytes of a are the one canonical
// encoding of a curve point whose order is not 1, 2, 4 or 8 (RFC 8032 section
// 5.1.3). crypto/ed25519 accepts the rest: with a point of small order one
// signature fits many messages, and with two encodings of one point a key has
// two thumbprints.
func canonicalEd25519(a []byte) bool {
	var be [32]byte
	for i, b := range a {
		be[31-i] = b
	}
	be[0] &= 0x7f // the sign of x
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	y := new(big.Int).SetBytes(be[:])
	return y.Cmp(p) < 0 && onEdwards25519(y, p) && !smallOrder(y, p)
}

// onEdwards25519 reports whether some x solves -x^2 + y^2 = 1 + d*x^2*y^2, that
// is whether (y^2-1)/(d*y^2+1) is a square modulo p. A quotient is a square
// exactly when the product is, which spares the inversion.
func onEdwards25519(y, p *big.Int) bool {
	y2 := new(big.Int).Mul(y, y)
	u := new(big.Int).Sub(y2, big.NewInt(1))
	v := new(big.Int).Mul(y2, edwardsD(p))
	v.Add(v, big.NewInt(1))
	return big.Jacobi(u.Mod(u.Mul(u, v), p), p) >= 0
}

// smallOrder reports whether a point with coordinate y has an order that
// divides 8: y is 0 (order 4), 1 or -1 (orders 1 and 2), or the point doubles
// to one with y = 0, which is when y^2 = x^2 negated; with the curve equation
// that is d*y^4 + 2*y^2 - 1 = 0 (order 8).
func smallOrder(y, p *big.Int) bool {
	one := big.NewInt(1)
	if y.Sign() == 0 || y.Cmp(one) == 0 || y.Cmp(new(big.Int).Sub(p, one)) == 0 {
		return true
	}
	y2 := new(big.Int).Mul(y, y)
	y2.Mod(y2, p)
	t := new(big.Int).Mul(y2, y2)
	t.Mul(t, edwardsD(p))
	t.Add(t, new(big.Int).Lsh(y2, 1))
	t.Sub(t, one)
	return t.Mod(t, p).Sign() == 0
}

// edwardsD is the curve constant -121665/121666 modulo p.
func edwardsD(p *big.Int) *big.Int {
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665))
	return d.Mod(d, p)
}
