package access_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/store"
)

func TestANewKeyGetsItsDefaults(t *testing.T) {
	t.Parallel()
	got, err := access.ValidateNewKey(api.NewKey{Name: " ci "}, noon)
	want := store.Key{Name: "ci", Role: api.RoleClient, CreatedAt: noon, BudgetPeriod: "month"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestANewKeyGetsWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	expires := noon.Add(time.Hour)
	var wish api.NewKey
	body := fmt.Sprintf(`{"name":"ci","role":"viewer","models":[" *haiku* "],"accounts":["work"],"expires_at":%d,"rpm":60,"max_in_flight":4,"budget_usd":2.5,"budget_period":"week"}`, expires.UnixMilli())
	if err := json.Unmarshal([]byte(body), &wish); err != nil {
		t.Fatal(err)
	}
	got, err := access.ValidateNewKey(wish, noon)
	usd := 2.5
	want := store.Key{
		Name: "ci", Role: api.RoleViewer, Models: []string{"*haiku*"}, Accounts: []string{"work"}, CreatedAt: noon,
		ExpiresAt: expires, RPM: 60, MaxInFlight: 4, BudgetUSD: &usd, BudgetPeriod: "week",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWrongSettingsAreRefusedByName(t *testing.T) {
	t.Parallel()
	for body, member := range map[string]string{
		`{}`:                                                         "name",
		`{"name":"a","role":"admin"}`:                                "role",
		`{"name":"a","role":"Client"}`:                               "role",
		`{"name":"a","models":["*", " "]}`:                           "models[1]",
		`{"name":"a","models":["a\u0000"]}`:                          "models[0]",
		`{"name":"a","accounts":[""]}`:                               "accounts[0]",
		`{"name":"a","expires_at":0}`:                                "expires_at",
		`{"name":"a","expires_at":-5}`:                               "expires_at",
		`{"name":"a","expires_at":1900000000}`:                       "milliseconds",
		`{"name":"a","rpm":-1}`:                                      "rpm",
		`{"name":"a","max_in_flight":-1}`:                            "max_in_flight",
		`{"name":"a","budget_usd":0}`:                                "budget_usd",
		`{"name":"a","budget_usd":-0.5}`:                             "budget_usd",
		`{"name":"a","budget_period":"year"}`:                        "budget_period",
		`{"name":"a","expires_at":9223372036854775807}`:              "year 9999",
		`{"name":"a","rpm":1000001}`:                                 "rpm",
		`{"name":"a","max_in_flight":9223372036854775807}`:           "max_in_flight",
		`{"name":"a","budget_usd":1000000000.01}`:                    "budget_usd",
		`{"name":"a","models":["` + strings.Repeat("a", 201) + `"]}`: "models[0]",
	} {
		var wish api.NewKey
		if err := json.Unmarshal([]byte(body), &wish); err != nil {
			t.Fatal(err)
		}
		_, err := access.ValidateNewKey(wish, noon)
		var refused *api.Error
		if !errors.As(err, &refused) || refused.Status != 400 || !strings.Contains(refused.Message, member) {
			t.Errorf("%s: %v, want a 400 about %s", body, err, member)
		}
	}
}

func TestAPatchChangesWhatItNames(t *testing.T) {
	t.Parallel()
	usd := 2.5
	before := store.Key{
		ID: "1", Name: "ci", Role: api.RoleViewer, Models: []string{"*haiku*"}, Accounts: []string{"work"}, ExpiresAt: noon.Add(-time.Hour),
		RPM: 60, MaxInFlight: 4, BudgetUSD: &usd, BudgetPeriod: "week", Hash: [32]byte{1},
	}
	for body, change := range map[string]func(*store.Key){
		`{}`:                        func(*store.Key) {},
		`{"role":null}`:             func(k *store.Key) { k.Role = api.RoleClient },
		`{"models":null}`:           func(k *store.Key) { k.Models = nil },
		`{"models":[]}`:             func(k *store.Key) { k.Models = nil },
		`{"models":["a","b"]}`:      func(k *store.Key) { k.Models = []string{"a", "b"} },
		`{"accounts":null}`:         func(k *store.Key) { k.Accounts = nil },
		`{"expires_at":null}`:       func(k *store.Key) { k.ExpiresAt = time.Time{} },
		`{"rpm":null}`:              func(k *store.Key) { k.RPM = 0 },
		`{"rpm":0}`:                 func(k *store.Key) { k.RPM = 0 },
		`{"max_in_flight":9}`:       func(k *store.Key) { k.MaxInFlight = 9 },
		`{"budget_usd":null}`:       func(k *store.Key) { k.BudgetUSD = nil },
		`{"budget_period":null}`:    func(k *store.Key) { k.BudgetPeriod = "month" },
		`{"budget_period":"day"}`:   func(k *store.Key) { k.BudgetPeriod = "day" },
		`{"role":"client","rpm":1}`: func(k *store.Key) { k.Role, k.RPM = api.RoleClient, 1 },
	} {
		var patch api.KeyPatch
		if err := json.Unmarshal([]byte(body), &patch); err != nil {
			t.Fatal(err)
		}
		want := before
		change(&want)
		got, err := access.ValidatePatch(before, patch, noon)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", body, got, err)
		}
	}
	bad := -1
	if _, err := access.ValidatePatch(before, api.KeyPatch{RPM: api.Field[int]{Set: true, Value: &bad}}, noon); err == nil {
		t.Error("a patch with a wrong value passes")
	}
}
