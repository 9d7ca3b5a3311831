package oauth

import (
	"context"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/simulator"
	"github.com/claude-balancer/claude-balancer/store"
)

// From the login's URL to refreshed tokens, against the simulated service.
func TestALoginServesAndIsRefreshed(t *testing.T) {
	t.Parallel()
	for _, preset := range []string{"current", "legacy"} {
		t.Run(preset, func(t *testing.T) {
			t.Parallel()
			sim := simulator.New(simulator.Options{})
			sim.AddAccount(simulator.Account{Name: "work", Plan: simulator.PlanMax})
			server := sim.Start()
			defer server.Close()
			e, err := Preset(preset)
			if err != nil {
				t.Fatal(err)
			}
			e.TokenURL, e.ProfileURL = server.URL+"/v1/oauth/token", server.URL+"/api/oauth/profile"
			client := func() *Client { return &Client{Endpoints: e} }

			logins := NewLogins(client, time.Now)
			started := logins.Start("work", "max", "")
			code, err := sim.Approve(started.URL, "work")
			if err != nil {
				t.Fatal(err)
			}
			done, err := logins.Finish(t.Context(), started.ID, secret.New(code))
			if err != nil {
				t.Fatal(err)
			}
			profile, err := client().Profile(t.Context(), done.Grant.Access)
			if err != nil || profile.Plan != "max" || profile.AccountID != done.Grant.AccountID {
				t.Errorf("got %+v, %v; granted %+v", profile, err, done.Grant)
			}

			c := done.Grant.Credential()
			c.Generation = 1
			h := newHouse("one", nil, newVault(map[string]store.Credential{"a": c}), func(o *SourceOptions) { o.Client = client })
			used := mustToken(t, h.Source, "a", done.Grant.Access.Reveal())
			for i := range 3 {
				fresh, err := h.Refresh(context.Background(), "a", used)
				if err != nil || fresh.Value.Equal(used.Value) {
					t.Fatalf("refresh %d: %v", i, err)
				}
				used = fresh
			}
			if sim.Refreshes("work") != 3 || sim.Reuses("work") != 0 {
				t.Errorf("%d refreshes, %d with a spent token", sim.Refreshes("work"), sim.Reuses("work"))
			}
		})
	}
}
