package anthropic

import "testing"

func TestClassifySaysWhatARequestIsFor(t *testing.T) {
	t.Parallel()
	cases := []struct {
		method, path string
		want         Target
	}{
		{"POST", "/v1/messages", Target{Endpoint: Messages, repeatable: true}},
		{"POST", "/v1/messages/", Target{Endpoint: Messages, repeatable: true}},
		{"POST", "/v1/messages/count_tokens", Target{Endpoint: CountTokens, repeatable: true}},
		{"POST", "/v1/messages/count_tokens/x", Target{}},
		{"GET", "/v1/models", Target{Endpoint: Models, List: true, repeatable: true}},
		{"GET", "/v1/models/claude-opus-5", Target{Endpoint: Models, ID: "claude-opus-5", repeatable: true}},
		{"POST", "/v1/messages/batches", Target{Endpoint: Batches, Create: true}},
		{"GET", "/v1/messages/batches", Target{Endpoint: Batches, List: true, repeatable: true}},
		{"HEAD", "/v1/messages/batches", Target{Endpoint: Batches, repeatable: true}},
		{"GET", "/v1/messages/batches/msgbatch_1", Target{Endpoint: Batches, ID: "msgbatch_1", repeatable: true}},
		{"GET", "/v1/messages/batches/msgbatch_1/results", Target{Endpoint: Batches, ID: "msgbatch_1", repeatable: true}},
		{"POST", "/v1/messages/batches/msgbatch_1/cancel", Target{Endpoint: Batches, ID: "msgbatch_1"}},
		{"DELETE", "/v1/messages/batches/msgbatch_1", Target{Endpoint: Batches, ID: "msgbatch_1"}},
		{"POST", "/v1/files", Target{Endpoint: Files, Create: true}},
		{"POST", "/v1/files/", Target{Endpoint: Files, Create: true}},
		{"GET", "/v1/files/file_1/content", Target{Endpoint: Files, ID: "file_1", repeatable: true}},
		{"POST", "/v1/skills", Target{Endpoint: Skills, Create: true}},
		{"POST", "/v1/skills/skill_1/versions", Target{Endpoint: Skills, ID: "skill_1"}},
		{"GET", "/v1/skills/skill_1/versions", Target{Endpoint: Skills, ID: "skill_1", repeatable: true}},
		{"POST", "/v1/oauth/token", Target{Endpoint: Denied}},
		{"GET", "/v1/oauth", Target{Endpoint: Denied}},
		{"GET", "/v1/OAuth/token", Target{Endpoint: Denied}},
		{"GET", "/v1/organizations/me", Target{Endpoint: Denied}},
		{"POST", "/v1/agents", Target{}},
		{"POST", "/v1/complete", Target{}},
		{"GET", "/v1/sessions/s/events", Target{repeatable: true}},
		{"GET", "/v1", Target{repeatable: true}},
		{"GET", "/v1/", Target{repeatable: true}},
		{"POST", "/v1/messagesx", Target{}},
		{"POST", "/messages", Target{}},
		{"GET", "", Target{repeatable: true}},
	}
	for _, c := range cases {
		got := Classify(c.method, c.path)
		if got != c.want || got.Repeatable() != c.want.repeatable {
			t.Errorf("%s %s\n got %+v\nwant %+v", c.method, c.path, got, c.want)
		}
	}
}

func TestEndpointsHaveNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for e := Other; e <= Denied; e++ {
		if e.String() == "" || seen[e.String()] {
			t.Errorf("endpoint %d is called %q", e, e)
		}
		seen[e.String()] = true
	}
	if got := Endpoint(99).String(); got != "other" {
		t.Errorf("unknown endpoint is called %q", got)
	}
}
