package claudebalancer

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
)

// The list of models as a key that is limited to some of them sees it.

// maxModels bounds the list, in bytes.
const maxModels = 8 << 20

// hidesModels reports whether the answer is a list that must not be shown whole.
func (p *pass) hidesModels(res *http.Response) bool {
	return p.target.Endpoint == anthropic.Models && p.target.List && res.StatusCode == http.StatusOK &&
		p.who.Key != nil && p.who.Key.Restricted()
}

// withoutHiddenModels takes from the list what the key may not use. Cursors stay
// as upstream wrote them, so that the next page begins where this one ends.
func (p *pass) withoutHiddenModels(res *http.Response) (*http.Response, error) {
	body, err := io.ReadAll(io.LimitReader(p.answer.body(), maxModels))
	_ = res.Body.Close()
	if err != nil {
		return nil, p.badModels()
	}
	shown, err := shownModels(body, p.who.Key)
	if err != nil {
		return nil, p.badModels()
	}
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(shown)), int64(len(shown))
	res.Header.Del("Content-Length")
	return res, nil
}

// badModels answers for a list that cannot be read, and so not be cut.
func (p *pass) badModels() error {
	p.outcome = api.OutcomeUpstreamError
	return &refusal{status: http.StatusBadGateway, typ: typeAPI, message: "Upstream answered with something that is no list of models."}
}

func shownModels(body []byte, key *access.Key) ([]byte, error) {
	var page map[string]json.RawMessage
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, err
	}
	var all []json.RawMessage
	if err := json.Unmarshal(page["data"], &all); err != nil {
		return nil, err
	}
	shown := []json.RawMessage{}
	for _, raw := range all {
		var model struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(raw, &model); err != nil {
			return nil, err
		}
		if key.Allows(model.ID) {
			shown = append(shown, raw)
		}
	}
	data, err := json.Marshal(shown)
	if err != nil {
		return nil, err
	}
	page["data"] = data
	return json.Marshal(page)
}
