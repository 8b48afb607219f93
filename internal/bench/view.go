package bench

import (
	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
)

// The parts of protocol objects that an issuance needs.
type (
	orderView struct {
		Status         acme.OrderStatus `json:"status"`
		Authorizations []string         `json:"authorizations"`
		Finalize       string           `json:"finalize"`
		Certificate    string           `json:"certificate"`
		Error          *acme.Problem    `json:"error"`
	}
	authorizationView struct {
		Status     acme.AuthorizationStatus `json:"status"`
		Identifier struct {
			Value string `json:"value"`
		} `json:"identifier"`
		Challenges []challengeView `json:"challenges"`
	}
	challengeView struct {
		Type   string               `json:"type"`
		URL    string               `json:"url"`
		Token  string               `json:"token"`
		Status acme.ChallengeStatus `json:"status"`
		Error  *acme.Problem        `json:"error"`
	}
)

func readOrder(body []byte) (*orderView, error) {
	v, err := acme.Decode[orderView](body)
	return &v, err
}

func readAuthorization(body []byte) (*authorizationView, error) {
	v, err := acme.Decode[authorizationView](body)
	return &v, err
}

func readChallenge(body []byte) (*challengeView, error) {
	v, err := acme.Decode[challengeView](body)
	return &v, err
}

// find returns the challenge of a type, or nil.
func (a *authorizationView) find(kind challenge.Type) *challengeView {
	for i := range a.Challenges {
		if a.Challenges[i].Type == string(kind) {
			return &a.Challenges[i]
		}
	}
	return nil
}
